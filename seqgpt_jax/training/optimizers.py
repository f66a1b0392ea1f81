"""Optimisers from optax and their learning rates: AdamW, Lion, Adafactor, or Muon with AdamW for all but the matrices.

Which parameter is a matrix follows from its logical axis names, not from its rank: blocks are stacked [layers, ...],
q, k and v share one kernel, and heads have an axis of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers, muon

from seqgpt_jax.checked import Checked
from seqgpt_jax.errors import UserError
from seqgpt_jax.training.partitioning import ModelSkeleton, Params

_STACKED_AXES = ("layers", "kv", "gate")  # several matrices side by side, each orthogonalised on its own


@dataclass(frozen=True)
class OptimizerConfig(Checked):
    """[optimizer] Learning rates, their course, and the optimiser's constants. Each uses those that name it.

    Good peaks differ: Lion takes a third to a tenth of AdamW's (Chen et al. 2023, arXiv 2302.06675), with a weight
    decay as many times larger. Adafactor (Shazeer and Stern 2018, arXiv 1804.04235) takes a rate relative to the root
    mean square of each parameter, and keeps row and column sums in place of a second moment.
    """

    section = "optimizer"
    name: Literal["muon", "adamw", "lion", "adafactor"] = "muon"
    learning_rate: float = 0.02  # peak; of the matrices for muon, of everything for the others
    adam_learning_rate: float = 3e-3  # peak; muon only: of embedding, norms and biases
    warmup_steps: int = 20  # rises linearly from 0
    decay: Literal["linear", "cosine", "constant"] = "linear"  # after the warm-up, until the last step
    final_fraction: float = 0.05  # of the peak, at the last step (linear, cosine)
    weight_decay: float = 0.0  # of the matrices of the blocks alone, times the learning rate
    clip_norm: float = 1.0  # global gradient norm above which gradients are scaled down; 0 is off
    beta1: float = 0.9  # adamw, lion, and the rest of muon
    beta2: float = 0.95  # adamw, lion (0.99 in its paper), and the rest of muon
    epsilon: float = 1e-8  # adamw, muon
    momentum: float = 0.95  # muon only
    ema_decay: float = 0.0  # of the average of the weights over steps, which the stage then ends with; 0: no average

    def check(self) -> None:
        for name in ("learning_rate", "adam_learning_rate", "epsilon"):
            if not getattr(self, name) > 0:
                raise UserError(f"optimizer.{name} is {getattr(self, name)} (it must be above 0)")
        self.at_least(0, "warmup_steps", "weight_decay", "clip_norm", "final_fraction", "ema_decay")
        if not self.ema_decay < 1:
            raise UserError(f"optimizer.ema_decay is {self.ema_decay} (it must be below 1, such as 0.999)")


def schedule_fraction(config: OptimizerConfig, num_steps: int) -> Callable[[Any], jax.Array]:
    """Learning rate of step 0, 1, ... num_steps-1 as a fraction of the peak.

    warmup_steps=2, linear, final_fraction=0, 6 steps: 1/2, 1, 3/4, 1/2, 1/4, 0. A warm-up longer than the stage is
    cut to it.
    """
    warmup = min(config.warmup_steps, num_steps)
    tail = max(1, num_steps - warmup)

    def fraction(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        done = jnp.clip((step - warmup + 1) / tail, 0.0, 1.0)
        if config.decay == "cosine":
            remaining = 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        else:
            remaining = 1.0 - done
        after = 1.0 if config.decay == "constant" else config.final_fraction + (1 - config.final_fraction) * remaining
        return jnp.where(step < warmup, (step + 1) / max(1, warmup), after)

    return fraction


@dataclass(frozen=True)
class Optimizer:
    """An optax transformation, the learning rate that is shown (of the matrices for muon), and the weights' average."""

    transform: optax.GradientTransformation
    learning_rate: Callable[[Any], jax.Array]
    ema_decay: float = 0.0


