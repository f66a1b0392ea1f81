"""What a stage was trained on, as its token caches and its batch plan count it: run_dir/data/<stage>.json.

What was drawn until a step follows from the plan alone, without reading an example: `BatchPlan.examples_until` says
how many examples (at the end of a window of the plan to within the examples of a step, within a window in proportion),
and `BatchPlan.draws` how many of them each task gives. Tokens are these examples at the mean length of their task,
which is exact after whole epochs.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from seqgpt_jax.data.cache import CacheSpec
from seqgpt_jax.data.plan import BatchPlan
from seqgpt_jax.data.texts import Objective, dataset_tasks
from seqgpt_jax.tables import text_table
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
    frequent (data/balance.py). rate: share of all draws; drawn: examples trained on so far; drawn_tokens: their tokens.
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
    rate: float = 0.0
    drawn: int = 0
    drawn_tokens: int = 0


@dataclass(frozen=True)
class StageData:
    """step: the steps of the stage after which this was counted."""

    mixture: str
    split: str
    passes: int
    datasets: tuple[DatasetCounts, ...]
    step: int = 0

    def total(self, name: str) -> int:
        """The sum of one of the numbers over all datasets."""
        return sum(getattr(dataset, name) for dataset in self.datasets)


def count_stage_data(
    spec: CacheSpec,
    sources: Iterable[CountedSource],
    objective: Objective = "answers",
    plan: BatchPlan | None = None,
    step: int = 0,
) -> StageData:
    """Adds up by dataset what the caches of a spec have counted, and what its plan gives to the first `step` steps."""
    stats = {source.name: source.stats for source in sources}
    draws = {} if plan is None else _count_draws(plan, step)
    datasets = []
    for dataset in spec.datasets():
        tasks = [task for task in dataset_tasks(dataset, objective) if task in stats]  # without examples: no cache
        own, drawn = [stats[task] for task in tasks], [draws[task] for task in tasks if task in draws]
        sums = {name: sum(each.get(name, 0) for each in own) for name in _SUMMED}
        leaked = max((each.get("leaked", 0) for each in own), default=0) // spec.passes  # each task read every record
        meta = dataset.declared
        datasets.append(
            DatasetCounts(
                meta.name, meta.task, meta.language, **sums, leaked=leaked,
                rate=round(sum(each.rate for each in drawn), 6), drawn=sum(each.examples for each in drawn),
                drawn_tokens=round(sum(each.tokens for each in drawn)),
            )
        )  # fmt: skip
    return StageData(spec.mixture, spec.split, spec.passes, tuple(datasets), step)


class _Drawn(NamedTuple):
    """Of one task: its share of all draws, and the examples and tokens drawn so far."""

    rate: float
    examples: int
    tokens: float


def _count_draws(plan: BatchPlan, step: int) -> dict[str, _Drawn]:
    numbers = plan.draws(plan.examples_until(step)).tolist() if step else [0] * len(plan.tasks)
    total = sum(task.rate for task in plan.tasks)
    return {
        task.name: _Drawn(task.rate / total, number, number * float(task.lengths[:, 0].mean()))
        for task, number in zip(plan.tasks, numbers, strict=True)
    }


def mixture_rows(data: StageData, most: int = 20) -> list[list[str]]:
    """A table: a row for each of the datasets with the highest rates, one for the rest, one for all."""
    by_rate = sorted(data.datasets, key=lambda dataset: (-dataset.rate, dataset.name))
    shown, rest = (by_rate, []) if len(by_rate) <= most else (by_rate[:most], by_rate[most:])
    rows = [["dataset", "task", "rate", "examples", "drawn", "epochs", "tokens drawn", "cut", "dropped"]]
    rows += [_mixture_row(dataset.name, f"{dataset.language} {dataset.task}", [dataset]) for dataset in shown]
    if rest:
        rows.append(_mixture_row(f"{len(rest)} others", "", rest))
    return [*rows, _mixture_row("all", "", by_rate)]


def mixture_table(data: StageData) -> list[str]:
    """The same for a terminal."""
    return text_table(mixture_rows(data), num_left=2)


def _mixture_row(name: str, task: str, datasets: Sequence[DatasetCounts]) -> list[str]:
    def total(field: str) -> int:
        return sum(getattr(dataset, field) for dataset in datasets)

    examples, drawn = total("examples"), total("drawn")
    numbers = [f"{total(field):,}" for field in ("drawn_tokens", "cut", "dropped")]
    rate, epochs = sum(dataset.rate for dataset in datasets), drawn / examples if examples else 0.0
    return [name, task, f"{rate:.2%}", f"{examples:,}", f"{drawn:,}", f"{epochs:.2f}", *numbers]


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
