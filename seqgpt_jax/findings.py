"""Predicted records as results: each label and span with its calibrated probability, at its place in the whole text.

A probability is looked up under the question that gave the answer, in the dataset's own label names. What is less
probable than `abstain_below` is left out; what has no probability cannot be judged and is an error then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seqgpt_jax.asking import Answered
from seqgpt_jax.atomic import asked_names
from seqgpt_jax.calibration import Calibration
from seqgpt_jax.errors import UserError
from seqgpt_jax.occurrences import normalise_string
from seqgpt_jax.records import ClassificationRecord, EventRecord, ExtractionRecord, Record, RelationRecord, Span
from seqgpt_jax.results import (
    Answer,
    Classification,
    Events,
    Extraction,
    FoundEvent,
    FoundRelation,
    FoundSpan,
    Relations,
    Result,
)
from seqgpt_jax.schema import Request


@dataclass(frozen=True, slots=True)
class Reading:
    """How answers become results. The two limits are in calibrated probability; None leaves nothing out."""

    calibration: Calibration
    choice_limit: float | None = None
    span_limit: float | None = None

    def read(self, request: Request, record: Record, answered: Sequence[Answered], document: str, start: int) -> Result:
        """The result of one request; its record's text begins at `start` of the document."""
        found = _Probabilities(request, answered, self)
        match record:
            case ClassificationRecord():
                probabilities = found.choice("classify", ())
                labels = record.labels
                if not request.multi_label:
                    labels = best_label(labels, probabilities)
                labels = tuple(label for label in labels if self._sure(probabilities.get(label), self.choice_limit))
                result: Result = Classification(labels, by_probability(probabilities))
            case ExtractionRecord():
                spans = in_order(found.spans("extract", (), record.spans, start))
                result = Extraction(spans)
                if record.question:
                    result = Answer(record.question, best_first(spans))
            case RelationRecord():
                result = Relations(*_relations(record, found, start))
            case EventRecord():
                result = Events(_events(record, found, start))
        return replace(
            result,
            document=document,
            tokens_cut=max((each.tokens_cut for each in answered), default=0),
            num_examples=min((n for each in answered if (n := each.num_examples) is not None), default=None),
        )

    def _sure(self, probability: float | None, limit: float | None) -> bool:
        if limit is None:
            return True
        if probability is None:
            raise UserError(
                "abstain_below needs probabilities, and free generation gives none (decode with constrained=True)"
            )
        return probability >= limit


def best_label(labels: Sequence[str], probabilities: Mapping[str, float]) -> tuple[str, ...]:
    """The most probable of the labels alone, the first of equals; () of none."""
    return (max(labels, key=lambda label: probabilities.get(label, 0.0)),) if labels else ()


def by_probability(probabilities: Mapping[str, float]) -> dict[str, float]:
    """Highest first."""
    return dict(sorted(probabilities.items(), key=lambda item: -item[1]))


def in_order(spans: Sequence[FoundSpan]) -> tuple[FoundSpan, ...]:
    """By start, longer first."""
    return tuple(sorted(spans, key=lambda span: (span.start, -span.end)))


def best_first(spans: Sequence[FoundSpan]) -> tuple[FoundSpan, ...]:
    """By probability, equals in text order."""
    return tuple(sorted(spans, key=lambda span: -(span.probability or 0.0)))


class _Probabilities:
    """What the answers to one record's questions say of labels and spans, by question."""

    def __init__(self, request: Request, answered: Sequence[Answered], reading: Reading) -> None:
        self._reading, self._multi_label = reading, request.multi_label
        self._found: dict[tuple[str, tuple[str, ...]], dict[tuple[str, ...], float]] = {}
        for each in answered:
            names = asked_names(request.record, request.meta, each.example.source)
            known = self._found.setdefault((each.example.source.step, each.example.source.query), {})
            for (label, *string), probability in each.probabilities.items():
                known[names.get(label, label), *string] = probability

    def choice(self, step: str, query: tuple[str, ...]) -> dict[str, float]:
        """Label -> calibrated probability. Relations and event types may hold together, or not at all."""
        raw = {label: p for (label,), p in self._found.get((step, query), {}).items()}
        calibration = self._reading.calibration
        if self._multi_label or step != "classify":
            return {label: calibration.label(p) for label, p in raw.items()}
        return calibration.choice(raw)

    def spans(self, step: str, query: tuple[str, ...], spans: Sequence[Span], start: int) -> list[FoundSpan]:
        """The spans that are in the text, and sure enough, moved by `start`."""
        moved = (self.span(step, query, span, start) for span in spans if span.in_text)
        return [span for span in moved if self.span_is_sure(span)]

    def span(self, step: str, query: tuple[str, ...], span: Span, start: int) -> FoundSpan:
        raw = self._found.get((step, query), {}).get((span.label, normalise_string(span.text)))
        probability = None if raw is None else self._reading.calibration.span(raw)
        return FoundSpan(span.label, span.start + start, span.end + start, span.text, probability)

    def span_is_sure(self, span: FoundSpan) -> bool:
        return self._reading._sure(span.probability, self._reading.span_limit)

    def choice_is_sure(self, probability: float | None) -> bool:
        return self._reading._sure(probability, self._reading.choice_limit)


def _relations(
    record: RelationRecord, found: _Probabilities, start: int
) -> tuple[tuple[FoundSpan, ...], tuple[FoundRelation, ...]]:
    """A relation whose head or tail is not sure enough goes with it."""
    places: dict[int, FoundSpan] = {}
    for index, entity in enumerate(record.entities):
        span = found.span("entities", (), entity, start)
        if entity.in_text and found.span_is_sure(span):
            places[index] = span
    relations = []
    for relation in record.relations:
        if relation.head in places and relation.tail in places:
            head, tail = places[relation.head], places[relation.tail]
            query = (normalise_string(head.text), normalise_string(tail.text))
            probability = found.choice("relation", query).get(relation.label)
            if found.choice_is_sure(probability):
                relations.append(FoundRelation(relation.label, head, tail, probability))
    return in_order([*places.values()]), tuple(relations)


def _events(record: EventRecord, found: _Probabilities, start: int) -> tuple[FoundEvent, ...]:
    """Where one trigger came under several types, its probability is that of the type chosen among them."""
    events = []
    for event in record.events:
        if not event.trigger.in_text:
            continue
        trigger = found.span("trigger", (), event.trigger, start)
        decided = found.choice("event_type", (normalise_string(event.trigger.text),)).get(event.type)
        trigger = trigger if decided is None else replace(trigger, probability=decided)
        if found.span_is_sure(trigger):
            arguments = found.spans("argument", (event.type,), event.arguments, start)
            events.append(FoundEvent(event.type, trigger, tuple(arguments)))
    return tuple(events)
