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
from seqgpt_jax.models.presets import get_preset
from seqgpt_jax.training.optimizers import OptimizerConfig, make_optimizer, matrix_dimensions, schedule_fraction
from seqgpt_jax.training.partitioning import LARGE_PARAMETER, ModelSkeleton, make_mesh, make_skeleton
from seqgpt_jax.training.step import abstract_state, init_state, state_shardings
from tests.training.toy import CONFIG, SKELETON, TOY_ADAMW, TOY_MUON, make_model, skeleton_of


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
        ({"ema_decay": 1.0}, "optimizer.ema_decay is 1.0 .it must be below 1"),
    ):
        with pytest.raises(UserError, match=message):
            OptimizerConfig(**settings)  # type: ignore[arg-type]


def random_params(seed: int, skeleton: ModelSkeleton = SKELETON) -> dict:
    leaves, tree = jax.tree.flatten(skeleton.shapes)
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


def test_lion_by_hand() -> None:
    """The sign of a mean of gradients, and decay of the matrices, times the rate (arXiv 2302.06675, algorithm 2)."""
    config = OptimizerConfig(
        name="lion", learning_rate=0.1, weight_decay=0.5, beta2=0.99, clip_norm=0.0, warmup_steps=2, decay="constant"
    )
    optimizer, params = make_optimizer(config, 10, SKELETON).transform, random_params(0)
    grads, state, update = [random_params(1), random_params(2)], optimizer.init(params), jax.jit(optimizer.update)
    _, state = update(grads[0], state, params)
    updates, _ = update(grads[1], state, params)

    def wanted(first: jax.Array, second: jax.Array, param: jax.Array, decay: float) -> np.ndarray:
        return -0.1 * (np.sign(0.9 * (0.01 * first) + 0.1 * second) + decay * param)

    for name, decay in (("kernel", 0.5), ("bias", 0.0)):
        got, param, *both = (tree["blocks"]["up"][name] for tree in (updates, params, *grads))
        np.testing.assert_allclose(got, wanted(*both, param, decay), rtol=1e-5)


WIDE = skeleton_of(dataclasses.replace(CONFIG, width=128, num_heads=2, vocab_size=256))  # Adafactor factors from 128 on
TOY_ADAFACTOR = OptimizerConfig(name="adafactor", learning_rate=0.01, weight_decay=0.5, clip_norm=0.0, warmup_steps=0)


def test_adafactor_by_hand() -> None:
    """Row and column means in place of the squares, of every matrix on its own (arXiv 1804.04235, algorithm 4)."""
    config = dataclasses.replace(TOY_ADAFACTOR, decay="constant")
    optimizer = make_optimizer(config, 10, WIDE).transform
    params, grads = random_params(0, WIDE), random_params(1, WIDE)
    updates, state = jax.jit(optimizer.update)(grads, optimizer.init(params), params)

    def wanted(grad: np.ndarray, param: np.ndarray, matrices: tuple[int, ...], decay: float) -> np.ndarray:
        squares = grad.reshape(matrices).astype(np.float64) ** 2
        rows, columns = squares.mean(-1, keepdims=True), squares.mean(-2, keepdims=True)
        step = grad.reshape(matrices) / np.sqrt(rows * columns / rows.mean(-2, keepdims=True))
        step /= max(1.0, np.sqrt((step**2).mean()))
        return (-0.01 * (step * np.sqrt((param**2).mean())).reshape(param.shape) - 0.01 * decay * param).astype(
            np.float32
        )

    kernels = {"query": (2, 128, 128), "out": (2, 128, 128), "up": (2, 128, 512), "down": (2, 512, 128)}
    for name, matrices in kernels.items():
        got, param, grad = (np.asarray(tree["blocks"][name]["kernel"]) for tree in (updates, params, grads))
        np.testing.assert_allclose(got, wanted(grad, param, matrices, 0.5), rtol=1e-3, atol=1e-6)
    got, param, grad = (np.asarray(tree["blocks"]["key_value"]["kernel"]) for tree in (updates, params, grads))
    grad, param = grad.transpose(0, 2, 1, 3, 4), param.transpose(0, 2, 1, 3, 4)  # keys and values: two matrices
    want = wanted(grad, param, (2, 2, 128, 128), 0.5)
    np.testing.assert_allclose(got.transpose(0, 2, 1, 3, 4), want, rtol=1e-3, atol=1e-6)
    got, param, grad = (np.asarray(tree["embedding"]) for tree in (updates, params, grads))
    np.testing.assert_allclose(got, wanted(grad, param, (256, 128), 0.0), rtol=1e-3, atol=1e-6)
    bias = updates["blocks"]["up"]["bias"]  # one number a place: a first step is the sign of the gradient
    scale = 0.01 * jnp.sqrt((params["blocks"]["up"]["bias"] ** 2).mean())
    np.testing.assert_allclose(bias, -scale * jnp.sign(grads["blocks"]["up"]["bias"]), rtol=1e-3)
    assert optax.tree_utils.tree_get(state, "v_row")["blocks"]["key_value"]["kernel"].shape == (2, 2, 128)


def test_adafactor_keeps_little_and_splits_the_rest() -> None:
    mesh, skeleton = make_mesh(1, 4, 2), make_skeleton(lambda: make_model(get_preset("bloom_7b1")))
    optimizer = make_optimizer(TOY_ADAFACTOR, 10, skeleton)
    state = abstract_state(skeleton, optimizer, state_shardings(skeleton, optimizer, mesh))
    moments = jax.tree.leaves(state.opt_state)
    assert sum(leaf.size for leaf in moments) < 0.001 * skeleton.num_parameters()
    whole = [leaf for leaf in moments if leaf.sharding.is_fully_replicated]
    assert max(leaf.size for leaf in whole) / skeleton.num_layers < LARGE_PARAMETER


@pytest.mark.parametrize(
    "name", ["lion", "adafactor", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "muon"))]
)
def test_updates_are_the_same_on_a_mesh(name: str) -> None:
    config = OptimizerConfig(name=name, learning_rate=0.01, weight_decay=0.1, warmup_steps=0)  # type: ignore[arg-type]
    mesh, optimizer = make_mesh(2, 2, 2), make_optimizer(config, 10, WIDE)
    params, grads = random_params(0, WIDE), random_params(1, WIDE)
    want, want_state = jax.jit(optimizer.transform.update)(grads, optimizer.transform.init(params), params)
    shardings = state_shardings(WIDE, optimizer, mesh)
    state = init_state(WIDE, params, optimizer, shardings)
    update = jax.jit(optimizer.transform.update, out_shardings=(shardings.params, shardings.opt_state))
    got, got_state = update(jax.device_put(grads, shardings.params), state.opt_state, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-6), *jax.device_get((got, want)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-8), *jax.device_get((got_state, want_state))
    )
