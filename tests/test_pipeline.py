"""What the end of a run prints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.errors import UserError
from seqgpt_jax.evaluation import evaluate
from seqgpt_jax.pipeline import example_predictions, make_evaluator
from seqgpt_jax.predictor import SeqGPT
from seqgpt_jax.recipe import EvaluationSettings, Recipe, Stage
from seqgpt_jax.records import ClassificationRecord, DatasetMeta


class Topics(Dataset):
    """One record, whose text is given."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.meta_ = DatasetMeta(name="topics", task="CLS", language="en", labels=("sport", "trade"))

    @property
    def meta(self) -> DatasetMeta:
        return self.meta_

    @property
    def splits(self) -> tuple[str, ...]:
        return ("test",)

    def records(self, split: str, limit: int | None = None) -> Any:
        yield ClassificationRecord(id="1", task="CLS", text=self.text, labels=("sport",))

    def fingerprint(self, split: str) -> str:
        return self.text


def shown(text: str) -> list[str]:
    wrong = SimpleNamespace(record=ClassificationRecord(id="1", task="CLS", text=text, labels=("trade",)))
    predictor = SimpleNamespace(predict_records=lambda *_: [wrong])
    return list(example_predictions(cast(SeqGPT, predictor), [Topics(text)], "test"))


def test_an_example_is_shown_with_both_answers() -> None:
    assert shown("They won.") == ["  [en CLS] They won.", "      model  trade", "      gold   sport"]


def test_a_long_text_is_cut() -> None:
    (line, *_) = shown("won " * 1000)
    assert line == "  [en CLS] " + ("won " * 60).rstrip() + " ..."


def test_a_model_in_training_is_judged_as_by_seqgpt_eval(model_dir: Path) -> None:
    settings = EvaluationSettings("dev", "mini_held_out_en_ner", limit=1)
    recipe = Recipe(stages=(Stage("one", "synthetic", 5, evaluations=(settings,)),))
    predictor = SeqGPT.from_pretrained(model_dir)
    found = make_evaluator(recipe)(predictor.answerer.model, predictor.answerer.vocabulary, settings)
    assert found == evaluate(predictor, resolve_mixture("mini_held_out_en_ner", None), "test", 1).summary()


def test_a_split_that_is_not_there_is_named_before_training() -> None:
    settings = EvaluationSettings("dev", "mini_held_out", "dev")
    with pytest.raises(UserError, match=r"evaluation 'dev': none of \d+ datasets has a split 'dev'"):
        make_evaluator(Recipe(stages=(Stage("one", "synthetic", 5, evaluations=(settings,)),)))
