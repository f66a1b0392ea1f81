"""A tiny task in memory for the tests of this package: fake caches, a model, and all that a step needs."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from seqgpt_jax.data.loader import Batch, make_batch
from seqgpt_jax.data.plan import TaskSize
from seqgpt_jax.data.texts import Objective
from seqgpt_jax.models import architectures
from seqgpt_jax.models.bloom import BloomConfig
from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.models.llama import LlamaConfig
from seqgpt_jax.training.optimizers import Optimizer, OptimizerConfig, make_optimizer
from seqgpt_jax.training.partitioning import ModelSkeleton, Params, make_mesh, make_skeleton
from seqgpt_jax.training.step import TrainState, init_params, init_state, make_train_step, state_shardings

CONFIG = BloomConfig(vocab_size=64, num_layers=2, width=32, num_heads=4, layer_loop="scan")
LLAMA = LlamaConfig(
    vocab_size=64, num_layers=2, width=32, num_heads=8, kv_heads=4, head_size=8, mlp_width=64, layer_loop="scan",
    qk_norm=True,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ToyExample:
    ids: np.ndarray
    num_prompt: int


class ToySource:
    """`size` examples of 6 to 20 tokens whose answer repeats the prompt's first tokens: something to learn.

    Language modelling: the same tokens, of which all but the first are supervised.
    """

    def __init__(self, name: str, size: int = 50, seed: int = 0, objective: Objective = "answers") -> None:
        rng = np.random.default_rng(seed)
        self.name, self.stats = name, {}
        self.examples = []
        for _ in range(size):
            prompt = rng.integers(5, CONFIG.vocab_size, int(rng.integers(4, 14)))
            answer = np.append(prompt[: int(rng.integers(1, 5))], 2)
            num_prompt = len(prompt) if objective == "answers" else 1
            self.examples.append(ToyExample(np.concatenate([prompt, answer]).astype(np.int32), num_prompt))
        self.lengths = np.array([(len(e.ids), len(e.ids) - e.num_prompt) for e in self.examples], np.int32)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> ToyExample:
        return self.examples[index]

    def size(self, rate: float = 1.0) -> TaskSize:
        return TaskSize(self.name, self.lengths, rate)


def make_model(config: DecoderConfig = CONFIG, seed: int = 0) -> Any:
    return architectures.make_model(config, rngs=nnx.Rngs(seed))


@functools.cache
def skeleton_of(config: DecoderConfig) -> ModelSkeleton:
    return make_skeleton(lambda: make_model(config))


SKELETON = skeleton_of(CONFIG)
# Gradient descent at rate 1: what a parameter moves by is its gradient.
DESCENT = Optimizer(optax.sgd(1.0), lambda step: jnp.ones(()))
TOY_ADAMW = OptimizerConfig(name="adamw", learning_rate=1e-2, warmup_steps=2)
TOY_MUON = OptimizerConfig(name="muon", learning_rate=0.02, adam_learning_rate=3e-3, warmup_steps=2, weight_decay=0.1)


def packed_batch(row_supervised: int = 12, objective: Objective = "answers") -> Batch:
    """8 rows of 40 tokens, two documents a row."""
    rows = [((0, 2 * row), (0, 2 * row + 1)) for row in range(8)]
    return make_batch(rows, [ToySource("toy", objective=objective)], 40, row_supervised)


def unpacked_batch(row_supervised: int = 12, objective: Objective = "answers") -> Batch:
    """The documents of `packed_batch`, one a row."""
    rows = [((0, index),) for index in range(16)]
    return make_batch(rows, [ToySource("toy", objective=objective)], 40, row_supervised)


@functools.cache
def host_params(config: DecoderConfig = CONFIG) -> Params:
    """The initial parameters as NumPy arrays; nothing changes them."""
    return jax.device_get(init_params(lambda: make_model(config), skeleton_of(config), one_device()))


@functools.cache
def one_device() -> Mesh:
    return make_mesh(devices=jax.devices()[:1])


@functools.cache
def _step(
    optimizer: OptimizerConfig | Optimizer, mesh: Mesh, num_microbatches: int, config: DecoderConfig
) -> tuple[Optimizer, Any, TrainState]:
    skeleton = skeleton_of(config)
    if isinstance(optimizer, OptimizerConfig):
        optimizer = make_optimizer(optimizer, 20, skeleton)
    shardings = state_shardings(skeleton, optimizer, mesh)
    return optimizer, make_train_step(skeleton, optimizer, mesh, shardings, num_microbatches), shardings


def start(
    optimizer: OptimizerConfig | Optimizer,
    mesh: Mesh | None = None,
    num_microbatches: int = 1,
    config: DecoderConfig = CONFIG,
) -> tuple[TrainState, Any, TrainState]:
    """State, step function and shardings of the toy model on a mesh (default: one device), for 20 steps."""
    optimizer, step, shardings = _step(optimizer, mesh or one_device(), num_microbatches, config)
    return init_state(skeleton_of(config), host_params(config), optimizer, shardings), step, shardings
