"""What every decoder has in common: its sizes, its KV cache, and the run through its stacked blocks.

An architecture (bloom.py, llama.py) gives the embedding, one block, the final norm and the table of the head. It may
give ALiBi slopes or a rotation of queries and keys. Training, prefill and a decoding step are the same call; only the
cache differs.

Shapes: B batch, T tokens of this call, K key slots, L layers, D width, N heads, G key and value heads (N is a multiple
of G), H head dim, R rows of a cache, V vocabulary, S the tokens whose hidden states are wanted.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.attention import TokenLayout, attend
from seqgpt_jax.models.layers import Linear, Table, split_rows
from seqgpt_jax.models.lora import LoraConfig

Remat = Literal["none", "dots", "full"]
LayerLoop = Literal["auto", "scan", "unroll"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Sizes and numerics that every architecture has. Raises UserError for values that cannot be built."""

    vocab_size: int
    num_layers: int
    width: int
    num_heads: int
    param_dtype: str = "float32"
    compute_dtype: str = "float32"  # activations and matrix products; scores, softmax, norms and logits are float32
    remat: Remat = "none"  # what the backward pass recomputes: nothing, all but dots, all
    attention: str = "auto"  # a backend of models/attention.py
    layer_loop: LayerLoop = "auto"  # auto: unrolled in training of few layers on CPU, else scanned
    lora: LoraConfig | None = None  # low-rank additions, which are then all that is trained

    def __post_init__(self) -> None:
        for name in ("vocab_size", "num_layers", "width", "num_heads"):
            self._at_least_one(name)
        for name, allowed in (("remat", get_args(Remat)), ("layer_loop", get_args(LayerLoop))):
            if getattr(self, name) not in allowed:
                raise UserError(f"{self._name}.{name} is {getattr(self, name)!r} (choose {', '.join(allowed)})")
        if isinstance(self.lora, dict):  # from JSON
            object.__setattr__(self, "lora", LoraConfig(**self.lora))

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def num_kv_heads(self) -> int:
        return self.num_heads

    @property
    def _name(self) -> str:
        return type(self).__name__

    def _at_least_one(self, name: str) -> None:
        if getattr(self, name) < 1:
            raise UserError(f"{self._name}.{name} is {getattr(self, name)} (it must be at least 1)")


