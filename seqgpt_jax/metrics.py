"""Metrics: what a predicted record is worth beside its gold record. Plain Python; the definitions of record.

Everything is a set, never a multiset: an answer that is missing, empty or `None` is the empty set and counts for
nothing, so an empty prediction that meets an empty gold is not a true positive. Nothing is filtered before scoring: a
predicted span that is not in the text (start = -1) and a label that was not asked are false positives.
Strings are compared after Unicode NFC and nothing else; span reading (MRC-SE) normalises as its benchmarks define.

| kind | metrics | headline |
|---|---|---|
| classification | accuracy (of the label set), micro_f1, macro_f1 | accuracy; micro_f1 if several labels may hold |
| - options vary by record | the same without macro_f1; accuracy alone where one label holds | the same |
| extraction | span_f1, span_precision, span_recall on (label, start, end); string_f1 on (label, string) | span_f1 |
| - MRC-SE | the same and em, token_f1; char_f1 in Chinese | token_f1 |
| relation | triple_f1, triple_precision, triple_recall; span_* and string_f1 of the entities | triple_f1 |
| event | F1s trigger_i, trigger_c, argument_i, argument_c; span_*, string_f1 of triggers and arguments | argument_c |

Every value is a fraction in 0..1. F1, precision and recall are 0 where they would be 0/0.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

from seqgpt_jax.errors import UserError
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    EventRecord,
    ExtractionRecord,
    Record,
    RelationRecord,
    Span,
)


@dataclass(frozen=True, slots=True)
class DatasetScore:
    """The scores of one dataset: `metrics` by name, fractions in 0..1; `headline` is the one named `headline_name`."""

    headline_name: str
    headline: float
    metrics: Mapping[str, float]
    num_records: int


def score_dataset(
    gold: Sequence[Record],
    predicted: Sequence[Record],
    meta: DatasetMeta,
) -> DatasetScore:
    """Returns the scores of `predicted` against `gold`: records of one dataset and kind, in the same order.

    Raises UserError for a dataset that is empty or mixes kinds.
    """
    if not gold:
        raise UserError(f"dataset '{meta.name}' has no records to score (choose another split, or a higher limit)")
    if len({record.kind for record in gold}) > 1:
        raise UserError(f"dataset '{meta.name}' mixes kinds of records (give each kind its own dataset folder)")
    assert len(gold) == len(predicted), "gold and predicted are parallel"
    assert all(g.id == p.id and g.kind == p.kind for g, p in zip(gold, predicted, strict=True)), "records do not match"
    first = gold[0]
    if isinstance(first, ClassificationRecord):
        metrics = _score_classification(gold, predicted, meta)
    elif isinstance(first, ExtractionRecord):
        metrics = _score_extraction(gold, predicted, meta)
    elif isinstance(first, RelationRecord):
        metrics = _score_relations(gold, predicted)
    else:
        metrics = _score_events(gold, predicted)
    name = headline_name(gold, meta)
    return DatasetScore(name, metrics[name], metrics, len(gold))


def headline_name(gold: Sequence[Record], meta: DatasetMeta) -> str:
    """Returns which metric is the headline of these records of one dataset: the last column of the table above."""
    first = gold[0]
    if isinstance(first, ClassificationRecord):
        several = meta.task == "ET" or any(len(r.labels) != 1 for r in gold if isinstance(r, ClassificationRecord))
        return "micro_f1" if several else "accuracy"
    if isinstance(first, ExtractionRecord):
        return "token_f1" if meta.task == "MRC-SE" else "span_f1"
    return "triple_f1" if isinstance(first, RelationRecord) else "argument_c"


def headline_items(record: Record) -> Set[Hashable]:
    """Returns the set that a headline which is an F1 over sets compares: micro_f1, span_f1, triple_f1, argument_c.

    A label; (label, place_of the span); (relation, head string, tail string); (event type, role, place_of the
    argument). Strings are in NFC.
    """
    if isinstance(record, ClassificationRecord):
        return set[Hashable](label_set(record))
    if isinstance(record, ExtractionRecord):
        return placed(record.spans)
    if isinstance(record, RelationRecord):
        return triples_of(record)
    return event_sets(record)["argument_c"]


def empty_predictions(gold: Sequence[Record]) -> list[Record]:
    """Returns the records with every answer removed: no labels, spans, relations, events or accepted answers."""
    return [_without_answers(record) for record in gold]


def _without_answers(record: Record) -> Record:
    if isinstance(record, ClassificationRecord):
        return replace(record, labels=())
    if isinstance(record, ExtractionRecord):
        return replace(record, spans=(), answers=None)
    if isinstance(record, RelationRecord):
        return replace(record, entities=(), relations=())
    return replace(record, events=())


def baseline_predictions(gold: Sequence[Record], meta: DatasetMeta) -> list[Record]:
    """Returns what a predictor that reads nothing would answer: the number that any result has to be seen beside.

    Classification: the label set that is most frequent among these very records, which no constant answer beats in
    accuracy; where the options vary by record, the option at the position that is most often right. Every other kind:
    nothing at all ("copying nothing"). Ties go to the label that sorts first, or to the earlier position.
    """
    records = [record for record in gold if isinstance(record, ClassificationRecord)]
    if not records:
        return empty_predictions(gold)
    if options_vary(records, meta):
        positions = Counter(
            options_of(record, meta).index(label)
            for record in records
            for label in record.labels
            if label in options_of(record, meta)
        )
        best = min(positions, key=lambda position: (-positions[position], position), default=0)
        return [replace(record, labels=options_of(record, meta)[best : best + 1]) for record in records]
    label_sets = Counter(tuple(sorted(record.labels)) for record in records)
    majority = min(label_sets, key=lambda labels: (-label_sets[labels], labels))
    return [replace(record, labels=majority) for record in records]


# --- sets and counts -------------------------------------------------------------------------------------------------


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


class Counts:
    """True positives, false positives and false negatives, added up over records (micro average)."""

    def __init__(self) -> None:
        self.true_positives = self.num_predicted = self.num_gold = 0

    def add(self, gold: Set[Hashable], predicted: Set[Hashable]) -> None:
        self.true_positives += len(gold & predicted)
        self.num_predicted += len(predicted)
        self.num_gold += len(gold)

    def precision(self) -> float:
        return self.true_positives / self.num_predicted if self.num_predicted else 0.0

    def recall(self) -> float:
        return self.true_positives / self.num_gold if self.num_gold else 0.0

    def f1(self) -> float:
        total = self.num_predicted + self.num_gold
        return 2 * self.true_positives / total if total else 0.0

    def named(self, name: str) -> dict[str, float]:
        return {f"{name}_f1": self.f1(), f"{name}_precision": self.precision(), f"{name}_recall": self.recall()}


def place_of(span: Span) -> tuple[int, int, str]:
    """Offsets alone where the span is in the text; otherwise its string keeps it apart from others that are not."""
    return (span.start, span.end, "") if span.in_text else (-1, -1, nfc(span.text))


def placed(spans: Iterable[Span]) -> set[Hashable]:
    """(label, place_of) of each."""
    return {(nfc(span.label), place_of(span)) for span in spans}


def worded(spans: Iterable[Span]) -> set[Hashable]:
    """(label, string) of each."""
    return {(nfc(span.label), nfc(span.text)) for span in spans}


# --- classification --------------------------------------------------------------------------------------------------


def label_set(record: ClassificationRecord) -> set[str]:
    return {nfc(label) for label in record.labels}


def options_of(record: ClassificationRecord, meta: DatasetMeta) -> tuple[str, ...]:
    """The labels that a record is asked about."""
    return meta.labels if record.label_set is None else record.label_set


def options_vary(records: Iterable[ClassificationRecord], meta: DatasetMeta) -> bool:
    return len({frozenset(options_of(record, meta)) for record in records}) > 1


def _score_classification(gold: Sequence[Record], predicted: Sequence[Record], meta: DatasetMeta) -> dict[str, float]:
    """A label that was not asked makes its record wrong, and is a false positive, but never a new class."""
    golds = [record for record in gold if isinstance(record, ClassificationRecord)]
    num_correct = 0
    micro, by_label = Counts(), defaultdict[str, Counts](Counts)
    for g, p in zip(golds, predicted, strict=True):
        assert isinstance(p, ClassificationRecord)
        gold_labels, predicted_labels = label_set(g), label_set(p)
        asked = {nfc(label) for label in options_of(g, meta)} | gold_labels
        num_correct += gold_labels == predicted_labels
        micro.add(gold_labels, predicted_labels)
        for label in (gold_labels | predicted_labels) & asked:
            by_label[label].add(gold_labels & {label}, predicted_labels & {label})
    vary = options_vary(golds, meta)
    metrics = {"accuracy": num_correct / len(golds)}
    if not vary or headline_name(gold, meta) == "micro_f1":
        metrics["micro_f1"] = micro.f1()
    if not vary:
        metrics["macro_f1"] = sum(counts.f1() for counts in by_label.values()) / len(by_label) if by_label else 0.0
    return metrics


# --- extraction ------------------------------------------------------------------------------------------------------


def _score_extraction(gold: Sequence[Record], predicted: Sequence[Record], meta: DatasetMeta) -> dict[str, float]:
    """In MRC-SE the question is the only label, so that labels are left out of the comparison."""
    reading = meta.task == "MRC-SE"
    spans, strings = Counts(), Counts()
    answers: list[tuple[Sequence[str], str]] = []
    for g, p in zip(gold, predicted, strict=True):
        assert isinstance(g, ExtractionRecord) and isinstance(p, ExtractionRecord)
        gold_spans, predicted_spans = (
            [replace(span, label="") for span in record.spans] if reading else record.spans for record in (g, p)
        )
        spans.add(placed(gold_spans), placed(predicted_spans))
        strings.add(worded(gold_spans), worded(predicted_spans))
        if reading:
            answers.append((_accepted(g, meta.language), _join_spans(p, meta.language)))
    metrics = spans.named("span") | {"string_f1": strings.f1()}
    if not reading:
        return metrics
    exact = cmrc_em if meta.language == "zh" else squad_em
    metrics["em"] = _mean(_best(exact, accepted, given) for accepted, given in answers)
    metrics["token_f1"] = _mean(token_f1(g, p, meta.language) for g, p in zip(gold, predicted, strict=True))
    if meta.language == "zh":
        metrics["char_f1"] = _mean(_best(char_f1, accepted, given) for accepted, given in answers)
    return metrics


def token_f1(gold: Record, predicted: Record, language: str) -> float:
    """Returns how much of an accepted answer of span reading was said: squad_f1, in Chinese cmrc_f1, of the best."""
    assert isinstance(gold, ExtractionRecord) and isinstance(predicted, ExtractionRecord)
    overlap = cmrc_f1 if language == "zh" else squad_f1
    return _best(overlap, _accepted(gold, language), _join_spans(predicted, language))


def _accepted(gold: ExtractionRecord, language: str) -> Sequence[str]:
    return gold.answers or (_join_spans(gold, language),)


def _join_spans(record: ExtractionRecord, language: str) -> str:
    """Span reading has one answer: the distinct strings in text order, and then those that are not in the text."""
    ordered = sorted(record.spans, key=lambda span: (not span.in_text, span.start))
    return ("" if language == "zh" else " ").join(dict.fromkeys(span.text for span in ordered))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _best(metric: Callable[[str, str], float], accepted: Iterable[str], given: str) -> float:
    return max(metric(answer, given) for answer in accepted)


# --- span reading: SQuAD in English, CMRC 2018 in Chinese ------------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CMRC_HAN = re.compile(r"[\u4e00-\u9fa5]")
_LATIN_WORD = re.compile(r"\w+(?:[.,']\w+)*|[^\w\s]")


def squad_normalise(answer: str) -> str:
    """Returns the answer in lower case, without ASCII punctuation, articles and repeated white space.

    Source: SQuAD's evaluate-v2.0.py.
    """
    answer = nfc(answer).lower().translate(_ASCII_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", answer).split())


def squad_em(gold: str, given: str) -> float:
    """Returns 1.0 where both are equal after squad_normalise: two empty answers (unanswerable) are equal."""
    return float(squad_normalise(gold) == squad_normalise(given))


def squad_f1(gold: str, given: str) -> float:
    """Returns the F1 of the bags of words after squad_normalise; 1.0 where both are empty."""
    return _bag_f1(squad_normalise(gold).split(), squad_normalise(given).split())


def cmrc_em(gold: str, given: str) -> float:
    """Returns 1.0 where both are equal in lower case without CMRC 2018's punctuation."""
    return float(_cmrc_bare(gold) == _cmrc_bare(given))


