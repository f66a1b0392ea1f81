"""What a dataset is, and the two kinds that need no other package: a folder of records, the built-in generator.

    <folder>/meta.json      name, task, language, labels (records.read_meta)
    <folder>/<split>.jsonl  or <split>.jsonl.gz: one record a line

Datasets are found by name in mixtures.py. A held-out dataset is judged zero-shot: its train split cannot be read, and
nothing of it goes into a token cache, unless a stage of training says protocol = "few_shot" (`Dataset.opened`).
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import hashlib
import itertools
import random
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Self

from seqgpt_jax.errors import UserError
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    EventRecord,
    Record,
    RelationRecord,
    read_meta,
    read_records,
    split_files,
)
from seqgpt_jax.synthesis import generator

_SHOWING_MULTI_LABEL = 1000  # records of the train split
GENERATED_SPLITS = {"train": 10_000, "validation": 500, "test": 500}  # records where no limit is given; there are more


class Dataset(abc.ABC):
    """Records of one task in one language, by split.

    held_out: it may be evaluated on, never trained on. few_shot: it is held out, and yet its train split may be read.
    """

    held_out: bool
    few_shot: bool = False

    @property
    @abc.abstractmethod
    def meta(self) -> DatasetMeta: ...

    @property
    def declared(self) -> DatasetMeta:
        """`meta` as far as it is known without reading a record: name, task, language and labels always are."""
        return self.meta

    @property
    def place(self) -> str:
        """Where the records come from; two datasets of one name and one place are the same."""
        return type(self).__name__

    @property
    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that may be read; the train split of a held-out dataset is not, unless it is opened."""

    def opened(self) -> Self:
        """This dataset with its train split readable although it is held out: for few-shot studies, which say so."""
        opened = copy.copy(self)
        opened.few_shot = self.held_out
        return opened

    @abc.abstractmethod
    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        """The first `limit` records of a split, or all. UserError for a split that there is not, or is held out."""

    @abc.abstractmethod
    def fingerprint(self, split: str) -> str:
        """A hash that changes whenever a record of the split, or the description of the dataset, may have changed."""

    def record_meta(self, record: Record) -> DatasetMeta:
        """The description that fits one record: for generated RE and EE that of its domain, else `meta`."""
        return self.meta

    def _readable(self, splits: Iterable[str]) -> tuple[str, ...]:
        return tuple(split for split in splits if split != "train" or self.few_shot or not self.held_out)

    def _check_split(self, split: str) -> None:
        if split in self.splits:
            return
        name = self.declared.name
        if self.held_out and split == "train":
            raise UserError(f"dataset {name} is held out: its train split is never read (use a held_in dataset)")
        raise UserError(f"dataset {name} has no split '{split}' (it has: {', '.join(self.splits) or 'none'})")


class FolderDataset(Dataset):
    """A folder with meta.json and one .jsonl or .jsonl.gz file a split."""

    def __init__(self, folder: Path, *, held_out: bool = False) -> None:
        self.folder, self.held_out = folder, held_out
        self._given_meta = read_meta(folder)
        self._files = split_files(folder)
        if not self._files:
            raise UserError(
                f"{folder}: no records (write train.jsonl, validation.jsonl or test.jsonl beside meta.json)"
            )

    @property
    def splits(self) -> tuple[str, ...]:
        order = {"train": 0, "validation": 1, "test": 2}
        return self._readable(sorted(self._files, key=lambda split: (order.get(split, 3), split)))

    @property
    def declared(self) -> DatasetMeta:
        return self._given_meta

    @property
    def place(self) -> str:
        return str(self.folder.resolve())

    @functools.cached_property
    def meta(self) -> DatasetMeta:
        """meta.json; what it does not say of classes, relations and events is taken from the records.

        The train split says whether several classes may hold for a text, which pairs of entity types hold relations,
        and which types there are. All splits together say which roles an event type has: that is the schema of the
        dataset, and gold must be among what is asked.
        """
        meta = self._given_meta
        if meta.task == "RE" and (meta.pair_types is None or not meta.entity_labels) and "train" in self._files:
            return _with_entity_types(meta, read_records(self._files["train"]))
        if meta.task == "EE" and meta.event_schema is None:
            return _with_event_schema(meta, itertools.chain.from_iterable(map(read_records, self._files.values())))
        if meta.labels and meta.multi_label is None and "train" in self._files:
            return _with_multi_label(meta, islice(read_records(self._files["train"]), _SHOWING_MULTI_LABEL))
        return meta

    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        self._check_split(split)
        return islice(read_records(self._files[split], self._given_meta), limit)

    def fingerprint(self, split: str) -> str:
        self._check_split(split)
        digest = hashlib.sha256(hash_file(self.folder / "meta.json").encode())
        digest.update(hash_file(self._files[split]).encode())
        if self._given_meta.task in ("RE", "EE"):  # see `meta`
            for path in sorted(self._files.values()):
                digest.update(hash_file(path).encode())
        return digest.hexdigest()


