"""A dataset's headline taken apart: by label, by the length of the text, and for choices what was taken for what.

Lengths are in code points of the text (and of its pair), in buckets that are the same for all datasets of a language,
so that they can be compared; they are about the quartiles of the texts of the published datasets.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from seqgpt_jax.analysis.error_kinds import items_of
from seqgpt_jax.analysis.record_counts import RecordCounts
from seqgpt_jax.metrics import Counts, headline_name, nfc, options_of, options_vary
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, EventRecord, ExtractionRecord, Record

LENGTH_LIMITS = {"en": (0, 100, 200, 300), "zh": (0, 15, 40, 100)}
MAX_CONFUSED = 30  # labels of a confusion matrix


@dataclass(frozen=True, slots=True)
class LabelScores:
    """label: None stands for all labels that were not asked. support: gold items; predicted: predicted items."""

    label: str | None
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int


@dataclass(frozen=True, slots=True)
class LengthScore:
    """The headline over the records whose text has at_least <= length < below code points; below None: no end."""

    at_least: int
    below: int | None
    num_records: int
    score: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """What was said (columns) of the records of each gold label (rows), where each record has one gold label.

    labels: the most frequent, MAX_CONFUSED at most, in the order in which they are asked. counts: a row for each of
    them and one for other gold labels; a column for each of them, one for other labels (or several at once), one where
    nothing was said that could be read.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


def by_label(gold: Sequence[Record], predicted: Sequence[Record], meta: DatasetMeta) -> tuple[LabelScores, ...]:
    """The labels that occur in gold or prediction, most support first.

    None of span reading, whose label is the question, and of choices whose options differ by record.
    """
    first = gold[0]
    choices = [record for record in gold if isinstance(record, ClassificationRecord)]
    if headline_name(gold, meta) == "token_f1" or (choices and not meta.labels and options_vary(choices, meta)):
        return ()
    counts = defaultdict[str, Counts](Counts)
    known = {nfc(label) for label in meta.labels}
    for g, p in zip(gold, predicted, strict=True):
        wanted, given = items_of(g), items_of(p)
        labels = {key: item.label for key, item in {**wanted, **given}.items()}
        for label in set(labels.values()):
            of_label: set[Hashable] = {key for key, own in labels.items() if own == label}
            counts[label].add(of_label & wanted.keys(), of_label & given.keys())
        known |= {item.label for item in wanted.values()} | _asked(g, meta)
    other = Counts()
    for label in [label for label in counts if label not in known]:
        if isinstance(first, EventRecord) and label.partition(": ")[0] in known:
            continue  # a role that no gold event of the type has
        other.num_predicted += counts.pop(label).num_predicted
    rows = [_label_scores(label, count) for label, count in counts.items()]
    rows.sort(key=lambda row: (-row.support, -row.predicted, row.label or ""))
    return (*rows, *([_label_scores(None, other)] if other.num_predicted else []))


def _asked(record: Record, meta: DatasetMeta) -> set[str]:
    if isinstance(record, ClassificationRecord):
        return {nfc(label) for label in options_of(record, meta)}
    own = record.label_set if isinstance(record, ExtractionRecord) else None
    return {nfc(label) for label in own or ()}


def _label_scores(label: str | None, counts: Counts) -> LabelScores:
    return LabelScores(label, counts.precision(), counts.recall(), counts.f1(), counts.num_gold, counts.num_predicted)


def by_length(gold: Sequence[Record], counts: RecordCounts, language: str) -> tuple[LengthScore, ...]:
    """The buckets that have records, shortest first."""
    lengths = [_length(record) for record in gold]
    found = []
    for at_least, below in pairwise([*LENGTH_LIMITS[language], None]):
        assert at_least is not None
        places = [i for i, length in enumerate(lengths) if at_least <= length and (below is None or length < below)]
        if places:
            found.append(LengthScore(at_least, below, len(places), counts.select(places).headline))
    return tuple(found)


def _length(record: Record) -> int:
    pair = record.text_pair if isinstance(record, ClassificationRecord) else None
    return len(record.text) + len(pair or "")


def confusion(gold: Sequence[Record], predicted: Sequence[Record], meta: DatasetMeta) -> Confusion | None:
    """None for all but choices of one label, and for those whose options differ by record."""
    choices = [record for record in gold if isinstance(record, ClassificationRecord)]
    if not choices or headline_name(gold, meta) != "accuracy" or options_vary(choices, meta):
        return None
    said = [_said(record) for record in predicted]
    right = [nfc(record.labels[0]) for record in choices]
    order = list(dict.fromkeys(map(nfc, [*meta.labels, *right])))
    known = set(order)
    frequent = Counter(label for label in [*right, *said] if label in known)
    kept = {label for label, _ in frequent.most_common(MAX_CONFUSED)}
    labels = [label for label in order if label in kept]
    places = {label: i for i, label in enumerate(labels)}
    table = [[0] * (len(labels) + 2) for _ in range(len(labels) + 1)]
    for g, p in zip(right, said, strict=True):
        column = len(labels) + 1 if p is None else places.get(p, len(labels))
        table[places.get(g, len(labels))][column] += 1
    return Confusion(tuple(labels), tuple(map(tuple, table)))


def _said(record: Record) -> str | None:
    """The label, "" for several; None for none."""
    assert isinstance(record, ClassificationRecord)
    labels = {nfc(label) for label in record.labels}
    return None if not labels else labels.pop() if len(labels) == 1 else ""
