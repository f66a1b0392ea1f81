"""What the end of a run prints."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.pipeline import example_predictions
from seqgpt_jax.predictor import SeqGPT
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
