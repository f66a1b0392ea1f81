"""The formula against what XLA counts in the program, which is 1% more: norms, softmax and activations."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from seqgpt_jax.data.loader import Batch
from seqgpt_jax.models.bloom import Bloom, BloomConfig
from seqgpt_jax.models.flops import block_weights, forward_flops, train_flops
from seqgpt_jax.models.loss import answer_loss
from seqgpt_jax.models.presets import PRESETS

CONFIG = BloomConfig(vocab_size=1024, num_layers=2, width=256, num_heads=2, layer_loop="unroll", attention="reference")
ROWS, TOKENS, TARGETS = 2, 256, 32


def _counted(config: BloomConfig, gradient: bool, row_tokens: int = TOKENS) -> float:
    """XLA's count of the loss, or of its gradient, before it optimises the program."""
    graph, params = nnx.split(nnx.eval_shape(lambda: Bloom(config, rngs=nnx.Rngs(0))))
    rows = jax.ShapeDtypeStruct((ROWS, row_tokens), np.int32)
    targets = jax.ShapeDtypeStruct((ROWS, TARGETS), np.int32)
    batch = Batch(rows, rows, rows, targets, targets, jax.ShapeDtypeStruct(targets.shape, bool))

    def loss(params: nnx.State, batch: Batch) -> jax.Array:
        return answer_loss(nnx.merge(graph, params), batch).loss_sum

    return jax.jit(jax.grad(loss) if gradient else loss).lower(params, batch).cost_analysis()["flops"]


@pytest.mark.parametrize("row_tokens", [TOKENS, 4 * TOKENS])
def test_training_step_is_what_xla_counts(row_tokens: int) -> None:
    """Attention is a ninth of the short row's operations and a third of the long row's."""
    formula = train_flops(CONFIG, ROWS * row_tokens, ROWS * TARGETS, row_tokens, ROWS * TARGETS)
    assert 1.0 <= _counted(CONFIG, True, row_tokens) / formula <= 1.03


def test_forward_pass_is_what_xla_counts() -> None:
    formula = forward_flops(CONFIG, ROWS * TOKENS, ROWS * TARGETS, TOKENS, ROWS * TARGETS)
    assert 1.0 <= _counted(CONFIG, False) / formula <= 1.03


def test_head_counts_at_its_positions_alone() -> None:
    more_words = dataclasses.replace(CONFIG, vocab_size=2 * CONFIG.vocab_size)
    grown = train_flops(more_words, 512, 64, 256) - train_flops(CONFIG, 512, 64, 256)
    assert grown == 3 * 2 * CONFIG.width * CONFIG.vocab_size * 64


def test_block_weights_are_the_matrices_of_the_presets() -> None:
    for name in ("bloom_nano", "bloom_560m"):
        config = PRESETS[name]
        _, shapes = nnx.split(nnx.eval_shape(lambda config=config: Bloom(config, rngs=nnx.Rngs(0)).blocks))
        kernels = [leaf.shape for path, leaf in nnx.to_flat_state(shapes) if path[-1] == "kernel"]
        assert sum(map(np.prod, kernels)) == config.num_layers * block_weights(config)
