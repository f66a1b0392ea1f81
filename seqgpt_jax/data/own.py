"""A user's own data made ready for training: any format that convert.py reads, with a validation split.

DATA (files of another tool, or a folder of records) --to_records--> folder --text hash--> train, validation, test
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from seqgpt_jax.data.convert import Description, hashed_split, to_records
from seqgpt_jax.data.datasets import hash_file
from seqgpt_jax.data.importers.documents import ReadOptions
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import DatasetMeta, Record, read_meta, read_records, split_files, write_meta, write_records
from seqgpt_jax.whole import whole_folder, write_text

_SOURCE = "source.sha256"  # of the bytes that a folder was made of
_NOTHING_SAID, _AS_IT_IS = Description(), ReadOptions()


@dataclass(frozen=True)
class OwnData:
    """A dataset folder with train and validation, and test where the user has one.

    notes: what was left out when it was made, in words; empty where nothing was.
    """

    folder: Path
    meta: DatasetMeta
    notes: str = ""

    @property
    def has_test(self) -> bool:
        return "test" in self.meta.splits

    def __str__(self) -> str:
        counts = ", ".join(f"{number:,} {split}" for split, number in self.meta.splits.items())
        return f"{self.meta.name} ({self.meta.task}, {self.meta.language}, {len(self.meta.labels)} labels): {counts}"


def prepare_own_data(
    source: Path,
    out: Path,
    share: float = 0.1,
    format_name: str | None = None,
    description: Description = _NOTHING_SAID,
    options: ReadOptions = _AS_IT_IS,
) -> OwnData:
    """Writes the dataset folder `out` and returns it; one that was made of the same bytes is taken as it is.

    Without a validation split, `share` of the training texts become one, by a hash of the text. UserError as from
    convert.to_records, and where there is nothing to train on, or `out` was made of other bytes.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder (give records, or what another tool exported)")
    fingerprint = _fingerprint(source)
    if out.exists():
        if not (out / _SOURCE).is_file() or (out / _SOURCE).read_text("utf-8").strip() != fingerprint:
            raise UserError(f"{out}: was made of other data than {source} holds (choose another --out)")
        return OwnData(out, read_meta(out))
    notes = ""
    with tempfile.TemporaryDirectory() as temporary, whole_folder(out) as unfinished:
        folder = source
        if not (source / "meta.json").is_file():
            folder = Path(temporary) / "converted"
            named = replace(description, name=description.name or source.resolve().name.split(".")[0])
            done = to_records(source, folder, format_name, named, options)
            notes = str(done.notes) if done.notes.counts else ""
        _write_splits(folder, unfinished, share)
        write_text(unfinished / _SOURCE, fingerprint + "\n")
    return OwnData(out, read_meta(out), notes)


def _write_splits(folder: Path, out: Path, share: float) -> None:
    meta, files = read_meta(folder), split_files(folder)
    if "train" not in files:
        raise UserError(f"{folder}: no train split, so nothing to learn from (it has: {', '.join(files) or 'none'})")
    learnt, shares = ("train", "validation"), (1.0 - share, share, 0.0)

    def records(split: str) -> Iterator[Record]:
        if split in learnt and "validation" not in files:
            return (each for each in read_records(files["train"], meta) if hashed_split(each.text, shares) == split)
        return read_records(files[split], meta)

    splits = (*learnt, *(split for split in files if split not in learnt))
    counts = {split: write_records(out / f"{split}.jsonl", records(split)) for split in splits}
    for split in learnt:
        if not counts[split]:
            raise UserError(f"{folder}: no record for {split} (give more records, or a {split} split of your own)")
    write_meta(out, replace(meta, splits=counts))


def _fingerprint(source: Path) -> str:
    digest = hashlib.sha256()
    for path in [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(source)}\0{hash_file(path)}\n".encode())
    return digest.hexdigest()
