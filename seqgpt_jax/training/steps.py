"""The inner loop: the steps of a stage, saved at multiples, with metrics that are read one step late.

Step k is dispatched before the metrics of step k-1 are read, so the device never waits for the host.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from seqgpt_jax.data.loader import Batch, Loader
from seqgpt_jax.training.checkpoints import StageCheckpoints
from seqgpt_jax.training.faults import BadSteps
from seqgpt_jax.training.hosts import StopVote, barrier
from seqgpt_jax.training.journal import Journal
from seqgpt_jax.training.partitioning import batch_sharding
from seqgpt_jax.training.profiler import Profiler
from seqgpt_jax.training.signals import Interrupted, SignalWatch
from seqgpt_jax.training.stage_evaluation import StageEvaluations
from seqgpt_jax.training.step import StepMetrics, TrainState, TrainStep, abstract_batch


def compile_steps(step: Any, state: TrainState, loader: Loader, mesh: Mesh) -> dict[int, TrainStep]:
    """The step compiled for each shape of batch: tokens of a row -> executable."""
    return {shape.tokens: step.lower(state, abstract_batch(shape, mesh)).compile() for shape in loader.shapes()}


def run_steps(
    compiled: Mapping[int, TrainStep],
    state: TrainState,
    done: int,
    num_steps: int,
    loader: Loader,
    *,
    mesh: Mesh,
    checkpoints: StageCheckpoints,
    save_every: int,
    journal: Journal,
    evaluations: StageEvaluations,
    bad_steps: BadSteps,
    profiler: Profiler,
    watch: SignalWatch,
) -> TrainState:
    """The steps done+1 .. num_steps, or fewer where the evaluations say that it is enough.

    compiled: of compile_steps. Saves at multiples of save_every, before each evaluation, at the last step, and when a
    signal asks to stop. Rows of the journal are written before the checkpoint of their step, so a run that is killed
    has lost no row that its checkpoint is past. Raises Interrupted, or UserError after too many steps in a row that
    were no numbers.
    """
    batches = loader.batches(done, num_steps)
    batch, _ = _timed_next(batches, mesh)
    votes = StopVote(mesh)
    barrier("compiled")  # the first collective gives up on a process that comes much later
    pending: tuple[StepMetrics, Batch] | None = None
    journal.restart_clock()
    last_read = time.perf_counter()

    def settle(number: int) -> None:
        """Reads the metrics of step `number`, which makes the host wait for it."""
        nonlocal pending, last_read
        assert pending is not None
        metrics, of_batch = jax.device_get(pending[0]), pending[1]
        pending, now = None, time.perf_counter()
        journal.write(number, metrics, of_batch.tokens_BT.shape, now - last_read, waits.pop(number))
        last_read = now
        if not metrics.finite:
            journal.flush()
        bad_steps.check(number, metrics, of_batch)

    waits = {done + 1: 0.0}
    with watch.deferred():
        for number in range(done + 1, num_steps + 1):
            profiler.before(number, state)
            state, metrics = compiled[batch.tokens_BT.shape[1]](state, batch)
            profiler.after(number, state)
            if pending is not None:
                settle(number - 1)
            pending = metrics, batch
            if number < num_steps:
                batch, waits[number + 1] = _timed_next(batches, mesh)
            judged = evaluations.is_due(number)
            stop = votes.signal_after(watch.requested, wait=judged)
            if stop or judged or number == num_steps or number % save_every == 0:
                settle(number)
                journal.flush()
                checkpoints.save(number, state, evaluations.best_step())
            if stop and number < num_steps:
                checkpoints.wait()
                raise Interrupted(f"stopped by {stop} after step {number} of {num_steps}, saved (run again to go on)")
            if judged:
                with watch.at_once():
                    evaluations.run(number, state.result)
                if evaluations.is_over():
                    break
                journal.restart_clock()
                last_read = time.perf_counter()
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
