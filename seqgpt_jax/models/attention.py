"""Causal attention within segments, with ALiBi: one function, several backends that agree.

Which key a query may see is kept as structure (`TokenLayout`) and becomes a mask as late as possible. A backend
honours segment ids or raises; none falls back to plain causal attention.

Shapes: B batch, T query tokens, K key slots, N query heads, G key-value heads (G divides N), H head dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqgpt_jax.errors import UserError
from seqgpt_jax.models import flash
from seqgpt_jax.models.layers import accumulated

_MASKED = -1e30  # finite: minus infinity would make a NaN of a query that sees nothing
_KERNEL_LENGTH = 512  # tokens of a row from which `auto` takes a kernel
_QUERY_BLOCK, _MAX_BLOCKS = 64, 4  # tokens; a long row has larger blocks, or compiling would take long


class TokenLayout(NamedTuple):
    """What decides which keys a query sees: same segment, and a slot that is not later than its own.

    So padding sees padding, and every query sees something: itself. Order is by slot, not by position: several tokens
    of a trie of labels have the same position.
    """

    query_segments_BT: jax.Array  # 0 is padding
    key_segments_BK: jax.Array  # 0 is padding, or an empty cache slot
    key_positions_BK: jax.Array  # place within the segment, for ALiBi
    query_slots_BT: jax.Array  # the key slot of each query token; [1, T] when every row has the same
    visible_BTK: jax.Array | None = None  # bool, in place of that rule where it is given; nor is any later slot seen

    def visible(self) -> jax.Array:
        """bool BTK: whether the query sees the key."""
        if self.visible_BTK is not None:
            return self.visible_BTK
        slots_11K = jnp.arange(self.key_segments_BK.shape[1], dtype=jnp.int32)[None, None, :]
        same_BTK = self.query_segments_BT[:, :, None] == self.key_segments_BK[:, None, :]
        return (slots_11K <= self.query_slots_BT[:, :, None]) & same_BTK

    def in_order(self) -> bool:
        """Whether the queries are all the keys, in order: known while tracing, because both are one array then."""
        return self.query_segments_BT is self.key_segments_BK

    def whole_rows(self) -> bool:
        """Whether, besides, each sees all of its segment up to itself."""
        return self.in_order() and self.visible_BTK is None


def alibi_slopes(num_heads: int) -> np.ndarray:
    """ALiBi slopes as float32 [N] (Press et al. 2022), with BLOOM's rule for head counts that are no power of two.

    8 heads: 1/2, 1/4, ..., 1/256. Twelve heads: the 8 of above, then every other slope of 16 heads, from the first.
    """
    power = 2 ** int(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(num_heads - power)]
    return np.asarray(slopes, np.float32)


def attend(
    query_BTNH: jax.Array,
    key_BKGH: jax.Array,
    value_BKGH: jax.Array,
    layout: TokenLayout,
    slopes_N: np.ndarray | None,
    backend: str = "auto",
) -> jax.Array:
    """Attention output BTNH in the dtype of the query; scores and softmax are float32.

    Query head n reads key-value head n // (N // G). The ALiBi bias is slope * key position, none where slopes_N is
    None. The paper's slope * (key - query) differs from it by a constant per query, which softmax cancels; so it is
    relative all the same, and the query's position is not needed.

    Backends: `reference` is the formula; `blocks` is the same for CPUs; `xla` is jax.nn.dot_product_attention;
    `splash` (TPU), `flash` and `cudnn` (GPU) are kernels for whole rows (models/flash.py). `auto` is `blocks` on a
    CPU, a kernel on long rows where the device has one that can do the call, else `xla`.

    Raises UserError for an unknown backend, or for one that cannot do this call: a kernel with a cache, with a
    choice of queries, or on another device.
    """
    if backend == "auto":
        backend = _fastest(query_BTNH, layout, slopes_N)
    if (run := BACKENDS.get(backend) or KERNELS.get(backend)) is None:
        known = ", ".join(("auto", *BACKENDS, *KERNELS))
        raise UserError(f"attention backend '{backend}' is unknown (choose {known})")
    return run(query_BTNH, key_BKGH, value_BKGH, layout, slopes_N)


def _fastest(query_BTNH: jax.Array, layout: TokenLayout, slopes_N: np.ndarray | None) -> str:
    if flash.platform() == "cpu":
        return "blocks"
    # XLA cannot partition a kernel, and without a mesh context there is no telling how the arrays lie.
    placed = jax.device_count() == 1 or not jax.sharding.get_abstract_mesh().empty
    if not placed or not layout.whole_rows() or query_BTNH.shape[1] < _KERNEL_LENGTH:
        return "xla"
    if flash.platform() == "tpu":
        return "splash"
    if flash.platform() == "gpu" and flash.cudnn_refuses(query_BTNH, slopes_N) is None:
        return "cudnn"
    return "xla"


def _bias(layout: TokenLayout, slopes_N: np.ndarray | None) -> jax.Array:
    """float32 [B, N or 1, T, K]: ALiBi where the query sees the key, _MASKED elsewhere."""
    visible_B1TK = layout.visible()[:, None]
    if slopes_N is None:
        return jnp.where(visible_B1TK, 0.0, _MASKED)
    positions_BK = layout.key_positions_BK.astype(jnp.float32)
    alibi_BNTK = jnp.asarray(slopes_N)[None, :, None, None] * positions_BK[:, None, None, :]
    return jnp.where(visible_B1TK, alibi_BNTK, _MASKED)


def _reference(
    query_BTNH: jax.Array, key_BKGH: jax.Array, value_BKGH: jax.Array, layout: TokenLayout, slopes_N: np.ndarray | None
) -> jax.Array:
    groups = query_BTNH.shape[2] // key_BKGH.shape[2]
    key_BKNH, value_BKNH = (jnp.repeat(array, groups, axis=2) for array in (key_BKGH, value_BKGH))
    scale = query_BTNH.shape[-1] ** -0.5
    scores_BNTK = jnp.einsum("BTNH,BKNH->BNTK", query_BTNH, key_BKNH, preferred_element_type=accumulated(query_BTNH))
    scores_BNTK = scores_BNTK * scale + _bias(layout, slopes_N)
    probs_BNTK = jax.nn.softmax(scores_BNTK, axis=-1).astype(value_BKNH.dtype)
    return jnp.einsum("BNTK,BKNH->BTNH", probs_BNTK, value_BKNH)


def _blocks(
    query_BTNH: jax.Array, key_BKGH: jax.Array, value_BKGH: jax.Array, layout: TokenLayout, slopes_N: np.ndarray | None
) -> jax.Array:
    """Heads before tokens, a block of queries at a time with the keys up to its end alone, divided by the sum last.

    XLA's weak spot on a CPU is many small matrix products. Forward and backward of 8 x 256 tokens, 8 heads of 32, on 2
    cores take 49 ms of CPU time in blocks of 64 (32: 53, 96: 53, 128: 58), 67 ms in one block, 74 ms as `reference`,
    91 ms as `xla`; 8 x 192 tokens take 31, 37, 42 and 48 ms.

    M is the query heads of a key-value head.
    """
    (num_rows, length, num_heads, head_dim), num_kv_heads = query_BTNH.shape, key_BKGH.shape[2]
    grouped = (num_rows, num_kv_heads, num_heads // num_kv_heads, length, head_dim)
    query_BGMTH = query_BTNH.swapaxes(1, 2).reshape(grouped)
    key_BGKH, value_BGKH = key_BKGH.swapaxes(1, 2), value_BKGH.swapaxes(1, 2)
    visible_B11TK = layout.visible()[:, None, None]
    alibi_BGM1K: jax.Array | None = None
    if slopes_N is not None:
        slopes_1GM11 = jnp.asarray(slopes_N).reshape(1, num_kv_heads, -1, 1, 1)
        alibi_BGM1K = slopes_1GM11 * layout.key_positions_BK.astype(jnp.float32)[:, None, None, None, :]
    size = max(_QUERY_BLOCK, math.ceil(length / _MAX_BLOCKS)) if layout.in_order() else length
    attended = []
    for start in range(0, length, size):
        queries = slice(start, start + size)
        keys = slice(start + size) if layout.in_order() else slice(None)
        scores_BGMTK = head_dim**-0.5 * jnp.einsum(
            "BGMTH,BGKH->BGMTK",
            query_BGMTH[..., queries, :],
            key_BGKH[:, :, keys],
            preferred_element_type=accumulated(query_BTNH),
        )
        if alibi_BGM1K is not None:
            scores_BGMTK = scores_BGMTK + alibi_BGM1K[..., keys]
        scores_BGMTK = jnp.where(visible_B11TK[..., queries, keys], scores_BGMTK, _MASKED)
        weights_BGMTK = jnp.exp(scores_BGMTK - jax.lax.stop_gradient(scores_BGMTK.max(-1, keepdims=True)))
        sums_BGMTH = jnp.einsum(
            "BGMTK,BGKH->BGMTH",
            weights_BGMTK.astype(value_BKGH.dtype),
            value_BGKH[:, :, keys],
            preferred_element_type=accumulated(query_BTNH),
        )
        attended.append((sums_BGMTH / weights_BGMTK.sum(-1, keepdims=True)).astype(query_BTNH.dtype))
    whole_BGMTH = jnp.concatenate(attended, axis=3) if len(attended) > 1 else attended[0]
    return whole_BGMTH.reshape(num_rows, num_heads, length, head_dim).swapaxes(1, 2)


def _xla(
    query_BTNH: jax.Array, key_BKGH: jax.Array, value_BKGH: jax.Array, layout: TokenLayout, slopes_N: np.ndarray | None
) -> jax.Array:
    bias = _bias(layout, slopes_N)
    return jax.nn.dot_product_attention(query_BTNH, key_BKGH, value_BKGH, bias=bias, implementation="xla")


def _kernel(name: str) -> Callable[..., jax.Array]:
    def run(
        query_BTNH: jax.Array,
        key_BKGH: jax.Array,
        value_BKGH: jax.Array,
        layout: TokenLayout,
        slopes_N: np.ndarray | None,
    ) -> jax.Array:
        if not layout.whole_rows():
            raise UserError(
                f"attention backend '{name}' takes whole rows alone, not a cached step or some queries of a row "
                "(choose auto, which takes xla for those)"
            )
        kernel = getattr(flash, name)
        return kernel(query_BTNH, key_BKGH, value_BKGH, layout.key_segments_BK, layout.key_positions_BK, slopes_N)

    return run


BACKENDS: dict[str, Callable[..., jax.Array]] = {"reference": _reference, "blocks": _blocks, "xla": _xla}
KERNELS: dict[str, Callable[..., jax.Array]] = {name: _kernel(name) for name in ("splash", "flash", "cudnn")}
