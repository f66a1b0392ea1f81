"""The trainer: every stage of a recipe in order, in a run directory that it can go on with after any end.

A stage, as things happen: token caches, batch plan, loader (batches.py); weights (weights.py); then steps (steps.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jax.sharding import Mesh

from seqgpt_jax.data.plan import BatchPlan
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.recipe import EvaluationSettings, Recipe, Stage
from seqgpt_jax.training.batches import SizedSource, make_loader, stage_sources, steps_of_stage
from seqgpt_jax.training.checkpoints import StageCheckpoints, StageInfo, checkpoint_folder
from seqgpt_jax.training.faults import BadSteps, full_disk_explained
from seqgpt_jax.training.finished import Finished, read_finished
from seqgpt_jax.training.hosts import (
    agreed_signal,
    check_shared,
    first_alone,
    from_main,
    is_main,
    main_alone,
)
from seqgpt_jax.training.journal import Journal, StageResult, summarise_stage
from seqgpt_jax.training.mfu import mfu_on
from seqgpt_jax.training.model_info import write_model_info
from seqgpt_jax.training.optimizers import make_optimizer
from seqgpt_jax.training.partitioning import Params, check_rows, devices_for_rows, make_mesh, row_share
from seqgpt_jax.training.profiler import Profiler, ProfileWindow
from seqgpt_jax.training.recovery import clear_damage
from seqgpt_jax.training.run_directory import claim_run_dir
from seqgpt_jax.training.signals import SignalWatch
from seqgpt_jax.training.sinks import Sink, WeightsAndBiases
from seqgpt_jax.training.stage_data import count_stage_data, mixture_table, write_stage_data
from seqgpt_jax.training.stage_evaluation import Evaluator, StageEvaluations
from seqgpt_jax.training.start import cache_spec, prepare_start, stage_skeleton
from seqgpt_jax.training.step import make_train_step, state_shardings
from seqgpt_jax.training.steps import compile_steps, run_steps
from seqgpt_jax.training.weights import WeightSource, skeleton_of
from seqgpt_jax.vocabulary import Vocabulary


@dataclass(frozen=True)
class TrainResult:
    """What train() made. The model is that of the last stage, its parameters as they lie on the training mesh."""

    stages: tuple[StageResult, ...]
    model: Decoder
    vocabulary: Vocabulary
    run_dir: Path


def train(
    recipe: Recipe,
    run_dir: Path,
    *,
    evaluator: Evaluator | None = None,
    config_text: str = "",
    allow_changed_config: bool = False,
    profile: ProfileWindow | None = None,
    wandb_project: str | None = None,
    resume: bool = True,
    show_progress: bool = True,
) -> TrainResult:
    """Trains every stage and returns the result; a run directory that exists is gone on with.

    evaluator judges the stages that have evaluations. config_text is kept as run_dir/config.gin and beside the
    checkpoints. profile: steps to record. wandb_project: where rows go too. Raises UserError where the recipe cannot be
    run, or the directory holds a run of another config (unless allowed) or, without resume, any run; Interrupted after
    SIGTERM or SIGINT, with everything saved.
    """
    assert evaluator is not None or not any(stage.evaluations for stage in recipe.stages)
    run_dir = Path(run_dir)
    mesh = _make_mesh(recipe)
    with full_disk_explained(run_dir), SignalWatch() as watch, contextlib.ExitStack() as stack:

        def claim() -> None:
            claim_run_dir(run_dir, config_text, allow_changed_config, resume)
            clear_damage(run_dir, [stage.name for stage in recipe.stages])

        check_shared(run_dir)
        main_alone("run directory", claim)
        profiler, sinks = stack.enter_context(Profiler(profile, run_dir)), list[Sink]()
        if wandb_project is not None and is_main():
            sinks.append(stack.enter_context(contextlib.closing(WeightsAndBiases(wandb_project, run_dir, config_text))))
        start = first_alone("tokenizer", is_main(), lambda: prepare_start(recipe, run_dir))
        skeleton = skeleton_of(start, recipe.seed)
        weights = WeightSource(recipe, run_dir, mesh, start, skeleton)
        weights.check()
        run = _Run(
            recipe, run_dir, mesh, weights, evaluator, config_text, watch, profiler, tuple(sinks),
            show_progress and is_main(),
        )  # fmt: skip
        results: list[StageResult] = []
        params: Params | None = None
        for index, stage in enumerate(recipe.stages):
            params = _train_stage(run, index)
            results.append(_summary(run_dir, stage))
        if params is None:
            params = weights.restored_params(recipe.stages[-1].name)
    return TrainResult(tuple(results), skeleton.merge(params), start.vocabulary, run_dir)


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
    evaluator: Evaluator | None
    config_text: str
    watch: SignalWatch
    profiler: Profiler
    sinks: tuple[Sink, ...]
    show_progress: bool

    def tell_data(self, stage: Stage, sources: Sequence[SizedSource], plan: BatchPlan, step: int) -> None:
        """Writes and shows the mixture of a stage as it is after `step` steps."""
        if is_main():
            spec = cache_spec(self.recipe, stage, self.run_dir / "tokenizer")
            data = count_stage_data(spec, sources, stage.objective, plan, step)
            write_stage_data(self.run_dir, stage.name, data)
            if self.show_progress:
                print("\n".join([f"{stage.name} after {step:,} steps", *mixture_table(data)]), file=sys.stderr)

    def judge(self, params: Params, settings: EvaluationSettings) -> Mapping[str, float]:
        """What the evaluator says of the model around these very arrays."""
        assert self.evaluator is not None
        return self.evaluator(self.weights.skeleton.merge(params), self.weights.start.vocabulary, settings)


def _train_stage(run: _Run, index: int) -> Params | None:
    """Trains a stage to its end; its parameters, or None where its checkpoints have them."""
    stage, settings = run.recipe.stages[index], run.recipe.checkpoint
    skeleton = stage_skeleton(run.weights.skeleton, stage, run.recipe.seed)
    ended = read_finished(checkpoint_folder(run.run_dir, stage.name))
    if ended is not None and ended.is_end_of(stage.length):
        return None
    sources = stage_sources(run.recipe, stage, run.run_dir, progress=run.show_progress)
    loader = make_loader(sources, run.recipe, stage, row_share(run.mesh))
    num_steps = steps_of_stage(stage, loader.plan)
    if stage.steps is None and run.show_progress:
        length = f"{stage.examples:,} examples" if stage.epochs is None else f"{stage.epochs:g} epochs"
        print(f"stage {stage.name}: {length} are {num_steps:,} steps", file=sys.stderr)
    if ended is not None and ended.step >= num_steps:  # it was to be longer once
        return None
    info = StageInfo(
        stage.name, index, run.weights.start.config, run.recipe.model.pretrained, num_steps, skeleton.frozen_layers
    )
    with StageCheckpoints(run.run_dir, info, run.config_text, settings.keep, settings.keep_every) as checkpoints:
        checkpoints.reopen()
        optimizer = make_optimizer(stage.optimizer, num_steps, skeleton)
        shardings = state_shardings(skeleton, optimizer, run.mesh)
        state, done = run.weights.first_state(index, skeleton, checkpoints, optimizer, shardings)
        run.tell_data(stage, sources, loader.plan, done)
        with Journal(
            run.run_dir, stage.name, done, num_steps,
            mfu=mfu_on(run.mesh, run.weights.start.config), sinks=run.sinks, show_progress=run.show_progress,
        ) as journal:  # fmt: skip
            evaluations = StageEvaluations(run.run_dir, stage, num_steps, journal, run.judge)
            evaluations.run(done, state.result)
            if done < num_steps and not evaluations.is_over():
                run.profiler.begin_stage(stage.name, done, num_steps)
                step = make_train_step(
                    skeleton, optimizer, run.mesh, shardings, stage.num_microbatches, run.recipe.loss
                )
                compiled = compile_steps(step, state, loader, run.mesh)
                if is_main():
                    write_model_info(run.run_dir, stage, skeleton, shardings.params, run.mesh, compiled)
                state = run_steps(
                    compiled, state, done, num_steps, loader, mesh=run.mesh, checkpoints=checkpoints,
                    save_every=settings.every, journal=journal, evaluations=evaluations,
                    bad_steps=BadSteps(run.run_dir, stage.name, done), profiler=run.profiler, watch=run.watch,
                )  # fmt: skip
        last, best = int(state.step), evaluations.best_step()
        run.tell_data(stage, sources, loader.plan, last)
        checkpoints.finish(Finished(last, best, stage.length))
    run.watch.requested = agreed_signal(run.watch.requested)
    run.watch.leave_if_requested()
    return state.result if best in (None, last) else None


def _summary(run_dir: Path, stage: Stage) -> StageResult:
    """What process 0, which wrote the rows, makes of them."""
    fields = from_main(lambda: dataclasses.asdict(summarise_stage(run_dir, stage.name, stage.protocol)))
    return StageResult(**fields)
