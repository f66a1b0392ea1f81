"""Few-shot samples of a dataset: equally large train and validation sets drawn from its train split by a seed.

With one class a text, out of the dataset's own labels, they have `per_class` records of each class; every other dataset
(several classes may hold, options vary, extraction, relations, events) gives `others` records. CrossFit's release draws
its five samples with the seeds below.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.data.own import OwnData
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import ClassificationRecord, ExtractionRecord, Record, read_meta, write_meta, write_records
from seqgpt_jax.whole import whole_folder

SEEDS = (100, 13, 21, 42, 87)


@dataclass(frozen=True)
class Shots:
    """Records of a sample's train set, and as many for validation: of each class, or in all where classes do not part
    a dataset."""

    per_class: int = 16
    others: int = 32


@dataclass(frozen=True)
class Sample:
    """train and validation share no question with one another, nor with the dataset's test split.

    short: class ("" where classes do not count) -> records found for train, where there were too few for both sets.
    """

    train: tuple[Record, ...]
    validation: tuple[Record, ...]
    short: Mapping[str, int] = field(default_factory=dict)


def draw_sample(dataset: Dataset, seed: int, shots: Shots) -> Sample:
    """The sample of a seed: the same on every machine. A class with too few records is halved, train first.

    UserError where the dataset has no train split that may be read (Dataset.opened), or too little in it.
    """
    name = dataset.declared.name
    records = list(dataset.records("train"))
    asked = {_question(record) for record in dataset.records("test")} if "test" in dataset.splits else set()
    order = list(range(len(records)))
    random.Random(f"{name}/few_shot/{seed}").shuffle(order)
    groups: dict[str, list[int]] = {}
    by_class = has_one_class(records)
    for i in order:
        record = records[i]
        if (question := _question(record)) not in asked:
            asked.add(question)
            label = record.labels[0] if by_class and isinstance(record, ClassificationRecord) else ""
            groups.setdefault(label, []).append(i)
    wanted = shots.per_class if by_class else shots.others
    train: list[int] = []
    validation: list[int] = []
    short: dict[str, int] = {}
    for label in dataset.meta.labels if by_class else ("",):
        group = groups.get(label, [])
        num_train, num_validation = min(wanted, (len(group) + 1) // 2), min(wanted, len(group) // 2)
        train += group[:num_train]
        validation += group[num_train : num_train + num_validation]
        if num_validation < wanted:
            short[label] = num_train
    if not train or not validation:
        raise UserError(f"dataset {name} has too few train records to sample from (it needs at least two of a class)")
    return Sample(_records(records, train), _records(records, validation), short)


def has_one_class(records: Iterable[Record]) -> bool:
    """Whether every record is in exactly one class of the dataset's own labels, so that classes part the dataset."""
    return all(
        isinstance(record, ClassificationRecord) and len(record.labels) == 1 and record.label_set is None
        for record in records
    )


def _records(records: Sequence[Record], places: Iterable[int]) -> tuple[Record, ...]:
    """In the order of the file, so that a sample does not show which class was drawn first."""
    return tuple(records[i] for i in sorted(places))


def _question(record: Record) -> tuple[Any, ...]:
    """What a record asks: two with the same would be one question, in two sets."""
    more: tuple[Any, ...] = ()
    if isinstance(record, ClassificationRecord):
        more = (record.text_pair, record.question, record.target, record.label_set)
    elif isinstance(record, ExtractionRecord):
        more = (record.question,)
    return (record.text, *more)


def write_sample(sample: Sample, dataset: Dataset, folder: Path) -> OwnData:
    """The sample as a dataset folder with train and validation; one that is there already is taken as it is.

    Its meta.json holds the whole dataset's schema (labels, event roles, pairs of types), which names no answers.
    """
    if not folder.exists():
        with whole_folder(folder) as unfinished:
            splits = {"train": sample.train, "validation": sample.validation}
            counts = {split: write_records(unfinished / f"{split}.jsonl", kept) for split, kept in splits.items()}
            write_meta(unfinished, replace(dataset.meta, splits=counts))
    return OwnData(folder, read_meta(folder))
