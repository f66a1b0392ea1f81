"""Leaks: training records that an evaluation split holds too, so that a score on it would not be one on unseen text.

A record is what the model reads: its text, and what is asked of it (text_pair, question, target). It leaks where

    same text   it has the tokens (ngrams.py) of an evaluation record in every field
    n-grams     at least MIN_SHARE of the windows of 13 tokens of its text are in evaluation records that ask the same

The share is over the windows of the training record: 20 tokens have 8 windows, 4 of them make one half. A text of
fewer than 13 tokens has none, and leaks only as the same text. A passage of which another question is asked, or
another target, is no leak: the answer is not given away. It is counted apart (`shared_texts`), and kept.
Labels are no part of the comparison, neither their names nor the answer.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from tqdm import tqdm

from seqgpt_jax.data import ngrams
from seqgpt_jax.data.datasets import Dataset, GeneratedDataset
from seqgpt_jax.data.mixtures import data_folder_of, find_folder_datasets
from seqgpt_jax.data.ngrams import hash_texts, mix
from seqgpt_jax.records import ClassificationRecord, ExtractionRecord, Record
from seqgpt_jax.tables import text_table
from seqgpt_jax.whole import write_text

NGRAM = 13  # tokens, as in GPT-3's (Brown et al. 2020, appendix C) and PaLM's checks
MIN_SHARE = 0.5  # of the windows of a training record
TRAIN = "train"
_BATCH = 4096  # records hashed at once
_FILE_NAME = re.compile(r"[^\w-]")  # what is left out of one


@dataclass(frozen=True, slots=True)
class Leak:
    """A training record and the evaluation record that it is most like. share: of its windows, 1 for the same text."""

    record_id: str
    reason: str  # "same text" or "n-grams"
    share: float
    dataset: str
    split: str
    evaluation_id: str


@dataclass(frozen=True)
class DatasetLeaks:
    """What the train split of one dataset shares with evaluation splits."""

    dataset: str
    language: str
    task: str
    num_records: int
    shared_texts: int  # records kept although their text is in an evaluation split: something else is asked
    leaks: tuple[Leak, ...]

    @property
    def record_ids(self) -> frozenset[str]:
        return frozenset(leak.record_id for leak in self.leaks)

    def counts(self) -> dict[str, int]:
        """Leaks by reason; "own": the evaluation record is one of the same dataset, "other": of another."""
        found = Counter((leak.reason, leak.dataset == self.dataset) for leak in self.leaks)
        return {
            f"{reason}, {where}": found[reason, own]
            for reason in ("same text", "n-grams")
            for where, own in (("own", True), ("other", False))
        }

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> DatasetLeaks:
        fields = json.loads(text)
        return cls(**{**fields, "leaks": tuple(Leak(**leak) for leak in fields["leaks"])})


Split: TypeAlias = tuple[Dataset, str]


def ensure_leaks(
    datasets: Sequence[Dataset], data_dir: Path | None, cache_dir: Path, *, progress: bool = True
) -> list[DatasetLeaks]:
    """The leaks of each dataset's train split; what cache_dir does not have yet is found, with a progress bar.

    Checked against the evaluation splits of all of them and of the data folder that any belongs to. A dataset of the
    generator has none: its splits are drawn apart. RecordError for a record that is wrong in any of these splits.
    """
    training = [each for each in datasets if TRAIN in each.splits and not isinstance(each, GeneratedDataset)]
    if not training:
        return []
    evaluations = evaluation_splits(training, data_dir)
    against = hashlib.sha256(_code_fingerprint().encode())
    for dataset, split in evaluations:
        against.update(f"{dataset.declared.name}/{split}/{dataset.fingerprint(split)}\n".encode())
    files: dict[str, Path] = {}
    for dataset in training:
        own = hashlib.sha256(f"{against.hexdigest()}{dataset.fingerprint(TRAIN)}".encode()).hexdigest()[:20]
        name = dataset.declared.name
        files[name] = Path(cache_dir) / "leaks" / f"{_FILE_NAME.sub('_', name)}-{own}.json"
    missing = [dataset for dataset in training if not files[dataset.declared.name].is_file()]
    if missing:
        for found in find_leaks(missing, evaluations, progress=progress):
            write_text(files[found.dataset], found.to_json() + "\n")
    return [DatasetLeaks.from_json(file.read_text("utf-8")) for file in files.values()]


def evaluation_splits(training: Sequence[Dataset], data_dir: Path | None) -> list[Split]:
    """What a mixture is checked against: every split but train of its datasets, and of the data folder behind them.

    That is the folder with partitions.json which a dataset lies in, and data_dir (None: SEQGPT_DATA_DIR) for one that
    comes from elsewhere by its name. A folder of the user's own brings no more than its own splits.
    """
    company = list(training)
    for root in sorted({root for each in training if (root := data_folder_of(each, data_dir)) is not None}):
        company += find_folder_datasets(root)
    distinct = {(dataset.declared.name, dataset.place): dataset for dataset in company}
    # In order of name, so that parts of one data folder are checked against the same, in the same order.
    return [(distinct[key], split) for key in sorted(distinct) for split in distinct[key].splits if split != TRAIN]


def find_leaks(
    training: Sequence[Dataset], evaluations: Sequence[Split], *, progress: bool = False
) -> Iterator[DatasetLeaks]:
    """Yields what the train split of each dataset shares with the evaluation splits."""
    splits = [*evaluations, *((dataset, TRAIN) for dataset in training)]
    total = sum(dataset.declared.splits.get(split, 0) for dataset, split in splits)
    with tqdm(total=total, desc="leaks", unit=" records", disable=not progress, file=sys.stderr) as bar:
        held = [_Hashed.read(dataset, split, bar) for dataset, split in evaluations]
        every = _Index(held)
        for dataset in training:
            own = _Index([each for each in held if each.dataset == dataset.declared.name])
            yield _compare(dataset, _Hashed.read(dataset, TRAIN, bar), every, own)


# --- records as hashes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Hashed:
    """The records of one split. inputs, texts: of all fields and of the text alone, 0 where there is no token.

    windows: of the text and whatever is asked of it; text_windows: of the text alone. owners: their records' numbers.
    """

    dataset: str
    split: str
    ids: list[str]
    inputs: np.ndarray  # uint64 [N]
    texts: np.ndarray  # uint64 [N]
    windows: np.ndarray  # uint64 [W]
    text_windows: np.ndarray  # uint64 [W]
    owners: np.ndarray  # int64 [W]

    @classmethod
    def read(cls, dataset: Dataset, split: str, bar: tqdm) -> _Hashed:
        ids: list[str] = []
        parts: list[tuple[np.ndarray, ...]] = []
        for batch in _batches(dataset.records(split)):
            parts.append(_hash_records(batch, first=len(ids)))
            ids += [record.id for record in batch]
            bar.update(len(batch))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)] or list(_hash_records([], 0))
        return cls(dataset.declared.name, split, ids, *columns)


def _hash_records(records: Sequence[Record], first: int) -> tuple[np.ndarray, ...]:
    """The columns of _Hashed; owners count from `first`."""
    text = hash_texts([record.text for record in records])
    pair, question, target = (hash_texts(column).whole() for column in _asked(records))
    asked = mix(mix(pair) ^ question) ^ target
    windows, owners = text.windows(NGRAM)
    texts = text.whole()
    inputs = np.where((texts == 0) & (pair == 0), np.uint64(0), mix(mix(texts) ^ asked))
    return inputs, texts, mix(windows ^ asked[owners]), windows, owners + first


def _asked(records: Iterable[Record]) -> tuple[list[str], ...]:
    """The columns text_pair, question and target; "" where a record has none."""
    columns: tuple[list[str], ...] = ([], [], [])
    for record in records:
        pair = question = target = None
        if isinstance(record, ClassificationRecord):
            pair, question = record.text_pair, record.question
            target = record.target.text if record.target else None
        elif isinstance(record, ExtractionRecord):
            question = record.question
        for column, field in zip(columns, (pair, question, target), strict=True):
            column.append(field or "")
    return columns


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(islice(records, _BATCH)):
        yield batch


# --- comparing -------------------------------------------------------------------------------------------------------


class _Index:
    """The records of some evaluation splits by their hashes, numbered over all the splits in their order."""

    def __init__(self, splits: Sequence[_Hashed]) -> None:
        self.names = [(each.dataset, each.split, record_id) for each in splits for record_id in each.ids]
        starts = np.cumsum([0, *(len(each.ids) for each in splits)])
        owners = [each.owners + start for each, start in zip(splits, starts[:-1], strict=True)]
        self._inputs = _Table([each.inputs for each in splits])
        self._texts = _Table([each.texts for each in splits])
        self._windows = _Table([each.windows for each in splits], owners)
        self._text_windows = _Table([each.text_windows for each in splits], owners)

    def same(self, records: _Hashed) -> np.ndarray:
        """int64 [N]: the number of an evaluation record that is the same, or -1."""
        return np.where(records.inputs == 0, -1, self._inputs.find(records.inputs))

    def shares(self, records: _Hashed) -> tuple[np.ndarray, np.ndarray]:
        """float64 [N]: the share of each record's windows that are there; int64 [N]: the record with most, or -1.

        -1 where the share is below MIN_SHARE.
        """
        found = self._windows.find(records.windows)
        share = _share(found >= 0, records)
        # Pairs (record, evaluation record), each with its number of windows; the last of a record has most.
        candidates = (found >= 0) & (share >= MIN_SHARE)[records.owners]
        pairs, counts = np.unique(np.stack([records.owners[candidates], found[candidates]]), axis=1, return_counts=True)
        order = np.lexsort((-pairs[1], counts))
        like = np.full(len(records.ids), -1)
        like[pairs[0][order]] = pairs[1][order]
        return share, like

    def has_text(self, records: _Hashed) -> np.ndarray:
        """bool [N]: whether the text alone is in an evaluation record, whatever that asks."""
        same = (records.texts != 0) & (self._texts.find(records.texts) >= 0)
        return same | (_share(self._text_windows.find(records.text_windows) >= 0, records) >= MIN_SHARE)


class _Table:
    """Hashes in order, each once, with the number of the first that had it (by default its place)."""

    def __init__(self, hashes: Sequence[np.ndarray], numbers: Sequence[np.ndarray] | None = None) -> None:
        every = np.concatenate([np.zeros(0, np.uint64), *hashes])
        self._hashes, first = np.unique(every, return_index=True)
        self._numbers = first if numbers is None else np.concatenate([np.zeros(0, np.int64), *numbers])[first]

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """int64: the number of each hash, -1 where it is not there."""
        if not len(self._hashes):
            return np.full(len(hashes), -1)
        place = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        return np.where(self._hashes[place] == hashes, self._numbers[place], -1)


def _share(found: np.ndarray, records: _Hashed) -> np.ndarray:
    """float64 [N]: the share of each record's windows that were found; 0 for a record without any."""
    number = len(records.ids)
    windows = np.bincount(records.owners, minlength=number)
    return np.bincount(records.owners, found, minlength=number) / np.maximum(windows, 1)


