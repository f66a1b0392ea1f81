"""LoRA: nothing at the start, trained alone, and merged without a trace."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.architectures import make_model
from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.models.lora import LoraConfig, is_lora, merged
from tests.models.tiny import TINY, random_model, whole_rows
from tests.training.toy import CONFIG, LLAMA, TOY_ADAMW, host_params, packed_batch, start

ALL = LoraConfig(rank=4, alpha=8.0, targets=("query", "key_value", "out", "up", "gate_up", "down"))


def _with_lora(config: DecoderConfig) -> DecoderConfig:
    return dataclasses.replace(config, lora=ALL)


@pytest.mark.parametrize("config", [CONFIG, LLAMA], ids=["bloom", "llama"])
def test_only_the_additions_are_trained(config: DecoderConfig) -> None:
    config = _with_lora(config)
    state, step, _ = start(TOY_ADAMW, config=config)
    num_moments = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state))
    first = last = None
    for _ in range(8):
        state, metrics = step(state, packed_batch())
        first, last = first or float(metrics.loss), float(metrics.loss)
    assert last < first
    before, after = host_params(config), jax.device_get(state.params)
    num_trained = 0
    for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True):
        trained = is_lora((path[-1].key,))
        assert np.array_equal(old, new) != trained, path
        num_trained += old.size if trained else 0
    assert 2 * num_trained <= num_moments < 2 * num_trained + 10  # two moments each, and step counts


@pytest.mark.parametrize("config", [TINY, LLAMA], ids=["bloom", "llama"])
def test_merging_changes_no_logit(config: DecoderConfig) -> None:
    model = random_model(_with_lora(config), spread=0.1)
    graph, state = nnx.split(nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0))))
    values = merged(model)
    plain = [(path, variable.replace(values[path])) for path, variable in nnx.to_flat_state(state)]
    assert len(plain) == len(values)
    rows = whole_rows(np.random.default_rng(0).integers(0, config.vocab_size, (2, 9)))
    with_lora = model.head(model(*rows)[0])
    without = (alone := nnx.merge(graph, nnx.from_flat_state(plain))).head(alone(*rows)[0])
    np.testing.assert_allclose(with_lora, without, atol=1e-4)
    base = random_model(config, spread=0.1)
    assert np.abs(with_lora - base.head(base(*rows)[0])).max() > 1e-2


def test_a_fresh_addition_changes_nothing() -> None:
    model, base = (make_model(config, rngs=nnx.Rngs(0)) for config in (_with_lora(TINY), TINY))
    nnx.update(model, nnx.state(base))
    rows = whole_rows(np.arange(12).reshape(2, 6))
    np.testing.assert_array_equal(model(*rows)[0], base(*rows)[0])


def test_user_errors() -> None:
    with pytest.raises(UserError, match=r"lora\.rank is 0 \(it must be at least 1\)"):
        LoraConfig(rank=0)
    with pytest.raises(UserError, match=r"lora\.targets: 'q_proj' \(choose from query, key_value"):
        LoraConfig(rank=1, targets=("q_proj",))
    with pytest.raises(UserError, match=r"lora\.alpha is 0"):
        LoraConfig(rank=1, alpha=0)
    config = dataclasses.replace(TINY, lora=LoraConfig(rank=33))
    with pytest.raises(UserError, match=r"lora\.rank is 33, but 'query' is a matrix of 32 x 32"):
        make_model(config, rngs=nnx.Rngs(0))
