"""What a stage trains on: its token caches, the plan of its batches, and how many steps that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax

from seqgpt_jax.data.cache import ensure_cache
from seqgpt_jax.data.loader import ExampleSource, Loader
from seqgpt_jax.data.plan import BatchPlan, TaskSize
from seqgpt_jax.data.rates import mixing_rates
from seqgpt_jax.data.text_cache import ensure_text_cache
from seqgpt_jax.recipe import Recipe, Stage
from seqgpt_jax.training.hosts import first_alone, first_to_see
from seqgpt_jax.training.start import cache_spec


class SizedSource(ExampleSource, Protocol):
    """What a stage trains on: a TaskCache, or anything like it."""

    name: str
    lengths: Any  # int32 [N, 2]: tokens, supervised tokens
    stats: Mapping[str, int]


def stage_sources(recipe: Recipe, stage: Stage, run_dir: Path, *, progress: bool = True) -> Sequence[SizedSource]:
    """The token caches of a stage; what is missing is built by one process for all that see the same cache folder."""
    spec, cache_dir = cache_spec(recipe, stage, run_dir / "tokenizer"), recipe.data.cache_path()
    ensure = ensure_text_cache if stage.objective == "language_modelling" else ensure_cache
    return first_alone(
        "token cache",
        first_to_see(cache_dir) == jax.process_index(),
        lambda: ensure(spec, cache_dir, progress=progress),
    )


def make_loader(
    sources: Sequence[SizedSource], recipe: Recipe, stage: Stage, share: tuple[int, int] = (0, 1)
) -> Loader:
    """The batches of a stage; the rates are those of data/rates.py, by the number of examples.

    share: which part of every step's rows this process makes, of how many.
    """
    sizes = {source.name: len(source) for source in sources}
    rates = mixing_rates(sizes, stage.rate_cap, stage.temperature, stage.weights)
    tasks = [TaskSize(source.name, source.lengths, rates[source.name]) for source in sources]
    plan = BatchPlan(tasks, recipe.plan_config(stage), recipe.data.cache_path() / "plans")
    return Loader(plan, sources, *share)


def steps_of_stage(stage: Stage, plan: BatchPlan) -> int:
    """The number of steps of a stage, which the batch plan tells where it is given in epochs or examples.

    An epoch of a mixture is as many examples as its tasks have together. Tasks are drawn at their rates, so one whose
    rate is above the others' comes more than once in it, and another not whole.
    """
    if stage.steps is not None:
        return stage.steps
    if stage.epochs is None:
        assert stage.examples is not None, stage
        return plan.steps_until(stage.examples)
    return plan.steps_until(math.ceil(stage.epochs * sum(len(task.lengths) for task in plan.tasks)))
