"""BloomForCausalLM <-> models/bloom.py: config.json and the table of tensors.

A head's query, key and value lie together in one fused matrix [N * 3 * H, D]; we keep a query kernel [D, N, H] and a
key-and-value kernel [D, 2, N, H]. The head is tied to the embedding.

Shapes: D width, N heads, H head dim.
"""

from __future__ import annotations

import numpy as np

from seqgpt_jax.hf.fields import ConfigFields
from seqgpt_jax.hf.tables import Entry, ParamPath, Parts, linear, same, write_transposed
from seqgpt_jax.models.bloom import BloomConfig


def read_bloom_config(fields: ConfigFields, param_dtype: str) -> BloomConfig:
    """The sizes in config.json. Raises UserError for a field that our model does not have."""
    fields.refuse(
        "apply_residual_connection_post_layernorm", unless=False, why="no released BLOOM has its residual there"
    )
    fields.refuse("tie_word_embeddings", unless=True, why="BLOOM's head is its embedding")
    return BloomConfig(
        vocab_size=fields.size("vocab_size"),
        num_layers=fields.size("n_layer", "num_hidden_layers"),
        width=fields.size("hidden_size", "n_embed"),  # BLOOM's first files and transformers differ in names
        num_heads=fields.size("n_head", "num_attention_heads"),
        layer_norm_epsilon=fields.number("layer_norm_epsilon", 1e-5),
        param_dtype=param_dtype,
    )


def write_bloom_config(config: BloomConfig) -> dict[str, object]:
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "initializer_range": 0.02,
        "apply_residual_connection_post_layernorm": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "pretraining_tp": 1,
        "slow_but_exact": False,
        "tie_word_embeddings": True,
    }


def bloom_table(config: BloomConfig) -> list[Entry]:
    width, heads, head_dim = config.width, config.num_heads, config.head_dim

    def norm(name: str, path: ParamPath) -> list[Entry]:
        return [
            same(f"{name}.weight", (*path, "scale"), (width,)),
            same(f"{name}.bias", (*path, "bias"), (width,)),
        ]

    def gather_kernel(parts: Parts) -> np.ndarray:
        query_DNH, key_value_DCNH = parts
        all_D3NH = np.concatenate([query_DNH[:, None], key_value_DCNH], axis=1)
        return all_D3NH.transpose(2, 1, 3, 0).reshape(3 * width, width)

    def scatter_kernel(parts: Parts, tensor: np.ndarray) -> None:
        query_DNH, key_value_DCNH = parts
        for head, (query_HD, key_HD, value_HD) in enumerate(tensor.reshape(heads, 3, head_dim, width)):
            write_transposed(query_DNH[:, head], query_HD)
            write_transposed(key_value_DCNH[:, 0, head], key_HD)
            write_transposed(key_value_DCNH[:, 1, head], value_HD)

    def gather_bias(parts: Parts) -> np.ndarray:
        return np.concatenate([parts[0][None], parts[1]]).transpose(1, 0, 2).reshape(-1)

    def scatter_bias(parts: Parts, tensor: np.ndarray) -> None:
        all_3NH = tensor.reshape(heads, 3, head_dim).transpose(1, 0, 2)
        parts[0][...], parts[1][...] = all_3NH[0], all_3NH[1:]

    query, key_value = ("blocks", "query"), ("blocks", "key_value")
    kernels = ((*query, "kernel"), (*key_value, "kernel"))
    biases = ((*query, "bias"), (*key_value, "bias"))
    layer = "transformer.h.{}"
    fused = f"{layer}.self_attention.query_key_value"
    return [
        same("transformer.word_embeddings.weight", ("embedding",), (config.vocab_size, width)),
        *norm("transformer.word_embeddings_layernorm", ("embedding_norm",)),
        *norm(f"{layer}.input_layernorm", ("blocks", "attention_norm")),
        Entry(f"{fused}.weight", (3 * width, width), kernels, gather_kernel, scatter_kernel),
        Entry(f"{fused}.bias", (3 * width,), biases, gather_bias, scatter_bias),
        *linear(f"{layer}.self_attention.dense", ("blocks", "out"), (heads, head_dim), (width,), bias=True),
        *norm(f"{layer}.post_attention_layernorm", ("blocks", "mlp_norm")),
        *linear(f"{layer}.mlp.dense_h_to_4h", ("blocks", "up"), (width,), (4 * width,), bias=True),
        *linear(f"{layer}.mlp.dense_4h_to_h", ("blocks", "down"), (4 * width,), (width,), bias=True),
        *norm("transformer.ln_f", ("final_norm",)),
    ]
