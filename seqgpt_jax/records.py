"""NLU records: what a dataset holds, before any prompt. Four kinds of record, their JSON form, and the checks on it.

    data/<name>/meta.json            DatasetMeta: task, language, label names
    data/<name>/<split>.jsonl(.gz)   one record a line, UTF-8

Offsets are code points into ``text``, end exclusive, and ``text[start:end]`` is always the span's own text. Whatever
breaks the format is a ``RecordError`` that names file, line and field; nothing is skipped.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, TypeAlias

from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.fields import Fields, raise_all, show
from seqgpt_jax.lines import parse_json, read_lines
from seqgpt_jax.whole import whole_file, write_text

TASKS = ("NER", "SF", "ID", "SA", "CLS", "NLI", "RE", "EE", "ET", "MRC-SE", "MRC-MC")
LANGUAGES = ("en", "zh")
_SUFFIX = re.compile(r"\.jsonl(\.gz)?$")


@dataclass(frozen=True, slots=True)
class Span:
    """A labelled piece of the text. A predicted string that has no place in the text has start = end = -1."""

    label: str
    start: int
    end: int
    text: str

    @property
    def in_text(self) -> bool:
        return self.start >= 0


@dataclass(frozen=True, slots=True)
class Target:
    """The mention or aspect that a classification asks about; start and end are None where its place is not known."""

    text: str
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Relation:
    """head and tail are indices into the record's entities."""

    label: str
    head: int
    tail: int


@dataclass(frozen=True, slots=True)
class Event:
    """The trigger's label is the event type, an argument's label is its role."""

    type: str
    trigger: Span
    arguments: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class ClassificationRecord:
    """labels: the gold subset. label_set: this record's own options; None means the dataset's labels."""

    kind: ClassVar[str] = "classification"
    id: str
    task: str
    text: str
    labels: tuple[str, ...]
    label_set: tuple[str, ...] | None = None
    text_pair: str | None = None
    question: str | None = None
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class ExtractionRecord:
    """question, answers: span reading comprehension; answers: every accepted string; no spans: unanswerable."""

    kind: ClassVar[str] = "extraction"
    id: str
    task: str
    text: str
    spans: tuple[Span, ...]
    label_set: tuple[str, ...] | None = None
    question: str | None = None
    answers: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RelationRecord:
    kind: ClassVar[str] = "relation"
    id: str
    task: str
    text: str
    entities: tuple[Span, ...]
    relations: tuple[Relation, ...]


@dataclass(frozen=True, slots=True)
class EventRecord:
    kind: ClassVar[str] = "event"
    id: str
    task: str
    text: str
    events: tuple[Event, ...]


Record: TypeAlias = ClassificationRecord | ExtractionRecord | RelationRecord | EventRecord


