"""The trainer: every stage of a recipe in order, in a run directory that it can go on with after any end.

A stage, as things happen: token caches, batch plan, loader (here); weights (weights.py); then steps (steps.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from seqgpt_jax.data.cache import ensure_cache
from seqgpt_jax.data.loader import ExampleSource, Loader
from seqgpt_jax.data.plan import BatchPlan, TaskSize
from seqgpt_jax.data.rates import mixing_rates
from seqgpt_jax.data.text_cache import ensure_text_cache
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.recipe import Recipe, Stage
from seqgpt_jax.training.checkpoints import StageCheckpoints, StageInfo
from seqgpt_jax.training.journal import Journal, StageResult, summarise_stage
from seqgpt_jax.training.optimizers import make_optimizer
from seqgpt_jax.training.partitioning import Params, check_rows, devices_for_rows, make_mesh
from seqgpt_jax.training.run_directory import claim_run_dir
from seqgpt_jax.training.signals import SignalWatch
from seqgpt_jax.training.stage_data import count_stage_data, write_stage_data
from seqgpt_jax.training.start import cache_spec, prepare_start
from seqgpt_jax.training.step import make_train_step, state_shardings
from seqgpt_jax.training.steps import run_steps
from seqgpt_jax.training.weights import WeightSource, skeleton_of
from seqgpt_jax.vocabulary import Vocabulary


class SizedSource(ExampleSource, Protocol):
    """What a stage trains on: a TaskCache, or anything like it."""

    name: str
    lengths: Any  # int32 [N, 2]: tokens, supervised tokens
    stats: Mapping[str, int]


class Evaluator(Protocol):
    """Judges a model at the end of a stage; yields (name, value), which go to the log and the result."""

    def __call__(
        self, model: Decoder, vocabulary: Vocabulary, *, stage: str, run_dir: Path
    ) -> Iterable[tuple[str, float]]: ...


@dataclass(frozen=True)
class TrainResult:
    """What train() made. The model is that of the last stage, its parameters as they lie on the training mesh.

    scores: stage -> what the evaluators said of it, for the stages that ended in this call.
    """

    stages: tuple[StageResult, ...]
    scores: dict[str, dict[str, float]]
    model: Decoder
    vocabulary: Vocabulary
    run_dir: Path


def train(
    recipe: Recipe,
    run_dir: Path,
    *,
    evaluators: Sequence[Evaluator] = (),
    config_text: str = "",
    allow_changed_config: bool = False,
    show_progress: bool = True,
) -> TrainResult:
    """Trains every stage and returns the result; a run directory that exists is gone on with.

    config_text is kept as run_dir/config.gin and beside the checkpoints. Raises UserError where the recipe cannot be
    run, or the directory holds a run of another config (unless allowed); Interrupted after SIGTERM or SIGINT, with
    everything saved.
    """
    run_dir = Path(run_dir)
    mesh = _make_mesh(recipe)
    claim_run_dir(run_dir, config_text, allow_changed_config)
    with SignalWatch() as watch:
        start = prepare_start(recipe, run_dir)
        skeleton = skeleton_of(start, recipe.seed)
        weights = WeightSource(recipe, run_dir, mesh, start, skeleton)
        run = _Run(recipe, run_dir, mesh, weights, config_text, watch, show_progress)
        results: list[StageResult] = []
        scores: dict[str, dict[str, float]] = {}
        params: Params | None = None
        for index, stage in enumerate(recipe.stages):
            params = _train_stage(run, index)
            results.append(summarise_stage(run_dir, stage.name, stage.protocol))
            if params is not None:
                judged = (
                    evaluator(skeleton.merge(params), start.vocabulary, stage=stage.name, run_dir=run_dir)
                    for evaluator in evaluators
                )
                scores[stage.name] = {name: value for scores_of_one in judged for name, value in scores_of_one}
        if params is None:
            params = weights.restored_params(recipe.stages[-1].name)
    return TrainResult(tuple(results), scores, skeleton.merge(params), start.vocabulary, run_dir)


def _make_mesh(recipe: Recipe) -> Mesh:
    settings = recipe.mesh
    shapes = [(stage, shape) for stage in recipe.stages for shape in recipe.plan_config(stage).shapes]
    devices = None
    if settings.data == -1:
        parts = math.lcm(*(stage.num_microbatches for stage in recipe.stages))
        num_rows = math.gcd(*(shape.num_rows for _, shape in shapes))
        devices = devices_for_rows(num_rows, settings.fsdp, settings.tensor, parts)
    mesh = make_mesh(settings.data, settings.fsdp, settings.tensor, devices)
    for stage, shape in shapes:
        check_rows(shape.num_rows, mesh, stage.num_microbatches)
    return mesh


@dataclass(frozen=True)
class _Run:
    """What every stage of a run shares."""

    recipe: Recipe
    run_dir: Path
    mesh: Mesh
    weights: WeightSource
    config_text: str
    watch: SignalWatch
    show_progress: bool


def _train_stage(run: _Run, index: int) -> Params | None:
    """Trains a stage to its end; its parameters, or None when it had ended before."""
    stage, settings, skeleton = run.recipe.stages[index], run.recipe.checkpoint, run.weights.skeleton
    info = StageInfo(stage.name, index, stage.steps, run.weights.start.config, run.recipe.model.pretrained)
    with StageCheckpoints(run.run_dir, info, run.config_text, settings.keep) as checkpoints:
        if (checkpoints.latest_step() or 0) >= stage.steps:
            return None
        spec = cache_spec(run.recipe, stage, run.run_dir / "tokenizer")
        ensure = ensure_text_cache if stage.objective == "language_modelling" else ensure_cache
        sources = ensure(spec, run.recipe.data.cache_path(), progress=run.show_progress)
        write_stage_data(run.run_dir, stage.name, count_stage_data(spec, sources, stage.objective))
        loader = make_loader(sources, run.recipe, stage)
        optimizer = make_optimizer(stage.optimizer, stage.steps, skeleton)
        shardings = state_shardings(skeleton, optimizer, run.mesh)
        state, done = run.weights.first_state(index, checkpoints, optimizer, shardings)
        step = make_train_step(skeleton, optimizer, run.mesh, shardings, stage.num_microbatches, run.recipe.loss)
        with Journal(run.run_dir, stage.name, done, stage.steps, show_progress=run.show_progress) as journal:
            state = run_steps(
                step, state, done, stage.steps, loader,
                mesh=run.mesh, checkpoints=checkpoints, save_every=settings.every, journal=journal, watch=run.watch,
            )  # fmt: skip
    return state.params


def make_loader(sources: Sequence[SizedSource], recipe: Recipe, stage: Stage) -> Loader:
    """The batches of a stage on this host; the rates are those of data/rates.py, by the number of examples."""
    sizes = {source.name: len(source) for source in sources}
    rates = mixing_rates(sizes, stage.rate_cap, stage.temperature, stage.weights)
    tasks = [TaskSize(source.name, source.lengths, rates[source.name]) for source in sources]
    plan = BatchPlan(tasks, recipe.plan_config(stage), recipe.data.cache_path() / "plans")
    return Loader(plan, sources, jax.process_index(), jax.process_count())
