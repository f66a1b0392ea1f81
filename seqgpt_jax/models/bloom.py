"""BLOOM (Le Scao et al. 2022, arXiv 2211.05100) in Flax NNX: exact with transformers' BloomForCausalLM.

Embedding with its own LayerNorm, pre-LN blocks with ALiBi attention and tanh-GELU, biases everywhere, a final
LayerNorm, and a head tied to the embedding. The blocks are one module whose parameters are stacked over layers.
Training, prefill and a decoding step are the same call; only the cache differs.

Shapes: B batch, T tokens of this call, K key slots, L layers, D width, N heads, H head dim, V vocabulary,
S the tokens whose hidden states are wanted; C is key and value.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.attention import TokenLayout, alibi_slopes, attend
from seqgpt_jax.models.layers import LayerNorm, Linear, normal, param, split_rows


@dataclasses.dataclass(frozen=True)
class BloomConfig:
    """Sizes and numerics of a BLOOM decoder. Raises UserError for values that cannot be built."""

    vocab_size: int
    num_layers: int
    width: int
    num_heads: int
    layer_norm_epsilon: float = 1e-5
    param_dtype: str = "float32"
    compute_dtype: str = "float32"  # activations and matrix products; scores, softmax, norms and logits are float32
    remat: Literal["none", "dots", "full"] = "none"  # what the backward pass recomputes: nothing, all but dots, all
    attention: str = "auto"  # a backend of models/attention.py
    layer_loop: Literal["auto", "scan", "unroll"] = "auto"  # auto: unrolled for few layers on CPU, else scanned

    def __post_init__(self) -> None:
        for name in ("vocab_size", "num_layers", "width", "num_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"BloomConfig.{name} is {getattr(self, name)} (it must be at least 1)")
        if self.width % self.num_heads:
            raise UserError(f"BloomConfig.width {self.width} is no multiple of num_heads {self.num_heads}")
        for name, allowed in (("remat", ("none", "dots", "full")), ("layer_loop", ("auto", "scan", "unroll"))):
            if getattr(self, name) not in allowed:
                raise UserError(f"BloomConfig.{name} is {getattr(self, name)!r} (choose {', '.join(allowed)})")

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far. A call with T tokens fills slots length .. length+T of every row."""

    keys_LBNKH: jax.Array  # heads before slots: a decoding step then reads a head's keys in one piece
    values_LBNKH: jax.Array
    positions_BK: jax.Array  # int32
    segment_ids_BK: jax.Array  # int32, 0 is padding or not yet written
    length: jax.Array  # int32 scalar: the next slot


def init_cache(config: BloomConfig, batch: int, num_slots: int) -> KVCache:
    """An empty cache for `batch` rows of at most `num_slots` tokens. Writing past the end is the caller's error."""
    shape = (config.num_layers, batch, config.num_heads, num_slots, config.head_dim)
    empty = jnp.zeros(shape, config.compute_dtype)
    slots_BK = jnp.zeros((batch, num_slots), jnp.int32)
    return KVCache(empty, empty, slots_BK, slots_BK, jnp.zeros((), jnp.int32))


def bloom_gelu(x: jax.Array) -> jax.Array:
    """BloomGelu of transformers: the tanh form with sqrt(2/pi) cut to eight digits."""
    return x * 0.5 * (1.0 + jnp.tanh(0.79788456 * x * (1.0 + 0.044715 * x * x)))


_Attention = Callable[[jax.Array, jax.Array], jax.Array]


