"""Optimisers: the course of learning rates by hand, and Muon against one matrix at a time."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib import muon

from seqgpt_jax.errors import UserError
from seqgpt_jax.training.optimizers import OptimizerConfig, make_optimizer, matrix_dimensions, schedule_fraction
from tests.training.toy import SKELETON, TOY_ADAMW, TOY_MUON


def course(num_steps: int, **settings: object) -> list[float]:
    fraction = schedule_fraction(OptimizerConfig(**settings), num_steps)  # type: ignore[arg-type]
    return [round(float(fraction(step)), 6) for step in range(num_steps)]


def test_courses_by_hand() -> None:
    assert course(6, warmup_steps=2, decay="linear", final_fraction=0.0) == [0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert course(5, warmup_steps=0, decay="linear", final_fraction=0.5) == [0.9, 0.8, 0.7, 0.6, 0.5]
    assert course(4, warmup_steps=2, decay="constant") == [0.5, 1.0, 1.0, 1.0]
    assert course(4, warmup_steps=0, decay="cosine", final_fraction=0.0) == [0.853553, 0.5, 0.146447, 0.0]
    assert course(3, warmup_steps=100, decay="linear") == [0.333333, 0.666667, 1.0]


def test_settings_are_checked() -> None:
    for settings, message in (
        ({"name": "sgd"}, "optimizer.name is 'sgd'"),
        ({"learning_rate": "fast"}, "optimizer.learning_rate is 'fast' .it must be a number"),
        ({"learning_rate": 0.0}, "must be above 0"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1"),
    ):
        with pytest.raises(UserError, match=message):
            OptimizerConfig(**settings)  # type: ignore[arg-type]


def random_params(seed: int) -> dict:
    leaves, tree = jax.tree.flatten(SKELETON.shapes)
    rng = np.random.default_rng(seed)
    return tree.unflatten([jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves])


def test_matrices_are_those_of_the_blocks() -> None:
    numbers = matrix_dimensions(SKELETON)
    flat = jax.tree_util.tree_leaves_with_path(
        numbers, is_leaf=lambda leaf: leaf is None or hasattr(leaf, "output_axis")
    )
    matrices = {jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in flat if leaf is not None}
    assert {name.rsplit("/", 1)[-1] for name in matrices} == {"kernel"}
    assert {name.split("/")[0] for name in matrices} == {"blocks"}
    kernels = [path for path, _ in flat if path[-1].key == "kernel"]
    assert len(kernels) == len(matrices)


def test_muon_treats_every_matrix_of_a_stack_alone() -> None:
    """Our update of stacked, many-axed kernels against optax's on each plain [in, out] matrix."""
    config = dataclasses.replace(TOY_MUON, clip_norm=0.0, warmup_steps=0, decay="constant")
    optimizer = make_optimizer(config, 10, SKELETON).transform
    params, grads = random_params(0), random_params(1)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    plain = muon(config.learning_rate, beta=config.momentum, eps=config.epsilon, weight_decay=config.weight_decay)
    plain_update = jax.jit(plain.update)
    width = SKELETON.shapes["embedding"].shape[1]
    for name, block in params["blocks"].items():
        if "kernel" not in block:
            continue
        axes = SKELETON.axes["blocks"][name]["kernel"]
        assert axes[0] == "layers"
        for layer in range(block["kernel"].shape[0]):
            kernel, grad, update = (tree["blocks"][name]["kernel"][layer] for tree in (params, grads, updates))
            stacks = 2 if "kv" in axes else 1
            for part in range(stacks):
                if stacks == 2:  # [embed, kv, heads, head_dim] holds two matrices side by side
                    matrix, grad_matrix, got = (array[:, part] for array in (kernel, grad, update))
                else:
                    matrix, grad_matrix, got = kernel, grad, update
                shape = (-1, width) if axes[-1] == "embed" else (width, -1)
                matrix, grad_matrix, got = (array.reshape(shape) for array in (matrix, grad_matrix, got))
                want, _ = plain_update({"m": grad_matrix}, plain.init({"m": matrix}), {"m": matrix})
                np.testing.assert_allclose(got, want["m"], rtol=2e-4, atol=2e-6)


def test_rest_of_muon_is_adamw_at_its_own_rate() -> None:
    config = dataclasses.replace(TOY_MUON, clip_norm=0.0, warmup_steps=0, decay="constant")
    optimizer = make_optimizer(config, 10, SKELETON).transform
    params, grads = random_params(0), random_params(1)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    adam = optax.adamw(config.adam_learning_rate, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.0, nesterov=True)
    want, _ = adam.update(grads["embedding"], adam.init(params["embedding"]), params["embedding"])
    np.testing.assert_allclose(updates["embedding"], want, rtol=1e-5)


def test_adamw_decays_matrices_alone_and_clips_by_global_norm() -> None:
    config = dataclasses.replace(TOY_ADAMW, weight_decay=0.5, clip_norm=1.0, warmup_steps=0, decay="constant")
    params = random_params(0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = make_optimizer(config, 10, SKELETON).transform
    update = jax.jit(optimizer.update)
    updates, _ = update(zeros, optimizer.init(params), params)
    kernel = params["blocks"]["up"]["kernel"]
    np.testing.assert_allclose(updates["blocks"]["up"]["kernel"], -config.learning_rate * 0.5 * kernel, rtol=1e-6)
    for unmoved in (updates["embedding"], updates["blocks"]["up"]["bias"], updates["final_norm"]["scale"]):
        assert not jnp.any(unmoved)
    # Adam's first moment shows what came through the clipping: (1 - beta1) * gradient / norm.
    grads = random_params(1)
    _, opt_state = update(grads, optimizer.init(params), params)
    moment = optax.tree_utils.tree_get(opt_state, "mu")["embedding"]
    np.testing.assert_allclose(moment, 0.1 * grads["embedding"] / optax.global_norm(grads), rtol=1e-5)
