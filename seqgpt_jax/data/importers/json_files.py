"""Files of JSON objects, one a line or in one list; each object knows its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from seqgpt_jax.errors import RecordError
from seqgpt_jax.fields import Fields, show
from seqgpt_jax.lines import parse_json, read_lines


def line_objects(path: Path) -> Iterator[Fields]:
    """The objects of a file with one a line; RecordError for a line that is none."""
    for number, line in enumerate(read_lines(path), start=1):
        if line.isspace():
            continue
        value = parse_json(line, path, number, "one object a line")
        if not isinstance(value, dict):
            raise RecordError(f"must be an object, found {show(value)}", file=path, line=number)
        yield Fields(value, "", path, number)


def list_objects(path: Path) -> Iterator[Fields]:
    """The objects of a file that holds one list of them; RecordError where it holds anything else."""
    value = parse_json(b"".join(read_lines(path)), path, None, "export it again")
    if not isinstance(value, list):
        raise RecordError(f"must be a list of objects, found {show(value)}", file=path)
    for number, each in enumerate(value):
        name = f"task {each['id']}" if isinstance(each, dict) and "id" in each else f"[{number}]"
        if not isinstance(each, dict):
            raise RecordError(f"is {show(each)}", file=path, field=name, remedy="it must be an object")
        yield Fields(each, f"{name}: ", path)


def first_object(path: Path) -> Fields | str:
    """The first of a file's objects, one a line, or why there is none."""
    try:
        first = next(line_objects(path), None)
    except RecordError as error:
        return f"line {error.line}: {error.problem}"
    return first or "it is empty"


def id_of(fields: Fields) -> str | None:
    """What a file calls the object: its field `id`, a number or a string."""
    value = fields.values.get("id")
    return str(value) if isinstance(value, int | str) and value != "" else None
