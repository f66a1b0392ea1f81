"""FLOPs of the matrix products in a traced program: what a step computes, where models/flops.py says what it needs.

They agree where nothing is recomputed; remat, and an optimiser with matrix products (Muon), make this count larger.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


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
        return math.prod(parameters["mesh"].shape[axis] for axis in parameters["newly_manual_axes"])
    return 1
