"""What can be evaluated under a name: predictions, and a description of what made them."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Protocol

from tqdm import tqdm

from seqgpt_jax.asking import (
    Answered,
    RecordPrediction,
    RecordQuestion,
    expect_more,
    predict_by_asking,
    question_bar,
)
from seqgpt_jax.evaluation import DescribedPredictor, Predictor
from seqgpt_jax.records import DatasetMeta, Record


class System(Predictor, DescribedPredictor, Protocol):
    """A predictor that can say what it is; its description also has whatever it counted so far."""


class AskingSystem(abc.ABC):
    """A system that answers questions; the way from records to questions and back is that of our own models."""

    @abc.abstractmethod
    def answer(self, questions: Sequence[RecordQuestion], bar: tqdm) -> list[Answered]:
        """Returns the answer to each question, in the order given; moves the bar on by one each."""

    @abc.abstractmethod
    def description(self) -> dict[str, Any]: ...

    def predict_records(
        self, records: Sequence[Record], metas: Sequence[DatasetMeta], split: str = "test", progress: bool = False
    ) -> list[RecordPrediction]:
        with question_bar(progress) as bar:

            def answer(questions: Sequence[RecordQuestion]) -> list[Answered]:
                expect_more(bar, len(questions))
                return self.answer(questions, bar)

            return predict_by_asking(records, metas, split, answer)
