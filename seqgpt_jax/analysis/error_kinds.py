"""What kind of error each wrong item is: the items of the sets that the headline compares (metrics.headline_items).

Right items are those in both sets. Of the others, gold items are paired with predicted ones, one with one:

    wrong_type   the same place under another label (a pair)
    boundary     the same label at a place that overlaps (a pair); the largest overlaps are paired first
    unparsed     gold without a partner, where an answer that should have given it is not well-formed
    missed       gold without a partner otherwise
    invented     predicted without a partner

so that gold = right + wrong_type + boundary + unparsed + missed, and predicted = right + wrong_type + boundary +
invented. What "the same place" means: the text itself of a label in classification (a label that was not asked is
invented); head and tail of a triple, which overlap where both do; the place of an argument, whose label is event type
and role. Span reading has one answer a record: right where its token F1 is 1, boundary where it is above 0.

Worked example: gold person 0:3 and city 8:11, predicted city 0:3, city 8:17, city 20:24: a wrong type, a boundary, an
invention.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from seqgpt_jax.atomic import normalise_label
from seqgpt_jax.metrics import headline_items, headline_name, nfc, options_of, place_of, token_f1
from seqgpt_jax.predictions import GivenAnswer, PredictedRecord
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, EventRecord, ExtractionRecord, Record, Span

ERROR_KINDS = ("missed", "wrong_type", "boundary", "invented", "unparsed")
_NUM_EXAMPLES = 5


class Item(NamedTuple):
    """An item of a record's set, taken apart. shown: for people. spans: where it stands, a tuple for each way to."""

    label: str
    place: Hashable
    spans: tuple[tuple[Span, ...], ...]
    shown: str


class Judgement(NamedTuple):
    """kind: "right", or one of ERROR_KINDS; pairs have both sides."""

    kind: str
    gold: Item | None
    predicted: Item | None

    @property
    def labels(self) -> set[str]:
        return {item.label for item in (self.gold, self.predicted) if item is not None}


@dataclass(frozen=True, slots=True)
class ErrorExample:
    """gold, predicted: the items for people; None where the error has no such side."""

    id: str
    gold: str | None
    predicted: str | None


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """count: errors of the kind; examples: the first of them, each of another record."""

    count: int
    examples: tuple[ErrorExample, ...]


def count_errors(records: Sequence[PredictedRecord], meta: DatasetMeta) -> dict[str, ErrorKind]:
    """How many errors of each of ERROR_KINDS the records of a dataset hold, with examples."""
    counts = dict.fromkeys(ERROR_KINDS, 0)
    examples: dict[str, dict[str, ErrorExample]] = {kind: {} for kind in ERROR_KINDS}
    for record, judgements in zip(records, judge_items(records, meta), strict=True):
        for kind, gold, predicted in judgements:
            if kind == "right":
                continue
            counts[kind] += 1
            if len(examples[kind]) < _NUM_EXAMPLES:
                shown = (None if item is None else item.shown for item in (gold, predicted))
                examples[kind].setdefault(record.gold.id, ErrorExample(record.gold.id, *shown))
    return {kind: ErrorKind(counts[kind], tuple(examples[kind].values())) for kind in ERROR_KINDS}


def judge_items(records: Sequence[PredictedRecord], meta: DatasetMeta) -> list[list[Judgement]]:
    """The judgements of each record: every item of its two sets is in exactly one."""
    if headline_name([record.gold for record in records], meta) == "token_f1":
        return [_judge_reading(record, meta.language) for record in records]
    return [_judge(record, meta) for record in records]


def _judge(record: PredictedRecord, meta: DatasetMeta) -> list[Judgement]:
    gold, predicted = items_of(record.gold), items_of(record.predicted)
    right = [Judgement("right", item, predicted[key]) for key, item in gold.items() if key in predicted]
    rest = [item for key, item in gold.items() if key not in predicted]
    others = [item for key, item in predicted.items() if key not in gold]
    asked = None
    if isinstance(record.gold, ClassificationRecord):
        asked = {nfc(label) for label in options_of(record.gold, meta)} | {item.label for item in gold.values()}
    pairs = sorted(
        (rank, i, j)
        for i, item in enumerate(rest)
        for j, other in enumerate(others)
        if (rank := _pairing(item, other, asked)) is not None
    )
    taken, given, paired = set[int](), set[int](), []
    for (later, _), i, j in pairs:
        if i not in taken and j not in given:
            taken.add(i)
            given.add(j)
            paired.append(Judgement("boundary" if later else "wrong_type", rest[i], others[j]))
    lost = [item for i, item in enumerate(rest) if i not in taken]
    return [
        *right,
        *paired,
        *(Judgement(_lost(record.gold, item.label, record.answers), item, None) for item in lost),
        *(Judgement("invented", None, item) for j, item in enumerate(others) if j not in given),
    ]


