"""The train step: what it learns, reports and leaves out."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from seqgpt_jax.models.loss import LossConfig
from seqgpt_jax.recipe import Stage
from seqgpt_jax.training.optimizers import OptimizerConfig, make_optimizer
from seqgpt_jax.training.partitioning import ModelSkeleton, make_mesh, path_name
from seqgpt_jax.training.start import stage_skeleton
from seqgpt_jax.training.step import TrainState, init_state, make_train_step, state_shardings
from tests.training.toy import (
    CONFIG,
    DESCENT,
    SKELETON,
    TOY_MUON,
    host_params,
    one_device,
    packed_batch,
    skeleton_of,
    start,
)


def test_loss_settings_reach_the_step() -> None:
    state, step, shardings = start(DESCENT)
    _, without = step(state, packed_batch())
    step = make_train_step(SKELETON, DESCENT, one_device(), shardings, loss=LossConfig(z_loss=0.5))
    _, metrics = step(init_state(SKELETON, host_params(), DESCENT, shardings), packed_batch())
    # log Z of 64 words is log 64 where all are as likely, and a little more here.
    np.testing.assert_allclose(metrics.loss - without.loss, 0.5 * np.log(64) ** 2, rtol=0.3)


def test_it_learns() -> None:
    state, step, _ = start(TOY_MUON)
    losses = []
    for _ in range(15):
        state, metrics = step(state, packed_batch())
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.6 * losses[0]
    assert int(state.step) == 15
    assert float(metrics.learning_rate) == pytest.approx(0.02 * (0.05 + 0.95 * (1 - 13 / 18)))
    assert int(metrics.num_tokens) == int((packed_batch().segment_ids_BT > 0).sum())


def test_a_step_that_is_no_number_is_left_out() -> None:
    state, step, shardings = start(TOY_MUON)
    params = jax.device_get(state.params)
    params["final_norm"]["scale"] = np.full_like(params["final_norm"]["scale"], np.nan)
    before = jax.device_get(dataclasses.replace(state, params=params))
    state, metrics = step(jax.device_put(before, shardings), packed_batch())
    assert not bool(metrics.finite)
    after = jax.device_get(state)
    assert int(after.step) == 1
    jax.tree.map(np.testing.assert_array_equal, (after.params, after.opt_state), (before.params, before.opt_state))


@pytest.fixture(scope="module")
def half_frozen() -> tuple[ModelSkeleton, list[TrainState]]:
    """States before and after steps that leave parameters and a layer as they are, and keep an average."""
    stage = Stage("a", "synthetic", 9, frozen=("embedding", "blocks/up/*"), freeze_half=True)
    skeleton = stage_skeleton(SKELETON, stage, seed=0)
    config = OptimizerConfig(name="adamw", learning_rate=0.01, weight_decay=0.5, warmup_steps=0, ema_decay=0.75)
    optimizer, mesh = make_optimizer(config, 9, skeleton), make_mesh(2, 2, 2)
    shardings = state_shardings(skeleton, optimizer, mesh)
    step = make_train_step(skeleton, optimizer, mesh, shardings)
    state = init_state(skeleton, host_params(), optimizer, shardings)
    states = [jax.device_get(state)]
    for _ in range(2):
        state, _ = step(state, packed_batch())
        states.append(jax.device_get(state))
    params = jax.device_get(state.params)
    params["final_norm"]["scale"] = np.full_like(params["final_norm"]["scale"], np.nan)
    state, metrics = step(jax.device_put(dataclasses.replace(states[-1], params=params), shardings), packed_batch())
    assert not bool(metrics.finite)
    return skeleton, [*states, jax.device_get(state)]


def test_frozen_parameters_and_layers_stay_bit_by_bit(half_frozen: tuple[ModelSkeleton, list[TrainState]]) -> None:
    skeleton, (before, _, after, _) = half_frozen
    (layer,) = skeleton.frozen_layers
    assert layer in (0, 1)

    def check(path: Any, old: np.ndarray, new: np.ndarray) -> None:
        name = path_name(path)
        if name == "embedding" or name.startswith("blocks/up/"):
            np.testing.assert_array_equal(old, new)
        elif name.startswith("blocks/"):
            np.testing.assert_array_equal(old[layer], new[layer])
            if "key_value/bias" not in name:  # the part of the keys has no gradient: softmax drops it
                assert (old[1 - layer] != new[1 - layer]).mean() > 0.9, name
        else:
            assert (old != new).mean() > 0.9, name

    for tree in (after.params, after.averaged):
        jax.tree_util.tree_map_with_path(check, before.params, tree)
    moments = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(after.opt_state)]
    assert any(name.endswith("blocks/down/kernel") for name in moments)
    assert not [name for name in moments if name.endswith("/embedding") or "/up/" in name]


def test_the_half_that_is_frozen_is_drawn_by_seed_and_stage() -> None:
    skeleton = skeleton_of(dataclasses.replace(CONFIG, num_layers=9))
    drawn = {
        (name, seed): stage_skeleton(skeleton, Stage(name, "synthetic", 9, freeze_half=True), seed).frozen_layers
        for name in "ab"
        for seed in (0, 1)
    }
    assert all(len(set(layers)) == 4 and set(layers) < set(range(9)) for layers in drawn.values())
    assert len(set(drawn.values())) == 4
    assert drawn["a", 0] == (0, 2, 6, 7) and drawn["b", 1] == (3, 5, 6, 7)  # a run that goes on draws the same


def test_the_average_by_hand(half_frozen: tuple[ModelSkeleton, list[TrainState]]) -> None:
    _, (first, second, third, skipped) = half_frozen
    jax.tree.map(np.testing.assert_array_equal, first.averaged, first.params)
    for path, average in jax.tree_util.tree_leaves_with_path(third.averaged):
        one, two, three = (
            dict(jax.tree_util.tree_leaves_with_path(state.params))[path] for state in (first, second, third)
        )
        np.testing.assert_allclose(average, 0.75 * (0.75 * one + 0.25 * two) + 0.25 * three, rtol=1e-5, atol=1e-8)
    jax.tree.map(np.testing.assert_array_equal, skipped.averaged, third.averaged)
    assert third.result is third.averaged and dataclasses.replace(third, averaged=None).result is third.params
