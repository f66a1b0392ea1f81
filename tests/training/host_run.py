"""The run that test_hosts.py makes in one process and in two: real train(), toy sources, a toy model, its answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqgpt_jax.decoding.generate import generate
from seqgpt_jax.recipe import CheckpointSettings, DataSettings, EvaluationSettings, MeshSettings, Recipe, Stage
from seqgpt_jax.training import batches, loop
from seqgpt_jax.training.checkpoints import load_run
from seqgpt_jax.training.hosts import is_main
from seqgpt_jax.training.loop import TrainResult, train
from seqgpt_jax.training.start import StartingPoint
from seqgpt_jax.vocabulary import train_tokenizer
from tests.training.toy import CONFIG, TOY_ADAMW, ToySource

PROMPTS = [example.ids[: example.num_prompt].tolist() for example in ToySource("a", 5, seed=1).examples]


OPTIMIZER = dataclasses.replace(TOY_ADAMW, learning_rate=1e-3)  # so low that answers stay different


def toy_recipe(folder: Path, mesh: Sequence[int] = (2, 2, 2)) -> Recipe:
    return Recipe(
        stages=(
            Stage(
                "one",
                "synthetic",
                6,
                optimizer=OPTIMIZER,
                evaluate_every=5,
                patience=2,
                evaluations=(EvaluationSettings("dev", "mini_real"),),
            ),
        ),
        data=DataSettings(
            cache_dir=str(folder / "cache"), rows_per_step=8, row_tokens=40, row_supervised=12, window=32
        ),
        mesh=MeshSettings(*mesh),
        checkpoint=CheckpointSettings(every=4),
    )


def answers_of(model: Any) -> list[list[int]]:
    return generate(model, PROMPTS, max_new_tokens=6, eos_id=1)  # which it never learns to say


def judge(model: Any, vocabulary: Any, settings: EvaluationSettings) -> dict[str, float]:
    return {"score": -float(sum(sum(answer) for answer in answers_of(model)))}


def run_toy(recipe: Recipe, run_dir: Path) -> TrainResult:
    """Trains, then answers on the training mesh, and reads the run again as `export_run` does."""
    vocabulary = train_tokenizer(["some text"], 300)
    sources = [ToySource("a", 60, seed=1), ToySource("b", 30, seed=2)]

    def ensure_cache(spec: Any, cache_dir: Path, progress: bool) -> list[ToySource]:
        with (cache_dir / "calls.txt").open("a") as calls:
            calls.write(f"{'main' if is_main() else 'other'} {spec.mixture}\n")
        return sources

    def prepare_start(recipe: Recipe, run_dir: Path) -> StartingPoint:
        if not (run_dir / "tokenizer").exists():
            vocabulary.save(run_dir / "tokenizer")
        return StartingPoint(vocabulary, CONFIG, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "ensure_cache", ensure_cache)
        patch.setattr(loop, "prepare_start", prepare_start)
        result = train(recipe, run_dir, evaluator=judge, config_text="seed = 1\n", show_progress=False)
    answers = answers_of(result.model)
    if is_main():
        model, _ = load_run(run_dir)
        read_again = float(np.square(model.embedding[...]).sum())
        (run_dir / "found.json").write_text(json.dumps({"answers": answers, "read_again": read_again}))
    return result