def _pairing(gold: Item, predicted: Item, asked: set[str] | None) -> tuple[int, int] | None:
    """What is paired first: (0, 0) the same place, (1, -overlap) overlapping ones; None: no pair. asked: of a choice"""
    if asked is not None:
        return (0, 0) if predicted.label in asked else None
    if gold.place == predicted.place:
        return (0, 0)
    if gold.label != predicted.label:
        return None
    overlap = max((_overlap(own, other) for own in gold.spans for other in predicted.spans), default=0)
    return (1, -overlap) if overlap else None


def _overlap(spans: Sequence[Span], others: Sequence[Span]) -> int:
    """Characters that they share, each with its partner; 0 where any two share none."""
    shared = [min(a.end, b.end) - max(a.start, b.start) for a, b in zip(spans, others, strict=True)]
    return sum(shared) if min(shared) > 0 else 0


def _judge_reading(record: PredictedRecord, language: str) -> list[Judgement]:
    gold, predicted = (_answer(each) for each in (record.gold, record.predicted))
    value = token_f1(record.gold, record.predicted, language)
    if value == 1:
        return [Judgement("right", gold, predicted)] if gold or predicted else []
    if value > 0:
        return [Judgement("boundary", gold, predicted)]
    judged = [Judgement("invented", None, predicted)] if predicted else []
    return [Judgement(_lost(record.gold, gold.label, record.answers), gold, None), *judged] if gold else judged


def _answer(record: Record) -> Item | None:
    """The one answer of a record of span reading; None where it has none."""
    assert isinstance(record, ExtractionRecord)
    texts = list(dict.fromkeys(record.answers or [span.text for span in record.spans]))
    return Item("", "", (), " | ".join(map(repr, texts))) if any(texts) else None


def _lost(gold: Record, label: str, answers: Iterable[GivenAnswer]) -> str:
    """Whether an item was missed by an answer that can be read, or lost with one that cannot.

    Spans of a label are looked for in the answer to the question that asked for it; all else needs every answer.
    """
    broken = [answer for answer in answers if answer.problems]
    if broken and isinstance(gold, ExtractionRecord) and not gold.question:
        read = {name for answer in answers if not answer.problems for name in answer.labels}
        return "missed" if normalise_label(label) in read else "unparsed"
    return "unparsed" if broken else "missed"


def items_of(record: Record) -> Mapping[Hashable, Item]:
    """The items of metrics.headline_items(record), each taken apart, in text order."""
    found: dict[Hashable, Item] = {}
    match record:
        case ClassificationRecord():
            found = {nfc(label): Item(nfc(label), "", (), label) for label in record.labels}
        case ExtractionRecord():
            for span in sorted(record.spans, key=lambda span: (span.start, -span.end)):
                key = (nfc(span.label), place_of(span))
                found[key] = Item(key[0], key[1], ((span,),), f"{span.label} {_shown(span)}")
        case EventRecord():
            for event in record.events:
                for span in event.arguments:
                    label = f"{nfc(event.type)}: {nfc(span.label)}"
                    item = Item(label, place_of(span), ((span,),), f"{label} {_shown(span)}")
                    found[nfc(event.type), nfc(span.label), place_of(span)] = item
        case _:
            for relation in record.relations:
                ends = (record.entities[relation.head], record.entities[relation.tail])
                place = tuple(nfc(end.text) for end in ends)
                same = found.get((nfc(relation.label), *place))
                shown = f"{_shown(ends[0])} -{relation.label}-> {_shown(ends[1])}"
                found[nfc(relation.label), *place] = Item(
                    nfc(relation.label), place, ((same.spans if same else ()) + (ends,)), same.shown if same else shown
                )
    assert found.keys() == headline_items(record), "items are those that the headline compares"
    return found


def _shown(span: Span) -> str:
    return f"{span.text!r} {span.start}:{span.end}" if span.in_text else f"{span.text!r} (not in the text)"
