"""Where a stage's weights come from, and what it refuses to start from."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from seqgpt_jax import hf
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.models.lora import LoraConfig
from seqgpt_jax.recipe import Recipe, Stage
from seqgpt_jax.training.checkpoints import StageCheckpoints, StageInfo, checkpoint_folder
from seqgpt_jax.training.finished import Finished, write_finished
from seqgpt_jax.training.optimizers import make_optimizer
from seqgpt_jax.training.partitioning import Params, make_mesh
from seqgpt_jax.training.start import StartingPoint
from seqgpt_jax.training.step import init_state, state_shardings
from seqgpt_jax.training.weights import WeightSource
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer
from tests.training.toy import CONFIG, TOY_ADAMW, skeleton_of

SMALL = dataclasses.replace(CONFIG, vocab_size=384)
ADAPTED = dataclasses.replace(SMALL, lora=LoraConfig(rank=2))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train_tokenizer(["some text"], 300)


def params_like(config: DecoderConfig, value: float) -> Params:
    return jax.tree.map(lambda leaf: np.full(leaf.shape, value, leaf.dtype), skeleton_of(config).shapes)


def save(run_dir: Path, stage: str, index: int, step: int, value: float, config: DecoderConfig = SMALL) -> None:
    """A checkpoint whose every parameter is `value`."""
    skeleton = skeleton_of(config)
    optimizer = make_optimizer(TOY_ADAMW, 9, skeleton)
    state = init_state(
        skeleton, params_like(config, value), optimizer, state_shardings(skeleton, optimizer, make_mesh())
    )
    with StageCheckpoints(run_dir, StageInfo(stage, index, config)) as checkpoints:
        checkpoints.save(step, state)


def source(run_dir: Path, vocabulary: Vocabulary, *inits: str | None, **start: Any) -> WeightSource:
    config = start.pop("config", SMALL)
    stages = tuple(Stage(f"stage_{index}", "synthetic", 9, init=init) for index, init in enumerate(inits))
    point = StartingPoint(vocabulary, config, start.pop("load_params", None))
    return WeightSource(Recipe(stages), run_dir, make_mesh(1, 4, 2), point, skeleton_of(config))


def first_params(weights: WeightSource, index: int) -> tuple[Params, int]:
    stage, skeleton = weights.recipe.stages[index], weights.skeleton
    optimizer = make_optimizer(TOY_ADAMW, 9, skeleton)
    shardings = state_shardings(skeleton, optimizer, weights.mesh)
    with StageCheckpoints(weights.run_dir, StageInfo(stage.name, index, weights.start.config)) as checkpoints:
        state, done = weights.first_state(index, skeleton, checkpoints, optimizer, shardings)
    return jax.device_get(state.params), done


def assert_all(params: Params, value: float) -> None:
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, np.full_like(leaf, value)), params)


def test_the_order_of_restore(tmp_path: Path, vocabulary: Vocabulary) -> None:
    other, run_dir = tmp_path / "other", tmp_path / "run"
    vocabulary.save(other / "tokenizer")
    save(other, "first", 0, 3, 1.0)
    save(other, "last", 1, 3, 2.0)
    save(other, "last", 1, 5, 3.0)
    weights = source(run_dir, vocabulary, None, str(other), None, load_params=lambda: params_like(SMALL, 7.0))
    weights.check()
    assert_all(first_params(weights, 0)[0], 7.0)
    save(run_dir, "stage_0", 0, 9, 8.0)
    params, done = first_params(weights, 1)
    assert done == 0
    assert_all(params, 3.0)  # its last stage, at its newest step
    write_finished(checkpoint_folder(other, "last"), Finished(5, 3, {"steps": 5}))
    assert_all(first_params(weights, 1)[0], 2.0)  # its last stage, at its best step
    save(run_dir, "stage_1", 1, 4, 9.0)
    params, done = first_params(weights, 1)
    assert done == 4
    assert_all(params, 9.0)
    assert_all(first_params(weights, 2)[0], 9.0)
    params, _ = first_params(source(tmp_path / "new", vocabulary, None), 0)
    assert 0.05 < params["embedding"].std() < 0.2


def test_a_lora_starts_on_weights_without_one_or_with_its_own(tmp_path: Path, vocabulary: Vocabulary) -> None:
    for name, config in (("plain", SMALL), ("adapted", ADAPTED)):
        vocabulary.save(tmp_path / name / "tokenizer")
        save(tmp_path / name, "first", 0, 3, 2.0, config)
    weights = source(tmp_path / "run", vocabulary, str(tmp_path / "plain"), str(tmp_path / "adapted"), config=ADAPTED)
    weights.check()
    params, _ = first_params(weights, 0)
    assert_all(weights.skeleton.frozen(params), 2.0)
    additions = weights.skeleton.trained(params)["blocks"]["query"]
    assert additions["lora_a"].std() > 0 and not additions["lora_b"].any()
    assert_all(first_params(weights, 1)[0], 2.0)
    with pytest.raises(UserError, match=r"parameter blocks/\w+/lora_a is .* in .*adapted, and not in this run"):
        source(tmp_path / "run", vocabulary, str(tmp_path / "adapted")).check()


def test_a_hugging_face_directory(tmp_path: Path, vocabulary: Vocabulary) -> None:
    given = jax.tree.map(
        lambda leaf: np.random.default_rng(0).normal(size=leaf.shape).astype(leaf.dtype), skeleton_of(SMALL).shapes
    )
    hf.export_model(skeleton_of(SMALL).merge(jax.tree.map(jax.numpy.asarray, given)), vocabulary, tmp_path / "exported")
    weights = source(tmp_path / "run", vocabulary, str(tmp_path / "exported"))
    weights.check()
    jax.tree.map(np.testing.assert_array_equal, first_params(weights, 0)[0], given)


def test_what_a_stage_cannot_start_from(tmp_path: Path, vocabulary: Vocabulary) -> None:
    train_tokenizer(["another text, another word"] * 9, 300).save(tmp_path / "foreign" / "tokenizer")
    vocabulary.save(tmp_path / "wide" / "tokenizer")
    for name, config in (("foreign", SMALL), ("wide", dataclasses.replace(SMALL, width=64))):
        save(tmp_path / name, "first", 0, 3, 1.0, config)
    vocabulary.save(tmp_path / "empty" / "tokenizer")
    (tmp_path / "empty" / "checkpoints").mkdir()
    for name, message in (
        ("absent", "stage.init: there is no directory .*absent .give a run or a Hugging Face directory"),
        (
            "foreign",
            r"the tokenizer of .*foreign, with \d+ ids, is not that of this run.*set tokenizer.path='.*foreign",
        ),
        ("wide", r"parameter blocks/attention_norm/bias is \(2, 64\) in .*wide, and \(2, 32\) in this run"),
        ("empty", "empty: no checkpoint in it"),
    ):
        with pytest.raises(UserError, match=message):
            source(tmp_path / "run", vocabulary, str(tmp_path / name)).check()
    recipe = Recipe((Stage("a", "synthetic", 1, frozen=("embeding",)),))
    with pytest.raises(UserError, match="stage.frozen: 'embeding' is no parameter"):
        dataclasses.replace(source(tmp_path / "run", vocabulary, None), recipe=recipe).check()
