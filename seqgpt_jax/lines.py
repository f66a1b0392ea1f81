"""The lines of a text file, as it is or in gzip, and the JSON on them; errors name file and line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqgpt_jax.errors import RecordError, UserError


def read_lines(path: Path) -> Iterator[bytes]:
    """Yields the lines with their ends, which are \\n only. RecordError where a file breaks off or cannot be read."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as stream:
            yield from stream
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (give a file of text, or one that gzip made of it)") from None
    except (OSError, EOFError, zlib.error) as error:
        raise RecordError(f"cannot be read: {error}", file=path) from None


def decode_line(line: bytes, path: Path, number: int) -> str:
    """The line as text, without the byte order mark of a first line; RecordError where it is not UTF-8."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise RecordError(
            f"not UTF-8 text: {error.reason}", file=path, line=number, remedy="save it as UTF-8"
        ) from None


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number, line without its end), from 1; the end is \\n or \\r\\n."""
    for number, line in enumerate(read_lines(path), start=1):
        yield number, decode_line(line, path, number).removesuffix("\n").removesuffix("\r")


def parse_json(data: bytes, path: Path, number: int | None, remedy: str | None = None) -> Any:
    """The value that a line (or, with None, a file) holds; RecordError where it is not JSON or not UTF-8."""
    text = decode_line(data, path, 1 if number is None else number)
    try:
        value = json.loads(text)
        if "\\u" in text:  # an escaped lone surrogate parses, and would fail where nothing knows the line any more
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RecordError(f"not UTF-8 text: {error.reason}", file=path, line=number) from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"not JSON: {error}", file=path, line=number, remedy=remedy) from None
    return value
