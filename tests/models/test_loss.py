"""The gathered loss against optax over all logits, and its gradient against torch."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from seqgpt_jax.hf import model_to_hf
from seqgpt_jax.models.bloom import Bloom
from seqgpt_jax.models.loss import LossSums, answer_loss
from tests.models.tiny import SIX_HEADS, TINY, random_model, torch_twin, whole_rows


class _Batch(NamedTuple):
    tokens_BT: np.ndarray
    positions_BT: np.ndarray
    segment_ids_BT: np.ndarray
    target_positions_BS: np.ndarray
    targets_BS: np.ndarray
    target_mask_BS: np.ndarray


def _batch(vocab_size: int, seed: int = 0) -> _Batch:
    """Two rows of two documents; the last 4 tokens of each are supervised, and one place in S is padding."""
    rng = np.random.default_rng(seed)
    tokens_BT = rng.integers(0, vocab_size, (2, 20)).astype(np.int32)
    positions_BT = np.tile(np.r_[0:12, 0:8].astype(np.int32), (2, 1))
    segment_ids_BT = np.tile(np.r_[[1] * 12, [2] * 8].astype(np.int32), (2, 1))
    predicting = np.r_[7:11, 15:19, 0].astype(np.int32)
    target_positions_BS = np.tile(predicting, (2, 1))
    mask_BS = np.tile(np.r_[[True] * 8, [False]], (2, 1))
    targets_BS = np.where(mask_BS, tokens_BT[:, predicting + 1], 0).astype(np.int32)
    return _Batch(tokens_BT, positions_BT, segment_ids_BT, target_positions_BS, targets_BS, mask_BS)


def _plain_loss(model: Bloom, batch: _Batch) -> jax.Array:
    """Logits everywhere, shifted by one, optax, then a mask over T."""
    logits_BTV = model.head(model(batch.tokens_BT, batch.positions_BT, batch.segment_ids_BT)[0])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits_BTV[:, :-1], jnp.asarray(batch.tokens_BT[:, 1:]))
    supervised = np.zeros((2, 19), bool)
    supervised[:, [7, 8, 9, 10, 15, 16, 17, 18]] = True
    return (losses * supervised).sum()


@pytest.mark.parametrize(("config", "layer_loop"), [(TINY, "scan"), (SIX_HEADS, "unroll")])
def test_loss_and_gradient_equal_the_plain_form(config, layer_loop: str) -> None:
    graph, params = nnx.split(random_model(dataclasses.replace(config, layer_loop=layer_loop), spread=0.1))
    batch = _batch(config.vocab_size)
    gathered = jax.jit(jax.value_and_grad(lambda params: answer_loss(nnx.merge(graph, params), batch).loss_sum))
    plain = jax.jit(jax.value_and_grad(lambda params: _plain_loss(nnx.merge(graph, params), batch)))
    (loss, gradient), (expected_loss, expected) = gathered(params), plain(params)
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    for left, right in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5 * float(jnp.abs(right).max()) + 1e-7)


def test_gradient_equals_torch() -> None:
    model = random_model(SIX_HEADS, spread=0.1)
    twin = torch_twin(model)
    tokens_BT = np.random.default_rng(1).integers(0, SIX_HEADS.vocab_size, (2, 15))
    labels = torch.tensor(tokens_BT)
    labels[:, :9] = -100
    twin(torch.tensor(tokens_BT), labels=labels).loss.backward()
    predicting = np.tile(np.arange(8, 14, dtype=np.int32), (2, 1))
    batch = _Batch(
        *whole_rows(tokens_BT), predicting, tokens_BT[:, 9:].astype(np.int32), np.ones((2, 6), bool)
    )  # fmt: skip

    def mean_loss(model: Bloom) -> jax.Array:
        sums = answer_loss(model, batch)
        return sums.loss_sum / sums.num_targets

    as_model = Bloom(SIX_HEADS, rngs=nnx.Rngs(0))  # gradients go through the same names as weights do
    nnx.update(as_model, nnx.jit(nnx.grad(mean_loss))(model))
    expected = {name: parameter.grad.numpy() for name, parameter in twin.named_parameters()}
    for name, gradient in model_to_hf(as_model):
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(gradient, expected[name], atol=1e-4 * scale, rtol=0, err_msg=name)


_sums = nnx.jit(answer_loss, static_argnames="z_loss")


@nnx.jit
def _logits(model: Bloom, batch: _Batch) -> jax.Array:
    return model.head(model(batch.tokens_BT, batch.positions_BT, batch.segment_ids_BT)[0])


def test_sums_count_masked_tokens_alone() -> None:
    model = random_model(TINY)
    batch = _batch(TINY.vocab_size)
    sums = _sums(model, batch)
    assert float(sums.num_targets) == 16
    logits_BTV = np.asarray(_logits(model, batch))
    best_BS = np.take_along_axis(logits_BTV.argmax(-1), batch.target_positions_BS, 1)
    sure = batch._replace(targets_BS=best_BS.astype(np.int32))
    assert float(_sums(model, sure).num_correct) == 16
    halves = [_Batch(*(field[row : row + 1] for field in batch)) for row in range(2)]
    added = [sum(float(part) for part in parts) for parts in zip(*(_sums(model, h) for h in halves), strict=True)]
    np.testing.assert_allclose(added, [float(value) for value in sums], rtol=1e-6)
    nothing = batch._replace(target_mask_BS=np.zeros_like(batch.target_mask_BS))
    assert _sums(model, nothing) == LossSums(0, 0, 0)


def test_z_loss_adds_the_square_of_log_z() -> None:
    model = random_model(TINY)
    batch = _batch(TINY.vocab_size)
    logits_BTV = np.asarray(_logits(model, batch), np.float64)
    log_z = np.log(np.exp(logits_BTV).sum(-1))[:, [7, 8, 9, 10, 15, 16, 17, 18]]
    added = _sums(model, batch, z_loss=0.01).loss_sum - _sums(model, batch).loss_sum
    np.testing.assert_allclose(added, 0.01 * np.square(log_z).sum(), rtol=1e-4)
