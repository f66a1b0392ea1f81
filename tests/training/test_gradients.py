"""One gradient, however a step is cut, packed or placed: of every parameter, for both objectives, in float32.

Tolerances: packing, microbatches and meshes change the order of sums alone, and leave each entry of a gradient within
1e-4 of itself or 2e-6. A mistake moves entries by 1e-4 and more (tried: means of microbatches averaged, 1.2e-4;
documents of a row that see one another, 5e-4; each more than the entry itself).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from seqgpt_jax.data.loader import Batch
from seqgpt_jax.data.texts import Objective
from seqgpt_jax.models import flash
from seqgpt_jax.models.attention import BACKENDS
from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.models.loss import LossConfig, chunk_size
from seqgpt_jax.training.partitioning import make_mesh
from seqgpt_jax.training.step import StepMetrics, init_state, make_train_step, state_shardings
from tests.training.toy import (
    CONFIG,
    DESCENT,
    ToySource,
    host_params,
    one_device,
    packed_batch,
    skeleton_of,
    start,
    unpacked_batch,
)

OBJECTIVES: tuple[Objective, ...] = ("answers", "language_modelling")
PLACES = 40  # for targets, as many as a row has tokens: one compiled step then does for both objectives


def gradient(
    batch: Batch, mesh: Mesh | None = None, num_microbatches: int = 1, config: DecoderConfig = CONFIG
) -> tuple[Any, StepMetrics]:
    state, step, _ = start(DESCENT, mesh, num_microbatches, config)
    return moved(step(state, batch), config)


def moved(stepped: Any, config: DecoderConfig) -> tuple[Any, StepMetrics]:
    state, metrics = jax.device_get(stepped)
    return jax.tree.map(lambda a, b: a - b, host_params(config), state.params), metrics


@pytest.fixture(scope="module", params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> Objective:
    return request.param


@pytest.fixture(scope="module")
def reference(objective: Objective) -> tuple[Any, StepMetrics]:
    return gradient(packed_batch(PLACES, objective))


def assert_same(got: tuple[Any, StepMetrics], want: tuple[Any, StepMetrics]) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), got[0], want[0])
    for name in ("loss", "accuracy", "grad_norm", "num_tokens", "num_targets"):
        np.testing.assert_allclose(getattr(got[1], name), getattr(want[1], name), rtol=1e-5)


def plain_loss(params: Any, ids_BT: jax.Array, is_target_BT: jax.Array, config: DecoderConfig) -> jax.Array:
    """Mean cross entropy as one would write it first: one document a row, logits everywhere, labels are ids[1:]."""
    model = skeleton_of(config).merge(params)
    positions_BT = jnp.tile(jnp.arange(ids_BT.shape[1], dtype=jnp.int32), (ids_BT.shape[0], 1))
    hidden_BTD, _ = model(ids_BT, positions_BT, jnp.ones_like(ids_BT))  # padding comes last and is seen by none
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(model.head(hidden_BTD[:, :-1]), ids_BT[:, 1:])
    return (losses_BT * is_target_BT[:, 1:]).sum() / is_target_BT[:, 1:].sum()


def plain_gradient(objective: Objective, config: DecoderConfig = CONFIG) -> tuple[jax.Array, Any]:
    ids_BT, is_target_BT = np.zeros((16, 24), np.int32), np.zeros((16, 24), np.float32)
    for b, example in enumerate(ToySource("toy", objective=objective).examples[:16]):
        ids_BT[b, : len(example.ids)] = example.ids
        is_target_BT[b, example.num_prompt : len(example.ids)] = 1
    both = jax.jit(jax.value_and_grad(plain_loss), static_argnums=3)
    return jax.device_get(both(host_params(config), ids_BT, is_target_BT, config))


def assert_plain(got: tuple[Any, StepMetrics], want: tuple[jax.Array, Any]) -> None:
    np.testing.assert_allclose(got[1].loss, want[0], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6), got[0], want[1])


def test_it_is_that_of_the_plain_loss(objective: Objective, reference: tuple[Any, StepMetrics]) -> None:
    assert_plain(reference, plain_gradient(objective))
    documents = ToySource("toy", objective=objective).lengths[:16]
    assert (reference[1].num_tokens, reference[1].num_targets) == tuple(documents.sum(0))
    if objective == "answers":  # fewer places for targets, as recipes have them
        assert_same(gradient(packed_batch(12)), reference)


@pytest.mark.parametrize("num_microbatches", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_microbatches_agree(num_microbatches: int, objective: Objective, reference: tuple[Any, StepMetrics]) -> None:
    """8 rows at once, in 2 parts of 4, and in 8 of 1."""
    batch = packed_batch(PLACES, objective)
    assert len({int(row.sum()) for row in batch.target_mask_BS}) > 1  # else a mean of means would be right
    assert_same(gradient(batch, num_microbatches=num_microbatches), reference)


@pytest.mark.parametrize(
    ("backend", "layer_loop"),
    [
        ("blocks", "unroll"),  # the one of CPUs
        *(pytest.param(name, "unroll", marks=pytest.mark.slow) for name in sorted(set(BACKENDS) - {"blocks"})),
        *(pytest.param(name, "scan", marks=pytest.mark.slow) for name in ("splash", "flash")),
    ],
)
def test_packed_and_unpacked_rows_agree(
    backend: str,
    layer_loop: Any,
    objective: Objective,
    reference: tuple[Any, StepMetrics],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With every attention that runs on a CPU; kernels interpreted."""
    monkeypatch.setattr(flash, "INTERPRET", True)
    config = dataclasses.replace(CONFIG, attention=backend, layer_loop=layer_loop)
    for batch in (packed_batch(PLACES, objective), unpacked_batch(PLACES, objective)):
        assert_same(gradient(batch, config=config), reference)


@pytest.mark.parametrize(
    "sizes", [(2, 2, 2), *(pytest.param(one, marks=pytest.mark.slow) for one in [(8, 1, 1), (1, 2, 4)])]
)
def test_meshes_agree_with_one_device(
    sizes: tuple[int, int, int], objective: Objective, reference: tuple[Any, StepMetrics]
) -> None:
    batch = packed_batch(PLACES, objective)
    assert_same(gradient(batch, make_mesh(*sizes), num_microbatches=2 if sizes[0] == 2 else 1), reference)


@pytest.mark.parametrize("sizes", [pytest.param(None, marks=pytest.mark.slow), (2, 2, 2)], ids=["one device", "split"])
def test_language_modelling_in_chunks_is_the_plain_loss(sizes: tuple[int, int, int] | None) -> None:
    """Every token of every row supervised, and more words than loss.logits_mib allows at once."""
    config, loss = dataclasses.replace(CONFIG, vocab_size=8192), LossConfig(logits_mib=1)
    mesh, skeleton = make_mesh(*sizes) if sizes else one_device(), skeleton_of(config)
    parts = mesh.shape["tensor"]
    assert chunk_size(8 * PLACES * parts, 8192 // parts, loss.logits_mib * mesh.size) < 8192 // parts
    shardings = state_shardings(skeleton, DESCENT, mesh)
    step = make_train_step(skeleton, DESCENT, mesh, shardings, loss=loss)
    state = init_state(skeleton, host_params(config), DESCENT, shardings)
    got = moved(step(state, packed_batch(PLACES, "language_modelling")), config)
    assert_plain(got, plain_gradient("language_modelling", config))
