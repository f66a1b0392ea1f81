"""A model that lies on eight devices answers as it does on one: greedy, by beams, with weights of int8."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from flax import nnx

from seqgpt_jax.decoding.beam import beam_search
from seqgpt_jax.decoding.generate import generate
from seqgpt_jax.models.decoder import Decoder, DecoderConfig
from seqgpt_jax.models.llama import LlamaConfig
from seqgpt_jax.models.quantized import Weights, store_weights
from tests.models.tiny import TINY, on_mesh, random_model

BLOOM = dataclasses.replace(TINY, layer_loop="scan")
LLAMA = LlamaConfig(
    vocab_size=96, num_layers=2, width=32, num_heads=4, kv_heads=2, mlp_width=64, tied_head=True, layer_loop="scan"
)


def _answers(model: Decoder) -> list[list[list[int]]]:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(4, 96, length).tolist() for length in (3, 17, 30, 9, 12)]
    limits = [9, 12, 5, 12, 1]
    return [
        generate(model, prompts, max_new_tokens=limits, eos_id=2, pad_id=3),
        beam_search(model, prompts, num_beams=4, max_new_tokens=limits, eos_id=2, pad_id=3, repetition_penalty=1.5),
    ]


@pytest.mark.parametrize(
    ("config", "weights", "sizes"),
    [
        (BLOOM, "float32", (2, 2, 2)),
        *(
            pytest.param(config, weights, sizes, marks=pytest.mark.slow)
            for config, weights in ((BLOOM, "float32"), (BLOOM, "int8"), (LLAMA, "float32"), (LLAMA, "int8"))
            for sizes in ((2, 2, 2), (8, 1, 1), (1, 8, 1), (1, 1, 8))
        ),
    ],
)
def test_eight_devices_equal_one(config: DecoderConfig, weights: Weights, sizes: tuple[int, int, int]) -> None:
    split = on_mesh(store_weights(random_model(config), weights), sizes)
    spread = {len(leaf.sharding.device_set) for _, leaf in nnx.to_flat_state(nnx.state(split))}
    assert spread == {8}
    assert not split.embedding[...].is_fully_replicated or sizes[0] == 8
    assert _answers(split) == _answers(store_weights(random_model(config), weights))


@pytest.mark.slow
def test_weights_are_stored_where_they_lie() -> None:
    """A model that was trained on the mesh: its int8 is split as the float32 was, and answers as one device's does."""
    split = store_weights(on_mesh(random_model(BLOOM), (2, 2, 2)), "int8")
    kernel = split.blocks.up.kernel[...]
    assert kernel.dtype == "int8"
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 16, 64)  # of [3, 32, 128] on fsdp=2, tensor=2
    assert _answers(split) == _answers(store_weights(random_model(BLOOM), "int8"))
