"""Gin files and bindings: every file of ours builds, and every mistake gets one line that says what was meant."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seqgpt_jax import configuration
from seqgpt_jax.configuration import find_recipe, gin_folder, load_evaluation, load_recipe, operative_config_str
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.lora import LoraConfig
from seqgpt_jax.models.presets import PRESETS
from seqgpt_jax.recipe import DataSettings, EvaluationSettings, Recipe, Stage
from seqgpt_jax.training.optimizers import OptimizerConfig

GIN = Path(__file__).resolve().parent.parent / "gin"
QUICKSTART = GIN / "recipes" / "quickstart.gin"
SMALL = """
recipe.stages = [@one/stage(), @two/stage()]
one/stage.name = "one"
two/stage.name = "two"
stage.mixture = "synthetic"
stage.steps = %STEPS
STEPS = 5
two/optimizer.learning_rate = 1
"""


def names(folder: str) -> list[str]:
    return sorted(path.stem for path in (GIN / folder).glob("*.gin"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.gin"
    path.write_text(SMALL)
    return path


def test_a_file_gives_the_recipe_one_would_write_in_python(small: Path) -> None:
    want = Recipe(
        stages=(
            Stage("one", "synthetic", 5),
            Stage("two", "synthetic", 5, optimizer=OptimizerConfig(learning_rate=1.0)),
        )
    )
    assert load_recipe(small) == want
    assert load_recipe(small, ["recipe.seed = 3", "data.row_tokens=64", "two/stage.passes=2"]) == Recipe(
        stages=(want.stages[0], Stage("two", "synthetic", 5, passes=2, optimizer=OptimizerConfig(learning_rate=1.0))),
        data=DataSettings(row_tokens=64),
        seed=3,
    )
    assert load_recipe(small) == want  # nothing is left of the bindings before


def test_evaluations_of_a_stage_are_bound_in_gin(small: Path) -> None:
    bindings = [
        "two/stage.evaluations = [@dev/evaluation()]", "two/stage.evaluate_every = 2", "two/stage.patience = 3",
        "dev/evaluation.name = 'dev'", "dev/evaluation.mixture = 'mini_held_out'", "dev/evaluation.limit = 5",
    ]  # fmt: skip
    one, two = load_recipe(small, bindings).stages
    assert (one.evaluations, one.evaluate_every, one.patience) == ((), None, None)
    assert two.evaluations == (EvaluationSettings("dev", "mini_held_out", limit=5),)
    assert (two.evaluate_every, two.patience) == (2, 3)


def test_weights_and_the_protocol_are_bound_in_gin(small: Path, tmp_path: Path) -> None:
    bindings = ["two/stage.weights = {'duee': 2, 'cluener': 0.5}", "two/stage.protocol = 'few_shot'"]
    first, second = load_recipe(small, [*bindings, "stage.temperature = 2"]).stages
    assert first.weights == {} and first.protocol == "zero_shot" and first.temperature == second.temperature == 2.0
    assert second.weights == {"duee": 2.0, "cluener": 0.5} and second.protocol == "few_shot"
    (tmp_path / "again.gin").write_text(operative_config_str())
    assert load_recipe(tmp_path / "again.gin").stages == (first, second)


def test_the_operative_config_says_all_and_reads_back(small: Path, tmp_path: Path) -> None:
    recipe = load_recipe(small, ["STEPS=7", "ask.max_none_pairs=1"])
    text = operative_config_str()
    assert "optimizer.momentum = 0.95" in text  # defaults too
    (tmp_path / "config.gin").write_text(text)
    assert load_recipe(tmp_path / "config.gin") == recipe
    assert operative_config_str() == text


def test_a_lora_is_asked_for_in_gin(small: Path, tmp_path: Path) -> None:
    recipe = load_recipe(small, ["model.lora = @lora()", "lora.rank = 4", "lora.targets = ['down']"])
    assert recipe.model.lora == LoraConfig(rank=4, targets=("down",))
    assert recipe.model.config(100).lora == recipe.model.lora
    (tmp_path / "config.gin").write_text(operative_config_str())
    assert load_recipe(tmp_path / "config.gin") == recipe
    with pytest.raises(UserError, match=r"'lora\.rank'.* changes nothing"):
        load_recipe(small, ["lora.rank = 4"])


@pytest.mark.parametrize("name", names("recipes"))
def test_every_recipe_builds(name: str, tmp_path: Path) -> None:
    path = GIN / "recipes" / f"{name}.gin"
    required = re.findall(r"^(\w+) = %gin.REQUIRED", path.read_text(), re.MULTILINE)
    recipe = load_recipe(path, [f"{macro}='given'" for macro in required])
    begin = ["language_modelling"] if name == "real_lm" else []
    assert [stage.objective for stage in recipe.stages] == begin + ["answers"] * (1 if name == "finetune" else 2)
    assert recipe.evaluations
    assert recipe.model.config(1000).vocab_size == 1000
    head = path.read_text().split("\n\n")[0]
    assert f"seqgpt train gin/recipes/{name}.gin" in head
    assert "Expect" in head


@pytest.mark.parametrize("name", names("eval"))
def test_every_evaluation_builds(name: str) -> None:
    path = GIN / "eval" / f"{name}.gin"
    evaluation = load_evaluation(path)
    assert (evaluation.name, evaluation.mixture, evaluation.seed) == (name, name, 0)
    assert evaluation.split == ("validation" if name.startswith("held_in") else "test")
    assert evaluation.limit == (50 if name.startswith("mini") else 200)
    assert f"seqgpt eval --model runs/{'quickstart' if name.startswith('mini') else 'real'} gin/eval/{name}.gin" in (
        path.read_text()
    )
    assert load_evaluation(f"eval/{name}.gin") == load_evaluation(name) == evaluation


def test_recipes_include_the_evaluations_that_they_shorten() -> None:
    held_in, held_out = load_recipe("real").evaluations
    assert held_in == dataclasses.replace(load_evaluation("held_in"), limit=50)
    assert held_out == dataclasses.replace(load_evaluation("held_out"), limit=50)
    (quick,) = load_recipe("quickstart").evaluations
    assert quick == dataclasses.replace(load_evaluation("mini_held_out"), name="held_out", limit=20)
    bloomz = load_recipe("bloomz_560m", ["PRETRAINED='models/x'", "DATA_DIR='d'"]).evaluations
    assert [(each.mixture, each.limit) for each in bloomz] == [("held_in", 500), ("held_out", None)]


def test_a_file_that_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.gin"
    for text, why in (
        ("recipe.seed = 1\n", "mine.gin: holds 0 evaluations, not one"),
        ("a/evaluation.name = 'a'\nb/evaluation.name = 'b'\n", r"holds 2 evaluations \(a, b\), not one"),
        ("a/evaluation.name = 'a'\n", "needs .*mixture"),
        ("a/evaluation.nmae = 'a'\n", "evaluation has no 'nmae' .did you mean name"),
        ("a/evaluation.name = 'a'\na/evaluation.mixture = 'm'\na/evaluation.limit = 0\n", "limit is 0"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=why):
            load_evaluation(file)
    with pytest.raises(UserError, match=r"held_uot: no such gin file \(ours are eval/held_out\.gin"):
        load_evaluation("held_uot")


def test_what_a_recipe_requires_is_asked_for_in_one_line(small: Path) -> None:
    with pytest.raises(UserError) as error:
        load_recipe("bloomz_560m")
    assert str(error.value) == (
        "bloomz_560m: PRETRAINED and DATA_DIR must be given "
        "(add --gin 'PRETRAINED=...' --gin 'DATA_DIR=...', strings in quotes)"
    )
    with pytest.raises(UserError, match=r"bloomz_7b1: DATA_DIR must be given .add --gin 'DATA_DIR=\.\.\.'"):
        load_recipe("bloomz_7b1", ["PRETRAINED='models/bloomz'"])
    small.write_text(SMALL + "one/stage.split = %gin.REQUIRED\n")
    with pytest.raises(UserError, match="one/stage.split must be given"):
        load_recipe(small)
    assert load_recipe(small, ["one/stage.split='dev'"]).stages[0].split == "dev"


@pytest.mark.parametrize("name", ["560m", "1b7", "3b", "7b1"])
def test_the_bloomz_recipes_train_released_weights_whole(name: str) -> None:
    recipe = load_recipe(f"bloomz_{name}", ["PRETRAINED='models/x'", "DATA_DIR='d'", "SYNTHETIC_EPOCHS=0.5"])
    assert (recipe.model.preset, recipe.model.pretrained, recipe.data.data_dir) == (f"bloom_{name}", "models/x", "d")
    assert [stage.length for stage in recipe.stages] == [{"epochs": 0.5}, {"epochs": 2.0}]
    assert {stage.optimizer.name for stage in recipe.stages} == {"adamw"}
    config = recipe.model.config(250880)
    assert (config.param_dtype, config.compute_dtype, config.remat) == ("float32", "bfloat16", "full")


@pytest.mark.parametrize("name", names("models"))
def test_every_model_builds(name: str, small: Path) -> None:
    small.write_text(SMALL + f'include "models/{name}.gin"\n')
    recipe = load_recipe(small)
    assert recipe.model.preset == name
    config = recipe.model.config(PRESETS[name].vocab_size)
    assert (config.num_layers, config.width) == (PRESETS[name].num_layers, PRESETS[name].width)


def test_there_is_a_file_for_every_preset() -> None:
    assert names("models") == sorted(PRESETS)


@pytest.mark.parametrize("name", names("stages"))
def test_every_stage_builds(name: str, tmp_path: Path) -> None:
    path = tmp_path / "stage.gin"
    macro, mixture = ("LM", 'LM_MIXTURE = "held_in"\n') if name == "language_modelling" else (name.upper(), "")
    settings = f"{macro}_STEPS = 3\n{macro}_RECORDS = 4\n{mixture}"
    path.write_text(f'{settings}include "stages/{name}.gin"\nrecipe.stages = [@{name}/stage()]\n')
    (stage,) = load_recipe(path).stages
    assert (stage.name, stage.steps, stage.limit) == (name, 3, 4)


@pytest.mark.parametrize(
    ("binding", "message"),
    [
        ("recipe.sed=1", "--gin 'recipe.sed=1': recipe has no 'sed' (did you mean seed?)"),
        ("recip.seed=1", "--gin 'recip.seed=1': 'recip' is not a section (did you mean recipe?)"),
        ("sinthetic/stage.steps=3", "there is no sinthetic/stage, so 'sinthetic/stage.steps' changes nothing"),
        ("SYNTHETIC_STEP=3", "nothing uses %SYNTHETIC_STEP, so it changes nothing (did you mean SYNTHETIC_STEPS"),
        ("stage.steps=3", "it changes nothing (bind mini_real/stage.steps and synthetic/stage.steps)"),
        ("recipe.seed='x'", "recipe.seed is 'x' (it must be a whole number)"),
        ("recipe.seed=", "--gin 'recipe.seed=': Unable to parse value"),
        ("recipe.seed", "--gin 'recipe.seed':"),
        ("recipe.seed=%SEED", "%SEED is used but never set"),
        ("mini_real/stage.steps=0", "stage.steps is 0 (it must be at least 1)"),
        ("model.preset='bloom_nan'", "model preset 'bloom_nan' is unknown (choose bloom_nano"),
        ("recipe.stages=[@new/stage()]", "new/stage needs 'name' and 'mixture'"),
        ("recipe.stages=[@new/stag()]", "'stag' is not a section (did you mean stage"),
        ("ask.max_extract_labels=0", "max_extract_labels is 0"),
        ("synthetic/optimizer.learning_rate='fast'", "optimizer.learning_rate is 'fast' (it must be a number)"),
        ("recipe.data=3", "recipe.data is 3 (it must be DataSettings)"),
    ],
)
def test_a_wrong_binding_gets_one_line(binding: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe(QUICKSTART, [binding])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe.stages = [", "broken.gin"),
        ("this is no gin file", "broken.gin:1"),
        ('include "models/bloom_nanoo.gin"', "bloom_nanoo.gin"),
        ("", "recipe needs 'stages' (bind it in the file or with --gin)"),
        ("\n\nmodel.widht = 3", "broken.gin:3: model has no 'widht' (did you mean width?)"),
        (
            SMALL + "three/stage.steps = 3",
            "broken.gin: there is no three/stage, so 'three/stage.steps' changes nothing",
        ),
        (SMALL + "OTHER = 3", "broken.gin: nothing uses %OTHER"),
        (SMALL.replace("STEPS = 5", ""), "%STEPS is used but never set"),
    ],
)
def test_a_broken_file_gets_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "broken.gin").write_text(text)
    with pytest.raises(UserError) as error:
        load_recipe(tmp_path / "broken.gin")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_default_for_all_scopes_may_be_overridden_in_each(small: Path) -> None:
    small.write_text(SMALL + "one/stage.steps = 1\ntwo/stage.steps = 2\nSTEPS = 9\n")
    with pytest.raises(UserError, match="nothing uses %STEPS"):
        load_recipe(small)
    small.write_text(SMALL.replace("%STEPS", "4").replace("STEPS = 5", "one/stage.steps = 1\ntwo/stage.steps = 2"))
    assert [stage.steps for stage in load_recipe(small).stages] == [1, 2]


def test_recipes_are_found_by_name() -> None:
    for name in ("gin/recipes/real.gin", "recipes/real.gin", "real.gin", "real"):
        assert find_recipe(name).samefile(GIN / "recipes" / "real.gin")
    with pytest.raises(UserError, match=r"reel\.gin: no such gin file \(ours are recipes/real\.gin"):
        find_recipe("reel.gin")


def test_gin_files_of_an_installed_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """setup.py installs gin/ as share/seqgpt_jax/gin of the environment."""
    want = load_recipe(QUICKSTART)
    monkeypatch.setattr(configuration, "__file__", str(tmp_path / "site-packages" / "seqgpt_jax" / "configuration.py"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    share = tmp_path / "share" / "seqgpt_jax"
    share.mkdir(parents=True)
    (share / "gin").symlink_to(GIN)
    assert gin_folder() == share / "gin"
    monkeypatch.chdir(tmp_path)
    assert load_recipe("recipes/quickstart.gin") == load_recipe("quickstart") == want


def test_our_gin_folder_does_not_hide_the_package() -> None:
    code = "import gin, seqgpt_jax.configuration; print(gin.__file__, hasattr(gin, 'parse_config'))"
    environment = {**os.environ, "PYTHONPATH": str(GIN.parent)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=GIN.parent, env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.split()[1] == "True"
