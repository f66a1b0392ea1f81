"""Llama-style decoders in Flax NNX: exact with transformers' LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM.

RMSNorm before attention and MLP, rotary positions, grouped-query heads, SwiGLU, and a head of its own or the embedding.
Qwen2 adds biases to queries, keys and values; Qwen3 normalises queries and keys per head instead.

Shapes: B batch, T tokens, D width, N heads, G key and value heads, H head dim, F MLP width, V vocabulary; C is key and
value, or gate and up.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import Attention, Decoder, DecoderConfig, Select, block_linear, init_std, stack_blocks
from seqgpt_jax.models.layers import RMSNorm, normal, param


@dataclasses.dataclass(frozen=True)
class Llama3Rope:
    """Llama 3.1's stretched rotary positions: slow turns slow down by `factor`, fast ones stay."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int  # tokens that the model was first trained on


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """Sizes and numerics of a Llama-style decoder. Raises UserError for values that cannot be built."""

    kv_heads: int | None = None  # key and value heads; None: as many as query heads
    head_size: int | None = None  # None: width / num_heads
    mlp_width: int
    rms_norm_epsilon: float = 1e-6
    rope_theta: float = 10_000.0
    rope_scaling: Llama3Rope | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_kv_heads", "head_dim", "mlp_width"):
            self._at_least_one(name)
        if isinstance(self.rope_scaling, dict):  # from JSON
            object.__setattr__(self, "rope_scaling", Llama3Rope(**self.rope_scaling))
        if self.head_size is None and self.width % self.num_heads:
            raise UserError(f"LlamaConfig.width {self.width} is no multiple of num_heads {self.num_heads}")
        if self.num_heads % self.num_kv_heads:
            raise UserError(f"LlamaConfig.num_heads {self.num_heads} is no multiple of kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise UserError(f"LlamaConfig: a head of {self.head_dim} is odd (rotary positions turn pairs)")

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads if self.head_size is None else self.head_size

    @property
    def num_kv_heads(self) -> int:
        return self.num_heads if self.kv_heads is None else self.kv_heads


def rotary_frequencies(config: LlamaConfig) -> np.ndarray:
    """Radians a position for each pair of dims of a head, float32 [H/2]."""
    turns = 1.0 / config.rope_theta ** (np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return turns.astype(np.float32)
    wave_lengths = 2 * math.pi / turns
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    ramp = np.clip((scaling.original_length / wave_lengths - low) / (high - low), 0.0, 1.0)
    return ((1 - ramp) * turns / scaling.factor + ramp * turns).astype(np.float32)


class LlamaBlock(nnx.Module):
    """Attention and gated MLP, each behind an RMSNorm and added to the residual stream."""

    def __init__(self, config: LlamaConfig, rngs: nnx.Rngs) -> None:
        width, mlp = config.width, config.mlp_width
        queries, keys = (config.num_heads, config.head_dim), (config.num_kv_heads, config.head_dim)
        query_axes, key_axes = ("heads", "head_dim"), ("kv", "kv_heads", "head_dim")
        linear = functools.partial(block_linear, config, rngs)
        norm = functools.partial(RMSNorm, epsilon=config.rms_norm_epsilon, dtype=config.param_dtype)
        self.attention_norm = norm(width)
        self.query = linear("query", (width,), queries, ("embed",), query_axes, bias=config.qkv_bias)
        self.key_value = linear("key_value", (width,), (2, *keys), ("embed",), key_axes, bias=config.qkv_bias)
        self.query_norm = norm(config.head_dim) if config.qk_norm else None
        self.key_norm = norm(config.head_dim) if config.qk_norm else None
        self.out = linear("out", queries, (width,), query_axes, ("embed",), bias=config.out_bias)
        self.mlp_norm = norm(width)
        self.gate_up = linear("gate_up", (width,), (2, mlp), ("embed",), ("gate", "mlp"), bias=config.mlp_bias)
        self.down = linear("down", (mlp,), (width,), ("mlp",), ("embed",), bias=config.mlp_bias)

    def __call__(self, x_BTD: jax.Array, attention: Attention, select: Select | None = None) -> jax.Array:
        """The residual stream after this block; of the tokens that `select` keeps (BTD -> BSD), if given."""
        normed_BTD = self.attention_norm(x_BTD)
        key_value_BTCGH = self.key_value(normed_BTD)
        key_BTGH, value_BTGH = key_value_BTCGH[:, :, 0], key_value_BTCGH[:, :, 1]
        if select is not None:
            x_BTD, normed_BTD = select(x_BTD), select(normed_BTD)
        query_BSNH = self.query(normed_BTD)
        if self.query_norm is not None and self.key_norm is not None:
            query_BSNH, key_BTGH = self.query_norm(query_BSNH), self.key_norm(key_BTGH)
        x_BTD = x_BTD + self.out(attention(query_BSNH, key_BTGH, value_BTGH))
        gate_up_BTCF = self.gate_up(self.mlp_norm(x_BTD))
        return x_BTD + self.down(jax.nn.silu(gate_up_BTCF[:, :, 0]) * gate_up_BTCF[:, :, 1])


class Llama(Decoder):
    """The decoder of Llama, Qwen2 and Qwen3."""

    config: LlamaConfig

    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        shape, axes = (config.vocab_size, config.width), ("vocab", "embed")
        self.embedding = param(normal(rngs, shape, init_std(config), config.param_dtype), axes)
        self.blocks = stack_blocks(lambda rngs: LlamaBlock(config, rngs), config.num_layers, rngs)
        self.final_norm = RMSNorm(config.width, epsilon=config.rms_norm_epsilon, dtype=config.param_dtype)
        if not config.tied_head:
            self.output = param(normal(rngs, shape, init_std(config), config.param_dtype), axes)

    def embed(self, tokens_BT: jax.Array) -> jax.Array:
        return self.table("embedding").rows(tokens_BT, self.config.compute_dtype)

    def head_name(self) -> str:
        return "embedding" if self.config.tied_head else "output"

    def rotation(self, positions_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        frequencies = jnp.asarray(np.tile(rotary_frequencies(self.config), 2))
        angles_BTH = positions_BT[:, :, None].astype(jnp.float32) * frequencies[None, None, :]
        return jnp.cos(angles_BTH), jnp.sin(angles_BTH)