class BloomBlock(nnx.Module):
    """Attention and MLP, each behind a LayerNorm and added to the residual stream."""

    def __init__(self, config: BloomConfig, *, rngs: nnx.Rngs) -> None:
        width, heads = config.width, (config.num_heads, config.head_dim)
        dtype, epsilon, std = config.param_dtype, config.layer_norm_epsilon, _init_std(config)
        residual_std = std / math.sqrt(2 * config.num_layers)
        self.attention_norm = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.query = Linear(
            (width,), heads, in_axes=("embed",), out_axes=("heads", "head_dim"),
            bias_axes=("heads", "head_dim"), std=std, dtype=dtype, rngs=rngs,
        )  # fmt: skip
        self.key_value = Linear(
            (width,), (2, *heads), in_axes=("embed",), out_axes=("kv", "heads", "head_dim"),
            bias_axes=("kv", "heads", "head_dim"), std=std, dtype=dtype, rngs=rngs,
        )  # fmt: skip
        self.out = Linear(
            heads, (width,), in_axes=("heads", "head_dim"), out_axes=("embed",),
            bias_axes=("norm",), std=residual_std, dtype=dtype, rngs=rngs,
        )  # fmt: skip
        self.mlp_norm = LayerNorm(width, epsilon=epsilon, dtype=dtype)
        self.up = Linear(
            (width,), (4 * width,), in_axes=("embed",), out_axes=("mlp",),
            bias_axes=("mlp",), std=std, dtype=dtype, rngs=rngs,
        )  # fmt: skip
        self.down = Linear(
            (4 * width,), (width,), in_axes=("mlp",), out_axes=("embed",),
            bias_axes=("norm",), std=residual_std, dtype=dtype, rngs=rngs,
        )  # fmt: skip

    def __call__(
        self, x_BTD: jax.Array, attention: _Attention, select: Callable[[jax.Array], jax.Array] | None = None
    ) -> jax.Array:
        """The residual stream after this block; of the tokens that `select` keeps (BTD -> BSD), if given.

        attention(query, key_value) maps BSNH and BTCNH to BSNH; it is where the cache comes in.
        """
        normed_BTD = self.attention_norm(x_BTD)
        key_value_BTCNH = self.key_value(normed_BTD)
        if select is not None:
            x_BTD, normed_BTD = select(x_BTD), select(normed_BTD)
        x_BTD = x_BTD + self.out(attention(self.query(normed_BTD), key_value_BTCNH))
        return x_BTD + self.down(bloom_gelu(self.up(self.mlp_norm(x_BTD))))


