"""Floating point operations of a decoder, counted by formula. A multiplication with its addition counts as two.

Only matrix products are counted, as is usual (PaLM, arXiv 2204.02311, appendix B): norms, softmax, activations and the
lookup of embeddings are left out. Attention counts every key of the row, also those that the mask hides, since that is
what a plain implementation computes; a kernel that skips them can therefore pass for faster than the device.

Shapes: L layers, D width, N heads, G key and value heads, H head dim, F MLP width, V vocabulary.
"""

from __future__ import annotations

from seqgpt_jax.models.decoder import DecoderConfig

# A model's backward pass has two products for each of the forward pass: by the weights, and by the inputs.
_TRAIN_PASSES = 3


def block_weights(config: DecoderConfig) -> int:
    """Entries of one block's matrices, each of which multiplies every token once.

    query DNH + key and value 2DGH + out NHD + MLP: 2 * D * 4D of BLOOM, 3DF of a gated one.
    """
    return _query_side_weights(config) + _key_value_weights(config)


def forward_flops(
    config: DecoderConfig,
    tokens: float,
    head_positions: float,
    row_tokens: float,
    last_block_positions: float | None = None,
) -> float:
    """Operations of a forward pass over rows of row_tokens tokens, `tokens` in all, padding included.

        2 * L * block_weights * tokens                blocks
      + 4 * L * N * H * row_tokens * tokens           attention: scores, and the sum of values
      + 2 * D * V * head_positions                    head, at the positions whose logits are computed

    last_block_positions: tokens that the last block computes in full, where it leaves the others out but for their
    keys and values (an unrolled Decoder that is given outputs_BS); None: all.
    """
    attention = 4 * config.num_heads * config.head_dim * row_tokens
    query_side = 2 * _query_side_weights(config) + attention
    last = tokens if last_block_positions is None else last_block_positions
    blocks = 2 * config.num_layers * _key_value_weights(config) * tokens
    blocks += query_side * ((config.num_layers - 1) * tokens + last)
    return blocks + 2 * config.width * config.vocab_size * head_positions


def train_flops(
    config: DecoderConfig,
    tokens: float,
    head_positions: float,
    row_tokens: float,
    last_block_positions: float | None = None,
) -> float:
    """Operations of a training step: three times `forward_flops`. Recomputation and the optimiser are not counted.

    bloom_560m, 8 rows of 2,048 tokens with 320 head positions each: 43.5e12.
    """
    return _TRAIN_PASSES * forward_flops(config, tokens, head_positions, row_tokens, last_block_positions)


def _query_side_weights(config: DecoderConfig) -> int:
    mlp_width = getattr(config, "mlp_width", None)  # gated: gate, up and down
    mlp = 2 * 4 * config.width if mlp_width is None else 3 * mlp_width
    return config.width * (2 * config.num_heads * config.head_dim + mlp)


def _key_value_weights(config: DecoderConfig) -> int:
    return 2 * config.width * config.num_kv_heads * config.head_dim
