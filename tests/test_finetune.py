"""`seqgpt finetune`: one command from a file to a better model, with its scores before and after."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqgpt_jax.cli import main
from seqgpt_jax.data.own import prepare_own_data
from seqgpt_jax.finetune import Choices, default_rate, finetune_recipe
from tests.data.test_own import csv_file

SMALL = ("data.rows_per_step=8", "data.row_tokens=96", "data.row_supervised=32")


def command(source: Path, model: Path, out: Path, *more: str) -> list[str]:
    bindings = [part for binding in SMALL for part in ("--gin", binding)]
    return ["finetune", str(source), "--model", str(model), "--out", str(out), *bindings, *more]


def test_a_file_makes_a_better_model_and_says_by_how_much(
    tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQGPT_CACHE_DIR", str(tmp_path / "cache"))
    arguments = command(csv_file(tmp_path), model_dir, tmp_path / "run", "--learning_rate", "0.01", "--epochs", "8")
    assert main(arguments) == 0
    printed, told = capsys.readouterr()
    assert "mine (CLS, en, 2 labels): " in told
    report = json.loads((tmp_path / "run" / "report.json").read_text("utf-8"))
    before, after = (report[name]["classification"]["accuracy"] for name in ("validation_before", "validation"))
    assert before < 0.7  # random weights
    assert after > 0.8
    line = next(line for line in printed.split("Before and after:")[1].splitlines() if "validation" in line)
    assert line.split()[3:5] == [f"{before:.3f}", f"{after:.3f}"]
    assert (tmp_path / "run" / "export" / "config.json").is_file()
    rows = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").read_text("utf-8").splitlines()]
    assert rows[-1]["score"] == pytest.approx(max(row["score"] for row in rows))
    # With another rate it is another run, and refused.
    assert main([*arguments[:-4], "--learning_rate", "0.02"]) == 2
    assert "another config" in capsys.readouterr().err


def test_choices_reach_the_recipe(tmp_path: Path, model_dir: Path) -> None:
    for name in ("train.csv", "test.csv"):
        csv_file(tmp_path / "in", name)
    own = prepare_own_data(tmp_path / "in", tmp_path / "data")
    recipe = finetune_recipe(own, str(model_dir), Choices(epochs=3, lora_rank=4, bindings=["recipe.seed=7"]))
    (stage,) = recipe.stages
    assert (stage.epochs, stage.mixture, recipe.seed) == (3, str(tmp_path / "data"), 7)
    assert recipe.model.pretrained == str(model_dir)
    assert recipe.model.lora is not None
    assert recipe.model.lora.rank == 4
    assert [each.split for each in recipe.evaluations] == ["validation", "test"]
    assert [each.split for each in stage.evaluations] == ["validation"]
    assert stage.optimizer.learning_rate == 2e-4
    own_rate = Choices(learning_rate=1e-3, lora_rank=4)
    assert finetune_recipe(own, str(model_dir), own_rate).stages[0].optimizer.learning_rate == 1e-3


def test_the_rate_follows_the_width() -> None:
    assert [default_rate(width, lora=False) for width in (128, 256, 1024, 4096)] == [1e-3, 3.2e-4, 2e-5, 1e-5]
    assert default_rate(4096, lora=True) == 2e-4
