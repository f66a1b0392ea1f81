"""One optimisation step: gradient of the answer loss over the whole global step, update, metrics.

The loss is the sum over the step's supervised tokens divided by their global count, which is known before the
gradient is taken. So microbatches, packing and the number of devices do not change the gradient.

Shapes: B rows of the whole step, M microbatches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding

from seqgpt_jax.data.loader import Batch
from seqgpt_jax.data.packing import RowShape
from seqgpt_jax.models.loss import DEFAULT_LOSS, LossConfig, LossSums, answer_loss
from seqgpt_jax.training.optimizers import Optimizer
from seqgpt_jax.training.partitioning import (
    ModelSkeleton,
    Params,
    batch_sharding,
    join_params,
    like_params,
    missing_from,
    param_shardings,
    params_of,
    place,
    replicated,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step changes. `step` counts steps of this stage, skipped ones too.

    averaged: with optimizer.ema_decay d, the weights' exponential moving average: it begins as the initial weights, and
    becomes d * average + (1 - d) * weights after each step that is not skipped. Else None.
    """

    step: Any  # int32 scalar
    params: Params
    opt_state: Any
    averaged: Params | None = None

    @property
    def result(self) -> Params:
        """The weights that are judged, exported and handed on: the averaged ones where there are any."""
        return self.params if self.averaged is None else self.averaged


class StepMetrics(NamedTuple):
    """Scalars on the device; read them a step later. Loss is in nats a supervised token."""

    loss: jax.Array
    accuracy: jax.Array  # share of supervised tokens that are the argmax
    grad_norm: jax.Array  # before clipping
    learning_rate: jax.Array
    num_tokens: jax.Array  # without padding
    num_targets: jax.Array
    finite: jax.Array  # False: loss or gradient was not a number, and the update was left out


def state_shardings(skeleton: ModelSkeleton, optimizer: Optimizer, mesh: Mesh) -> TrainState:
    """A sharding for each array of the state; the optimiser's moments lie where their parameters do."""
    params = param_shardings(skeleton, mesh)
    opt_state = jax.eval_shape(optimizer.transform.init, skeleton.trained(skeleton.shapes))
    moments = like_params(opt_state, skeleton.shapes, params, replicated(mesh))
    return TrainState(replicated(mesh), params, moments, params if optimizer.ema_decay else None)


def abstract_state(skeleton: ModelSkeleton, optimizer: Optimizer, shardings: TrainState) -> TrainState:
    """Shapes, dtypes and shardings of the state, to restore a checkpoint into."""
    opt_state = jax.eval_shape(optimizer.transform.init, skeleton.trained(skeleton.shapes))
    averaged = skeleton.shapes if optimizer.ema_decay else None
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), skeleton.shapes, opt_state, averaged)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, shardings
    )


def abstract_batch(shape: RowShape, mesh: Mesh) -> Batch:
    """Shapes, dtypes and shardings of a step's batch (of all hosts)."""
    sharding = batch_sharding(mesh)

    def rows(width: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((shape.num_rows, width), dtype, sharding=sharding)

    tokens, supervised = shape.tokens, shape.supervised
    return Batch(rows(tokens), rows(tokens), rows(tokens), rows(supervised), rows(supervised), rows(supervised, bool))


def init_params(
    make_model: Callable[[], Any], skeleton: ModelSkeleton, mesh: Mesh, given: Params | None = None
) -> Params:
    """The initial parameters: those given, and random ones for the rest (all, or a LoRA on a model that is given).

    Random ones are made where they will lie: the same numbers on every mesh.
    """
    given, shardings = given or {}, param_shardings(skeleton, mesh)
    places = missing_from(given, shardings)
    if not places:
        return given
    made = jax.jit(lambda: missing_from(given, params_of(make_model())), out_shardings=places)()
    return join_params(given, made)


def init_state(skeleton: ModelSkeleton, params: Params, optimizer: Optimizer, shardings: TrainState) -> TrainState:
    """Step 0 with these parameters, which it takes over (they may be NumPy arrays or lie elsewhere)."""
    params = place(params, shardings.params)
    opt_state = jax.jit(optimizer.transform.init, out_shardings=shardings.opt_state)(skeleton.trained(params))
    averaged = None
    if optimizer.ema_decay:  # a copy: the step takes the buffers of both
        averaged = jax.jit(lambda params: jax.tree.map(jnp.copy, params), out_shardings=shardings.params)(params)
    return TrainState(place(np.zeros((), np.int32), shardings.step), params, opt_state, averaged)


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]


