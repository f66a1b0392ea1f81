"""Files and folders that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file, which takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.{path.name}")  # hosts may share the folder
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to write in, which takes the place of `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    written, old = temporary / "new", temporary / "old"
    try:
        written.mkdir()
        yield written
        if path.exists():
            path.rename(old)
        written.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write_text(text, "utf-8")


def write_json(path: Path, fields: Any) -> None:
    write_text(path, json.dumps(fields, indent=2, ensure_ascii=False) + "\n")
