"""Recipes as plain Python: values are checked where they are written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.data.packing import RowShape
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.lora import LoraConfig
from seqgpt_jax.models.presets import get_preset
from seqgpt_jax.recipe import (
    CheckpointSettings,
    DataSettings,
    EvaluationSettings,
    ModelSettings,
    PromptSettings,
    Recipe,
    Stage,
    TokenizerSettings,
)
from seqgpt_jax.training.optimizers import OptimizerConfig

STAGE = Stage("one", "synthetic", 10)
DEV = EvaluationSettings("dev", "mini_held_out")
AVERAGED = OptimizerConfig(ema_decay=0.99)


def test_a_recipe_needs_no_gin() -> None:
    recipe = Recipe(
        stages=[STAGE, Stage("two", "mini_real", 5)], evaluations=[EvaluationSettings("x", "mini_held_out")]
    )
    assert isinstance(recipe.stages, tuple)
    assert isinstance(recipe.evaluations, tuple)
    assert recipe.stages[0].optimizer == OptimizerConfig()


def test_model_settings_change_a_preset() -> None:
    assert ModelSettings("bloom_mini").config(999) == get_preset("bloom_mini", 999)
    changed = ModelSettings("bloom_nano", num_layers=1, compute_dtype="bfloat16").config(70)
    assert (changed.num_layers, changed.width, changed.compute_dtype, changed.vocab_size) == (1, 192, "bfloat16", 70)


def test_where_data_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQGPT_CACHE_DIR", "/a/b")
    assert DataSettings().cache_path() == Path("/a/b")
    assert DataSettings(cache_dir="c").cache_path() == Path("c")
    monkeypatch.delenv("SEQGPT_CACHE_DIR")
    assert DataSettings().cache_path() == Path.home() / ".cache" / "seqgpt_jax"
    assert DataSettings(row_tokens=99).example_tokens == 99
    assert DataSettings(row_tokens=99, max_tokens=50).example_tokens == 50


def test_rows_of_several_lengths() -> None:
    data = DataSettings(rows_per_step=4, row_tokens=[128, 64], row_supervised=40)
    assert data.row_tokens == (128, 64)
    assert data.example_tokens == data.longest_row == 128
    texts = dataclasses.replace(STAGE, name="texts", objective="language_modelling")
    recipe = Recipe((texts, STAGE), data=data, seed=3)
    assert recipe.plan_config(STAGE).shapes == (RowShape(8, 64, 20), RowShape(4, 128, 40))
    assert recipe.plan_config(texts).shapes == (RowShape(8, 64, 64), RowShape(4, 128, 128))
    assert recipe.plan_config(STAGE).seed == recipe.plan_config(texts).seed == 3
    recipe = Recipe((texts, STAGE), data=DataSettings(rows_per_step=4, row_tokens=64, row_supervised=9))
    assert [recipe.plan_config(stage).shapes for stage in recipe.stages] == [(RowShape(4, 64, n),) for n in (64, 9)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stage("a", "synthetic", 0), "stage.steps is 0 (it must be at least 1)"),
        (lambda: Stage("a", "synthetic", 2.5), "stage.steps is 2.5 (it must be a whole number or None)"),
        (lambda: Stage("a", "synthetic", True), "stage.steps is True (it must be a whole number or None)"),
        (
            lambda: Stage("a", "synthetic"),
            "stage 'a' has no length (set one of stage.steps, stage.epochs, stage.examples)",
        ),
        (lambda: Stage("a", "synthetic", 5, epochs=2), "stage 'a' has stage.steps and stage.epochs (set one of"),
        (lambda: Stage("a", "synthetic", epochs=0), "stage.epochs is 0.0 (it must be above 0)"),
        (lambda: Stage("a", "synthetic", examples=0), "stage.examples is 0 (it must be at least 1)"),
        (lambda: Stage("a", "synthetic", 5, limit="all"), "stage.limit is 'all' (it must be a whole number or None)"),
        (lambda: Stage("a/b", "synthetic", 5), "stage.name is 'a/b' (use letters, digits, - and _"),
        (lambda: Stage("a", "synthetic", 5, optimizer=3), "stage.optimizer is 3 (it must be OptimizerConfig)"),
        (lambda: Stage("a", "synthetic", 5, temperature=0.5), "stage.temperature is 0.5 (it must be at least 1)"),
        (lambda: Stage("a", "synthetic", 5, weights={"b": 0}), "stage.weights['b'] is 0.0 (it must be above 0)"),
        (lambda: Stage("a", "synthetic", 5, weights={"b": "2"}), "(it must be {a string: a number, ...})"),
        (lambda: Stage("a", "synthetic", 5, weights=[2.0]), "stage.weights is [2.0] (it must be {a string: a number"),
        (lambda: Stage("a", "synthetic", 5, passes=2, objective="language_modelling"), "stage.passes is 2 (a text is"),
        (lambda: Stage("a", "synthetic", 5, objective="texts"), "(it must be one of 'answers', 'language_modelling')"),
        (lambda: Stage("a", "held_out", 5, protocol="fewshot"), "(it must be one of 'zero_shot', 'few_shot')"),
        (lambda: Stage("a", "synthetic", 5, evaluate_every=2), "stage.evaluate_every has nothing to evaluate (set"),
        (lambda: Stage("a", "synthetic", 5, evaluations=(DEV,), patience=2), "stage.patience counts evaluations, of"),
        (lambda: Stage("a", "synthetic", 5, evaluations=(DEV, DEV)), "stage.evaluations has two named 'dev' (give"),
        (lambda: Recipe(stages=()), "recipe.stages is empty"),
        (lambda: Recipe(stages=(STAGE, STAGE)), "recipe.stages has two named 'one'"),
        (lambda: Recipe(stages=("one",)), "recipe.stages is ('one',) (it must be a list of Stage)"),
        (
            lambda: Recipe(
                (Stage("a", "synthetic", 5, frozen=("embedding",)),), model=ModelSettings(lora=LoraConfig(2))
            ),
            "stage 'a' freezes parameters, but model.lora trains nothing but what it adds",
        ),
        (
            lambda: Recipe(
                (Stage("a", "held_in", 5, optimizer=AVERAGED),), model=ModelSettings(param_dtype="bfloat16")
            ),
            "stage 'a': optimizer.ema_decay adds small parts that bfloat16 loses",
        ),
        (lambda: ModelSettings("bloom_nan"), "model preset 'bloom_nan' is unknown (choose bloom_nano"),
        (lambda: ModelSettings(num_heads=5), "width 192 is no multiple of num_heads 5"),
        (lambda: TokenizerSettings(vocab_size=10), "tokenizer.vocab_size is 10 (it must be at least 300)"),
        (lambda: PromptSettings("seqgpt_v9"), "seqgpt_v9"),
        (lambda: DataSettings(rows_per_step=0), "data.rows_per_step is 0"),
        (lambda: DataSettings(row_tokens=9, max_tokens=10), "data.max_tokens is 10 (a row has only data.row_tokens=9)"),
        (
            lambda: DataSettings(row_tokens=(64, 32.0)),
            "data.row_tokens is (64, 32.0) (it must be a whole number or a list",
        ),
        (lambda: DataSettings(row_tokens=(48, 64), rows_per_step=2), "data.row_tokens 48 does not divide the 2 x 64"),
        (lambda: CheckpointSettings(every=0), "checkpoint.every is 0"),
        (lambda: EvaluationSettings("x", "held_out", limit=0), "evaluation.limit is 0"),
    ],
)
def test_wrong_values_are_refused_in_one_line(make: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)
