"""Named model sizes. The released BLOOM sizes have its vocabulary of 250,880 rows, ours their own tokenizer's size."""

from __future__ import annotations

import dataclasses
import difflib

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.bloom import BloomConfig
from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.models.llama import LlamaConfig

_BLOOM_VOCABULARY = 250_880

PRESETS: dict[str, DecoderConfig] = {
    "bloom_nano": BloomConfig(vocab_size=8_192, num_layers=4, width=192, num_heads=4),
    "bloom_mini": BloomConfig(vocab_size=16_384, num_layers=6, width=256, num_heads=8),
    "bloom_small": BloomConfig(vocab_size=32_768, num_layers=12, width=768, num_heads=12),
    "bloom_560m": BloomConfig(vocab_size=_BLOOM_VOCABULARY, num_layers=24, width=1024, num_heads=16),
    "bloom_1b1": BloomConfig(vocab_size=_BLOOM_VOCABULARY, num_layers=24, width=1536, num_heads=16),
    "bloom_1b7": BloomConfig(vocab_size=_BLOOM_VOCABULARY, num_layers=24, width=2048, num_heads=16),
    "bloom_3b": BloomConfig(vocab_size=_BLOOM_VOCABULARY, num_layers=30, width=2560, num_heads=32),
    "bloom_7b1": BloomConfig(vocab_size=_BLOOM_VOCABULARY, num_layers=30, width=4096, num_heads=32),
    "llama_mini": LlamaConfig(
        vocab_size=16_384, num_layers=6, width=256, num_heads=8, kv_heads=4, mlp_width=704, tied_head=True
    ),
}


def get_preset(name: str, vocab_size: int | None = None) -> DecoderConfig:
    """The configuration of a named size, with another vocabulary size if given. UserError for an unknown name."""
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=3) or list(PRESETS)
        raise UserError(f"model preset '{name}' is unknown (choose {', '.join(close)})")
    preset = PRESETS[name]
    return preset if vocab_size is None else dataclasses.replace(preset, vocab_size=vocab_size)
