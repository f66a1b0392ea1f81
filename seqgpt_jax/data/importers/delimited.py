"""Tables with a text and a label a row: .csv, .tsv, with or without a header.

text,label                   columns are found by these names (`_NAMES`), or named by options, or counted from 1
"Great price.",positive      several labels in a cell where --separator says what parts them
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from seqgpt_jax.data.importers.documents import Document, Format, Notes, ReadOptions
from seqgpt_jax.data.importers.tags import is_tag
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.fields import Fields, show
from seqgpt_jax.lines import decode_line, read_lines
from seqgpt_jax.records import Target

_NAMES = {  # what a column holds -> the headers that say so
    "text": (
        "text",
        "sentence",
        "sentence1",
        "text_a",
        "premise",
        "content",
        "review",
        "utterance",
        "文本",
        "内容",
        "句子",
    ),
    "label": ("label", "labels", "class", "category", "intent", "sentiment", "标签", "类别", "情感", "意图"),
    "text_pair": ("text_pair", "sentence2", "text_b", "hypothesis"),
    "question": ("question", "问题"),
    "target": ("target", "aspect"),
    "id": ("id",),
}
_LOOKED_AT = 50  # rows
csv.field_size_limit(1 << 30)  # the default ends long documents with an error


def _delimiter(path: Path) -> str:
    """The one of tab, comma and semicolon that parts the first line into most columns; .tsv: tab."""
    if path.name.removesuffix(".gz").endswith(".tsv"):
        return "\t"
    first = next((decode_line(line, path, 1) for line in read_lines(path)), "")
    return max(",;\t", key=first.count)


def _rows(path: Path, options: ReadOptions) -> Iterator[tuple[int, list[str]]]:
    """(line number at which it begins, cells) of each row that is not empty; RecordError for broken quotes."""
    lines = (decode_line(line, path, number) for number, line in enumerate(read_lines(path), start=1))
    delimiter = _delimiter(path)
    if options.quotes == "none":
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            remedy = 'write "" for a quotation mark in quotes, or give --quotes none'
            raise RecordError(f"no row of a table: {error}", file=path, line=line, remedy=remedy) from None
        if any(row):
            yield line, row


def recognise(path: Path) -> str:
    try:
        rows = list(islice(_rows(path, ReadOptions()), _LOOKED_AT))
    except RecordError:  # broken quotes are for the user to mend, once it is clear that this is a table
        rows = list(islice(_rows(path, ReadOptions(quotes="none")), _LOOKED_AT))
    if not rows or len(rows[0][1]) < 2:
        return "its first line has no two columns"
    if _is_named(rows[0][1]):
        return ""
    if path.name.removesuffix(".gz")[-4:] not in (".csv", ".tsv"):
        return "its first line names no text and label column"
    if all(is_tag(row[-1].strip()) for _, row in rows):
        return "its last column holds tags of tokens"
    return ""


def read(path: Path, options: ReadOptions, notes: Notes) -> Iterator[Document]:
    rows = _rows(path, options)
    first = next(rows, None)
    if first is None:
        return
    columns, is_header = _columns(path, first[1], options)
    width = len(first[1])
    if is_header:
        for index, name in enumerate(first[1]):
            notes.add(f"column {show(name)} left out", Fields({}, "", path, first[0]), index not in columns.values())
    else:
        yield _document(path, *first, columns, width, options)
    for line, row in rows:
        yield _document(path, line, row, columns, width, options)


def _columns(path: Path, first: list[str], options: ReadOptions) -> tuple[dict[str, int], bool]:
    """What a column holds -> its index, and whether the first row is a header: where a column is found by its name."""
    wanted = {
        "text": options.text_column,
        "label": options.label_column,
        "text_pair": options.pair_column,
        "question": options.question_column,
        "target": options.target_column,
    }
    cells = [cell.strip().lower() for cell in first]
    columns: dict[str, int] = {}
    is_header = False
    for what, names in _NAMES.items():
        name = wanted.get(what)
        if name is not None and name.isdecimal():
            columns[what] = int(name) - 1
            if not 0 <= columns[what] < len(first):
                problem = f"no column {name} for the {what}"
                raise UserError(f"{path}: {problem} (there are {len(first)}, counted from 1)")
            continue
        if name is not None and name.lower() not in cells:
            raise UserError(f"{path}: no column '{name}' for the {what} (there are: {', '.join(first)})")
        found = next((each for each in ((name.lower(),) if name else names) if each in cells), None)
        if found is not None:
            columns[what], is_header = cells.index(found), True
    if not {"text", "label"} <= set(columns):
        remedy = "say which they are, by name or counted from 1: --text_column 1 --label_column 2"
        raise UserError(f"{path}: the first line names no text and label column: {show(first)} ({remedy})")
    return columns, is_header


def _is_named(first: list[str]) -> bool:
    cells = {cell.strip().lower() for cell in first}
    return bool(cells & set(_NAMES["text"])) and bool(cells & set(_NAMES["label"]))


def _document(
    path: Path, line: int, row: list[str], columns: dict[str, int], width: int, options: ReadOptions
) -> Document:
    place = Fields({}, "", path, line)
    if len(row) != width:
        remedy = "quote a cell that holds the character between columns"
        raise RecordError(f"{len(row)} columns, where the first line has {width}", file=path, line=line, remedy=remedy)
    cells = {what: row[index] for what, index in columns.items()}
    if not cells["text"].strip():
        raise place.error("text", "is empty", "write a text, or remove the row")
    labels = [cells["label"]] if options.separator is None else cells["label"].split(options.separator)
    labels = [label.strip() for label in labels if label.strip()]
    if not labels and options.separator is None:
        raise place.error("label", "is empty", "write a label; give --separator where a row may have any number")
    return Document(
        place,
        cells["text"],
        cells.get("id") or None,
        labels=tuple(dict.fromkeys(labels)),
        text_pair=cells.get("text_pair"),
        question=cells.get("question"),
        target=Target(cells["target"]) if cells.get("target") else None,
    )


_OPTIONS = {"text_column", "label_column", "pair_column", "question_column", "target_column", "separator", "quotes"}
FORMAT = Format("csv", recognise, read, frozenset(_OPTIONS))