class GeneratedDataset(Dataset):
    """A dataset of the built-in generator, by its name; records without end where a limit asks for them."""

    def __init__(self, meta: DatasetMeta) -> None:
        self.held_out = meta.name.startswith(generator.HELD_OUT)
        self._meta = meta

    @property
    def meta(self) -> DatasetMeta:
        return dataclasses.replace(self._meta, splits={split: GENERATED_SPLITS[split] for split in self.splits})

    @property
    def splits(self) -> tuple[str, ...]:
        return self._readable(GENERATED_SPLITS)

    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        self._check_split(split)
        size = GENERATED_SPLITS[split] if limit is None else limit
        return islice(generator.generate(self._meta.name, split), size)

    def fingerprint(self, split: str) -> str:
        self._check_split(split)
        return hashlib.sha256(f"{_generator_fingerprint()} {self._meta.name} {split}".encode()).hexdigest()

    def record_meta(self, record: Record) -> DatasetMeta:
        return generator.record_meta(self._meta, record)


def sample_records(dataset: Dataset, split: str, limit: int | None, seed: int = 0) -> list[Record]:
    """`limit` records of a split without replacement, in file order; the same ones for every model. None: all.

    A generated dataset, whose records are independent of one another, gives its first ones.
    """
    if limit is None or isinstance(dataset, GeneratedDataset):
        return list(dataset.records(split, limit))
    rng = random.Random(f"{dataset.declared.name}/{split}/{seed}")
    chosen: list[tuple[int, Record]] = []
    for i, record in enumerate(dataset.records(split)):  # reservoir sampling: the file may be larger than memory
        place = i if i < limit else rng.randrange(i + 1)
        if i < limit:
            chosen.append((i, record))
        elif place < limit:
            chosen[place] = (i, record)
    return [record for _, record in sorted(chosen, key=lambda pair: pair[0])]


def generated_records(mixture: str, num: int, seed: int = 0) -> Iterator[Record]:
    """`num` records of a generated mixture, its datasets in turn; UserError for an unknown one."""
    return generator.generate_mixture(mixture, num, seed)


# --- atomic tasks ----------------------------------------------------------------------------------------------------

ATOMIC_STEPS = {"RE": ("entities", "relation"), "EE": ("trigger", "event_type", "argument")}


def atomic_tasks(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Task name -> the steps of atomic.STEPS that it asks: one task per dataset and atomic step.

    duee -> {"duee_trigger": ("trigger",), "duee_event_type": ("event_type",), "duee_argument": ("argument",)}
    cluener -> {"cluener": ("classify", "extract")}      its records are of one kind, and so is the step
    """
    meta = dataset.declared
    name = re.sub(r"\W", "_", meta.name)  # SeqIO allows no hyphens and no blanks
    if meta.task in ATOMIC_STEPS:
        return {f"{name}_{step}": (step,) for step in ATOMIC_STEPS[meta.task]}
    return {name: ("classify", "extract")}


# --- what meta.json leaves out ---------------------------------------------------------------------------------------


def _with_multi_label(meta: DatasetMeta, records: Iterable[Record]) -> DatasetMeta:
    numbers = {len(record.labels) for record in records if isinstance(record, ClassificationRecord)}
    return dataclasses.replace(meta, multi_label=numbers != {1}) if numbers else meta


def _with_entity_types(meta: DatasetMeta, records: Iterable[Record]) -> DatasetMeta:
    labels: dict[str, None] = {}
    pairs: set[tuple[str, str]] = set()
    for record in records:
        if isinstance(record, RelationRecord):
            labels.update(dict.fromkeys(entity.label for entity in record.entities))
            pairs.update((record.entities[r.head].label, record.entities[r.tail].label) for r in record.relations)
    return dataclasses.replace(
        meta,
        entity_labels=meta.entity_labels or tuple(labels),
        pair_types=frozenset(pairs) if meta.pair_types is None else meta.pair_types,
    )


def _with_event_schema(meta: DatasetMeta, records: Iterable[Record]) -> DatasetMeta:
    roles: dict[str, dict[str, None]] = {type_: {} for type_ in meta.labels}
    for record in records:
        if isinstance(record, EventRecord):
            for event in record.events:
                roles.setdefault(event.type, {}).update(dict.fromkeys(each.label for each in event.arguments))
    order = {role: i for i, role in enumerate(meta.roles)}
    schema = {
        type_: tuple(sorted(found, key=lambda role: order.get(role, len(order)))) for type_, found in roles.items()
    }
    return dataclasses.replace(meta, event_schema=schema)


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, read again only when its size or time has changed."""
    stat = path.stat()
    return _hash_file(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _hash_file(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _generator_fingerprint() -> str:
    return generator.fingerprint()