def _compare(dataset: Dataset, records: _Hashed, every: _Index, own: _Index) -> DatasetLeaks:
    """own: the evaluation splits of the same dataset, which are named first where both have the record."""
    leaks: dict[int, Leak] = {}
    for index in (own, every):
        same = index.same(records)
        for i in np.flatnonzero(same >= 0).tolist():
            leaks.setdefault(i, Leak(records.ids[i], "same text", 1.0, *index.names[same[i]]))
    for index in (own, every):
        share, like = index.shares(records)
        for i in np.flatnonzero(like >= 0).tolist():
            leaks.setdefault(i, Leak(records.ids[i], "n-grams", round(float(share[i]), 4), *index.names[like[i]]))
    shared_texts = set(np.flatnonzero(every.has_text(records)).tolist()) - leaks.keys()
    meta = dataset.declared
    found = tuple(leaks[i] for i in sorted(leaks))
    return DatasetLeaks(meta.name, meta.language, meta.task, len(records.ids), len(shared_texts), found)


# --- showing them ----------------------------------------------------------------------------------------------------


def leaks_to_dict(found: Sequence[DatasetLeaks]) -> dict[str, Any]:
    """For `seqgpt data leaks --json`: the rule, the totals, and each dataset with its leaks."""
    totals = Counter[str]()
    for each in found:
        totals.update(each.counts())
    return {
        "rule": {"ngram": NGRAM, "min_share": MIN_SHARE},
        "num_datasets": len(found),
        "num_records": sum(each.num_records for each in found),
        "num_leaks": sum(len(each.leaks) for each in found),
        "counts": dict(totals),
        "shared_texts": sum(each.shared_texts for each in found),
        "datasets": [{**dataclasses.asdict(each), "counts": each.counts()} for each in found],
    }


