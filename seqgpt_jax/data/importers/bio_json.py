"""One JSON object a line, in the forms that published datasets have; offsets count code points.

{"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}                also ner_tags, or labels; tokens may be text
{"text": "EU rejects", "spans": [{"start": 0, "end": 2, "label": "ORG"}]}     also entities; also type for label;
                                                                     end exclusive; the span's own text is checked
{"text": "EU rejects", "label": {"ORG": {"EU": [[0, 1]]}}}           CLUENER: the end is the last character
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from seqgpt_jax.data.importers.documents import Document, Format, Notes, ReadOptions
from seqgpt_jax.data.importers.json_files import first_object, id_of, line_objects
from seqgpt_jax.data.importers.offsets import Marked, resolve
from seqgpt_jax.data.importers.tags import tagged_document
from seqgpt_jax.errors import RecordError
from seqgpt_jax.fields import Fields, show

_TOKENS, _TAGS, _SPANS = ("tokens", "text"), ("tags", "ner_tags", "labels"), ("spans", "entities")


def _form(fields: Fields) -> str:
    """Which of the forms an object has, or "" for none."""
    values = fields.values
    if _first_list(fields, _TOKENS) and any(isinstance(values.get(name), list) for name in _TAGS):
        return "tags"
    if not isinstance(values.get("text"), str):
        return ""
    if isinstance(values.get("label"), dict):
        return "cluener"
    name = _first_list(fields, _SPANS)
    if not name or {"relations", "cats"} & set(values):  # doccano's
        return ""
    return "spans" if all(isinstance(each, dict) and "start" in each for each in values[name]) else ""


def _first_list(fields: Fields, names: tuple[str, ...]) -> str:
    return next((name for name in names if isinstance(fields.values.get(name), list)), "")


def recognise(path: Path) -> str:
    fields = first_object(path)
    if isinstance(fields, str):
        return fields
    if {"kind", "task", "id"} <= set(fields.values):
        return "its first line is a record already"
    if _form(fields):
        return ""
    return "its first object has neither tokens with tags, nor text with spans or entities, nor CLUENER's label"


def read(path: Path, options: ReadOptions, notes: Notes) -> Iterator[Document]:
    for fields in line_objects(path):
        form = _form(fields)
        if form == "tags":
            tokens, tags = _first_list(fields, _TOKENS), _first_list(fields, _TAGS)
            document = tagged_document(fields, fields.strings(tokens), _tags(fields, tags), options.language, notes)
            yield Document(fields, document.text, id_of(fields), spans=document.spans)
        elif form:
            text = fields.string("text")
            marked = _cluener(fields) if form == "cluener" else fields.each(_first_list(fields, _SPANS), _marked)
            yield Document(fields, text, id_of(fields), spans=resolve(text, marked, "code_points", ()))
        else:
            remedy = "write tokens and tags, text and spans, or text and label {type: {span: [[start, last]]}}"
            raise RecordError("no annotation that is known", file=path, line=fields.line, remedy=remedy)


def _tags(fields: Fields, name: str) -> tuple[str, ...]:
    values = fields.values[name]
    if any(type(value) is int for value in values):
        raise fields.error(name, "holds numbers, which this file gives no names for", "write the tags' names")
    return fields.strings(name)


def _marked(fields: Fields) -> Marked:
    label = fields.string("label" if "label" in fields.values else "type")
    string = fields.optional("text", Fields.string)
    return Marked(label, fields.integer("start"), fields.integer("end"), fields, string)


def _cluener(fields: Fields) -> tuple[Marked, ...]:
    """In text order: the file has them by label."""
    marked = []
    labels = fields.inner("label")
    for label in labels.values:
        strings = labels.inner(label)
        for string, places in strings.values.items():
            if not (isinstance(places, list) and all(_is_pair(place) for place in places)):
                raise strings.error(string, f"is {show(places)}", "it must be a list of [first, last]")
            marked += [Marked(label, first, last + 1, strings, string) for first, last in places]
    return tuple(sorted(marked, key=lambda mark: (mark.start, -mark.end)))


def _is_pair(place: object) -> bool:
    return isinstance(place, list) and len(place) == 2 and all(type(value) is int for value in place)


FORMAT = Format("bio-json", recognise, read)
