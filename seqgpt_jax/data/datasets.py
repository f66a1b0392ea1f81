"""The datasets there are: folders of records and the built-in generator, found by the name of a mixture. No TensorFlow.

    <data_dir>/partitions.json                    {"held_in": {"en": [names], "zh": [names]}, "held_out": {...}}
    <data_dir>/<language>/<name>/meta.json        and <split>.jsonl or <split>.jsonl.gz

    mixtures: synthetic, mini_real, mini_held_out, held_in, held_out; each with _en or _zh, with a task (held_in_ner),
    or both (held_in_zh_mrc_se); the name of one dataset; or the path of a folder of them.

A held-out dataset is judged zero-shot: its train split cannot be read, and nothing of it goes into a token cache.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import functools
import hashlib
import itertools
import json
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.records import (
    TASKS,
    DatasetMeta,
    EventRecord,
    Record,
    RelationRecord,
    read_meta,
    read_records,
    split_files,
)
from seqgpt_jax.synthesis import generator

LANGUAGES = ("en", "zh")
PARTITIONS = ("held_in", "held_out")
GENERATED_SPLITS = {"train": 10_000, "validation": 500, "test": 500}  # records where no limit is given; there are more


class Dataset(abc.ABC):
    """Records of one task in one language, by split. `held_out`: it may be evaluated on, never trained on."""

    held_out: bool

    @property
    @abc.abstractmethod
    def meta(self) -> DatasetMeta: ...

    @property
    @abc.abstractmethod
    def splits(self) -> tuple[str, ...]:
        """The splits that may be read; that of a held-out dataset's training data is not among them."""

    @abc.abstractmethod
    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        """The first `limit` records of a split, or all. UserError for a split that there is not, or is held out."""

    @abc.abstractmethod
    def fingerprint(self, split: str) -> str:
        """A hash that changes whenever a record of the split, or the description of the dataset, may have changed."""

    def record_meta(self, record: Record) -> DatasetMeta:
        """The description that fits one record: for generated RE and EE that of its domain, else `meta`."""
        return self.meta

    def _check_split(self, split: str) -> None:
        if split in self.splits:
            return
        name = self.meta.name
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
        readable = (split for split in self._files if not (self.held_out and split == "train"))
        return tuple(sorted(readable, key=lambda split: (order.get(split, 3), split)))

    @functools.cached_property
    def meta(self) -> DatasetMeta:
        """meta.json; what it does not say of relations and events is taken from the records.

        The train split says which pairs of entity types hold relations, and which types there are. All splits together
        say which roles an event type has: that is the schema of the dataset, and gold must be among what is asked.
        """
        meta = self._given_meta
        if meta.task == "RE" and (meta.pair_types is None or not meta.entity_labels) and "train" in self._files:
            return _with_entity_types(meta, read_records(self._files["train"]))
        if meta.task == "EE" and meta.event_schema is None:
            return _with_event_schema(meta, itertools.chain.from_iterable(map(read_records, self._files.values())))
        return meta

    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        self._check_split(split)
        return islice(read_records(self._files[split], self._given_meta), limit)

    def fingerprint(self, split: str) -> str:
        self._check_split(split)
        digest = hashlib.sha256(self._hash("meta.json").encode())
        digest.update(self._hash(self._files[split].name).encode())
        if self._given_meta.task in ("RE", "EE"):  # see `meta`
            for name in sorted(path.name for path in self._files.values()):
                digest.update(self._hash(name).encode())
        return digest.hexdigest()

    def _hash(self, name: str) -> str:
        stat = (self.folder / name).stat()
        return _hash_file(self.folder / name, stat.st_size, stat.st_mtime_ns)


class GeneratedDataset(Dataset):
    """A dataset of the built-in generator, by its name; records without end where a limit asks for them."""

    def __init__(self, meta: DatasetMeta) -> None:
        self.held_out = meta.name.startswith(generator.HELD_OUT)
        self._meta = dataclasses.replace(meta, splits={split: GENERATED_SPLITS[split] for split in self.splits})

    @property
    def meta(self) -> DatasetMeta:
        return self._meta

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in GENERATED_SPLITS if not (self.held_out and split == "train"))

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
    rng = random.Random(f"{dataset.meta.name}/{split}/{seed}")
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

_STEPS = {"RE": ("entities", "relation"), "EE": ("trigger", "event_type", "argument")}


