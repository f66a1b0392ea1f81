"""What a stage was trained on, as its token caches counted it: run_dir/data/<stage>.json, for the report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seqgpt_jax.data.cache import CacheSpec
from seqgpt_jax.data.texts import Objective, dataset_tasks
from seqgpt_jax.whole import write_text

_SUMMED = ("examples", "tokens", "supervised", "cut", "dropped", "surplus")


class CountedSource(Protocol):
    """A TaskCache, or anything like it. stats: see data/questions.py STATS."""

    name: str
    stats: Mapping[str, int]


@dataclass(frozen=True)
class DatasetCounts:
    """One dataset, all its atomic tasks together. Examples and tokens of every pass, leaked records of one.

    cut: examples that lost the end of their text; dropped: questions that did not fit even so; leaked: records left
    out because an evaluation split holds them (data/leaks.py); surplus: questions left out because their answer is too
    frequent (data/balance.py).
    """

    name: str
    task: str
    language: str
    examples: int
    tokens: int
    supervised: int
    cut: int
    dropped: int
    leaked: int
    surplus: int = 0


@dataclass(frozen=True)
class StageData:
    mixture: str
    split: str
    passes: int
    datasets: tuple[DatasetCounts, ...]

    def total(self, name: str) -> int:
        """The sum of one of the numbers over all datasets."""
        return sum(getattr(dataset, name) for dataset in self.datasets)


def count_stage_data(spec: CacheSpec, sources: Iterable[CountedSource], objective: Objective = "answers") -> StageData:
    """Adds up what the caches of a spec have counted, by dataset."""
    stats = {source.name: source.stats for source in sources}
    datasets = []
    for dataset in spec.datasets():
        tasks = dataset_tasks(dataset, objective)
        own = [stats[task] for task in tasks if task in stats]  # a task without examples has no cache
        sums = {name: sum(each.get(name, 0) for each in own) for name in _SUMMED}
        leaked = max((each.get("leaked", 0) for each in own), default=0) // spec.passes  # each task read every record
        meta = dataset.declared
        datasets.append(DatasetCounts(meta.name, meta.task, meta.language, **sums, leaked=leaked))
    return StageData(spec.mixture, spec.split, spec.passes, tuple(datasets))


def write_stage_data(run_dir: Path, stage: str, data: StageData) -> None:
    text = json.dumps(dataclasses.asdict(data), ensure_ascii=False, indent=1)
    write_text(run_dir / "data" / f"{stage}.json", text + "\n")


def read_stage_data(run_dir: Path, stage: str) -> StageData | None:
    """What write_stage_data wrote, or None where it has not."""
    file = run_dir / "data" / f"{stage}.json"
    if not file.is_file():
        return None
    fields = json.loads(file.read_text("utf-8"))
    return StageData(**{**fields, "datasets": tuple(DatasetCounts(**each) for each in fields["datasets"])})
