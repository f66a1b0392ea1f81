"""The inner loop: the steps of a stage, saved at multiples, with metrics that are read one step late.

Step k is dispatched before the metrics of step k-1 are read, so the device never waits for the host.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from seqgpt_jax.data.loader import Batch, Loader
from seqgpt_jax.errors import UserError
from seqgpt_jax.training.checkpoints import StageCheckpoints
from seqgpt_jax.training.journal import Journal
from seqgpt_jax.training.partitioning import batch_sharding
from seqgpt_jax.training.signals import Interrupted, SignalWatch
from seqgpt_jax.training.stage_evaluation import StageEvaluations
from seqgpt_jax.training.step import StepMetrics, TrainState, abstract_batch

MAX_BAD_STEPS = 10  # steps in a row without a finite loss and gradient before training gives up


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
    evaluations: StageEvaluations | None = None,
    watch: SignalWatch,
) -> TrainState:
    """The steps done+1 .. num_steps, or fewer where the evaluations say that it is enough.

    Saves at multiples of save_every, before each evaluation, at the last step, and when a signal asks to stop.

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
            stop, judged = watch.requested, evaluations is not None and evaluations.is_due(number)
            if stop or judged or number == num_steps or number % save_every == 0:
                settle(number)
                journal.flush()
                checkpoints.save(number, state, evaluations.best_step() if evaluations is not None else None)
            if stop and number < num_steps:
                checkpoints.wait()
                raise Interrupted(f"stopped by {stop} after step {number} of {num_steps}, saved (run again to go on)")
            if evaluations is not None and judged:
                with watch.at_once():
                    evaluations.run(number, state.result)
                if evaluations.is_over():
                    break
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