def cmrc_f1(gold: str, given: str) -> float:
    """Returns the F1 of the longest run of segments that both share, over their lengths; 1.0 where both are empty.

    A segment is a Han character or a word of anything else. Source: cmrc2018_evaluate.py, which finds these words
    with NLTK; ours end at white space and punctuation, which differs in English clitics (`can't`) and quotation marks.
    """
    gold_segments, given_segments = cmrc_segments(gold), cmrc_segments(given)
    if not gold_segments or not given_segments:
        return float(gold_segments == given_segments)
    common = _longest_common_run(gold_segments, given_segments)
    return 2 * common / (len(gold_segments) + len(given_segments))


def char_f1(gold: str, given: str) -> float:
    """Returns the F1 of the bags of characters without CMRC 2018's punctuation; 1.0 where both are empty."""
    return _bag_f1(list("".join(_cmrc_bare(gold).split())), list("".join(_cmrc_bare(given).split())))


def cmrc_segments(answer: str) -> list[str]:
    """Returns Han characters and words of anything else, without CMRC punctuation: `在2008年NBA` -> 在 2008 年 nba."""
    segments: list[str] = []
    rest = ""
    for char in _cmrc_bare(answer):
        if _CMRC_HAN.match(char):
            segments += [*_LATIN_WORD.findall(rest), char]
            rest = ""
        else:
            rest += char
    return segments + _LATIN_WORD.findall(rest)