def leaks_to_text(found: Sequence[DatasetLeaks]) -> str:
    """A table of the datasets that have any, most first, and what its columns mean."""
    reasons = list(found[0].counts()) if found else []
    rows = [["dataset", "language", "task", "records", "leaked", "share", *reasons, "kept"]]
    some = [each for each in found if each.leaks or each.shared_texts]
    for each in sorted(some, key=lambda each: (-len(each.leaks), each.dataset)):
        counts = [str(number) for number in each.counts().values()]
        share = f"{len(each.leaks) / each.num_records:.2%}"
        row = [each.dataset, each.language, each.task, f"{each.num_records:,}", str(len(each.leaks)), share]
        rows.append([*row, *counts, str(each.shared_texts)])
    records, leaks = sum(each.num_records for each in found), sum(len(each.leaks) for each in found)
    sums = [sum(each.counts()[reason] for each in found) for reason in reasons]
    all_row = ["all", "", "", f"{records:,}", str(leaks), f"{leaks / max(records, 1):.2%}"]
    rows.append([*all_row, *map(str, sums), str(sum(each.shared_texts for each in found))])
    legend = (
        "leaked records are left out of training (data.drop_leaks); own: in validation or test of the same dataset,",
        "other: of another one; kept: the text is in an evaluation split, but something else is asked of it",
    )
    return "\n".join([*text_table(rows, num_left=3), "", *legend])


# --- files -----------------------------------------------------------------------------------------------------------


@functools.cache
def _code_fingerprint() -> str:
    """Of the source that decides what a leak is: other rules find other ones."""
    files = (Path(__file__), Path(ngrams.__file__))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
