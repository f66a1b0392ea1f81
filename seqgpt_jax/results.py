"""What a user gets: labels and spans of the text that was given, with probabilities, as frozen dataclasses.

Every span holds `document[span.start:span.end] == span.text`; offsets count code points. A probability is None where
the decoder gives none (free generation). Every result has `to_dict()`, `to_json()`, a one-line repr, and highlighted
HTML for notebooks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from seqgpt_jax import highlighting
from seqgpt_jax.records import (
    ClassificationRecord,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    Relation,
    RelationRecord,
    Span,
)


@dataclass(frozen=True, slots=True)
class FoundSpan(Span):
    """A span with its probability; label is a type, a role, or what was asked for."""

    probability: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return _given({"label": self.label, **_place(self), "probability": self.probability})

    def __str__(self) -> str:
        return f"{self.label} {_quoted(self.text)} {self.start}:{self.end}{_sure(self.probability)}"


@dataclass(frozen=True, slots=True)
class FoundRelation:
    """`label` holds from head to tail; the probability is that of the label, given the two."""

    label: str
    head: FoundSpan
    tail: FoundSpan
    probability: float | None = None

    def to_dict(self) -> dict[str, Any]:
        ends = {"head": self.head.to_dict(), "tail": self.tail.to_dict()}
        return _given({"label": self.label, **ends, "probability": self.probability})

    def __str__(self) -> str:
        return f"{_quoted(self.head.text)} -{self.label}-> {_quoted(self.tail.text)}{_sure(self.probability)}"


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """The trigger's label is the event's type, an argument's label is its role."""

    type: str
    trigger: FoundSpan
    arguments: tuple[FoundSpan, ...] = ()

    @property
    def probability(self) -> float | None:
        """That of the trigger with this type."""
        return self.trigger.probability

    def to_dict(self) -> dict[str, Any]:
        arguments = [
            _given({"role": argument.label, **_place(argument), "probability": argument.probability})
            for argument in self.arguments
        ]
        trigger = _given({**_place(self.trigger), "probability": self.probability})
        return {"type": self.type, "trigger": trigger, "arguments": arguments}

    def __str__(self) -> str:
        arguments = ", ".join(f"{argument.label}={_quoted(argument.text)}" for argument in self.arguments)
        return f"{self.type} {_quoted(self.trigger.text)}{_sure(self.probability)}({arguments})"


# --- one result a text -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Result:
    """What all results hold.

    document: the text that was asked about. num_windows: parts that it was read in, as it was too long for one prompt.
    tokens_cut: tokens that the model did not get to see. num_examples: demonstrations before the text, the fewest of
    all its prompts; None where none were given.
    """

    document: str = ""
    num_windows: int = 1
    tokens_cut: int = 0
    num_examples: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the text. num_windows and tokens_cut are there when they are not 1 and 0."""
        fields = self._fields()
        if self.num_windows != 1:
            fields["num_windows"] = self.num_windows
        if self.tokens_cut:
            fields["tokens_cut"] = self.tokens_cut
        return fields if self.num_examples is None else {**fields, "num_examples": self.num_examples}

    def to_json(self) -> str:
        """`to_dict` on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def __repr__(self) -> str:
        notes = [f"{self.num_windows} windows"] * (self.num_windows != 1) + [f"{self.tokens_cut} tokens cut"] * (
            self.tokens_cut > 0
        )
        return f"{type(self).__name__}({'; '.join([', '.join(self._shown()) or 'nothing', *notes])})"

    def _repr_html_(self) -> str:
        """The text with its spans highlighted, and what holds for all of it below."""
        return highlighting.render(self.document, self._highlights(), self._captions())

    def _fields(self) -> dict[str, Any]:
        raise NotImplementedError

    def _shown(self) -> list[str]:
        raise NotImplementedError

    def _highlights(self) -> list[FoundSpan]:
        return []

    def _captions(self) -> list[str]:
        return []


@dataclass(frozen=True, slots=True, repr=False)
class Classification(Result):
    """labels: those that hold, in the order asked; empty where none does.

    probabilities: of every label that was scored, the most probable first; empty where the decoder gives none.
    """

    labels: tuple[str, ...]
    probabilities: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str | None:
        """The most probable of the labels that hold, the first of equals; None where none holds."""
        return max(self.labels, key=lambda label: self.probabilities.get(label, 0.0), default=None)

    @property
    def probability(self) -> float | None:
        """That of `label`."""
        return None if self.label is None else self.probabilities.get(self.label)

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"labels": list(self.labels)}
        return fields | ({"probabilities": dict(self.probabilities)} if self.probabilities else {})

    def _shown(self) -> list[str]:
        return [label + _sure(self.probabilities.get(label)) for label in self.labels]

    def _captions(self) -> list[str]:
        return self._shown() or ["no label"]


@dataclass(frozen=True, slots=True, repr=False)
class Extraction(Result):
    """Spans in text order: by start, longer first."""

    spans: tuple[FoundSpan, ...]

    def _fields(self) -> dict[str, Any]:
        return {"spans": [span.to_dict() for span in self.spans]}

    def _shown(self) -> list[str]:
        return [str(span) for span in self.spans]

    def _highlights(self) -> list[FoundSpan]:
        return list(self.spans)


