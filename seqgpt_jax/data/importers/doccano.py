"""doccano's JSONL, one text a line. Offsets count UTF-16 units, unless the project counts graphemes.

    {"text": "EU rejects", "label": [[0, 2, "ORG"]]}                       spans; `labels` in older versions
    {"text": "Great price.", "label": ["positive"]}                        text classification
    {"text": ..., "entities": [{"id": 1, "start_offset": 0, "end_offset": 2, "label": "ORG"}],
     "relations": [{"from_id": 1, "to_id": 2, "type": "founded"}]}         relations
    {"text": ..., "entities": [[0, 2, "ORG"]], "cats": ["news"]}           spans and text labels

A record's question, second text, target, answers and own label set are further fields, which doccano keeps as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from seqgpt_jax.data.importers.documents import Document, Format, Notes, ReadOptions, extras_of, read_extras
from seqgpt_jax.data.importers.json_files import first_object, id_of, line_objects
from seqgpt_jax.data.importers.offsets import Marked, count_units, resolve
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.fields import Fields, show
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, EventRecord, Record, Relation, RelationRecord, Span

_UNITS = ("utf16", "code_points", "graphemes")


def recognise(path: Path) -> str:
    fields = first_object(path)
    if isinstance(fields, str):
        return fields
    values = fields.values
    if {"kind", "task", "id"} <= set(values):
        return "its first line is a record already"
    if not isinstance(values.get("text"), str):
        return "its first object has no text"
    if isinstance(values.get("entities"), list) and {"relations", "cats"} & set(values):
        return ""
    if any(isinstance(values.get(name), list | str) for name in ("label", "labels")):
        return ""
    return "its first object has neither label, nor entities with relations or cats"


def read(path: Path, options: ReadOptions, notes: Notes) -> Iterator[Document]:
    for fields in line_objects(path):
        text = fields.string("text")
        labels: tuple[str, ...] | None = None
        marked: tuple[Marked, ...] | None = None
        relations: tuple[Relation, ...] = ()
        name = next((name for name in ("entities", "label", "labels") if name in fields.values), None)
        if name is None:
            raise fields.error("label", "is missing", "a list of labels, or of [start, end, label]; [] for none")
        value = fields.values[name]
        if isinstance(value, str):
            labels = (value,)
        elif name == "entities" and "relations" in fields.values:
            marked, relations = _related(fields)
        elif value == [] or (isinstance(value, list) and isinstance(value[0], list)):
            marked = tuple(_triple(fields, name, index, each) for index, each in enumerate(value))
            labels = () if name != "entities" and value == [] else None
        else:
            labels = fields.distinct_strings(name)
        if "cats" in fields.values:
            labels = fields.distinct_strings("cats")
        notes.add("comment left out", fields, len(fields.values.get("Comments") or ()))
        spans = None if marked is None else resolve(text, marked, options.offsets, _UNITS)
        yield Document(
            fields, text, id_of(fields), labels=labels, spans=spans, relations=relations, **read_extras(fields)
        )


def _triple(fields: Fields, name: str, index: int, value: Any) -> Marked:
    if not (isinstance(value, list) and [type(each) for each in value] == [int, int, str]):
        raise fields.error(f"{name}[{index}]", f"is {show(value)}", "it must be [start, end, label]")
    return Marked(value[2], value[0], value[1], Fields({}, f"{name}[{index}].", fields.file, fields.line))


def _related(fields: Fields) -> tuple[tuple[Marked, ...], tuple[Relation, ...]]:
    ids: list[int] = []

    def entity(inner: Fields) -> Marked:
        ids.append(inner.integer("id"))
        return Marked(inner.string("label"), inner.integer("start_offset"), inner.integer("end_offset"), inner)

    def relation(inner: Fields) -> Relation:
        for name in ("from_id", "to_id"):
            if inner.integer(name) not in ids:
                raise inner.error(name, f"is {inner.values[name]}, and no entity has this id", "export it again")
        return Relation(inner.string("type"), ids.index(inner.values["from_id"]), ids.index(inner.values["to_id"]))

    return fields.each("entities", entity), fields.each("relations", relation)


def write(folder: Path, meta: DatasetMeta, split: str, records: Iterable[Record], options: ReadOptions) -> None:
    with open(folder / f"{split}.jsonl", "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            line = {"id": record.id, "text": record.text, **_annotation(record, options.offsets or _UNITS[0])}
            file.write(json.dumps({**line, **extras_of(record)}, ensure_ascii=False) + "\n")


def _annotation(record: Record, unit: str) -> dict[str, Any]:
    match record:
        case ClassificationRecord():
            return {"label": list(record.labels)}
        case EventRecord():
            raise UserError(f"record {record.id}: doccano has no events (convert to brat)")
        case RelationRecord():
            entities = [
                {"id": i, "label": span.label, "start_offset": start, "end_offset": end}
                for i, (span, (start, end)) in enumerate(_counted(record, record.entities, unit))
            ]
            relations = [
                {"id": i, "from_id": each.head, "to_id": each.tail, "type": each.label}
                for i, each in enumerate(record.relations)
            ]
            return {"entities": entities, "relations": relations}
    return {"label": [[start, end, span.label] for span, (start, end) in _counted(record, record.spans, unit)]}


def _counted(record: Record, spans: Iterable[Span], unit: str) -> Iterator[tuple[Span, tuple[int, int]]]:
    for span in spans:
        place = count_units(record.text, span, unit)
        if place is None:
            problem = f"{show(span.text)} at {span.start} cuts a character in two when offsets count {unit}"
            raise RecordError(problem, field=f"record {record.id}", remedy="give --offsets utf16")
        yield span, place


FORMAT = Format("doccano", recognise, read, frozenset({"offsets"}), write)
