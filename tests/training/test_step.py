"""The train step: what it learns, reports and leaves out."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from seqgpt_jax.models.loss import LossConfig
from seqgpt_jax.training.step import init_state, make_train_step
from tests.training.toy import DESCENT, SKELETON, TOY_MUON, host_params, one_device, packed_batch, start


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
