"""CoNLL files: one token a line with its tag in a column, sentences apart by a blank line; each becomes a record.

EU NNP B-NP B-ORG            columns apart by tabs, where a line has one, else by blanks
rejects VBZ B-VP O           the token is the first column and the tag the last, unless options say others
                             -DOCSTART- lines and comments (# and no tag) are passed over
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from seqgpt_jax.data.importers.documents import Document, Format, Notes, ReadOptions
from seqgpt_jax.data.importers.tags import REMEDY, is_tag, tagged_document
from seqgpt_jax.errors import RecordError
from seqgpt_jax.fields import Fields, show
from seqgpt_jax.lines import text_lines

_LOOKED_AT = 200  # lines


def _columns(line: str) -> list[str]:
    """A token can be white space itself, as where Chinese text is written one character a line."""
    if "\t" in line:
        return line.split("\t")
    return [" ", *line.split()] if line[0].isspace() else line.split()


def _is_passed_over(columns: list[str]) -> bool:
    return columns[0] == "-DOCSTART-" or (columns[0].startswith("#") and not is_tag(columns[-1]))


def recognise(path: Path) -> str:
    tagged = 0
    for number, line in islice(text_lines(path), _LOOKED_AT):
        if line.strip() and not _is_passed_over(columns := _columns(line)):
            if len(columns) < 2 or not is_tag(columns[-1]):
                return f"line {number} does not end in a column with a tag such as B-person or O"
            tagged += 1
    return "" if tagged else "no line has a token and a tag"


def read(path: Path, options: ReadOptions, notes: Notes) -> Iterator[Document]:
    token_column = 0 if options.token_column is None else options.token_column - 1
    tag_column = -1 if options.tag_column is None else options.tag_column - 1
    needed = max(token_column, tag_column, 1) + 1
    tokens: list[str] = []
    tags: list[str] = []
    start = 1
    for number, line in text_lines(path):
        if not line.strip():
            if tokens:
                yield _sentence(path, start, tokens, tags, options, notes)
            tokens, tags = [], []
            continue
        columns = _columns(line)
        if _is_passed_over(columns):
            continue
        if len(columns) < needed:
            problem = f"{show(line)} has {len(columns)} columns, and {needed} are needed"
            raise RecordError(problem, file=path, line=number, remedy="write a token and its tag, or a blank line")
        if not is_tag(columns[tag_column].strip()):
            problem = f"the tag of {show(columns[token_column])} is {show(columns[tag_column])}"
            remedy = f"{REMEDY}; --tag_column names another column"
            raise RecordError(
                problem, file=path, line=number, field=f"column {tag_column % len(columns) + 1}", remedy=remedy
            )
        if not tokens:
            start = number
        tokens.append(columns[token_column])
        tags.append(columns[tag_column].strip())
    if tokens:
        yield _sentence(path, start, tokens, tags, options, notes)


def _sentence(
    path: Path, line: int, tokens: list[str], tags: list[str], options: ReadOptions, notes: Notes
) -> Document:
    return tagged_document(Fields({}, "", path, line), tokens, tags, options.language, notes)


FORMAT = Format("conll", recognise, read, frozenset({"token_column", "tag_column"}))