@dataclass(frozen=True, slots=True, repr=False)
class Answer(Result):
    """The strings of the text that answer a question, the most probable first; none where nothing answers it."""

    question: str
    spans: tuple[FoundSpan, ...]

    @property
    def text(self) -> str | None:
        """The best answer; None where there is none."""
        return self.spans[0].text if self.spans else None

    @property
    def start(self) -> int | None:
        return self.spans[0].start if self.spans else None

    @property
    def end(self) -> int | None:
        return self.spans[0].end if self.spans else None

    @property
    def probability(self) -> float | None:
        return self.spans[0].probability if self.spans else None

    def _fields(self) -> dict[str, Any]:
        answers = [_given({**_place(span), "probability": span.probability}) for span in self.spans]
        best = answers[0] if answers else {"text": None, "start": None, "end": None}
        return {"answer": best, "others": answers[1:]} if answers[1:] else {"answer": best}

    def _shown(self) -> list[str]:
        return [f"{_quoted(span.text)} {span.start}:{span.end}{_sure(span.probability)}" for span in self.spans]

    def _highlights(self) -> list[FoundSpan]:
        return [replace(span, label="answer") for span in self.spans]

    def _captions(self) -> list[str]:
        return [self.question]


@dataclass(frozen=True, slots=True, repr=False)
class Relations(Result):
    """Entities in text order, and the relations between them."""

    entities: tuple[FoundSpan, ...]
    relations: tuple[FoundRelation, ...]

    def _fields(self) -> dict[str, Any]:
        return {
            "entities": [entity.to_dict() for entity in self.entities],
            "relations": [relation.to_dict() for relation in self.relations],
        }

    def _shown(self) -> list[str]:
        return [str(relation) for relation in self.relations]

    def _highlights(self) -> list[FoundSpan]:
        return list(self.entities)

    def _captions(self) -> list[str]:
        return self._shown()


@dataclass(frozen=True, slots=True, repr=False)
class Events(Result):
    """Events in the order of their triggers."""

    events: tuple[FoundEvent, ...]

    def _fields(self) -> dict[str, Any]:
        return {"events": [event.to_dict() for event in self.events]}

    def _shown(self) -> list[str]:
        return [str(event) for event in self.events]

    def _highlights(self) -> list[FoundSpan]:
        spans = (span for event in self.events for span in (event.trigger, *event.arguments))
        return list(dict.fromkeys(spans))

    def _captions(self) -> list[str]:
        return self._shown()


@dataclass(frozen=True, slots=True)
class TypedSpan:
    """A span that was given, and the types that hold for it, in the order asked."""

    start: int
    end: int
    text: str
    types: tuple[str, ...]
    probabilities: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {**_place(self), "types": list(self.types)}
        return fields | ({"probabilities": dict(self.probabilities)} if self.probabilities else {})

    def __str__(self) -> str:
        types = "/".join(type_ + _sure(self.probabilities.get(type_)) for type_ in self.types)
        return f"{_quoted(self.text)} {self.start}:{self.end} {types or 'no type'}"


@dataclass(frozen=True, slots=True, repr=False)
class Types(Result):
    """The spans in the order in which they were given."""

    spans: tuple[TypedSpan, ...]

    def _fields(self) -> dict[str, Any]:
        return {"spans": [span.to_dict() for span in self.spans]}

    def _shown(self) -> list[str]:
        return [str(span) for span in self.spans]

    def _highlights(self) -> list[FoundSpan]:
        return [FoundSpan("/".join(span.types) or "no type", span.start, span.end, span.text) for span in self.spans]


@dataclass(frozen=True, slots=True)
class Prediction(Mapping[str, Result]):
    """What each part of a schema found out about one text: a mapping from the part's name to its result."""

    document: str
    results: Mapping[str, Result]

    def __getitem__(self, name: str) -> Result:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def to_dict(self) -> dict[str, Any]:
        return {name: result.to_dict() for name, result in self.results.items()}

    def to_json(self) -> str:
        """`to_dict` on one line."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def __repr__(self) -> str:
        return f"Prediction({', '.join(f'{name}={result!r}' for name, result in self.results.items())})"

    def _repr_html_(self) -> str:
        return "".join(highlighting.heading(name) + result._repr_html_() for name, result in self.results.items())


# --- results as records ----------------------------------------------------------------------------------------------


def to_record(asked: Record, result: Result) -> Record:
    """The record that was asked about, filled in with what was found; probabilities have no place in it."""
    match asked, result:
        case ClassificationRecord(), Classification():
            return replace(asked, labels=result.labels)
        case ExtractionRecord(), Extraction() | Answer():
            return replace(asked, spans=tuple(_plain(span) for span in result.spans))
        case RelationRecord(), Relations():
            places = {entity: place for place, entity in reversed([*enumerate(result.entities)])}
            relations = (Relation(each.label, places[each.head], places[each.tail]) for each in result.relations)
            return replace(asked, entities=tuple(map(_plain, result.entities)), relations=tuple(relations))
        case EventRecord(), Events():
            events = (Event(e.type, _plain(e.trigger), tuple(map(_plain, e.arguments))) for e in result.events)
            return replace(asked, events=tuple(events))
    raise AssertionError(f"{type(result).__name__} of a {type(asked).__name__}")


def _plain(span: Span) -> Span:
    return Span(span.label, span.start, span.end, span.text)


def _place(span: Span | TypedSpan) -> dict[str, Any]:
    return {"start": span.start, "end": span.end, "text": span.text}


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _sure(probability: float | None) -> str:
    return "" if probability is None else f" {probability:.2f}"


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