def atomic_tasks(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """Task name -> the steps of atomic.STEPS that it asks: one task per dataset and atomic step.

    duee -> {"duee_trigger": ("trigger",), "duee_event_type": ("event_type",), "duee_argument": ("argument",)}
    cluener -> {"cluener": ("classify", "extract")}      its records are of one kind, and so is the step
    """
    meta = dataset.meta
    name = re.sub(r"\W", "_", meta.name)  # SeqIO allows no hyphens and no blanks
    if meta.task in _STEPS:
        return {f"{name}_{step}": (step,) for step in _STEPS[meta.task]}
    return {name: ("classify", "extract")}


# --- finding datasets ------------------------------------------------------------------------------------------------


def dataset_folders(root: Path) -> list[Path]:
    """The folders with a meta.json at or below `root`, sorted; UserError where there are none."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder (give a folder with meta.json, or a tree of such folders)")
    folders = sorted(Path(folder) for folder, _, files in os.walk(root, followlinks=True) if "meta.json" in files)
    if not folders:
        raise UserError(f"{root}: no meta.json here or below, so no dataset (see the record format in the README)")
    return folders


def find_folder_datasets(root: Path) -> list[Dataset]:
    """The dataset folders at or below `root`, sorted by path; UserError where there are none, or two of one name."""
    datasets: list[Dataset] = [FolderDataset(folder, held_out=_is_held_out(folder)) for folder in dataset_folders(root)]
    _check_names(datasets)
    return datasets


def resolve_mixture(name: str, data_dir: Path | None = None) -> list[Dataset]:
    """The datasets of a mixture (module docstring). data_dir None: the environment's SEQGPT_DATA_DIR.

    UserError for a name that is none, listing close ones, or for real data that is not there.
    """
    if os.sep in name:
        return find_folder_datasets(Path(name))
    generated = _generated(name)
    if generated:
        return generated
    folder = data_dir or (Path(os.environ["SEQGPT_DATA_DIR"]) if os.environ.get("SEQGPT_DATA_DIR") else None)
    if folder is None:
        if any(name == partition or name.startswith(f"{partition}_") for partition in PARTITIONS):
            raise UserError(f"mixture '{name}' needs real datasets (set SEQGPT_DATA_DIR to their folder)")
        raise _unknown(name, _known_names(None))
    partitions = _read_partitions(folder)
    for partition in PARTITIONS:
        if name == partition or name.startswith(f"{partition}_"):
            return _partition_part(name, partition, partitions[partition], folder)
    for partition in PARTITIONS:
        for language, names in partitions[partition].items():
            if name in names:
                return [FolderDataset(folder / language / name, held_out=partition == "held_out")]
    raise _unknown(name, _known_names(partitions))


def mixture_names(head: str, data_dir: Path | None = None) -> list[str]:
    """The mixtures of a family or partition that hold any dataset: held_in, held_in_en, held_in_ner, held_in_en_ner."""
    metas = (dataset.meta for dataset in resolve_mixture(head, data_dir))
    kinds = {(meta.language, _slug(meta.task)) for meta in metas}
    tails = {tail for language, task in kinds for tail in ((), (language,), (task,), (language, task))}
    return sorted("_".join([head, *tail]) for tail in tails)


def _generated(name: str) -> list[Dataset]:
    for family in generator.families():
        if name == family or name.startswith(f"{family}_"):
            metas = {meta.name: meta for meta in generator.generated_dataset_metas(family)}
            names = (name,) if name in metas else generator.mixture_datasets(name)
            return [GeneratedDataset(metas[each]) for each in names]
    return []


def _partition_part(name: str, partition: str, languages: dict[str, list[str]], folder: Path) -> list[Dataset]:
    wanted_language, wanted_task = _parse_part(name, partition)
    datasets: list[Dataset] = [
        FolderDataset(folder / language / each, held_out=partition == "held_out")
        for language, names in sorted(languages.items())
        if wanted_language in (None, language)
        for each in names
        if wanted_task is None or read_meta(folder / language / each).task == wanted_task
    ]
    if not datasets:
        raise UserError(
            f"mixture '{name}' is empty: {folder}/partitions.json lists no such dataset (choose a larger one)"
        )
    _check_names(datasets)
    return datasets


def _parse_part(name: str, partition: str) -> tuple[str | None, str | None]:
    """ "held_in_en_mrc_se" -> ("en", "MRC-SE")"""
    for language in (None, *LANGUAGES):
        for task in (None, *TASKS):
            if name == "_".join([partition, *filter(None, (language, task and _slug(task)))]):
                return language, task
    raise _unknown(name, _known_names(None))


def _slug(task: str) -> str:
    return task.lower().replace("-", "_")


def _known_names(partitions: dict[str, dict[str, list[str]]] | None) -> list[str]:
    tails = ["", *(f"_{language}" for language in LANGUAGES), *(f"_{_slug(task)}" for task in TASKS)]
    tails += [f"_{language}_{_slug(task)}" for language in LANGUAGES for task in TASKS]
    names = [head + tail for head in (*generator.families(), *PARTITIONS) for tail in tails]
    if partitions:
        names += [name for languages in partitions.values() for each in languages.values() for name in each]
    return names


def _unknown(name: str, known: Sequence[str]) -> UserError:
    close = difflib.get_close_matches(name, known, n=3) or [*generator.families(), *PARTITIONS]
    return UserError(f"unknown mixture '{name}' (did you mean {', '.join(close)}? a folder is given with a /)")


def _read_partitions(folder: Path) -> dict[str, dict[str, list[str]]]:
    path = folder / "partitions.json"
    if not path.is_file():
        raise UserError(f"{folder}: no partitions.json, which says what is held in (set SEQGPT_DATA_DIR to its folder)")
    try:
        fields = json.loads(path.read_text("utf-8"))
        return {
            partition: {language: [str(name) for name in names] for language, names in fields[partition].items()}
            for partition in PARTITIONS
        }
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        remedy = 'it must be {"held_in": {"en": [names], ...}, "held_out": {...}}'
        raise RecordError(f"cannot be read: {error!r}", file=path, remedy=remedy) from None


def _is_held_out(folder: Path) -> bool:
    """Whether the data folder that a dataset lies in holds it out: its path is no way around that."""
    place = folder.resolve()
    if len(place.parents) < 2 or not (place.parents[1] / "partitions.json").is_file():
        return False
    return place.name in _read_partitions(place.parents[1])["held_out"].get(place.parent.name, [])


def _check_names(datasets: Iterable[Dataset]) -> None:
    seen: set[str] = set()
    for dataset in datasets:
        if dataset.meta.name in seen:
            raise UserError(f"two datasets are named '{dataset.meta.name}' (rename one in its meta.json)")
        seen.add(dataset.meta.name)


# --- what meta.json leaves out ---------------------------------------------------------------------------------------


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


@functools.lru_cache(maxsize=4096)
def _hash_file(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _generator_fingerprint() -> str:
    return generator.fingerprint()
