"""Tiny models and their torch twins for the tests of models, decoding and hf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
import transformers
from flax import nnx

from seqgpt_jax.hf import model_to_hf
from seqgpt_jax.models.architectures import abstract_model
from seqgpt_jax.models.bloom import Bloom, BloomConfig
from seqgpt_jax.models.decoder import Decoder, DecoderConfig
from seqgpt_jax.training.partitioning import make_mesh, make_skeleton, param_shardings, params_of, place

TINY = BloomConfig(vocab_size=96, num_layers=3, width=32, num_heads=4)
SIX_HEADS = BloomConfig(vocab_size=128, num_layers=2, width=48, num_heads=6)
ONE_HEAD = BloomConfig(vocab_size=64, num_layers=1, width=24, num_heads=1, layer_norm_epsilon=1e-3)


def random_model(config: DecoderConfig, seed: int = 0, spread: float = 0.3) -> Any:
    """A model whose every parameter is random, biases and scales too, so that no mistake hides behind a zero or one."""
    graph, shapes = abstract_model(config)
    rng = np.random.default_rng(seed)
    values = []
    for path, variable in nnx.to_flat_state(shapes):
        scale = 1.0 if path[-1] == "scale" else 0.0
        values.append((path, variable.replace(jnp.asarray(scale + spread * rng.standard_normal(variable.shape), "f4"))))
    return nnx.merge(graph, nnx.from_flat_state(values))


def on_mesh(model: Decoder, sizes: tuple[int, int, int]) -> Decoder:
    """The model as training leaves it: each parameter split over the mesh by the names of its axes."""
    skeleton = make_skeleton(lambda: model)
    placed = place(params_of(model), param_shardings(skeleton, make_mesh(*sizes), large=1 << 30))
    return skeleton.merge(placed)


def torch_twin(model: Bloom) -> transformers.BloomForCausalLM:
    """transformers' model with the same weights, float32, through tensors alone (no files)."""
    config = model.config
    twin = transformers.BloomForCausalLM(
        transformers.BloomConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            layer_norm_epsilon=config.layer_norm_epsilon,
            eos_token_id=2,
            pad_token_id=3,
        )
    ).eval()
    tensors = {name: torch.tensor(value) for name, value in model_to_hf(model)}
    missing, unexpected = twin.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"]
    assert not unexpected
    return twin


def torch_logits(twin: transformers.BloomForCausalLM, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Logits [T, V] of one unpadded sequence."""
    with torch.no_grad():
        return twin(torch.tensor(np.asarray(tokens))[None]).logits[0].numpy()


def whole_rows(tokens_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """tokens, positions, segment ids of rows that are one document each."""
    positions_BT = np.broadcast_to(np.arange(tokens_BT.shape[1], dtype=np.int32), tokens_BT.shape)
    return tokens_BT.astype(np.int32), positions_BT, np.ones_like(positions_BT)
