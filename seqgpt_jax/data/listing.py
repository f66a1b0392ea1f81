"""The list of datasets: what there is to train and evaluate on, from every source, and its atomic tasks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqgpt_jax.data.datasets import Dataset, FolderDataset, GeneratedDataset, atomic_tasks
from seqgpt_jax.data.hub import HubDataset
from seqgpt_jax.data.mixtures import data_folder_of, known_sources, resolve_mixture
from seqgpt_jax.data.t5_sources import T5Dataset
from seqgpt_jax.data.tfds_sources import TfdsDataset
from seqgpt_jax.tables import text_table

_SOURCES: dict[type[Dataset], str] = {
    FolderDataset: "folder",
    GeneratedDataset: "generator",
    TfdsDataset: "tfds",
    T5Dataset: "t5",
    HubDataset: "hub",
}


@dataclass(frozen=True)
class Listed:
    """One dataset. splits: those that may be read, with their records, None where that is known only once read."""

    name: str
    source: str
    partition: str  # held_in, held_out; "" where no data folder says so
    language: str
    task: str
    splits: dict[str, int | None]
    atomic_tasks: tuple[str, ...]
    num_labels: int
    domain: str
    license: str


def list_datasets(mixture: str | None = None, data_dir: Path | None = None) -> list[Listed]:
    """The datasets of a mixture, or all that can be named. No record is read. UserError for an unknown mixture."""
    if mixture is None:
        datasets = [dataset for found in known_sources(data_dir).values() for dataset in found]
    else:
        datasets = resolve_mixture(mixture, data_dir)
    return [_describe(dataset) for dataset in datasets]


def missing_sources(data_dir: Path | None = None) -> list[str]:
    """What a list of everything cannot show on this machine, and how it would."""
    missing = []
    if not (data_dir or os.environ.get("SEQGPT_DATA_DIR")):
        missing.append("real datasets (set SEQGPT_DATA_DIR to the folder with partitions.json)")
    missing.append("datasets of the Hugging Face hub (named one by one: hub:OWNER/NAME)")
    return missing


def _describe(dataset: Dataset) -> Listed:
    meta = dataset.declared
    in_partition = dataset.held_out or (isinstance(dataset, FolderDataset) and data_folder_of(dataset) is not None)
    return Listed(
        name=meta.name,
        source=_SOURCES[type(dataset)],
        partition=("held_out" if dataset.held_out else "held_in") if in_partition else "",
        language=meta.language,
        task=meta.task,
        splits={split: meta.splits.get(split) for split in dataset.splits},
        atomic_tasks=tuple(atomic_tasks(dataset)),
        num_labels=len(meta.labels),
        domain=meta.domain,
        license=meta.license,
    )


def listing_to_dict(listed: Sequence[Listed], missing: Sequence[str]) -> dict[str, Any]:
    """For --json: the numbers of datasets and of atomic tasks by source, and every dataset.

    {"datasets": {"folder": 137, ...}, "atomic_tasks": {"folder": 154, ...}, "missing": [...],
     "list": [{"name": "duee", "source": "folder", "atomic_tasks": ["duee_trigger", ...], ...}, ...]}
    """
    datasets: dict[str, int] = {}
    tasks: dict[str, int] = {}
    for each in listed:
        datasets[each.source] = datasets.get(each.source, 0) + 1
        tasks[each.source] = tasks.get(each.source, 0) + len(each.atomic_tasks)
    return {
        "datasets": datasets,
        "atomic_tasks": tasks,
        "missing": list(missing),
        "list": [dataclasses.asdict(each) for each in listed],
    }


def listing_to_text(listed: Sequence[Listed], missing: Sequence[str]) -> str:
    """A table, the numbers by source, and what is missing."""
    rows = [["dataset", "source", "partition", "language", "task", "train", "validation", "test", "labels", "tasks"]]
    for each in listed:
        sizes = [_size(each.splits, split) for split in ("train", "validation", "test")]
        head = [each.name, each.source, each.partition or "-", each.language, each.task]
        rows.append([*head, *sizes, str(each.num_labels or "-"), str(len(each.atomic_tasks))])
    counts = listing_to_dict(listed, ())
    sums = [
        f"{source}: {number} datasets, {counts['atomic_tasks'][source]} atomic tasks"
        for source, number in counts["datasets"].items()
    ]
    return "\n".join([*text_table(rows, num_left=5), "", *sums, *(f"not listed: {each}" for each in missing)])


def _size(splits: dict[str, int | None], split: str) -> str:
    """ "-": there is no such split, or it is not to be read; "?": it has not been counted."""
    if split not in splits:
        return "-"
    size = splits[split]
    return "?" if size is None else f"{size:,}"
