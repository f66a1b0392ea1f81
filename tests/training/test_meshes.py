"""Eight devices against one, for every architecture: the same loss, the same updated parameters."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.training.partitioning import make_mesh
from tests.training.toy import CONFIG, LLAMA, TOY_ADAMW, packed_batch, start

EIGHT_HEADS = dataclasses.replace(CONFIG, num_heads=8)
# Biases of keys have no gradient (softmax cancels them): a small epsilon would turn its rounding into whole steps.
ADAMW = dataclasses.replace(TOY_ADAMW, epsilon=1e-3)
MESHES = [(2, 2, 2), *(pytest.param(sizes, marks=pytest.mark.slow) for sizes in [(8, 1, 1), (1, 8, 1), (1, 1, 8)])]


@pytest.mark.parametrize("sizes", MESHES)
@pytest.mark.parametrize("config", [EIGHT_HEADS, LLAMA], ids=["bloom", "llama"])
def test_eight_devices_equal_one(config: DecoderConfig, sizes: tuple[int, int, int]) -> None:
    after = []
    for mesh in (None, make_mesh(*sizes)):
        state, step, _ = start(ADAMW, mesh, config=config)
        losses = []
        for _ in range(2):
            state, metrics = step(state, packed_batch())
            losses.append(float(metrics.loss))
        after.append((losses, jax.device_get(state.params)))
    np.testing.assert_allclose(after[1][0], after[0][0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6), after[1][1], after[0][1])