class Bloom(nnx.Module):
    """The decoder. `hidden, cache = model(tokens, positions, segment_ids, cache)`, then `model.head(hidden)`."""

    def __init__(self, config: BloomConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        dtype, epsilon = config.param_dtype, config.layer_norm_epsilon
        self.embedding = param(
            normal(rngs, (config.vocab_size, config.width), _init_std(config), dtype), ("vocab", "embed")
        )
        self.embedding_norm = LayerNorm(config.width, epsilon=epsilon, dtype=dtype)

        @nnx.split_rngs(splits=config.num_layers)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
        def stacked(rngs: nnx.Rngs) -> BloomBlock:
            return BloomBlock(config, rngs=rngs)

        self.blocks = stacked(rngs)  # every parameter has a leading layer axis
        self.final_norm = LayerNorm(config.width, epsilon=epsilon, dtype=dtype)

    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array,
        cache: KVCache | None = None,
        outputs_BS: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Final hidden states BTD in the compute dtype, and the cache with these tokens added (None without one).

        positions_BT counts from 0 within a token's own segment; segment id 0 is padding, which sees and is seen by
        nothing that matters. With a cache, the tokens go to slots cache.length onwards, in every row alike.
        outputs_BS are indices into T of the tokens whose hidden states are wanted (BSD then). An unrolled model
        computes no more than their keys and values for the others in its last block.
        """
        dtype = jnp.dtype(self.config.compute_dtype)
        x_BTD = self.embedding_norm(jnp.take(self.embedding[...], tokens_BT, axis=0).astype(dtype))
        slots_1T = jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None, :]
        if cache is None:
            layout = TokenLayout(segment_ids_BT, segment_ids_BT, positions_BT, slots_1T)
        else:
            start = cache.length
            cache = cache._replace(
                positions_BK=jax.lax.dynamic_update_slice(cache.positions_BK, positions_BT, (0, start)),
                segment_ids_BK=jax.lax.dynamic_update_slice(cache.segment_ids_BK, segment_ids_BT, (0, start)),
                length=start + tokens_BT.shape[1],
            )
            layout = TokenLayout(segment_ids_BT, cache.segment_ids_BK, cache.positions_BK, start + slots_1T)
        if self._unrolled():
            x_BTD, cache = self._run_unrolled(x_BTD, layout, cache, outputs_BS)
        else:
            x_BTD, cache = self._run_scanned(x_BTD, layout, cache)
            x_BTD = x_BTD if outputs_BS is None else _at(outputs_BS)(x_BTD)
        return self.final_norm(x_BTD), cache

    def head(self, hidden: jax.Array) -> jax.Array:
        """float32 logits [..., V] of hidden states [..., D], by the transposed embedding (tied)."""
        table_VD = self.embedding[...].astype(hidden.dtype)
        contract_width = (((hidden.ndim - 1,), (1,)), ((), ()))
        logits = jax.lax.dot_general(split_rows(hidden), table_VD, contract_width, preferred_element_type=jnp.float32)
        return split_rows(logits)

    def _run_unrolled(
        self, x_BTD: jax.Array, layout: TokenLayout, cache: KVCache | None, outputs_BS: jax.Array | None
    ) -> tuple[jax.Array, KVCache | None]:
        _, params_L = nnx.split(self.blocks)
        for index in range(self.config.num_layers):
            params = jax.tree.map(operator.itemgetter(index), params_L)
            select = None
            if outputs_BS is not None and index == self.config.num_layers - 1:
                select = _at(outputs_BS)
                layout = layout._replace(
                    query_segments_BT=select(layout.query_segments_BT),
                    query_slots_BT=select(jnp.broadcast_to(layout.query_slots_BT, x_BTD.shape[:2])),
                )
            x_BTD, cache = self._layer(x_BTD, params, index, layout, cache, select)
        return x_BTD, cache

    def _run_scanned(
        self, x_BTD: jax.Array, layout: TokenLayout, cache: KVCache | None
    ) -> tuple[jax.Array, KVCache | None]:
        _, params_L = nnx.split(self.blocks)
        indices_L = jnp.arange(self.config.num_layers)
        # The cache is a carry, updated in place: as scan input and output it would be copied at every step.
        (x_BTD, cache), _ = jax.lax.scan(
            lambda carry, layer: (self._layer(carry[0], layer[1], layer[0], layout, carry[1]), None),
            (x_BTD, cache),
            (indices_L, params_L),
        )
        return x_BTD, cache

    def _layer(
        self,
        x_BTD: jax.Array,
        params: nnx.State,
        index: jax.Array | int,
        layout: TokenLayout,
        cache: KVCache | None,
        select: Callable[[jax.Array], jax.Array] | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        graph, _ = nnx.split(self.blocks)
        slopes_N, backend = alibi_slopes(self.config.num_heads), self.config.attention

        def attention(query_BSNH: jax.Array, key_value_BTCNH: jax.Array) -> jax.Array:
            nonlocal cache
            key_BKNH, value_BKNH = key_value_BTCNH[:, :, 0], key_value_BTCNH[:, :, 1]
            if cache is not None:
                cache, key_BKNH, value_BKNH = _extend(cache, index, key_BKNH, value_BKNH)
            return attend(query_BSNH, key_BKNH, value_BKNH, layout, slopes_N, backend)

        def block(x_BTD: jax.Array, params: nnx.State) -> jax.Array:
            return split_rows(nnx.merge(graph, params)(split_rows(x_BTD), attention, select))

        if self.config.remat != "none" and cache is None:
            save = jax.checkpoint_policies
            policy = save.dots_with_no_batch_dims_saveable if self.config.remat == "dots" else save.nothing_saveable
            block = jax.checkpoint(block, policy=policy, prevent_cse=self._unrolled())
        return block(x_BTD, params), cache

    def _unrolled(self) -> bool:
        if self.config.layer_loop == "auto":
            return jax.default_backend() == "cpu" and self.config.num_layers <= 12
        return self.config.layer_loop == "unroll"


def _at(outputs_BS: jax.Array) -> Callable[[jax.Array], jax.Array]:
    def select(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, outputs_BS.reshape(outputs_BS.shape + (1,) * (x.ndim - 2)), axis=1)

    return select


def _extend(
    cache: KVCache, index: jax.Array | int, key_BTNH: jax.Array, value_BTNH: jax.Array
) -> tuple[KVCache, jax.Array, jax.Array]:
    # cache.length already counts the new tokens; their slots are the last T of it.
    place = (index, 0, 0, cache.length - key_BTNH.shape[1], 0)

    def written(stored_LBNKH: jax.Array, new_BTNH: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(stored_LBNKH, new_BTNH.swapaxes(1, 2)[None], place)

    def layer_BKNH(stored_LBNKH: jax.Array) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(stored_LBNKH, index, keepdims=False).swapaxes(1, 2)

    keys_LBNKH, values_LBNKH = written(cache.keys_LBNKH, key_BTNH), written(cache.values_LBNKH, value_BTNH)
    cache = cache._replace(keys_LBNKH=keys_LBNKH, values_LBNKH=values_LBNKH)
    return cache, layer_BKNH(keys_LBNKH), layer_BKNH(values_LBNKH)


def _init_std(config: BloomConfig) -> float:
    # BLOOM's own choice (its Megatron arguments; Nguyen and Salazar 2019 call it small init), outputs scaled by depth.
    return math.sqrt(1 / (3 * config.width))
