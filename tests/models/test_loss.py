"""The gathered loss against optax over all logits, its chunks against the plain form (torch: hf/test_parity.py)."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.bloom import Bloom
from seqgpt_jax.models.loss import LossConfig, LossSums, TokenScores, answer_loss, chunk_size, token_scores
from seqgpt_jax.training.partitioning import make_mesh
from tests.models.tiny import SIX_HEADS, TINY, random_model


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


def _scored(
    num_words: int, dtype: str = "float64", seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """hidden [2, 7, 12], table [V, 12], targets [2, 7] and weights of tokens, one of them 0."""
    rng = np.random.default_rng(seed)
    hidden, table = rng.standard_normal((2, 7, 12)), rng.standard_normal((num_words, 12))
    targets, weights = rng.integers(0, num_words, (2, 7)), rng.random((2, 7))
    weights[1, 3] = 0
    return hidden.astype(dtype), table.astype(dtype), targets.astype(np.int32), weights.astype(dtype)


def _weighted(scores: TokenScores, weights: jax.Array) -> jax.Array:
    return (weights * (scores.log_z_BS - scores.target_logits_BS + 0.3 * jnp.square(scores.log_z_BS))).sum()


def _optax_form(hidden: jax.Array, table: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    logits = jnp.einsum("BSD,VD->BSV", hidden, table)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return (weights * (losses + 0.3 * jnp.square(jax.nn.logsumexp(logits, -1)))).sum()


@pytest.mark.parametrize(
    ("num_words", "chunk", "parts"),
    [(60, 60, 1), (60, 20, 1), (61, 16, 1), (60, 59, 1), (60, 15, 4), (60, 4, 4), (60, 7, 4), (60, 1, 2)],
)
def test_chunks_equal_the_plain_form_in_float64(num_words: int, chunk: int, parts: int) -> None:
    """Loss with z-loss and a masked token, and its gradients of hidden states and table."""
    hidden, table, targets, weights = _scored(num_words)

    def ours(hidden: jax.Array, table: jax.Array) -> jax.Array:
        return _weighted(token_scores(hidden, table, targets, chunk, parts), weights)

    with jax.enable_x64(True):
        found = jax.jit(jax.value_and_grad(ours, (0, 1)))(hidden, table)
        expected = jax.value_and_grad(_optax_form, (0, 1))(hidden, table, targets, weights)
        scores = jax.jit(lambda: token_scores(hidden, table, targets, chunk, parts))()
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(found))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13), found, expected)
    best = np.einsum("BSD,VD->BSV", hidden, table).argmax(-1)
    np.testing.assert_array_equal(scores.correct_BS, best == targets)
    sure = token_scores(*map(jnp.float32, (hidden, table)), jnp.asarray(best, jnp.int32), chunk, parts)
    assert sure.correct_BS.all()


@pytest.mark.parametrize(("chunk", "parts"), [(60, 1), (16, 1), (7, 4)])
def test_of_equal_logits_the_first_is_the_argmax(chunk: int, parts: int) -> None:
    targets = jnp.asarray([[0, 1, 20, 59]], jnp.int32)
    scores = token_scores(jnp.ones((1, 4, 3)), jnp.ones((60, 3)), targets, chunk, parts)
    np.testing.assert_array_equal(scores.correct_BS, [[1, 0, 0, 0]])
    np.testing.assert_allclose(scores.log_z_BS, 3 + np.log(60), rtol=1e-6)


def test_large_logits_stay_finite() -> None:
    """In bfloat16 too, whose gradients are those of float32 to its own precision."""
    hidden, table, targets, weights = _scored(60, "float32")
    gradient = jax.grad(lambda *given: _weighted(token_scores(*given, targets, 16), weights), (0, 1))
    for leaf in jax.tree.leaves(gradient(1e4 * hidden, 10 * table)):
        assert np.isfinite(leaf).all()
    halves = gradient(jnp.asarray(hidden, jnp.bfloat16), table)
    assert [leaf.dtype for leaf in halves] == [jnp.bfloat16, jnp.float32]
    for found, expected in zip(halves, gradient(hidden, table), strict=True):
        np.testing.assert_allclose(np.asarray(found, "f4"), expected, atol=0.03 * np.abs(expected).max())


def test_a_model_gives_the_same_in_chunks() -> None:
    config = dataclasses.replace(TINY, vocab_size=1000)
    graph, params = nnx.split(random_model(config, spread=0.1))
    batch = _batch(1000)
    assert chunk_size(batch.targets_BS.size * 1, 1000, 1) == 1000

    def run(chunk: int):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("seqgpt_jax.models.loss.chunk_size", lambda *_: chunk)
            return jax.jit(
                jax.value_and_grad(lambda params: answer_loss(nnx.merge(graph, params), batch, 1e-3).loss_sum)
            )(params)

    plain, chunked = run(1000), run(128)
    for found, expected in zip(jax.tree.leaves(chunked), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6 * float(jnp.abs(expected).max()))


def test_chunk_sizes() -> None:
    assert chunk_size(2048, 32_000, 256) == 32_000  # 250 MiB
    assert chunk_size(2048, 250_880, 256) == 12_544  # 98 MiB, a twentieth of the words
    assert chunk_size(2048, 251_000, 256) == 16_384  # no such divisor
    assert chunk_size(8192, 250_880, 256) == 3584
    assert chunk_size(10**7, 250_880, 256) == 128  # never less
    assert chunk_size(10**7, 100, 256) == 100


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match=r"loss\.z_loss is -1\.0"):
        LossConfig(z_loss=-1)
    with pytest.raises(UserError, match=r"loss\.logits_mib is 0"):
        LossConfig(logits_mib=0)


@pytest.mark.parametrize(("chunk", "parts"), [(512, 8), (96, 8), (64, 8)], ids=["plain", "uneven", "even"])
def test_a_split_vocabulary_gathers_neither_table_nor_logits(chunk: int, parts: int) -> None:
    mesh = make_mesh(1, 1, 8)
    rng = np.random.default_rng(0)
    hidden, table = rng.standard_normal((2, 24, 16), "f4"), rng.standard_normal((4096, 16), "f4")
    targets = rng.integers(0, 4096, (2, 24)).astype(np.int32)

    def sums(hidden: jax.Array, table: jax.Array, chunk: int, parts: int) -> tuple[jax.Array, jax.Array]:
        scores = token_scores(hidden, table, targets, chunk, parts)
        return _weighted(scores, jnp.ones(targets.shape)), scores.correct_BS

    gradient = jax.value_and_grad(sums, (0, 1), has_aux=True)
    whole, split = (jax.NamedSharding(mesh, spec) for spec in (jax.P(), jax.P("tensor")))
    run = jax.jit(
        functools.partial(gradient, chunk=chunk, parts=parts),
        in_shardings=(whole, split),
        out_shardings=((whole, whole), (whole, split)),
    )
    found, expected = run(hidden, table), jax.jit(functools.partial(gradient, chunk=4096, parts=1))(hidden, table)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)
    moved = _collectives(run.lower(hidden, table).compile().as_text())
    assert moved  # the sums over the vocabulary
    assert max(size for _, size in moved) <= hidden.size, moved


def _collectives(hlo: str) -> list[tuple[str, int]]:
    """Kind and elements of each array that a collective makes."""
    found = []
    for line in hlo.splitlines():
        made = re.match(r".*? = (.*?) (all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute)", line)
        if made:
            sizes = re.findall(r"[a-z]+\d*\[([\d,]*)\]", made[1])
            found += [(made[2], math.prod(int(size) for size in dims.split(",") if size)) for dims in sizes]
    return found


@pytest.mark.parametrize("supervised", [256, 1024])
def test_memory_at_bloom_560m_is_an_eighth_of_the_plain_form(supervised: int) -> None:
    """Compiled only: 8 rows, width 1,024, 250,880 words; gradients of hidden states and table."""
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((8, supervised, 1024), "f4"), ((250_880, 1024), "f4"), ((8, supervised), "i4"))
    ]
    chunk = chunk_size(8 * supervised, 250_880, LossConfig().logits_mib)

    def temporaries(loss: Callable[..., jax.Array]) -> int:
        return jax.jit(jax.grad(loss, (0, 1))).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    ones = jnp.ones((8, supervised))
    plain = temporaries(lambda hidden, table, targets: _optax_form(hidden, table, targets, ones))
    chunked = temporaries(lambda *given: _weighted(token_scores(*given, chunk), ones))
    print(f"{plain / 2**20:.0f} MiB plain, {chunked / 2**20:.0f} MiB in chunks of {chunk}")
    assert chunked <= plain / 8
    assert chunked < 4 * 250_880 * 1024  # no second table
