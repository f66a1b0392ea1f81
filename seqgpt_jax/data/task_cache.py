"""The files of one task's token examples: written shard by shard, then read at random. No TensorFlow.

    <task>-<key>/meta.json                        what it was made of, counts, and what the other files hold
                 lengths.npy                      int32 [N, 2]: tokens, and how many of them are supervised
                 examples-000-00000.array_record  one record an example: int32 num_prompt, then the ids

A shard, number 0 of pass 0 above, holds the questions of SHARD_RECORDS records of one pass, so that shards can be made
apart from one another. A folder bears its name only when it is complete; one that has come to harm since is known by
sizes and checksums, in meta.json and in ArrayRecord, and is a DamagedCacheError.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from seqgpt_jax.data.questions import STATS, TokenExample
from seqgpt_jax.errors import UserError

SHARD_RECORDS = 1 << 12
MEMORY_BYTES = 16 << 20  # a task with no more token ids than this is read into memory as a whole
_WRITER_OPTIONS = "group_size:1,zstd:1"  # group_size 1: reading one example decodes no other


class DamagedCacheError(UserError):
    """A file of a token cache is not what was written."""

    def __init__(self, path: Path, problem: object) -> None:
        self.path, self.problem = path, problem
        remedy = f"remove the folder {path.parent}: it is built again when it is needed"
        super().__init__(f"{path}: damaged token cache: {problem} ({remedy})")


# --- reading ---------------------------------------------------------------------------------------------------------


class TaskCache:
    """The token examples of one atomic task, in random access. lengths: int32 [N, 2], tokens and supervised tokens.

    Opening it compares the size of every file with what was written; a shard that differs within is found when it is
    read. DamagedCacheError either way.
    """

    def __init__(self, folder: Path) -> None:
        fields = _read_meta(folder / "meta.json")
        self.folder = folder
        self.name: str = fields["name"]
        self.stats: Mapping[str, int] = {**dict.fromkeys(STATS, 0), **fields["stats"]}
        self.lengths = _read_lengths(folder / "lengths.npy", fields["lengths_crc32"])
        self._paths = [folder / shard["file"] for shard in fields["shards"]]
        self._shard_ends = np.cumsum([shard["examples"] for shard in fields["shards"]], dtype=np.int64)
        for path, shard in zip(self._paths, fields["shards"], strict=True):
            _check_size(path, shard["bytes"])
        self._ends = np.cumsum(self.lengths[:, 0], dtype=np.int64)
        self._in_memory = not len(self) or 4 * int(self._ends[-1]) <= MEMORY_BYTES
        self._ids: np.ndarray | None = None
        self._source: ArrayRecordDataSource | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"TaskCache({self.name}, {len(self)} examples)"

    def __getitem__(self, index: int) -> TokenExample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} examples, asked for number {index}")
        index %= len(self)
        if not self._in_memory:
            return self._read(index)
        ids = self._load() if self._ids is None else self._ids
        end = self._ends.item(index)
        length = self.lengths.item(index, 0)
        return TokenExample(ids[end - length : end], length - self.lengths.item(index, 1))

    def _load(self) -> np.ndarray:
        with self._lock:
            if self._ids is None:
                parts: list[np.ndarray] = []
                for path in self._paths:
                    with _damage_in(path):
                        reader = ArrayRecordReader(os.fspath(path))
                        parts += [np.frombuffer(record, np.int32)[1:] for record in reader.read_all()]
                        reader.close()
                if [len(part) for part in parts] != self.lengths[:, 0].tolist():
                    raise DamagedCacheError(self.folder / "lengths.npy", "it says other lengths than the shards have")
                ids = np.concatenate(parts)
                ids.flags.writeable = False
                self._ids = ids
            return self._ids

    def _read(self, index: int) -> TokenExample:
        with self._lock:
            if self._source is None:
                with _damage_in(self._paths[0]):
                    self._source = ArrayRecordDataSource([os.fspath(path) for path in self._paths])
        path = self._paths[int(np.searchsorted(self._shard_ends, index, side="right"))]
        with _damage_in(path):
            record = np.frombuffer(self._source[index], np.int32)
        if len(record) != self.lengths.item(index, 0) + 1:
            raise DamagedCacheError(self.folder / "lengths.npy", "it says other lengths than the shards have")
        return TokenExample(record[1:], record.item(0))


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text("utf-8"))
        missing = {"name", "stats", "shards", "lengths_crc32"}.difference(fields)
    except (OSError, ValueError, TypeError) as error:
        raise DamagedCacheError(path, error) from None
    if missing:
        raise DamagedCacheError(path, f"it does not say {', '.join(sorted(missing))}")
    return fields


def _read_lengths(path: Path, crc32: int) -> np.ndarray:
    try:
        lengths: np.ndarray = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise DamagedCacheError(path, error) from None
    if zlib.crc32(lengths.tobytes()) != crc32:
        raise DamagedCacheError(path, "its checksum is not that in meta.json")
    return lengths


def _check_size(path: Path, size: int) -> None:
    found = path.stat().st_size if path.is_file() else None
    if found != size:
        raise DamagedCacheError(path, "it is missing" if found is None else f"it has {found} bytes, not {size}")


@contextlib.contextmanager
def _damage_in(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError) as error:  # what ArrayRecord raises for any file that it cannot read
        raise DamagedCacheError(path, str(error).split(";")[0]) from None


# --- writing ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """A file that write_shard has made. lengths: its part of lengths.npy."""

    file: str
    lengths: np.ndarray


def write_shard(folder: Path, pass_number: int, number: int, examples: Iterable[TokenExample]) -> Shard | None:
    """Writes one shard of a task; None, and no file, where there are no examples. UserError for a full disk."""
    path = folder / f"examples-{pass_number:03d}-{number:05d}.array_record"
    lengths: list[tuple[int, int]] = []
    writer: ArrayRecordWriter | None = None
    for example in examples:
        num_ids, num_prompt = len(example.ids), example.num_prompt
        record = np.empty(1 + num_ids, np.int32)
        record[0], record[1:] = num_prompt, example.ids
        lengths.append((num_ids, num_ids - num_prompt))
        with writing(path):
            if writer is None:
                writer = ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
            writer.write(record.tobytes())
    if writer is None:
        return None
    with writing(path):
        writer.close()
        _sync(path)
    return Shard(path.name, np.array(lengths, np.int32))


def finish_task(
    folder: Path, name: str, shards: Sequence[Shard], stats: Mapping[str, int], settings: Mapping[str, Any]
) -> None:
    """Writes what makes the shards of a folder, in order, a TaskCache. UserError for a full disk."""
    lengths = np.concatenate([np.zeros((0, 2), np.int32), *(shard.lengths for shard in shards)])
    with writing(folder):
        sizes = [(folder / shard.file).stat().st_size for shard in shards]
        fields = {
            "name": name,
            "stats": {each: stats.get(each, 0) for each in STATS},
            "settings": dict(settings),
            "lengths_crc32": zlib.crc32(lengths.tobytes()),
            "shards": [
                {"file": shard.file, "bytes": size, "examples": len(shard.lengths)}
                for shard, size in zip(shards, sizes, strict=True)
            ],
        }
        np.save(folder / "lengths.npy", lengths)
        (folder / "meta.json").write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n", "utf-8")
        for path in (folder / "lengths.npy", folder / "meta.json", folder):
            _sync(path)


def publish(built: Path, folder: Path) -> None:
    """Gives a finished folder its name. Where there is one, it stays if it is whole; a damaged one is removed."""
    with writing(folder):
        try:
            built.rename(folder)
        except OSError:
            if is_whole(folder):  # another build was faster
                return
            folder.rename(built.with_name(f"damaged-{built.name}"))
            built.rename(folder)
        _sync(folder.parent)


def is_whole(folder: Path) -> bool:
    """Whether a folder can be opened as a TaskCache."""
    try:
        TaskCache(folder)
    except DamagedCacheError:
        return False
    return True


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """What goes wrong in writing to disk becomes a UserError that names the place."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: ArrayRecord's, for a full disk too
        problem = (error.strerror if isinstance(error, OSError) else None) or str(error).split(";")[0]
        remedy = "make room there, or name a folder on another disk with data.cache_dir or SEQGPT_CACHE_DIR"
        raise UserError(f"{path}: the token cache cannot be written: {problem} ({remedy})") from None


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, would outlive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
