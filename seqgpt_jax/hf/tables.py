"""Which tensor of a checkpoint holds which of our parameters: the entries that an architecture's table is made of.

A checkpoint has one tensor a layer; ours are stacked over layers. An entry turns the one into the other both ways.
PyTorch keeps a matrix as [out, in], we as [in..., out...].

Shapes: D width, G key and value heads, H head dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.hf.files import DTYPES, StoredTensor

ParamPath = tuple[Any, ...]  # ("blocks", "query", "kernel")
Parts = Sequence[np.ndarray]

_BLOCK_BYTES = 8 * 2**20  # of a tensor that is copied row by row


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint, of every layer where "{}" stands in its name.

    paths: our parameters that it is made of, or a part of. gather: them (of one layer) -> the tensor. scatter: writes
    a tensor into them; None where it is copied as it is.
    """

    name: str
    shape: tuple[int, ...]
    paths: tuple[ParamPath, ...]
    gather: Callable[[Parts], np.ndarray]
    scatter: Callable[[Parts, np.ndarray], None] | None = None

    def names(self, num_layers: int) -> Iterator[tuple[int | None, str]]:
        """(layer, name in the checkpoint) of each of its tensors; None is no layer."""
        if "{}" in self.name:
            yield from ((layer, self.name.format(layer)) for layer in range(num_layers))
        else:
            yield None, self.name

    def fill(self, parts: Parts, tensor: StoredTensor) -> None:
        """Writes a stored tensor into our parameters (of its layer), casting to their dtype."""
        if self.scatter is not None:
            self.scatter(parts, tensor.read())
            return
        row_bytes = DTYPES[tensor.dtype].itemsize * math.prod(tensor.shape[1:])
        step = max(1, _BLOCK_BYTES // row_bytes)
        for start in range(0, tensor.shape[0], step):
            stop = min(start + step, tensor.shape[0])
            parts[0][start:stop] = tensor.rows(start, stop)


# --- what tables are made of -----------------------------------------------------------------------------------------


def same(name: str, path: ParamPath, shape: tuple[int, ...]) -> Entry:
    """A tensor that is a parameter of ours as it is."""
    return Entry(name, shape, (path,), lambda parts: parts[0])


def linear(
    name: str, path: ParamPath, in_shape: tuple[int, ...], out_shape: tuple[int, ...], bias: bool
) -> list[Entry]:
    """weight [out, in] and bias of a layer whose kernel is in_shape + out_shape."""
    num_in, num_out = math.prod(in_shape), math.prod(out_shape)

    def scatter(parts: Parts, tensor: np.ndarray) -> None:
        write_transposed(parts[0].reshape(num_in, num_out), tensor)

    kernel = Entry(
        f"{name}.weight", (num_out, num_in), ((*path, "kernel"),),
        lambda parts: parts[0].reshape(num_in, num_out).T, scatter,
    )  # fmt: skip
    return [kernel, *([_vector(f"{name}.bias", (*path, "bias"), out_shape)] if bias else [])]


def linear_of_two(
    name: str, path: ParamPath, which: int, num_in: int, out_shape: tuple[int, ...], bias: bool
) -> list[Entry]:
    """A layer that is half of one of ours: kernel[:, which] of [in, 2, out...], bias[which] of [2, out...]."""
    num_out = math.prod(out_shape)

    def scatter_kernel(parts: Parts, tensor: np.ndarray) -> None:
        write_transposed(parts[0].reshape(num_in, 2, num_out)[:, which], tensor)

    def scatter_bias(parts: Parts, tensor: np.ndarray) -> None:
        parts[0][which] = tensor.reshape(out_shape)

    kernel = Entry(
        f"{name}.weight", (num_out, num_in), ((*path, "kernel"),),
        lambda parts: parts[0][:, which].reshape(num_in, num_out).T, scatter_kernel,
    )  # fmt: skip
    vector = Entry(
        f"{name}.bias", (num_out,), ((*path, "bias"),), lambda parts: parts[0][which].reshape(-1), scatter_bias
    )
    return [kernel, *([vector] if bias else [])]


def write_transposed(out: np.ndarray, matrix: np.ndarray) -> None:
    """out[...] = matrix.T, sixteen columns of `out` at a time: a whole cache line, where NumPy alone writes one number
    of each (29 ms for 4,096 x 1,024 float32, 5 ms so)."""
    for start in range(0, len(matrix), 16):
        out[:, start : start + 16] = matrix[start : start + 16].T


def _vector(name: str, path: ParamPath, shape: tuple[int, ...]) -> Entry:
    def scatter(parts: Parts, tensor: np.ndarray) -> None:
        parts[0][...] = tensor.reshape(shape)

    return Entry(name, (math.prod(shape),), (path,), lambda parts: parts[0].reshape(-1), scatter)


# --- both directions -------------------------------------------------------------------------------------------------


def gather_tensor(entry: Entry, layer: int | None, params: Mapping[ParamPath, jax.Array], dtype: str) -> np.ndarray:
    """A tensor as a checkpoint has it. UserError where a value is beyond the dtype's range."""
    arrays = [np.asarray(params[path]) for path in entry.paths]
    tensor = entry.gather(arrays if layer is None else [array[layer] for array in arrays])
    if tensor.dtype == DTYPES[dtype]:
        return np.ascontiguousarray(tensor)
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(tensor, DTYPES[dtype])
    if dtype == "float16" and not np.isfinite(cast).all() and np.isfinite(tensor).all():
        name = entry.name if layer is None else entry.name.format(layer)
        raise UserError(f"tensor {name} has values beyond float16's range of 65,504 (export as bfloat16 or float32)")
    return cast


def scatter_tensors(
    table: Sequence[Entry],
    num_layers: int,
    shapes: Mapping[ParamPath, tuple[int, ...]],
    dtype: str,
    tensors: Mapping[str, StoredTensor],
    finish: Callable[[ParamPath, np.ndarray], None],
) -> dict[ParamPath, jax.Array]:
    """Our parameters, filled from a checkpoint. A parameter goes to the device as soon as its last tensor is read.

    finish(path, values) may change a parameter's values before that.
    """
    tensors_left = {path: sum(path in entry.paths for entry in table) for path in shapes}
    host: dict[ParamPath, np.ndarray] = {}
    done: dict[ParamPath, jax.Array] = {}
    for entry in table:
        for path in entry.paths:
            if path not in host:
                host[path] = _aligned_empty(shapes[path], DTYPES[dtype])
        for layer, name in entry.names(num_layers):
            entry.fill([host[path] if layer is None else host[path][layer] for path in entry.paths], tensors[name])
        for path in entry.paths:
            tensors_left[path] -= 1
            if not tensors_left[path]:
                finish(path, host[path])
                done[path] = jax.device_put(host.pop(path))
    assert done.keys() == shapes.keys(), shapes.keys() - done.keys()
    return done


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that starts at a multiple of 64 bytes: a CPU device takes such an array as it is and copies any other."""
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = np.empty(num_bytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def param_shapes(params: nnx.State) -> dict[ParamPath, tuple[int, ...]]:
    """Path -> shape of every parameter; the state may be abstract."""
    return {path: variable.get_value().shape for path, variable in nnx.to_flat_state(params)}