@dataclass(frozen=True)
class DatasetMeta:
    """What the records of one dataset have in common.

    labels: classes, span labels, relation labels or event types, in the order in which they are asked.
    event_schema: event type -> its roles; roles: every role, where the types share them.
    pair_types: (head type, tail type) pairs that occur in an RE dataset's train split; None: every pair may occur.
    descriptions: label -> the words that stand for it in prompt and answer; results carry the label.
    multi_label: whether several classes may hold for a text, or none; None: not known.
    """

    name: str
    task: str
    language: str
    labels: tuple[str, ...]
    domain: str = ""
    license: str = ""
    entity_labels: tuple[str, ...] = ()
    event_schema: Mapping[str, tuple[str, ...]] | None = None
    roles: tuple[str, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    pair_types: frozenset[tuple[str, str]] | None = None
    descriptions: Mapping[str, str] = field(default_factory=dict)
    multi_label: bool | None = None


# --- one record: dict -> dataclass -> dict ---------------------------------------------------------------------------


def record_from_dict(
    fields: Mapping[str, Any], *, file: str | os.PathLike[str] | None = None, line: int | None = None
) -> Record:
    """Returns the record that a JSON object holds; RecordError for whatever breaks the format."""
    if not isinstance(fields, Mapping):
        raise RecordError(f"a record must be an object, found {show(fields)}", file=file, line=line)
    reader = Fields(fields, "", file, line)
    kind, task = reader.string("kind"), reader.string("task")
    if kind not in _READERS:
        raise reader.error("kind", f"unknown kind {show(kind)}", f"one of {', '.join(_READERS)}")
    if task not in TASKS:
        raise reader.error("task", f"unknown task {show(task)}", f"one of {', '.join(TASKS)}")
    return _READERS[kind](reader, reader.string("id"), task, reader.string("text"))


def _read_classification(reader: Fields, id: str, task: str, text: str) -> ClassificationRecord:
    labels = reader.distinct_strings("labels")
    label_set = reader.optional("label_set", Fields.distinct_strings)
    if label_set is not None:
        _check_members(reader, "labels", labels, label_set, "label_set")
    record = ClassificationRecord(
        id=id,
        task=task,
        text=text,
        labels=labels,
        label_set=label_set,
        text_pair=reader.optional("text_pair", Fields.string),
        question=reader.optional("question", Fields.string),
        target=reader.optional("target", lambda reader, name: _read_target(reader.inner(name), text)),
    )
    given = [name for name in ("text_pair", "question", "target") if getattr(record, name) is not None]
    if len(given) > 1:
        remedy = "a record has at most one of text_pair, question and target"
        raise reader.error(given[1], f"stands beside {given[0]}", remedy)
    return record


def _read_target(reader: Fields, text: str) -> Target:
    if reader.values.get("start") is None and reader.values.get("end") is None:
        return Target(reader.string("text"))
    span = _read_span(reader, text, "")
    return Target(span.text, span.start, span.end)


def _read_extraction(reader: Fields, id: str, task: str, text: str) -> ExtractionRecord:
    label_set = reader.optional("label_set", Fields.distinct_strings)
    spans = reader.each("spans", lambda inner: _read_span(inner, text, inner.string("label")))
    question = reader.optional("question", Fields.string)
    if task == "MRC-SE" and not (question and question.strip()):
        raise reader.error("question", "is missing", "span reading comprehension needs its question")
    if label_set is not None:
        _check_members(reader, "spans", (span.label for span in spans), label_set, "label_set")
    return ExtractionRecord(id, task, text, spans, label_set, question, reader.optional("answers", Fields.strings))


def _read_relation(reader: Fields, id: str, task: str, text: str) -> RelationRecord:
    entities = reader.each("entities", lambda inner: _read_span(inner, text, inner.string("label")))

    def read(inner: Fields) -> Relation:
        relation = Relation(inner.string("label"), inner.integer("head"), inner.integer("tail"))
        for name, index in (("head", relation.head), ("tail", relation.tail)):
            if not 0 <= index < len(entities):
                raise inner.error(name, f"is {index}, but there are {len(entities)} entities", "indices count from 0")
        return relation

    return RelationRecord(id, task, text, entities, reader.each("relations", read))


def _read_event(reader: Fields, id: str, task: str, text: str) -> EventRecord:
    def read(inner: Fields) -> Event:
        type_ = inner.string("type")
        trigger = _read_span(inner.inner("trigger"), text, type_)
        return Event(type_, trigger, inner.each("arguments", lambda each: _read_span(each, text, each.string("role"))))

    return EventRecord(id, task, text, reader.each("events", read))


_READERS: dict[str, Callable[[Fields, str, str, str], Record]] = {
    "classification": _read_classification,
    "extraction": _read_extraction,
    "relation": _read_relation,
    "event": _read_event,
}


def _read_span(reader: Fields, text: str, label: str) -> Span:
    span = Span(label, reader.integer("start"), reader.integer("end"), reader.string("text"))
    if span.start < 0:
        raise reader.error("start", f"is {span.start}", "offsets count code points from 0")
    if span.end <= span.start:
        raise reader.error("end", f"is {span.end}, not after start {span.start}", "the end is exclusive")
    if span.end > len(text):
        raise reader.error("end", f"is {span.end}, but the text has {len(text)} code points")
    if text[span.start : span.end] != span.text:
        found = text[span.start : span.end]
        problem = f"text[{span.start}:{span.end}] is {show(found)}, not {show(span.text)}"
        place = text.find(span.text)
        raise reader.error("start", problem, f"it occurs at {place}" if place >= 0 else "it is not in the text")
    return span


def _check_members(reader: Fields, name: str, labels: Iterable[str], allowed: Sequence[str], where: str) -> None:
    if wrong := dict.fromkeys(label for label in labels if label not in allowed):
        remedy = f"{where}: {show(list(allowed))}"
        raise_all([reader.error(name, f"{show(label)} is not in {where}", remedy) for label in wrong])


def check_record(
    record: Record, meta: DatasetMeta, *, file: str | os.PathLike[str] | None = None, line: int | None = None
) -> None:
    """RecordError where the record's task, labels, entity types or roles are not those of its dataset."""
    reader = Fields({}, "", file, line)
    if record.task != meta.task:
        raise reader.error("task", f"is {record.task}, but the dataset's task is {meta.task}")

    def check(name: str, labels: Iterable[str], allowed: Sequence[str], where: str = "the dataset's labels") -> None:
        _check_members(reader, name, labels, allowed, where)

    match record:
        case ClassificationRecord(label_set=None):
            check("labels", record.labels, meta.labels)
        case ExtractionRecord(label_set=None):
            check("spans", (span.label for span in record.spans), meta.labels)
        case RelationRecord():
            types = [entity.label for entity in record.entities]
            check("entities", types, meta.entity_labels or types, "the dataset's entity_labels")
            check("relations", (relation.label for relation in record.relations), meta.labels)
        case EventRecord():
            check("events", (event.type for event in record.events), meta.labels)
            for event in record.events:
                roles = meta.roles if meta.event_schema is None else meta.event_schema.get(event.type, ())
                check("events", (each.label for each in event.arguments), roles, f"the roles of {show(event.type)}")


def record_to_dict(record: Record) -> dict[str, Any]:
    """Returns the JSON object of a record: ``record_from_dict(record_to_dict(record)) == record``."""
    fields: dict[str, Any] = {"id": record.id, "task": record.task, "kind": record.kind, "text": record.text}
    match record:
        case ClassificationRecord():
            fields["labels"] = list(record.labels)
            fields["label_set"] = None if record.label_set is None else list(record.label_set)
            optional: dict[str, Any] = {"text_pair": record.text_pair, "question": record.question}
            if (target := record.target) is not None:
                optional["target"] = {"text": target.text, "start": target.start, "end": target.end}
        case ExtractionRecord():
            fields["spans"] = [_span_to_dict(span, "label") for span in record.spans]
            fields["label_set"] = None if record.label_set is None else list(record.label_set)
            optional = {"question": record.question}
            optional["answers"] = None if record.answers is None else list(record.answers)
        case RelationRecord():
            fields["entities"] = [_span_to_dict(span, "label") for span in record.entities]
            fields["relations"] = [{"label": r.label, "head": r.head, "tail": r.tail} for r in record.relations]
            optional = {}
        case EventRecord():
            fields["events"] = [
                {
                    "type": event.type,
                    "trigger": _span_to_dict(event.trigger, None),
                    "arguments": [_span_to_dict(argument, "role") for argument in event.arguments],
                }
                for event in record.events
            ]
            optional = {}
    return fields | {name: value for name, value in optional.items() if value is not None}


def _span_to_dict(span: Span, label_name: str | None) -> dict[str, Any]:
    place = {"start": span.start, "end": span.end, "text": span.text}
    return place if label_name is None else {label_name: span.label, **place}


# --- files -----------------------------------------------------------------------------------------------------------


def read_records(path: Path, meta: DatasetMeta | None = None) -> Iterator[Record]:
    """Yields the records of a .jsonl or .jsonl.gz file, in order; with ``meta``, each is checked against its dataset.

    Lines end at \\n only (JSON strings may hold U+2028); blank lines hold no record. RecordError names file and line.
    """
    for _, record in check_records(path, meta):
        if isinstance(record, RecordError):
            raise record
        yield record


def check_records(path: Path, meta: DatasetMeta | None = None) -> Iterator[tuple[int, Record | RecordError]]:
    """Yields (line number, record, or what is wrong with it) for every line that is not blank.

    Where the file itself cannot be read any further, the last item says so. UserError where there is no such file.
    """
    number, lines = 0, read_lines(path)
    while True:
        item: Record | RecordError
        number += 1
        try:
            line = next(lines)
        except StopIteration:
            return
        except RecordError as error:
            yield number, error
            return
        if line.isspace():
            continue
        try:
            item = record_from_dict(parse_json(line, path, number, "one record a line"), file=path, line=number)
            if meta is not None:
                check_record(item, meta, file=path, line=number)
        except RecordError as error:
            item = error
        yield number, item


def split_files(folder: Path) -> dict[str, Path]:
    """The files of records in a dataset folder by split, in the order of their names; UserError for two of a split."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if match := _SUFFIX.search(path.name):
            split = path.name[: match.start()]
            if split in files:
                raise UserError(f"{folder}: two files for split '{split}' (keep {split}.jsonl or {split}.jsonl.gz)")
            files[split] = path
    return files


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Writes one record a line (.jsonl or .jsonl.gz) and returns how many; the file appears when it is complete."""
    count = 0
    zipped = path.suffix == ".gz"
    with whole_file(path) as file, file.open("wb") as raw, _zipped(raw) if zipped else nullcontext(raw) as stream:
        for record in records:
            stream.write(json.dumps(record_to_dict(record), ensure_ascii=False).encode("utf-8") + b"\n")
            count += 1
    return count


def _zipped(raw: IO[bytes]) -> gzip.GzipFile:
    return gzip.GzipFile("", "wb", fileobj=raw, mtime=0)  # neither name nor time: the same records give the same bytes


def read_meta(folder: Path) -> DatasetMeta:
    """Returns a dataset folder's description; UserError without meta.json, RecordError for a field that is wrong."""
    path = folder / "meta.json"
    try:
        values = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        remedy = 'write {"name": ..., "task": "NER", "language": "en", "labels": [...]} there'
        raise UserError(f"{folder}: no meta.json, so not a dataset folder ({remedy})") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}", file=path) from None
    if not isinstance(values, dict):
        raise RecordError(f"must be an object, found {show(values)}", file=path)
    reader = Fields(values, "", path)
    return DatasetMeta(
        name=reader.string("name"),
        task=_one_of(reader, "task", TASKS),
        language=_one_of(reader, "language", LANGUAGES),
        labels=reader.distinct_strings("labels"),
        domain=reader.optional("domain", Fields.string) or "",
        license=reader.optional("license", Fields.string) or "",
        entity_labels=reader.optional("entity_labels", Fields.distinct_strings) or (),
        event_schema=reader.optional("event_schema", lambda r, name: r.mapping(name, Fields.distinct_strings)),
        roles=reader.optional("roles", Fields.distinct_strings) or (),
        splits=reader.optional("splits", lambda r, name: r.mapping(name, Fields.integer)) or {},
        pair_types=reader.optional("pair_types", _read_pairs),
        descriptions=reader.optional("descriptions", lambda r, name: r.mapping(name, Fields.string)) or {},
        multi_label=reader.optional("multi_label", Fields.boolean),
    )