def _cmrc_bare(answer: str) -> str:
    return "".join(char for char in nfc(answer).lower().strip() if char not in _CMRC_PUNCTUATION)


def _bag_f1(gold: Sequence[str], given: Sequence[str]) -> float:
    if not gold or not given:
        return float(list(gold) == list(given))
    common = sum((Counter(gold) & Counter(given)).values())
    return 2 * common / (len(gold) + len(given))


def _longest_common_run(left: Sequence[str], right: Sequence[str]) -> int:
    best, previous = 0, [0] * (len(right) + 1)
    for item in left:
        current = [0] * (len(right) + 1)
        for column, other in enumerate(right, start=1):
            if item == other:
                current[column] = previous[column - 1] + 1
        best, previous = max(best, *current), current
    return best


# --- relations and events --------------------------------------------------------------------------------------------


def _score_relations(gold: Sequence[Record], predicted: Sequence[Record]) -> dict[str, float]:
    """A triple is (relation, head string, tail string), as questions name mentions by their strings."""
    triples, spans, strings = Counts(), Counts(), Counts()
    for g, p in zip(gold, predicted, strict=True):
        assert isinstance(g, RelationRecord) and isinstance(p, RelationRecord)
        triples.add(triples_of(g), triples_of(p))
        spans.add(placed(g.entities), placed(p.entities))
        strings.add(worded(g.entities), worded(p.entities))
    return triples.named("triple") | spans.named("span") | {"string_f1": strings.f1()}


