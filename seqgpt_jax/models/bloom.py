"""BLOOM (Le Scao et al. 2022, arXiv 2211.05100) in Flax NNX: exact with transformers' BloomForCausalLM.

Embedding with its own LayerNorm, pre-LN blocks with ALiBi attention and tanh-GELU, biases everywhere, a final
LayerNorm, and a head tied to the embedding.

Shapes: B batch, T tokens, D width, N heads, H head dim, V vocabulary; C is key and value.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.attention import alibi_slopes
from seqgpt_jax.models.decoder import Attention, Decoder, DecoderConfig, Select, block_linear, init_std, stack_blocks
from seqgpt_jax.models.layers import LayerNorm, normal, param


@dataclasses.dataclass(frozen=True, kw_only=True)
class BloomConfig(DecoderConfig):
    """Sizes and numerics of a BLOOM decoder. Raises UserError for values that cannot be built."""

    layer_norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.num_heads:
            raise UserError(f"BloomConfig.width {self.width} is no multiple of num_heads {self.num_heads}")


def bloom_gelu(x: jax.Array) -> jax.Array:
    """BloomGelu of transformers: the tanh form with sqrt(2/pi) cut to eight digits."""
    return x * 0.5 * (1.0 + jnp.tanh(0.79788456 * x * (1.0 + 0.044715 * x * x)))


class BloomBlock(nnx.Module):
    """Attention and MLP, each behind a LayerNorm and added to the residual stream."""

    def __init__(self, config: BloomConfig, rngs: nnx.Rngs) -> None:
        width, heads, head_axes = config.width, (config.num_heads, config.head_dim), ("heads", "head_dim")
        linear = functools.partial(block_linear, config, rngs)
        norm = functools.partial(LayerNorm, width, epsilon=config.layer_norm_epsilon, dtype=config.param_dtype)
        self.attention_norm = norm()
        self.query = linear("query", (width,), heads, ("embed",), head_axes)
        self.key_value = linear("key_value", (width,), (2, *heads), ("embed",), ("kv", *head_axes))
        self.out = linear("out", heads, (width,), head_axes, ("embed",))
        self.mlp_norm = norm()
        self.up = linear("up", (width,), (4 * width,), ("embed",), ("mlp",))
        self.down = linear("down", (4 * width,), (width,), ("mlp",), ("embed",))

    def __call__(self, x_BTD: jax.Array, attention: Attention, select: Select | None = None) -> jax.Array:
        """The residual stream after this block; of the tokens that `select` keeps (BTD -> BSD), if given."""
        normed_BTD = self.attention_norm(x_BTD)
        key_value_BTCNH = self.key_value(normed_BTD)
        if select is not None:
            x_BTD, normed_BTD = select(x_BTD), select(normed_BTD)
        attended = attention(self.query(normed_BTD), key_value_BTCNH[:, :, 0], key_value_BTCNH[:, :, 1])
        x_BTD = x_BTD + self.out(attended)
        return x_BTD + self.down(bloom_gelu(self.up(self.mlp_norm(x_BTD))))


class Bloom(Decoder):
    """The decoder of BLOOM, BLOOMZ and SeqGPT."""

    config: BloomConfig

    def __init__(self, config: BloomConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        norm = functools.partial(LayerNorm, config.width, epsilon=config.layer_norm_epsilon, dtype=config.param_dtype)
        table_VD = normal(rngs, (config.vocab_size, config.width), init_std(config), config.param_dtype)
        self.embedding = param(table_VD, ("vocab", "embed"))
        self.embedding_norm = norm()
        self.blocks = stack_blocks(lambda rngs: BloomBlock(config, rngs), config.num_layers, rngs)
        self.final_norm = norm()

    def embed(self, tokens_BT: jax.Array) -> jax.Array:
        return self.embedding_norm(self.table("embedding").rows(tokens_BT, self.config.compute_dtype))

    def alibi(self) -> np.ndarray:
        return alibi_slopes(self.config.num_heads)