def embedding_rows(num_ids: int) -> int:
    """Rows of an embedding that is made for so many ids: a multiple of 64, so that they split over devices."""
    return -(-num_ids // 64) * 64


class KVCache(NamedTuple):
    """Keys and values of the tokens seen so far. A call with T tokens fills slots length .. length+T of each row.

    A row is cut back by making its length smaller: what lies behind is written over, and seen by nothing before that.
    """

    keys_LBGKH: jax.Array  # heads before slots: a decoding step then reads a head's keys in one piece
    values_LBGKH: jax.Array
    positions_BK: jax.Array  # int32
    segment_ids_BK: jax.Array  # int32, 0 is padding or not yet written
    lengths_B: jax.Array  # int32: the next slot of each row


class NewCache(NamedTuple):
    """In place of a cache that has nothing yet: one of so many slots is made, and attention need not look into it."""

    num_slots: int


def init_cache(config: DecoderConfig, batch: int, num_slots: int) -> KVCache:
    """An empty cache for `batch` rows of at most `num_slots` tokens; what would lie past the end is not kept."""
    shape = (config.num_layers, batch, config.num_kv_heads, num_slots, config.head_dim)
    empty = jnp.zeros(shape, config.compute_dtype)
    slots_BK = jnp.zeros((batch, num_slots), jnp.int32)
    return KVCache(empty, empty, slots_BK, slots_BK, jnp.zeros(batch, jnp.int32))


def resize_cache(cache: KVCache, rows_R: jax.Array, num_slots: int) -> KVCache:
    """The cache of these rows alone (a row may come several times), with at least as many slots as it had."""

    def resized(x: jax.Array, row_axis: int, slot_axis: int) -> jax.Array:
        widths = [(0, num_slots - size if axis == slot_axis else 0) for axis, size in enumerate(x.shape)]
        return jnp.pad(jnp.take(x, rows_R, axis=row_axis), widths)

    return KVCache(
        resized(cache.keys_LBGKH, 1, 3),
        resized(cache.values_LBGKH, 1, 3),
        resized(cache.positions_BK, 0, 1),
        resized(cache.segment_ids_BK, 0, 1),
        jnp.take(cache.lengths_B, rows_R),
    )


Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(query BSNH, key BTGH, value BTGH) -> BSNH. It is where positions, the mask and the cache come in."""

Select = Callable[[jax.Array], jax.Array]
"""Keeps the wanted tokens: [B, T, ...] -> [B, S, ...]."""


class Decoder(nnx.Module):
    """`hidden, cache = model(tokens, positions, segment_ids, cache)`, then `model.head(hidden)`.

    A subclass sets `config`, `blocks` (from `stack_blocks`; called with x_BTD, an Attention and a Select or None) and
    `final_norm` and `embedding`, and says how tokens are embedded and which table the head multiplies with.
    """

    config: DecoderConfig
    embedding: nnx.Param[jax.Array]
    blocks: Any
    final_norm: Any

    def embed(self, tokens_BT: jax.Array) -> jax.Array:
        """What the first block sees, BTD in the compute dtype."""
        raise NotImplementedError

    def head_name(self) -> str:
        """Which of this module's tables the head multiplies with: the embedding, where they are tied."""
        return "embedding"

    def table(self, name: str) -> Table:
        """The table of this name, with the scales of its rows where it is of int8."""
        scale: nnx.Param[jax.Array] | None = getattr(self, f"{name}_scale", None)
        return Table(getattr(self, name)[...], None if scale is None else scale[...])

    def head_table(self) -> jax.Array:
        """The [V, D] table of the head in the parameter dtype, float32 where it is of int8."""
        return self.table(self.head_name()).whole()

    def alibi(self) -> np.ndarray | None:
        """ALiBi slopes [N], where the architecture has them."""
        return None

    def rotation(self, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Cosine and sine [B, T, H] by which queries and keys are turned, where the architecture does that."""
        return None

    def __call__(
        self,
        tokens_BT: jax.Array,
        positions_BT: jax.Array,
        segment_ids_BT: jax.Array,
        cache: KVCache | NewCache | None = None,
        outputs_BS: jax.Array | None = None,
        visible_BTK: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        """Final hidden states BTD in the compute dtype, and the cache with these tokens added (None without one).

        positions_BT counts from 0 within a token's own segment; segment id 0 is padding, which sees and is seen by
        nothing that matters. With a cache, a row's tokens go to its slots from cache.lengths_B onwards, 0 in a new one.
        outputs_BS are indices into T of the tokens whose hidden states are wanted (BSD then). An unrolled model
        computes no more than their keys and values for the others in its last block. visible_BTK says which of the
        cache's K slots a token sees, where that is not every slot up to its own (a trie of labels): its own, and none
        behind it.
        """
        x_BTD = self.embed(tokens_BT)
        slots_1T = jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None, :]
        reads_cache = isinstance(cache, KVCache)
        if isinstance(cache, NewCache):
            cache = init_cache(self.config, tokens_BT.shape[0], cache.num_slots)
        layout = TokenLayout(segment_ids_BT, segment_ids_BT, positions_BT, slots_1T)
        if visible_BTK is not None:
            num_past_end = max(0, tokens_BT.shape[1] - visible_BTK.shape[2])  # of tokens that fill a row: unseen
            padded_BTK = jnp.pad(visible_BTK, ((0, 0), (0, 0), (0, num_past_end)))
            layout = layout._replace(visible_BTK=padded_BTK[..., : tokens_BT.shape[1]])
        if cache is not None:
            slots_BT = cache.lengths_B[:, None] + slots_1T
            rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]
            cache = cache._replace(
                positions_BK=cache.positions_BK.at[rows_B1, slots_BT].set(positions_BT, mode="drop"),
                segment_ids_BK=cache.segment_ids_BK.at[rows_B1, slots_BT].set(segment_ids_BT, mode="drop"),
                lengths_B=cache.lengths_B + tokens_BT.shape[1],
            )
            if reads_cache:
                layout = TokenLayout(segment_ids_BT, cache.segment_ids_BK, cache.positions_BK, slots_BT, visible_BTK)
        sight = _Sight(layout, self.rotation(positions_BT), reads_cache)
        if self._unrolled(cache):
            x_BTD, cache = self._run_unrolled(x_BTD, sight, cache, outputs_BS)
        else:
            x_BTD, cache = self._run_scanned(x_BTD, sight, cache)
            x_BTD = x_BTD if outputs_BS is None else _at(outputs_BS)(x_BTD)
        return self.final_norm(x_BTD), cache

    def head(self, hidden: jax.Array) -> jax.Array:
        """float32 logits [..., V] of hidden states [..., D]."""
        return split_rows(self.table(self.head_name()).logits(split_rows(hidden)))

    def head_rows(self, ids: jax.Array) -> jax.Array:
        """Rows [..., D] of the head's table in the compute dtype: `head(hidden)[..., id] = hidden @ row`."""
        return self.table(self.head_name()).rows(ids, self.config.compute_dtype)

    def _run_unrolled(
        self, x_BTD: jax.Array, sight: _Sight, cache: KVCache | None, outputs_BS: jax.Array | None
    ) -> tuple[jax.Array, KVCache | None]:
        _, params_L = nnx.split(self.blocks)
        for index in range(self.config.num_layers):
            params = jax.tree.map(operator.itemgetter(index), params_L)
            last = index == self.config.num_layers - 1
            select = _at(outputs_BS) if last and outputs_BS is not None else None
            x_BTD, cache = self._layer(x_BTD, params, index, sight, cache, select)
        return x_BTD, cache

    def _run_scanned(self, x_BTD: jax.Array, sight: _Sight, cache: KVCache | None) -> tuple[jax.Array, KVCache | None]:
        _, params_L = nnx.split(self.blocks)
        indices_L = jnp.arange(self.config.num_layers)
        # The cache is a carry, updated in place: as scan input and output it would be copied at every step.
        (x_BTD, cache), _ = jax.lax.scan(
            lambda carry, layer: (self._layer(carry[0], layer[1], layer[0], sight, carry[1]), None),
            (x_BTD, cache),
            (indices_L, params_L),
        )
        return x_BTD, cache

    def _layer(
        self,
        x_BTD: jax.Array,
        params: nnx.State,
        index: jax.Array | int,
        sight: _Sight,
        cache: KVCache | None,
        select: Select | None = None,
    ) -> tuple[jax.Array, KVCache | None]:
        graph, _ = nnx.split(self.blocks)
        queries = sight if select is None else sight.of(select, x_BTD.shape[:2])

        def attention(query_BSNH: jax.Array, key_BTGH: jax.Array, value_BTGH: jax.Array) -> jax.Array:
            nonlocal cache
            query_BSNH, key_BTGH = _turned(query_BSNH, queries.rotation), _turned(key_BTGH, sight.rotation)
            if cache is not None:
                cache = _extend(cache, index, key_BTGH, value_BTGH, new=not sight.reads_cache)
                if sight.reads_cache:
                    key_BTGH, value_BTGH = (_layer_of(x, index) for x in (cache.keys_LBGKH, cache.values_LBGKH))
            return attend(query_BSNH, key_BTGH, value_BTGH, queries.layout, self.alibi(), self.config.attention)

        def block(x_BTD: jax.Array, params: nnx.State) -> jax.Array:
            return split_rows(nnx.merge(graph, params)(split_rows(x_BTD), attention, select))

        if self.config.remat != "none" and cache is None:
            save = jax.checkpoint_policies
            policy = save.dots_with_no_batch_dims_saveable if self.config.remat == "dots" else save.nothing_saveable
            block = jax.checkpoint(block, policy=policy, prevent_cse=self._unrolled(cache))
        return block(x_BTD, params), cache

    def _unrolled(self, cache: KVCache | None) -> bool:
        if self.config.layer_loop == "auto":
            return jax.default_backend() == "cpu" and self.config.num_layers <= 12 and cache is None
        return self.config.layer_loop == "unroll"


class _Sight(NamedTuple):
    """What a query sees and from where: the same for every layer."""

    layout: TokenLayout
    rotation: tuple[jax.Array, jax.Array] | None
    reads_cache: bool  # else the keys are those of the call's own tokens

    def of(self, select: Select, batch_and_tokens: tuple[int, ...]) -> _Sight:
        """Of the selected queries alone; the keys stay."""
        layout = self.layout._replace(
            query_segments_BT=select(self.layout.query_segments_BT),
            query_slots_BT=select(jnp.broadcast_to(self.layout.query_slots_BT, batch_and_tokens)),
            visible_BTK=None if self.layout.visible_BTK is None else select(self.layout.visible_BTK),
        )
        rotation = self.rotation and (select(self.rotation[0]), select(self.rotation[1]))
        return _Sight(layout, rotation, self.reads_cache)


def block_linear(
    config: DecoderConfig,
    rngs: nnx.Rngs,
    name: str,
    in_shape: tuple[int, ...],
    out_shape: tuple[int, ...],
    in_axes: tuple[str, ...],
    out_axes: tuple[str, ...],
    bias: bool = True,
) -> Linear:
    """The matrix `name` of a block. Those that write to the residual stream, two a layer, start smaller for it."""
    # The spread is BLOOM's own choice (its Megatron arguments; Nguyen and Salazar 2019 call it small init).
    std = init_std(config) / (math.sqrt(2 * config.num_layers) if out_axes == ("embed",) else 1.0)
    return Linear(
        in_shape,
        out_shape,
        in_axes=in_axes,
        out_axes=out_axes,
        bias=bias,
        std=std,
        dtype=config.param_dtype,
        rngs=rngs,
        lora=None if config.lora is None else config.lora.of(name, math.prod(in_shape), math.prod(out_shape)),
    )


def stack_blocks(make: Callable[[nnx.Rngs], nnx.Module], num_layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """One module with the parameters of num_layers blocks: each has a leading axis, named "layers"."""
    split = nnx.split_rngs(splits=num_layers)
    over_layers = nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
    return split(over_layers(make))(rngs)


def init_std(config: DecoderConfig) -> float:
    """Spread of the initial embedding and matrices."""
    return math.sqrt(1 / (3 * config.width))


def _turned(x_BTNH: jax.Array, rotation: tuple[jax.Array, jax.Array] | None) -> jax.Array:
    """Rotary positions (Su et al. 2021) in the half-split order of Hugging Face: dim i turns with dim i + H/2."""
    if rotation is None:
        return x_BTNH
    cosine_BT1H, sine_BT1H = rotation[0][:, :, None], rotation[1][:, :, None]
    x32 = x_BTNH.astype(jnp.float32)
    first, second = jnp.split(x32, 2, axis=-1)
    return (x32 * cosine_BT1H + jnp.concatenate([-second, first], axis=-1) * sine_BT1H).astype(x_BTNH.dtype)


def _at(outputs_BS: jax.Array) -> Select:
    def select(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, outputs_BS.reshape(outputs_BS.shape + (1,) * (x.ndim - 2)), axis=1)

    return select


def _extend(cache: KVCache, index: jax.Array | int, key_BTGH: jax.Array, value_BTGH: jax.Array, new: bool) -> KVCache:
    """new: every row's first slot is 0, so that the tokens lie there as one block."""
    num_rows, num_tokens = key_BTGH.shape[:2]
    rows_B1 = jnp.arange(num_rows)[:, None]
    # lengths_B already counts the new tokens; their slots are the last T of it.
    slots_BT = (cache.lengths_B - num_tokens)[:, None] + jnp.arange(num_tokens)[None, :]

    def written(stored_LBGKH: jax.Array, new_BTGH: jax.Array) -> jax.Array:
        if new:
            block_1BGTH = new_BTGH[:, : stored_LBGKH.shape[3]].swapaxes(1, 2)[None]
            return jax.lax.dynamic_update_slice(stored_LBGKH, block_1BGTH, (index, 0, 0, 0, 0))
        return stored_LBGKH.at[index, rows_B1, :, slots_BT].set(new_BTGH, mode="drop", unique_indices=True)

    return cache._replace(
        keys_LBGKH=written(cache.keys_LBGKH, key_BTGH), values_LBGKH=written(cache.values_LBGKH, value_BTGH)
    )


def _layer_of(stored_LBGKH: jax.Array, index: jax.Array | int) -> jax.Array:
    """[B, K, G, H]"""
    return jax.lax.dynamic_index_in_dim(stored_LBGKH, index, keepdims=False).swapaxes(1, 2)
