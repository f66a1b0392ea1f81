"""Partitions by task: what is trained on upstream, and what is then learnt from few examples.

A partition is two lists of tasks; its datasets are those of held_in and of held_out that have them, so it can name none
twice. The upstream side is a mixture's name, for a recipe; the downstream side is what few-shot samples are drawn of.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import TASKS

_CLASSIFICATION = ("ID", "SA", "CLS", "NLI", "ET", "MRC-MC")
_EXTRACTION = ("NER", "SF", "RE", "EE", "MRC-SE")


@dataclass(frozen=True)
class Partition:
    """upstream, downstream: the tasks of either side."""

    upstream: tuple[str, ...]
    downstream: tuple[str, ...]


PARTITIONS: Mapping[str, Partition] = {
    "random": Partition(TASKS, TASKS),  # across tasks, as partitions.json was drawn
    "classification_to_classification": Partition(_CLASSIFICATION, _CLASSIFICATION),
    "classification_to_extraction": Partition(_CLASSIFICATION, _EXTRACTION),
    "extraction_to_classification": Partition(_EXTRACTION, _CLASSIFICATION),
    "extraction_to_extraction": Partition(_EXTRACTION, _EXTRACTION),
    **{
        f"without_{task.lower().replace('-', '_')}": Partition(tuple(each for each in TASKS if each != task), (task,))
        for task in TASKS
    },
}


def find_partition(name: str) -> Partition:
    """UserError for a name that is none, listing close ones."""
    if name not in PARTITIONS:
        close = difflib.get_close_matches(name, PARTITIONS, n=3, cutoff=0.3) or list(PARTITIONS)[:3]
        raise UserError(f"unknown partition '{name}' (did you mean {', '.join(close)}?)")
    return PARTITIONS[name]


def upstream_mixture(partition: Partition, data_dir: Path | None = None) -> str:
    """The mixture to train on: "held_in_cls+held_in_id+...", of the tasks that held_in has."""
    present = _tasks_of(resolve_mixture("held_in", data_dir))
    return "+".join(
        f"held_in_{task.lower().replace('-', '_')}" for task in TASKS if task in partition.upstream and task in present
    )


def downstream_datasets(
    partition: Partition, language: str | None = None, data_dir: Path | None = None
) -> list[Dataset]:
    """The held-out datasets to learn, opened; UserError where there are none."""
    datasets = resolve_mixture("held_out" if language is None else f"held_out_{language}", data_dir)
    found = [dataset.opened() for dataset in datasets if dataset.declared.task in partition.downstream]
    if not found:
        raise UserError(f"held_out has no dataset of {', '.join(partition.downstream)} (choose another partition)")
    return found


def check_upstream(trained_on: Mapping[str, str], downstream: Sequence[Dataset], partition: Partition | None) -> None:
    """UserError where a model has been trained on what it is to learn, or on a task that the partition keeps from it.

    trained_on: dataset -> task, of real data and of the generator.
    """
    names = {dataset.declared.name for dataset in downstream}
    if both := sorted(names & trained_on.keys()):
        raise UserError(
            f"the upstream model was trained on {', '.join(both[:3])}, which it is to learn from few examples "
            "(choose other datasets, or another model)"
        )
    if partition is None:
        return
    outside = sorted(name for name, task in trained_on.items() if task not in partition.upstream)
    if outside:
        raise UserError(
            f"the upstream model was trained on {', '.join(outside[:3])}, of tasks that this partition keeps from it "
            "(train it on the mixture that --show_upstream prints)"
        )


def _tasks_of(datasets: Iterable[Dataset]) -> set[str]:
    return {dataset.declared.task for dataset in datasets}
