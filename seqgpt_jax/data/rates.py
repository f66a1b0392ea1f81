"""How often each atomic task of a mixture is drawn: examples-proportional, under a cap, softened by a temperature.

    rate = weight * min(examples, cap) ** (1 / temperature)          T5 (arXiv 1910.10683, section 3.5.2)

Only ratios of rates matter. A weight is given by the name of a task or of a dataset, then for each of its tasks:

    {"duee": 2.0, "duee_argument": 1.0}     duee_trigger and duee_event_type twice as often, duee_argument as before
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping

from seqgpt_jax.data.datasets import ATOMIC_STEPS
from seqgpt_jax.data.texts import TEXT
from seqgpt_jax.errors import UserError


def mixing_rates(
    sizes: Mapping[str, int],
    cap: int | None = None,
    temperature: float = 1.0,
    weights: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The rate of each task. sizes: its examples. cap None: no cap. UserError for a weight whose name is no task's.

    {"a": 900, "b": 100}, cap=400, temperature=2  ->  {"a": 20.0, "b": 10.0}
    """
    scales = task_weights(sizes, weights or {})
    return {
        name: scales[name] * float(size if cap is None else min(size, cap)) ** (1.0 / temperature)
        for name, size in sizes.items()
    }


def task_weights(tasks: Collection[str], weights: Mapping[str, float]) -> dict[str, float]:
    """The weight of each task: that of its own name, else of its dataset, else 1. UserError for an unknown name."""
    by_name = {re.sub(r"\W", "_", name): weight for name, weight in weights.items()}
    found = {task: [name for name in (task, _dataset_of(task, tasks)) if name in by_name] for task in tasks}
    unknown = set(by_name) - {name for names in found.values() for name in names}
    if unknown:
        known = sorted({*tasks, *(_dataset_of(task, tasks) for task in tasks)})
        close = difflib.get_close_matches(min(unknown), known, n=3, cutoff=0.5) or known[:3]
        raise UserError(
            f"stage.weights: '{min(unknown)}' is no dataset or task of the mixture (did you mean {', '.join(close)}?)"
        )
    return {task: by_name[names[0]] if names else 1.0 for task, names in found.items()}


def _dataset_of(task: str, tasks: Collection[str]) -> str:
    """duee_event_type, duee_text -> duee; a task that is all of its dataset bears the dataset's name."""
    for step in (TEXT, *(step for steps in ATOMIC_STEPS.values() for step in steps)):
        dataset = task.removesuffix(f"_{step}")
        if dataset != task and dataset not in tasks:
            return dataset
    return task
