"""Causal attention within segments, with ALiBi: one function, several backends that agree.

Which key a query may see is kept as structure (`TokenLayout`) and becomes a mask as late as possible. A backend
honours segment ids or raises; none falls back to plain causal attention.

Shapes: B batch, T query tokens, K key slots, N heads, H head dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqgpt_jax.errors import UserError

# Finite, so that a row that sees nothing (a padding query) stays a number: its softmax is uniform and never read.
_MASKED = -1e30


class TokenLayout(NamedTuple):
    """What decides which keys a query sees: same segment, not padding, and a slot that is not later than its own.

    Order is by slot, not by position, so a trie of labels can give several tokens the same position.
    """

    query_segments_BT: jax.Array  # 0 is padding
    key_segments_BK: jax.Array  # 0 is padding, or an empty cache slot
    key_positions_BK: jax.Array  # place within the segment, for ALiBi
    query_slots_BT: jax.Array  # the key slot of each query token; [1, T] when every row has the same

    def visible(self) -> jax.Array:
        """bool BTK: whether the query sees the key."""
        slots_11K = jnp.arange(self.key_segments_BK.shape[1], dtype=jnp.int32)[None, None, :]
        same_BTK = self.query_segments_BT[:, :, None] == self.key_segments_BK[:, None, :]
        return (slots_11K <= self.query_slots_BT[:, :, None]) & same_BTK & (self.key_segments_BK != 0)[:, None, :]


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
    key_BKNH: jax.Array,
    value_BKNH: jax.Array,
    layout: TokenLayout,
    slopes_N: np.ndarray | None,
    backend: str = "auto",
) -> jax.Array:
    """Attention output BTNH in the dtype of the query; scores and softmax are float32.

    The ALiBi bias is slope * key position. The paper's slope * (key - query) differs from it by a constant per
    query, which softmax cancels; so it is relative all the same, and the query's position is not needed.

    Raises UserError for an unknown backend.
    """
    if backend == "auto":
        backend = "reference"
    if backend not in BACKENDS:
        raise UserError(f"attention backend '{backend}' is unknown (choose auto, {', '.join(sorted(BACKENDS))})")
    group = query_BTNH.shape[2] // key_BKNH.shape[2]
    if group > 1:
        key_BKNH, value_BKNH = (jnp.repeat(x, group, axis=2) for x in (key_BKNH, value_BKNH))
    if slopes_N is None:
        slopes_N = np.zeros(query_BTNH.shape[2], np.float32)
    return BACKENDS[backend](query_BTNH, key_BKNH, value_BKNH, layout, slopes_N)


def _bias(layout: TokenLayout, slopes_N: np.ndarray) -> jax.Array:
    positions_BK = layout.key_positions_BK.astype(jnp.float32)
    alibi_BNTK = jnp.asarray(slopes_N)[None, :, None, None] * positions_BK[:, None, None, :]
    return jnp.where(layout.visible()[:, None], alibi_BNTK, _MASKED)


def _reference(
    query_BTNH: jax.Array, key_BKNH: jax.Array, value_BKNH: jax.Array, layout: TokenLayout, slopes_N: np.ndarray
) -> jax.Array:
    scale = query_BTNH.shape[-1] ** -0.5
    scores_BNTK = jnp.einsum("BTNH,BKNH->BNTK", query_BTNH, key_BKNH, preferred_element_type=jnp.float32)
    scores_BNTK = scores_BNTK * scale + _bias(layout, slopes_N)
    probs_BNTK = jax.nn.softmax(scores_BNTK, axis=-1).astype(value_BKNH.dtype)
    return jnp.einsum("BNTK,BKNH->BTNH", probs_BNTK, value_BKNH)


def _xla(
    query_BTNH: jax.Array, key_BKNH: jax.Array, value_BKNH: jax.Array, layout: TokenLayout, slopes_N: np.ndarray
) -> jax.Array:
    bias_BNTK = _bias(layout, slopes_N)
    return jax.nn.dot_product_attention(query_BTNH, key_BKNH, value_BKNH, bias=bias_BNTK, implementation="xla")


BACKENDS: dict[str, Callable[..., jax.Array]] = {"reference": _reference, "xla": _xla}