def make_train_step(
    skeleton: ModelSkeleton,
    optimizer: Optimizer,
    mesh: Mesh,
    shardings: TrainState,
    num_microbatches: int = 1,
    loss: LossConfig = DEFAULT_LOSS,
) -> Any:
    """The jitted step (state, batch) -> (state, metrics); the state given is consumed (its buffers are reused).

    It is compiled once for each shape of batch.
    """
    rows = batch_sharding(mesh)
    loss_sums = functools.partial(
        answer_loss,
        z_loss=loss.z_loss,
        logits_mib=loss.logits_mib,
        vocab_parts=mesh.shape["tensor"],
        num_devices=mesh.size,
    )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        num_targets = jnp.maximum(batch.target_mask_BS.sum(dtype=jnp.float32), 1.0)
        trained, frozen = skeleton.trained(state.params), skeleton.frozen(state.params)

        def part_loss(trained: Params, part: Batch) -> tuple[jax.Array, LossSums]:
            sums = loss_sums(skeleton.merge(join_params(frozen, trained)), part)
            return sums.loss_sum / num_targets, sums

        def gradient(part: Batch) -> tuple[Params, LossSums]:
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # the model asks it where rows and heads lie
                grads, sums = jax.grad(part_loss, has_aux=True)(trained, part)
            return jax.lax.with_sharding_constraint(grads, skeleton.trained(shardings.params)), sums

        if num_microbatches == 1:
            grads, sums = gradient(batch)
        else:
            parts = jax.tree.map(lambda rows_B: _microbatches(rows_B, num_microbatches, rows), batch)

            def add_part(total: Any, part: Batch) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, total, gradient(part)), None

            zero = jnp.zeros((), jnp.float32)
            start = (jax.tree.map(jnp.zeros_like, trained), LossSums(zero, zero, zero))
            (grads, sums), _ = jax.lax.scan(add_part, start, parts)
        grads = skeleton.without_frozen_layers(grads)
        mean_loss, grad_norm = sums.loss_sum / num_targets, optax.global_norm(grads)
        finite = jnp.isfinite(mean_loss) & jnp.isfinite(grad_norm)
        updates, opt_state = optimizer.transform.update(grads, state.opt_state, trained)
        moved = optax.apply_updates(trained, skeleton.without_frozen_layers(updates))
        averaged = state.averaged and skeleton.trained(state.averaged)
        moved, opt_state, averaged = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (moved, opt_state, averaged and _moved_average(averaged, moved, optimizer.ema_decay)),
            (trained, state.opt_state, averaged),
        )
        metrics = StepMetrics(
            loss=mean_loss,
            accuracy=sums.num_correct / num_targets,
            grad_norm=grad_norm,
            learning_rate=optimizer.learning_rate(state.step),
            num_tokens=(batch.segment_ids_BT > 0).sum(),
            num_targets=batch.target_mask_BS.sum(),
            finite=finite,
        )
        if state.averaged is not None:
            averaged = join_params(skeleton.frozen(state.averaged), averaged)
        return TrainState(state.step + 1, join_params(frozen, moved), opt_state, averaged), metrics

    return jax.jit(
        train_step,
        donate_argnums=0,
        in_shardings=(shardings, rows),
        out_shardings=(shardings, replicated(mesh)),
    )


def _moved_average(averaged: Params, params: Params, decay: float) -> Params:
    """In this form weights that stay leave their average as it is, bit by bit."""
    return jax.tree.map(lambda average, new: average + (1.0 - decay) * (new - average), averaged, params)


def _microbatches(rows_B: jax.Array, num: int, sharding: NamedSharding) -> jax.Array:
    """[B, ...] -> [M, B/M, ...]; microbatch m has the rows m, m+M, ..., so that every device has a part of each."""
    split = rows_B.reshape(rows_B.shape[0] // num, num, *rows_B.shape[1:]).swapaxes(0, 1)
    inner = NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(None, *sharding.spec))
    return jax.lax.with_sharding_constraint(split, inner)
