"""Evaluation: datasets through a predictor, scored, and averaged without hiding what the averages are made of.

    datasets -> the records of a split -> predict_records (all datasets at once) -> score_dataset -> Evaluation

Means, groups and intervals: averages.py. What a dataset's score is made of: analysis/.

How well-behaved answers are (`AnswerRates`) is said twice for each dataset. Constrained decoding can only write
well-formed answers, so the rates of what was scored are 0 with it; what the model would do by itself is seen when the
same questions, of some of the records, are answered without constraints. Groups hold the means of the latter.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from seqgpt_jax.analysis.breakdowns import by_label, by_length, confusion
from seqgpt_jax.analysis.error_kinds import count_errors
from seqgpt_jax.analysis.record_counts import RecordCounts, headline_counts
from seqgpt_jax.asking import Answered, AnswerLoss, RecordPrediction
from seqgpt_jax.atomic import AtomicExample, decompose
from seqgpt_jax.averages import AnswerRates, DatasetEvaluation, Evaluation
from seqgpt_jax.data.datasets import Dataset, sample_records
from seqgpt_jax.errors import UserError
from seqgpt_jax.metrics import baseline_predictions, empty_predictions, score_dataset
from seqgpt_jax.negatives import evaluation_questions
from seqgpt_jax.predictions import PredictedRecord, predictions_name, write_predictions
from seqgpt_jax.records import DatasetMeta, Record


class Predictor(Protocol):
    """What can be evaluated: SeqGPT, or anything else that fills in records. metas[i] belongs to records[i]."""

    def predict_records(
        self, records: Sequence[Record], metas: Sequence[DatasetMeta], split: str = "test", progress: bool = False
    ) -> list[RecordPrediction]: ...


@runtime_checkable
class ConstrainedPredictor(Predictor, Protocol):
    """One whose answers are made to be well-formed; it can also show what the model says without that."""

    def answer_questions(
        self, examples: Sequence[AtomicExample], progress: bool = False, constrained: bool = True
    ) -> list[Answered]: ...


@runtime_checkable
class LosingPredictor(Predictor, Protocol):
    """One that can say how probable it finds given answers: those of the questions themselves."""

    def answer_losses(self, examples: Sequence[AtomicExample], progress: bool = False) -> list[AnswerLoss | None]: ...


@runtime_checkable
class DescribedPredictor(Protocol):
    """One that says what it is."""

    def description(self) -> Mapping[str, Any]:
        """JSON values: name, kind, settings; of others' systems also requests, failures, tokens and cost."""
        ...


def datasets_with(datasets: Sequence[Dataset], split: str) -> list[Dataset]:
    """The datasets that have a split; UserError where none has."""
    present = [dataset for dataset in datasets if split in dataset.splits]
    if not present:
        names = sorted({name for dataset in datasets for name in dataset.splits})
        raise UserError(
            f"none of {len(datasets)} datasets has a split '{split}' (they have: {', '.join(names) or 'none'})"
        )
    return present


def evaluate(
    predictor: Predictor,
    datasets: Sequence[Dataset],
    split: str = "test",
    limit: int | None = None,
    predictions_dir: Path | None = None,
    progress: bool = True,
    num_unconstrained: int | None = 20,
    seed: int = 0,
    name: str | None = None,
    loss: bool = False,
) -> Evaluation:
    """Returns the scores of the predictor on `split` of every dataset that has it.

    limit: records a dataset, drawn by the seed: the same ones for every predictor. predictions_dir: one file a dataset,
    `<language>-<name>-<split>.jsonl`, one line a record with gold, prediction and every answer behind it.
    num_unconstrained: the questions about so many records of each dataset are asked again without constraints, to see
    how often the model errs by itself; None: of all. Without constraints an answer takes a step a token, so 0 (never)
    is for evaluations that have to be quick.
    name: of the predictor, where it does not say it itself.
    loss: also of the gold answers to all questions about these records, in nats a token: it sees differences between
    models that are too small, or too bad, for their scores to tell them apart.
    The predictor is given the records without their gold. A dataset without gold is predicted and named, not scored.
    UserError where no dataset has the split, and where a loss is wanted of a predictor that has none.
    """
    present = datasets_with(datasets, split)
    if loss and not isinstance(predictor, LosingPredictor):
        raise UserError("only a model of ours has a loss (leave out --loss)")
    golds = [sample_records(dataset, split, limit, seed) for dataset in present]
    records = [record for gold in golds for record in gold]
    metas = [dataset.record_meta(record) for dataset, gold in zip(present, golds, strict=True) for record in gold]
    begin = time.perf_counter()
    all_predictions = iter(predictor.predict_records(empty_predictions(records), metas, split, progress))
    seconds = time.perf_counter() - begin
    predictions = [[next(all_predictions) for _ in gold] for gold in golds]
    again = [predicted[:num_unconstrained] for predicted in predictions]
    if num_unconstrained != 0 and isinstance(predictor, ConstrainedPredictor):
        free = _answer_again(predictor, again, progress)
    else:
        free = [_answers(predicted) for predicted in again]
    losses: Sequence[RecordCounts | None] = [None] * len(present)
    if loss:
        assert isinstance(predictor, LosingPredictor)
        losses = _losses(predictor, present, golds, split, progress)
    evaluated: list[DatasetEvaluation] = []
    unscored: dict[str, str] = {}
    for dataset, gold, predicted, answers, lost in zip(present, golds, predictions, free, losses, strict=True):
        meta, path = dataset.meta, None
        if predictions_dir is not None:
            path = predictions_dir / predictions_name(meta.language, meta.name, split)
            write_predictions(path, _together(gold, predicted))
        if why := _why_not_scored(gold):
            unscored[meta.name] = why
            continue
        unconstrained = None if num_unconstrained == 0 else _rates(answers)
        evaluated.append(_evaluate_dataset(meta, split, gold, predicted, unconstrained, lost, path))
    skipped = tuple(dataset.meta.name for dataset in datasets if split not in dataset.splits)
    described = predictor.description() if isinstance(predictor, DescribedPredictor) else {}
    system = {**({"name": name} if name else {}), "seconds": round(seconds, 3), **described}
    return Evaluation(split, limit, tuple(evaluated), skipped, unscored, seed, system)


