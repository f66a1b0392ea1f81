"""FLOPs of a train step, counted twice in ways that share nothing: from the model's sizes, and from the traced program.

Both are of matrix products alone, of the whole step on all devices. They agree where nothing is recomputed; remat, and
an optimiser with matrix products (Muon), make the traced count larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax

from seqgpt_jax.models.bloom import BloomConfig
from seqgpt_jax.training.optimizers import matrix_dimensions
from seqgpt_jax.training.partitioning import ModelSkeleton


def model_flops(
    skeleton: ModelSkeleton, config: BloomConfig, num_rows: int, row_tokens: int, row_supervised: int
) -> int:
    """FLOPs that the model needs a step, forward and backward: recomputation and the optimiser are left out.

    A token costs 2 a weight of the blocks' matrices, and 4 x row_tokens x width a layer in attention (scores and values
    of every pair in a row, also of those that the mask hides); the head runs at supervised positions alone, 2 x width
    x vocabulary each. The backward pass costs twice the forward pass (Kaplan et al. 2020, arXiv 2001.08361, 2.1).
    """
    matrices = matrix_dimensions(skeleton)
    is_matrix = jax.tree.map(lambda shape, numbers: numbers is not None, skeleton.shapes, matrices)
    sizes = jax.tree.map(lambda shape, matrix: math.prod(shape.shape) if matrix else 0, skeleton.shapes, is_matrix)
    blocks = 2 * num_rows * row_tokens * sum(jax.tree.leaves(sizes))
    attention = 4 * config.num_layers * num_rows * row_tokens**2 * config.num_heads * config.head_dim
    head = 2 * num_rows * row_supervised * config.width * config.vocab_size
    return 3 * (blocks + attention + head)


def traced_flops(jaxpr: Any) -> int:
    """FLOPs of all matrix products of a traced function, each as often as the loops around it run.

    Of a branch, the costlier side; of a loop whose length is not known before it runs, one round.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            ((contracted, _), _) = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval, equation.outvars[0].aval
            total += 2 * math.prod(out.shape) * math.prod(left.shape[axis] for axis in contracted)
            continue
        inner = [traced_flops(one) for one in _inner(equation.params)]
        if inner:
            total += _times(equation) * (max(inner) if equation.primitive.name == "cond" else sum(inner))
    return total


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            closed = getattr(one, "jaxpr", one)
            if hasattr(closed, "eqns"):
                yield closed


def _times(equation: Any) -> int:
    """How often the inside of an equation runs."""
    name, parameters = equation.primitive.name, equation.params
    if name == "scan":
        return parameters["length"]
    if name == "pallas_call":
        return math.prod(size for size in parameters["grid_mapping"].grid if isinstance(size, int))
    if name == "shard_map":
        return math.prod(parameters["mesh"].shape[axis] for axis in parameters["manual_axes"])
    return 1
