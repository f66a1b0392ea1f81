"""The trainer: every stage of a recipe in order, in a run directory that it can go on with after any end.

A stage, as things happen: token caches, batch plan, loader; weights; then steps. Step k is dispatched before the
metrics of step k-1 are read, so the device never waits for the host.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
from flax import nnx
from jax.sharding import Mesh

from seqgpt_jax.data.cache import ensure_cache
from seqgpt_jax.data.loader import Batch, ExampleSource, Loader
from seqgpt_jax.data.plan import BatchPlan, PlanConfig, TaskSize
from seqgpt_jax.data.rates import mixing_rates
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.architectures import make_model
from seqgpt_jax.models.decoder import Decoder, DecoderConfig
from seqgpt_jax.recipe import Recipe, Stage
from seqgpt_jax.training.checkpoints import (
    StageCheckpoints,
    StageInfo,
    checkpoint_folder,
    restore_params,
    saved_stages,
)
from seqgpt_jax.training.journal import Journal, StageResult, summarise_stage
from seqgpt_jax.training.optimizers import Optimizer, make_optimizer
from seqgpt_jax.training.partitioning import (
    ModelSkeleton,
    Params,
    batch_sharding,
    check_rows,
    devices_for_rows,
    make_mesh,
    make_skeleton,
    param_shardings,
)
from seqgpt_jax.training.signals import Interrupted, SignalWatch
from seqgpt_jax.training.stage_data import count_stage_data, write_stage_data
from seqgpt_jax.training.start import StartingPoint, cache_spec, prepare_start
from seqgpt_jax.training.step import (
    StepMetrics,
    TrainState,
    abstract_batch,
    abstract_state,
    init_params,
    init_state,
    make_train_step,
    state_shardings,
)
from seqgpt_jax.vocabulary import Vocabulary
from seqgpt_jax.whole import write_text

MAX_BAD_STEPS = 10  # steps in a row without a finite loss and gradient before training gives up


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
    _claim_run_dir(run_dir, config_text, allow_changed_config)
    with SignalWatch() as watch:
        start = prepare_start(recipe, run_dir)
        skeleton = make_skeleton(_model_maker(start.config, recipe.seed))
        run = _Run(recipe, run_dir, mesh, start, skeleton, config_text, watch, show_progress)
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
            params = _restored_params(run, recipe.stages[-1].name)
    return TrainResult(tuple(results), scores, skeleton.merge(params), start.vocabulary, run_dir)


def _make_mesh(recipe: Recipe) -> Mesh:
    settings, num_rows = recipe.mesh, [shape.num_rows for shape in recipe.data.row_shapes]
    devices = None
    if settings.data == -1:
        parts = math.lcm(*(stage.num_microbatches for stage in recipe.stages))
        devices = devices_for_rows(math.gcd(*num_rows), settings.fsdp, settings.tensor, parts)
    mesh = make_mesh(settings.data, settings.fsdp, settings.tensor, devices)
    for stage in recipe.stages:
        for each in num_rows:
            check_rows(each, mesh, stage.num_microbatches)
    return mesh


@dataclass(frozen=True)
class _Run:
    """What every stage of a run shares."""

    recipe: Recipe
    run_dir: Path
    mesh: Mesh
    start: StartingPoint
    skeleton: ModelSkeleton
    config_text: str
    watch: SignalWatch
    show_progress: bool


def _train_stage(run: _Run, index: int) -> Params | None:
    """Trains a stage to its end; its parameters, or None when it had ended before."""
    stage, settings = run.recipe.stages[index], run.recipe.checkpoint
    info = StageInfo(stage.name, index, stage.steps, run.start.config, run.recipe.model.pretrained)
    with StageCheckpoints(run.run_dir, info, run.config_text, settings.keep) as checkpoints:
        if (checkpoints.latest_step() or 0) >= stage.steps:
            return None
        spec = cache_spec(run.recipe, stage, run.run_dir / "tokenizer")
        sources = ensure_cache(spec, run.recipe.data.cache_path(), progress=run.show_progress)
        write_stage_data(run.run_dir, stage.name, count_stage_data(spec, sources))
        loader = make_loader(sources, run.recipe, stage)
        optimizer = make_optimizer(stage.optimizer, stage.steps, run.skeleton)
        shardings = state_shardings(run.skeleton, optimizer, run.mesh)
        state, done = _first_state(run, index, checkpoints, optimizer, shardings)
        step = make_train_step(run.skeleton, optimizer, run.mesh, shardings, stage.num_microbatches, run.recipe.loss)
        with Journal(run.run_dir, stage.name, done, stage.steps, show_progress=run.show_progress) as journal:
            state = run_steps(
                step, state, done, stage.steps, loader,
                mesh=run.mesh, checkpoints=checkpoints, save_every=settings.every, journal=journal, watch=run.watch,
            )  # fmt: skip
    return state.params


def make_loader(sources: Sequence[SizedSource], recipe: Recipe, stage: Stage) -> Loader:
    """The batches of a stage on this host; the rates are those of data/rates.py, by the number of examples."""
    data = recipe.data
    sizes = {source.name: len(source) for source in sources}
    rates = mixing_rates(sizes, stage.rate_cap, stage.temperature, stage.weights)
    tasks = [TaskSize(source.name, source.lengths, rates[source.name]) for source in sources]
    config = PlanConfig(data.rows_per_step, data.row_tokens, data.row_supervised, data.window, recipe.seed)
    plan = BatchPlan(tasks, config, data.cache_path() / "plans")
    return Loader(plan, sources, jax.process_index(), jax.process_count())


def _first_state(
    run: _Run, index: int, checkpoints: StageCheckpoints, optimizer: Optimizer, shardings: TrainState
) -> tuple[TrainState, int]:
    """The state to go on from, and the steps done. In this order:

    a checkpoint of this stage > the end of the previous stage > Hugging Face weights > random weights
    """
    done = checkpoints.latest_step()
    if done is not None:
        return checkpoints.restore(done, abstract_state(run.skeleton, optimizer, shardings)), done
    if index > 0:
        params = _restored_params(run, run.recipe.stages[index - 1].name)
    else:
        pretrained = run.start.load_params() if run.start.load_params is not None else None
        params = init_params(_model_maker(run.start.config, run.recipe.seed), run.skeleton, run.mesh, pretrained)
    return init_state(run.skeleton, params, optimizer, shardings), 0


def _restored_params(run: _Run, stage: str) -> Params:
    shardings = param_shardings(run.skeleton, run.mesh)
    abstract = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), run.skeleton.shapes, shardings
    )
    return restore_params(checkpoint_folder(run.run_dir, stage), abstract)


def _model_maker(config: DecoderConfig, seed: int) -> Callable[[], Decoder]:
    return lambda: make_model(config, rngs=nnx.Rngs(seed))


def run_steps(
    step: Any,
    state: TrainState,
    done: int,
    num_steps: int,
    loader: Loader,
    *,
    mesh: Mesh,
    checkpoints: StageCheckpoints,
    save_every: int,
    journal: Journal,
    watch: SignalWatch,
) -> TrainState:
    """The steps done+1 .. num_steps; saves at multiples of save_every and at the last, and when a signal asks to stop.

    Rows of the journal are written before the checkpoint of their step, so a run that is killed has lost no row that
    its checkpoint is past. Raises Interrupted, or UserError after MAX_BAD_STEPS steps in a row that were no numbers.
    """
    batches = loader.batches(done, num_steps)
    batch, waited = _timed_next(batches, mesh)
    compiled = {shape.tokens: step.lower(state, abstract_batch(shape, mesh)).compile() for shape in loader.shapes()}
    pending: StepMetrics | None = None
    num_bad, last_read, waited = 0, time.perf_counter(), 0.0

    def settle(number: int) -> None:
        """Reads the metrics of step `number`, which makes the host wait for it."""
        nonlocal pending, num_bad, last_read
        metrics, pending = jax.device_get(pending), None
        now = time.perf_counter()
        journal.write(number, metrics, now - last_read, waits.pop(number))
        last_read = now
        num_bad = 0 if metrics.finite else num_bad + 1
        if num_bad >= MAX_BAD_STEPS:
            journal.flush()
            raise UserError(
                f"loss or gradient was not a number in steps {number - num_bad + 1} to {number} "
                "(lower optimizer.learning_rate, or set optimizer.clip_norm)"
            )

    waits = {done + 1: waited}
    with watch.deferred():
        for number in range(done + 1, num_steps + 1):
            state, metrics = compiled[batch.tokens_BT.shape[1]](state, batch)
            if pending is not None:
                settle(number - 1)
            pending = metrics
            if number < num_steps:
                batch, waits[number + 1] = _timed_next(batches, mesh)
            stop = watch.requested
            if stop or number == num_steps or number % save_every == 0:
                settle(number)
                journal.flush()
                checkpoints.save(number, state)
            if stop and number < num_steps:
                checkpoints.wait()
                raise Interrupted(f"stopped by {stop} after step {number} of {num_steps}, saved (run again to go on)")
    return state


def _timed_next(batches: Iterator[Batch], mesh: Mesh) -> tuple[Batch, float]:
    """The next batch on its way to the mesh, and the seconds that it was waited for."""
    begin = time.perf_counter()
    batch = next(batches)
    waited = time.perf_counter() - begin
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding), waited
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch), waited


def _claim_run_dir(run_dir: Path, config_text: str, allow_changed_config: bool) -> None:
    """Makes the run directory or checks that it is of the same config; without a checkpoint it is begun anew."""
    run_dir.mkdir(parents=True, exist_ok=True)
    file = run_dir / "config.gin"
    old = file.read_text("utf-8") if file.is_file() else None
    if old is not None and old != config_text:
        if saved_stages(run_dir) and not allow_changed_config:
            before, after = set(old.splitlines()), set(config_text.splitlines())
            changes = [f"- {line}" for line in sorted(before - after)] + [
                f"+ {line}" for line in sorted(after - before)
            ]
            shown = "; ".join(changes[:6]) + (" ..." if len(changes) > 6 else "")
            raise UserError(
                f"{run_dir}: holds a run with another config: {shown} (choose another --run_dir, or remove this one)"
            )
        if not saved_stages(run_dir):
            shutil.rmtree(run_dir / "tokenizer", ignore_errors=True)
    write_text(file, config_text)
