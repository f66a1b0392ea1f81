"""The small layers that every architecture is made of, with the logical axis names of their parameters.

A parameter names each of its axes: "vocab", "embed", "heads", "kv_heads", "head_dim", "mlp", "lora"; "kv" and "gate"
count matrices side by side; "norm" is a vector, which stays replicated; stacking adds "layers" in front. The names
travel as `out_sharding` metadata with `eager_sharding=False`: nothing is placed when a model is built, and
training/partitioning.py maps names to mesh axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec


def param(value: jax.Array, axes: Sequence[str]) -> nnx.Param[jax.Array]:
    """A parameter with one logical axis name per dimension."""
    assert value.ndim == len(axes), (value.shape, axes)
    return nnx.Param(value, out_sharding=tuple(axes), eager_sharding=False)


def normal(rngs: nnx.Rngs, shape: Sequence[int], std: float, dtype: str) -> jax.Array:
    """Gaussian initial values, drawn in float32 whatever the parameter dtype is."""
    return (std * jax.random.normal(rngs.params(), tuple(shape), jnp.float32)).astype(dtype)


def add_vector(x: jax.Array, vector: jax.Array) -> jax.Array:
    """x + vector over the last dimensions of x, in x's dtype, without implicit rank promotion."""
    return x + vector.astype(x.dtype).reshape((1,) * (x.ndim - vector.ndim) + vector.shape)