def _why_not_scored(gold: Sequence[Record]) -> str | None:
    if not gold:
        return "no records"
    return "no gold: none of its records has an answer" if empty_predictions(gold) == list(gold) else None


def _together(gold: Sequence[Record], predicted: Sequence[RecordPrediction]) -> list[PredictedRecord]:
    return [PredictedRecord.of(record, prediction) for record, prediction in zip(gold, predicted, strict=True)]


def _answer_again(
    predictor: ConstrainedPredictor, predictions: Sequence[Sequence[RecordPrediction]], progress: bool
) -> list[list[Answered]]:
    """The answers without constraints to the questions behind the predictions, dataset by dataset."""
    asked = [[answer.example for answer in _answers(predicted)] for predicted in predictions]
    questions = [question for each in asked for question in each]
    answers = iter(predictor.answer_questions(questions, progress, constrained=False))
    return [[next(answers) for _ in each] for each in asked]


def _losses(
    predictor: LosingPredictor,
    datasets: Sequence[Dataset],
    golds: Sequence[Sequence[Record]],
    split: str,
    progress: bool,
) -> list[RecordCounts]:
    """Of each dataset, [nats, tokens, tokens] of each record: by the formula of a headline, nats a token."""
    asked = [
        [evaluation_questions(decompose(record, dataset.record_meta(record), split)) for record in gold]
        for dataset, gold in zip(datasets, golds, strict=True)
    ]
    questions = [question for by_record in asked for each in by_record for question in each]
    found = iter(predictor.answer_losses(questions, progress))
    losses = []
    for gold, by_record in zip(golds, asked, strict=True):
        rows = []
        for each in by_record:
            known = [loss for _ in each if (loss := next(found)) is not None]
            num_tokens = sum(loss.num_tokens for loss in known)
            rows.append((sum(loss.nats for loss in known), num_tokens, num_tokens))
        losses.append(RecordCounts(tuple(record.id for record in gold), np.array(rows, np.float64).reshape(-1, 3)))
    return losses


def _answers(predicted: Iterable[RecordPrediction]) -> list[Answered]:
    return [answer for prediction in predicted for answer in prediction.answered]


def _evaluate_dataset(
    meta: DatasetMeta,
    split: str,
    gold: Sequence[Record],
    predicted: Sequence[RecordPrediction],
    unconstrained: AnswerRates | None,
    loss: RecordCounts | None,
    predictions: Path | None,
) -> DatasetEvaluation:
    answered = _answers(predicted)
    records = [prediction.record for prediction in predicted]
    counts = headline_counts(gold, records, meta)
    return DatasetEvaluation(
        name=meta.name,
        task=meta.task,
        language=meta.language,
        kind=gold[0].kind,
        split=split,
        score=score_dataset(gold, records, meta),
        baseline=score_dataset(gold, baseline_predictions(gold, meta), meta),
        rates=_rates(answered),
        unconstrained=unconstrained,
        num_cut=sum(answer.tokens_cut > 0 for answer in answered),
        tokens_cut=sum(answer.tokens_cut for answer in answered),
        counts=counts,
        loss=loss,
        labels=meta.labels,
        by_label=by_label(gold, records, meta),
        by_length=by_length(gold, counts, meta.language),
        errors=count_errors(_together(gold, predicted), meta),
        confusion=confusion(gold, records, meta),
        predictions=predictions,
    )


def _rates(answered: Sequence[Answered]) -> AnswerRates:
    num_strings = sum(len(answer.strings) for answer in answered)
    return AnswerRates(
        num_questions=len(answered),
        parse_error_rate=_share(sum(bool(answer.parsed.problems) for answer in answered), len(answered)),
        unasked_rate=_share(sum(bool(answer.parsed.unasked) for answer in answered), len(answered)),
        hallucination_rate=_share(sum(len(answer.invented) for answer in answered), num_strings),
    )


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