def make_optimizer(config: OptimizerConfig, num_steps: int, skeleton: ModelSkeleton) -> Optimizer:
    """The optimiser of a stage of num_steps steps for this model."""
    fraction = schedule_fraction(config, num_steps)

    def learning_rate(step: Any) -> jax.Array:
        return config.learning_rate * fraction(step)

    matrices = matrix_dimensions(skeleton)
    is_matrix = jax.tree.map(lambda numbers: numbers is not None, matrices, is_leaf=_is_dimension_numbers)
    if config.name == "muon":
        transform = muon(
            learning_rate,
            beta=config.momentum,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            adam_b1=config.beta1,
            adam_b2=config.beta2,
            adam_learning_rate=lambda step: config.adam_learning_rate * fraction(step),
            muon_weight_dimension_numbers=matrices,
        )
    elif config.name == "adamw":
        transform = optax.adamw(
            learning_rate,
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            mask=is_matrix,
        )
    elif config.name == "lion":
        transform = optax.lion(
            learning_rate, b1=config.beta1, b2=config.beta2, weight_decay=config.weight_decay, mask=is_matrix
        )
    else:
        # Its own weight decay would not follow the learning rate.
        decay = (lambda step: config.weight_decay * learning_rate(step)) if config.weight_decay else None
        transform = optax.adafactor(learning_rate, weight_decay_rate=decay, weight_decay_mask=is_matrix)
        transform = _on_matrices(transform, matrices)
    if config.clip_norm:
        transform = optax.chain(optax.clip_by_global_norm(config.clip_norm), transform)
    return Optimizer(transform, learning_rate, config.ema_decay)


def matrix_dimensions(skeleton: ModelSkeleton) -> Params:
    """For each trained parameter its reduction and output axes if it is a matrix of the blocks, else None.

    kv ("layers", "embed", "kv", "heads", "head_dim") -> in 1, out (3, 4): 2 matrices of width x width a layer.
    out ("layers", "heads", "head_dim", "embed") -> in (1, 2), out 3. The embedding, norms, biases and LoRAs -> None.
    """
    return jax.tree.map(
        _dimension_numbers, skeleton.trained(skeleton.axes), is_leaf=lambda axes: isinstance(axes, tuple)
    )


def _dimension_numbers(axes: tuple[str, ...]) -> MuonDimensionNumbers | None:
    if "vocab" in axes or "lora" in axes or "embed" not in axes:
        return None
    own = [place for place, name in enumerate(axes) if name not in _STACKED_AXES]
    embed = axes.index("embed")
    others = tuple(place for place in own if place != embed)
    if not others:
        return None
    into, out = ((embed,), others) if embed < min(others) else (others, (embed,))
    assert embed < min(others) or embed > max(others), axes
    return MuonDimensionNumbers(reduction_axis=into, output_axis=out)


def _is_dimension_numbers(value: Any) -> bool:
    return value is None or isinstance(value, MuonDimensionNumbers)


def _on_matrices(transform: optax.GradientTransformation, matrices: Params) -> optax.GradientTransformation:
    """The transformation, which sees the matrices of the blocks as [..., in, out]: the two axes that it may factor.

    kv [layers, embed, kv, heads, head_dim] -> [layers, kv, embed, heads * head_dim].
    """

    def mapped(change: Callable[..., jax.Array], *trees: Any) -> Any:
        def of_one(numbers: MuonDimensionNumbers | None, *leaves: Any) -> Any:
            return leaves[0] if numbers is None else change(numbers, *leaves)

        return jax.tree.map(of_one, matrices, *trees, is_leaf=_is_dimension_numbers)

    def init(params: Params) -> Any:
        return transform.init(mapped(_to_matrices, params))

    def update(grads: Params, state: Any, params: Params) -> tuple[Params, Any]:
        updates, state = transform.update(mapped(_to_matrices, grads), state, mapped(_to_matrices, params))
        return mapped(_from_matrices, updates, params), state

    return optax.GradientTransformation(init, update)


def _matrix_axes(numbers: MuonDimensionNumbers, rank: int) -> tuple[list[int], int]:
    """The axes in the order stack, in, out; and how many of them are of the stack."""
    own = [*numbers.reduction_axis, *numbers.output_axis]
    stack = [axis for axis in range(rank) if axis not in own]
    return [*stack, *own], len(stack)


def _to_matrices(numbers: MuonDimensionNumbers, kernel: jax.Array) -> jax.Array:
    order, num_stack = _matrix_axes(numbers, kernel.ndim)
    ordered = kernel.transpose(order)
    into = math.prod(ordered.shape[num_stack : num_stack + len(numbers.reduction_axis)])
    return ordered.reshape(*ordered.shape[:num_stack], into, -1)


def _from_matrices(numbers: MuonDimensionNumbers, matrices: jax.Array, kernel: jax.Array) -> jax.Array:
    """Back to the shape of the kernel."""
    order, _ = _matrix_axes(numbers, kernel.ndim)
    return matrices.reshape([kernel.shape[axis] for axis in order]).transpose(np.argsort(order))
