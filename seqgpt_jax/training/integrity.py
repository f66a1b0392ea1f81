"""Whether a checkpoint is what was written: sizes and CRC-32 of its files, in checksums.json inside it.

    {"params/manifest.ocdbt": [115, 2774613153], "params/d/0bb5...": [563, 418230061], ...}

TensorStore notices a data file that is missing or too short when it reads the array, and some damage to metadata; a
changed byte in an array, and several files that are gone, it does not notice. The sums are written in the thread that
writes the checkpoint, before the checkpoint gets its name, so training does not wait for them and there is no
complete checkpoint without them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

CHECKSUMS_FILE = "checksums.json"
_BLOCK = 1 << 22  # bytes read at once
_THREADS = min(8, os.cpu_count() or 1)  # zlib.crc32 lets other threads run


class ChecksummedPath(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The temporary folder that Orbax writes a step to; it gets its checksums just before its name."""

    async def finalize(self, *arguments: Any, **options: Any) -> None:
        if self.get_final().name.isdecimal():  # a step, not one of its items, which are renamed before it
            await asyncio.to_thread(write_checksums, Path(self.get()))
        await super().finalize(*arguments, **options)


def write_checksums(folder: Path) -> None:
    """Writes checksums.json into a step's folder: of all files of its items."""
    files = [str(file.relative_to(folder)) for file in sorted(folder.glob("*/**/*")) if file.is_file()]
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = dict(zip(files, pool.map(lambda name: _size_and_crc(folder / name), files), strict=True))
    (folder / CHECKSUMS_FILE).write_text(json.dumps(sums), "utf-8")


def find_damage(folder: Path, without: str | None = None) -> str | None:
    """What is wrong with a step's folder, in a few words, or None. without: an item that need not be looked at."""
    try:
        sums = json.loads((folder / CHECKSUMS_FILE).read_text("utf-8"))
        want = {name: tuple(size_and_crc) for name, size_and_crc in sums.items()}
        want = {name: sum_ for name, sum_ in want.items() if name.split("/")[0] != without}
    except FileNotFoundError:
        return f"{CHECKSUMS_FILE} is missing"
    except (ValueError, AttributeError, TypeError):
        return f"{CHECKSUMS_FILE} cannot be read"

    def look(name: str) -> str | None:
        file, (size, crc) = folder / name, want[name]
        try:
            if (found := file.stat().st_size) != size:
                return f"{name} has {found:,} bytes instead of {size:,}"
            return None if _size_and_crc(file)[1] == crc else f"{name} has other bytes than were written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"

    with ThreadPoolExecutor(_THREADS) as pool:
        problems = [problem for problem in pool.map(look, sorted(want)) if problem]
    if not problems:
        return None
    return problems[0] + (f", and {len(problems) - 1} more files" if len(problems) > 1 else "")


def _size_and_crc(file: Path) -> tuple[int, int]:
    size, crc = 0, 0
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return size, crc


def move_aside(folder: Path, problem: str) -> Path:
    """Renames a damaged step's folder, so that its step is saved again, and says so; returns the new path."""
    names = (folder.with_name(f"{folder.name}.damaged{suffix}") for suffix in ("", *(f"-{n}" for n in range(2, 1000))))
    aside = next(name for name in names if not name.exists())
    folder.rename(aside)
    warn_of_damage(folder, f"{problem}; moved to {aside.name}")
    return aside


def warn_of_damage(folder: Path, problem: str) -> None:
    print(f"warning: {folder}: damaged checkpoint: {problem}", file=sys.stderr)