def split_rows(x: jax.Array) -> jax.Array:
    """x with its first axis, the rows of a batch, split over the data and fsdp axes of the mesh in use, if any.

    Without it XLA may split activations by their width, as the parameters of an fsdp mesh are, and hold all rows.
    """
    axes = tuple(axis for axis in ("data", "fsdp") if axis in jax.sharding.get_abstract_mesh().axis_names)
    spec = PartitionSpec(axes, *(PartitionSpec.UNCONSTRAINED,) * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(x, spec) if axes else x


def accumulated(x: jax.Array) -> jnp.dtype:
    """The dtype of sums, scores and logits: float32, or more where x has more."""
    return jnp.promote_types(x.dtype, jnp.float32)


class Linear(nnx.Module):
    """y = x @ kernel + bias, where input and output may have several dimensions each (heads x head_dim).

    kernel: in_shape + out_shape, contracted over in_shape; bias: out_shape. Matrix product in the dtype of x. With a
    LoRA (Hu et al. 2021, arXiv 2106.09685) it adds scale * (x @ lora_a) @ lora_b, which is 0 at
    the start: lora_b is. A kernel of int8 (models/quantized.py) has a kernel_scale, shaped like the bias.
    """

    kernel_scale: nnx.Param[jax.Array] | None = None

    def __init__(
        self,
        in_shape: tuple[int, ...],
        out_shape: tuple[int, ...],
        *,
        in_axes: tuple[str, ...],
        out_axes: tuple[str, ...],
        bias: bool,
        std: float,
        dtype: str,
        rngs: nnx.Rngs,
        lora: tuple[int, float] | None = None,
    ) -> None:
        """lora: its rank and its scale, or None."""
        self.num_in = len(in_shape)
        self.kernel = param(normal(rngs, in_shape + out_shape, std, dtype), in_axes + out_axes)
        bias_axes = ("norm",) if out_axes == ("embed",) else out_axes
        self.bias = param(jnp.zeros(out_shape, dtype), bias_axes) if bias else None
        self.lora_scale = 0.0
        if lora is not None:
            rank, self.lora_scale = lora
            spread = math.prod(in_shape) ** -0.5
            self.lora_a = param(normal(rngs, (*in_shape, rank), spread, dtype), (*in_axes, "lora"))
            self.lora_b = param(jnp.zeros((rank, *out_shape), dtype), ("lora", *out_axes))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = _product(x, self.kernel[...], self.num_in)
        if self.kernel_scale is not None:
            scale = self.kernel_scale[...].astype(y.dtype)
            y = y * scale.reshape((1,) * (y.ndim - scale.ndim) + scale.shape)
        if self.bias is not None:
            y = add_vector(y, self.bias[...])
        if self.lora_scale:
            y = y + self.lora_scale * _product(_product(x, self.lora_a[...], self.num_in), self.lora_b[...], 1)
        return y


def _product(x: jax.Array, kernel: jax.Array, num_in: int) -> jax.Array:
    kernel = kernel.astype(x.dtype)
    assert x.shape[x.ndim - num_in :] == kernel.shape[:num_in], (x.shape, kernel.shape)
    contracted = ((tuple(range(x.ndim - num_in, x.ndim)), tuple(range(num_in))), ((), ()))
    # One plain matrix product: CPU and GPU libraries see [tokens, in] x [in, out] whatever the head layout is.
    return jax.lax.dot_general(x, kernel, contracted)


class Table(NamedTuple):
    """A row of D numbers for each of V words. Rows of int8 (models/quantized.py) are multiplied with their scale."""

    values_VD: jax.Array
    scale_V: jax.Array | None = None

    def rows(self, ids: jax.Array, dtype: Any) -> jax.Array:
        """The rows [..., D] of these ids."""
        rows = jnp.take(self.values_VD, ids, axis=0)
        if self.scale_V is None:
            return rows.astype(dtype)
        return (rows.astype(jnp.float32) * jnp.take(self.scale_V, ids)[..., None]).astype(dtype)

    def whole(self) -> jax.Array:
        """[V, D] in the dtype of the parameter, float32 for int8."""
        return self.values_VD if self.scale_V is None else self.values_VD.astype(jnp.float32) * self.scale_V[:, None]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """float32 [..., V]: the product of each row with hidden states [..., D], in their dtype."""
        num_words, width = self.values_VD.shape
        size = num_words if self.scale_V is None else _piece(num_words, width)
        if size < num_words:
            pieces = jax.lax.map(lambda piece: _logits(hidden, piece), self.values_VD.reshape(-1, size, width))
            logits = jnp.moveaxis(pieces, 0, -2).reshape(*hidden.shape[:-1], num_words)
        else:
            logits = _logits(hidden, self.values_VD)
        if self.scale_V is None:
            return logits
        return logits * self.scale_V.reshape((1,) * (logits.ndim - 1) + (num_words,))


def _logits(hidden: jax.Array, table_VD: jax.Array) -> jax.Array:
    contract_width = (((hidden.ndim - 1,), (1,)), ((), ()))
    table_VD = table_VD.astype(hidden.dtype)
    return jax.lax.dot_general(hidden, table_VD, contract_width, preferred_element_type=accumulated(hidden))


def _piece(num_words: int, width: int) -> int:
    """Words of an int8 table to multiply with at once.

    A CPU unpacks what it multiplies with, a piece in its cache instead of the whole in memory: a token's logits of
    62,720 words of 1,024 take 8 ms in pieces of 1,280 words and 105 ms in one; those of float32 take 9 ms.
    """
    if jax.default_backend() != "cpu" or num_words * width <= 2**22:
        return num_words
    size = next(size for size in range(1280, 0, -1) if num_words % size == 0)
    return size if size >= 64 else num_words


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, statistics in float32 by the two-pass formula, as in torch."""

    def __init__(self, width: int, *, epsilon: float, dtype: str) -> None:
        self.epsilon = epsilon
        self.scale = param(jnp.ones((width,), dtype), ("norm",))
        self.bias = param(jnp.zeros((width,), dtype), ("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(accumulated(x))
        centred = x32 - x32.mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.epsilon)
        scale = self.scale[...].astype(x32.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return add_vector(normed * scale, self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root mean square normalisation over the last axis (Zhang and Sennrich 2019), in float32."""

    def __init__(self, width: int, *, epsilon: float, dtype: str) -> None:
        self.epsilon = epsilon
        self.scale = param(jnp.ones((width,), dtype), ("norm",))

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        normed = (x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + self.epsilon)).astype(x.dtype)
        return normed * self.scale[...].astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
