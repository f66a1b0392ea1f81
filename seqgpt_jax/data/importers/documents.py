"""What every format is read into: one text with all that a file says of it. A task then takes what it needs.

file --Format.read--> Document --to_record--> record            (the rest is counted in Notes, never dropped silently)
record --Format.write--> file
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqgpt_jax.fields import Fields
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    Relation,
    RelationRecord,
    Span,
    Target,
    record_from_dict,
    record_to_dict,
)


@dataclass(frozen=True, slots=True)
class Document:
    """labels, spans: None where the file has no place for them, () where it says that there are none.

    place: where it was read, for errors. id: None where the file gives none.
    """

    place: Fields
    text: str
    id: str | None = None
    labels: tuple[str, ...] | None = None
    spans: tuple[Span, ...] | None = None
    relations: tuple[Relation, ...] = ()
    events: tuple[Event, ...] = ()
    label_set: tuple[str, ...] | None = None
    text_pair: str | None = None
    question: str | None = None
    target: Target | None = None
    answers: tuple[str, ...] | None = None


@dataclass
class Notes:
    """What a conversion leaves out or takes in a way worth knowing: counts, each with the first place."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, place: Fields, count: int = 1) -> None:
        if count:
            self.counts[what] = self.counts.get(what, 0) + count
            self.first.setdefault(what, place_name(place))

    def __str__(self) -> str:
        """One line a note."""
        return "\n".join(f"note: {n:,} × {what} (first: {self.first[what]})" for what, n in self.counts.items())


def place_name(place: Fields) -> str:
    line = "" if place.line is None else f":{place.line}"
    inner = f" {place.path.rstrip(' .:')}" if place.path else ""
    return f"{place.file}{line}{inner}"


@dataclass(frozen=True)
class ReadOptions:
    """What a file does not say of itself. Each format heeds those in its ``options``; None: found out.

    language: how tokens are joined. offsets: what offsets count, see offsets.py. Columns count from 1, or are names.
    discontinuous: "pieces" takes each piece of such a span as one. quotes: "none" where they are plain characters.
    """

    language: str = "en"
    offsets: str | None = None
    token_column: int | None = None
    tag_column: int | None = None
    text_column: str | None = None
    label_column: str | None = None
    pair_column: str | None = None
    question_column: str | None = None
    target_column: str | None = None
    separator: str | None = None
    quotes: str | None = None
    discontinuous: str | None = None


@dataclass(frozen=True)
class Format:
    """How one format is told from others, read and, where it can be, written.

    recognise: "" where the path is of this format, else why it is not. A path is a file, or for brat a folder.
    options: the ReadOptions that it heeds. write: writes one split of a dataset under a folder.
    """

    name: str
    recognise: Callable[[Path], str]
    read: Callable[[Path, ReadOptions, Notes], Iterator[Document]]
    options: frozenset[str] = frozenset()
    write: Callable[[Path, DatasetMeta, str, Iterable[Record], ReadOptions], None] | None = None


_EXTRAS = ("label_set", "text_pair", "question", "target", "answers")


def read_extras(fields: Fields) -> dict[str, Any]:
    """What is asked about the text, from fields that are named as a record's; formats with room for it have it so."""
    return {
        "label_set": fields.optional("label_set", Fields.distinct_strings),
        "text_pair": fields.optional("text_pair", Fields.string),
        "question": fields.optional("question", Fields.string),
        "target": fields.optional("target", lambda inner, name: _read_target(inner.inner(name))),
        "answers": fields.optional("answers", Fields.strings),
    }


def _read_target(fields: Fields) -> Target:
    start, end = fields.optional("start", Fields.integer), fields.optional("end", Fields.integer)
    return Target(fields.string("text"), start, end)


def extras_of(record: Record) -> dict[str, Any]:
    """What ``read_extras`` reads back."""
    return {name: value for name, value in record_to_dict(record).items() if name in _EXTRAS and value is not None}


# --- document -> record ----------------------------------------------------------------------------------------------


def tasks_of(document: Document) -> set[str]:
    """The tasks that a document may be of, judged by what it holds."""
    tasks = set()
    if document.events:
        tasks.add("EE")
    if document.relations:
        tasks.add("RE")
    if document.spans and not tasks:
        tasks.add("NER")
    if document.labels:
        tasks.add("CLS" if document.text_pair is None else "NLI")
    return tasks


def kind_of(task: str, has_text_labels: bool) -> str:
    """The kind of a task's records. Sentiment is of two: of whole texts, or of spans where no text has a label."""
    if task in ("RE", "EE"):
        return {"RE": "relation", "EE": "event"}[task]
    spans = task in ("NER", "SF", "MRC-SE") or (task == "SA" and not has_text_labels)
    return "extraction" if spans else "classification"


def to_record(document: Document, task: str, kind: str, id: str, notes: Notes) -> Record:
    """The record of a document for a task; RecordError where it lacks what the task needs. The rest goes into notes."""
    d, place = document, document.place
    spans, labels = d.spans or (), d.labels or ()
    if kind == "classification" and d.labels is None:
        raise place.error("label", f"is missing, and task {task} needs it", "give another --task, or write labels")
    if kind in ("extraction", "relation") and d.spans is None:
        raise place.error("spans", f"are missing, and task {task} needs them", "give another --task, or write spans")
    record: Record
    match kind:
        case "event":
            record = EventRecord(id, task, d.text, d.events)
            used = {(span.start, span.end) for event in d.events for span in (event.trigger, *event.arguments)}
            outside = sum((span.start, span.end) not in used for span in spans)
            notes.add("span outside every event left out (task EE)", place, outside)
        case "relation":
            record = RelationRecord(id, task, d.text, spans, d.relations)
        case "extraction":
            question, answers = (d.question, d.answers) if task == "MRC-SE" else (None, None)
            record = ExtractionRecord(id, task, d.text, spans, d.label_set, question, answers)
        case _:
            asked: dict[str, Any] = {"text_pair": d.text_pair, "question": d.question, "target": d.target}
            record = ClassificationRecord(id, task, d.text, labels, d.label_set, **asked)
    notes.add(f"text label left out (task {task})", place, len(labels) * (kind != "classification"))
    notes.add(f"span left out (task {task})", place, len(spans) * (kind == "classification"))
    notes.add(f"relation left out (task {task})", place, len(d.relations) * (kind != "relation"))
    notes.add(f"event left out (task {task})", place, len(d.events) * (kind != "event"))
    return record_from_dict(record_to_dict(record), file=place.file, line=place.line)  # with all of records.py's checks
