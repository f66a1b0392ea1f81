"""`seqgpt finetune`: a user's own data and a model that exists -> the model that knows them, judged before and after.

DATA --data/own.py--> OUT/dataset --recipes/finetune.gin--> a run in OUT, as of `seqgpt train`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqgpt_jax import hf
from seqgpt_jax.averages import Evaluation
from seqgpt_jax.configuration import load_recipe
from seqgpt_jax.data.own import OwnData
from seqgpt_jax.pipeline import evaluation_datasets, judge, run_recipe
from seqgpt_jax.predictor import SeqGPT, model_directory
from seqgpt_jax.recipe import Recipe
from seqgpt_jax.tables import text_table
from seqgpt_jax.training.hosts import is_main

RECIPE = "recipes/finetune.gin"
BEFORE = "_before"  # ends the name of a section of the report: the model as it was given


@dataclass(frozen=True)
class Choices:
    """What a user may choose of a fine-tuning; None: as the recipe has it.

    learning_rate: peak; None: default_rate. lora_rank: train a LoRA of this rank alone.
    """

    epochs: float | None = None
    learning_rate: float | None = None
    lora_rank: int | None = None
    bindings: Sequence[str] = ()  # gin, on top


def finetune(own: OwnData, model: str, run_dir: Path, choices: Choices, **run: Any) -> dict[str, Evaluation]:
    """Trains `model` (a run, a Hugging Face directory or a hub id) on the data; `run` is for pipeline.run_recipe.

    Returns the evaluations of the trained model: "validation", and "test" where the data have such a split.

    UserError as from run_recipe and load_recipe.
    """
    recipe = finetune_recipe(own, model, choices)
    before = judge(SeqGPT.from_pretrained(model), recipe, evaluation_datasets(recipe), name=model)
    after = run_recipe(recipe, run_dir, before={f"{name}{BEFORE}": each for name, each in before.items()}, **run)
    if is_main():
        print("\n".join(["\nBefore and after:", *(f"  {line}" for line in before_and_after(before, after))]))
    return after


def finetune_recipe(own: OwnData, model: str, choices: Choices) -> Recipe:
    """The recipe of gin/recipes/finetune.gin for this data and model, and the test split where there is one."""
    directory = model_directory(Path(model))
    rate = choices.learning_rate or default_rate(hf.read_config(directory).width, choices.lora_rank is not None)
    bindings = [f"MODEL = {str(directory)!r}", f"DATA = {str(own.folder.absolute())!r}", f"LEARNING_RATE = {rate}"]
    if choices.lora_rank is not None:
        bindings += ["model.lora = @lora()", f"lora.rank = {choices.lora_rank}"]
    if choices.epochs is not None:
        bindings.append(f"EPOCHS = {choices.epochs}")
    if own.has_test:
        bindings += [
            "recipe.evaluations = [@validation/evaluation(), @test/evaluation()]",
            "test/evaluation.name = 'test'",
            "test/evaluation.mixture = %DATA",
            "test/evaluation.split = 'test'",
        ]
    return load_recipe(RECIPE, [*bindings, *choices.bindings])


def default_rate(width: int, lora: bool) -> float:
    """The peak learning rate of AdamW for a model of this width: 2e-5 at 1,024, 1e-3 at 128, 2e-4 for a LoRA.

    Between them it falls with the square of the width, which has no other ground than those two points.
    """
    return 2e-4 if lora else min(1e-3, max(1e-5, 2e-5 * (1024 / width) ** 2))


def before_and_after(before: dict[str, Evaluation], after: dict[str, Evaluation]) -> list[str]:
    """A table: each split's headline score before and after, and that of the baseline."""
    rows = [["split", "metric", "records", "before", "after", "baseline"]]
    for name, first in before.items():
        (old,), (new,) = first.datasets, after[name].datasets
        headline = new.score.headline_name
        scores = [old.score.headline, new.score.headline, new.baseline.metrics[headline]]
        rows.append([name, headline, str(new.score.num_records), *(f"{score:.3f}" for score in scores)])
    return text_table(rows, num_left=2)