def triples_of(record: RelationRecord) -> set[Hashable]:
    """(relation, head string, tail string) of each."""
    texts = [nfc(entity.text) for entity in record.entities]
    return {(nfc(relation.label), texts[relation.head], texts[relation.tail]) for relation in record.relations}


def _score_events(gold: Sequence[Record], predicted: Sequence[Record]) -> dict[str, float]:
    """Trigger: offsets (i), event type (c). Argument: event type and offsets (i), role (c). As in OneIE (2020)."""
    counts = {name: Counts() for name in ("trigger_i", "trigger_c", "argument_i", "argument_c")}
    spans, strings = Counts(), Counts()
    for g, p in zip(gold, predicted, strict=True):
        assert isinstance(g, EventRecord) and isinstance(p, EventRecord)
        gold_sets, predicted_sets = event_sets(g), event_sets(p)
        for name, count in counts.items():
            count.add(gold_sets[name], predicted_sets[name])
        spans.add(gold_sets["span"], predicted_sets["span"])
        strings.add(gold_sets["string"], predicted_sets["string"])
    return {name: count.f1() for name, count in counts.items()} | spans.named("span") | {"string_f1": strings.f1()}


def event_sets(record: EventRecord) -> dict[str, set[Hashable]]:
    """By trigger_i, trigger_c, argument_i, argument_c, span and string: what each compares."""
    sets: dict[str, set[Hashable]] = defaultdict(set)
    for event in record.events:
        kind, trigger = nfc(event.type), place_of(event.trigger)
        sets["trigger_i"].add(trigger)
        sets["trigger_c"].add((kind, trigger))
        sets["span"].add((kind, trigger))
        sets["string"].add((kind, nfc(event.trigger.text)))
        for argument in event.arguments:
            role, place = nfc(argument.label), place_of(argument)
            sets["argument_i"].add((kind, place))
            sets["argument_c"].add((kind, role, place))
            sets["span"].add((kind, role, place))
            sets["string"].add((kind, role, nfc(argument.text)))
    return sets