def _one_of(reader: Fields, name: str, allowed: Sequence[str]) -> str:
    value = reader.string(name)
    if value not in allowed:
        raise reader.error(name, f"unknown {name} {show(value)}", f"one of {', '.join(allowed)}")
    return value


def _read_pairs(reader: Fields, name: str) -> frozenset[tuple[str, str]]:
    pairs = reader.get(name, list, "a list of [head type, tail type]")
    for index, pair in enumerate(pairs):
        if not (type(pair) is list and len(pair) == 2 and all(type(value) is str for value in pair)):
            raise reader.error(f"{name}[{index}]", f"is {show(pair)}", "it must be [head type, tail type]")
    return frozenset((head, tail) for head, tail in pairs)


def write_meta(folder: Path, meta: DatasetMeta) -> None:
    """Writes meta.json, without the fields that have their default."""
    default = DatasetMeta(name="", task="", language="", labels=())
    names = {name for name in DatasetMeta.__dataclass_fields__ if getattr(meta, name) != getattr(default, name)}
    kept = {name: getattr(meta, name) for name in DatasetMeta.__dataclass_fields__ if name in names or name == "labels"}
    if meta.pair_types is not None:
        kept["pair_types"] = sorted(meta.pair_types)
    write_text(folder / "meta.json", json.dumps(kept, ensure_ascii=False, indent=1) + "\n")
