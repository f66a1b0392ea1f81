"""Evaluation: datasets through a predictor, scored, and averaged without hiding what the averages are made of.

    datasets -> the records of a split -> predict_records (all datasets at once) -> score_dataset -> Evaluation

Averages: dataset -> mean of its task -> mean over tasks, English and Chinese apart (`LanguageScores.score`). Beside
them stand two groups that are plain means over datasets:

* classification: every dataset of kind classification (CLS, SA, ID, NLI, ET, MRC-MC): accuracy, beside the accuracy
  of the majority baseline (metrics.baseline_predictions).
* extraction: every other dataset. Its span F1 is that of the spans in NER, SF, SA with spans and MRC-SE; of the
  entities in RE; of triggers and arguments, with type and role, in EE. Beside it stands copying nothing (the same
  measure of empty predictions). Triples, Arg-C and span reading's token F1 are headlines of datasets, hence of tasks.

How well-behaved answers are (`AnswerRates`) is said twice for each dataset. Constrained decoding can only write
well-formed answers, so the rates of what was scored are 0 with it; what the model would do by itself is seen when the
same questions, of some of the records, are answered without constraints. Groups hold the means of the latter.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from seqgpt_jax.answering import Answered
from seqgpt_jax.atomic import AtomicExample
from seqgpt_jax.data.datasets import Dataset, sample_records
from seqgpt_jax.errors import UserError
from seqgpt_jax.metrics import DatasetScore, baseline_predictions, empty_predictions, score_dataset
from seqgpt_jax.predictor import RecordPrediction
from seqgpt_jax.records import DatasetMeta, Record, record_to_dict
from seqgpt_jax.whole import whole_file


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


@dataclass(frozen=True, slots=True)
class AnswerRates:
    """How well-behaved the answers to some questions are, in shares; 0 where nothing was asked or answered.

    parse_error_rate: of the questions, whose answer is not well-formed. unasked_rate: of the questions, whose answer
    names a label that was not asked. hallucination_rate: of the span strings (each once a question and label), that do
    not occur in the text.
    """

    num_questions: int
    parse_error_rate: float
    unasked_rate: float
    hallucination_rate: float


@dataclass(frozen=True, slots=True)
class DatasetEvaluation:
    """One dataset: its scores, those of the baseline on the same records, and how well-behaved the answers were.

    rates: of the answers that were scored. unconstrained: of answers to the same questions without constraints, on the
    first records; the same where the predictor has no constraints, None where this was not asked for.
    """

    name: str
    task: str
    language: str
    kind: str
    split: str
    score: DatasetScore
    baseline: DatasetScore
    rates: AnswerRates
    unconstrained: AnswerRates | None
    num_cut: int  # questions whose text was cut to fit the prompt
    tokens_cut: int  # tokens that they lost

    @property
    def is_classification(self) -> bool:
        return self.kind == "classification"


@dataclass(frozen=True, slots=True)
class ClassificationGroup:
    """Means over the datasets of kind classification; rates without constraints, None where none were measured."""

    accuracy: float
    majority_baseline: float
    parse_error_rate: float | None
    unasked_rate: float | None
    num_datasets: int


@dataclass(frozen=True, slots=True)
class ExtractionGroup:
    """Means over all other datasets (module docstring); rates without constraints, None where none were measured."""

    span_f1: float
    copying_nothing: float
    string_f1: float
    parse_error_rate: float | None
    unasked_rate: float | None
    hallucination_rate: float | None
    num_datasets: int


@dataclass(frozen=True, slots=True)
class TaskScores:
    """One task in one language: means over its datasets of their headlines, and the groups that it has a part in.

    headlines: the names of the metrics that were averaged, usually one.
    """

    score: float
    baseline: float
    headlines: tuple[str, ...]
    classification: ClassificationGroup | None
    extraction: ExtractionGroup | None
    num_datasets: int


@dataclass(frozen=True, slots=True)
class LanguageScores:
    """One language: the mean of its task means, and the groups over its datasets."""

    score: float
    baseline: float
    tasks: Mapping[str, TaskScores]
    classification: ClassificationGroup | None
    extraction: ExtractionGroup | None
    num_datasets: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A predictor on a set of datasets. skipped: datasets that have no such split."""

    split: str
    limit: int | None
    datasets: tuple[DatasetEvaluation, ...]
    skipped: tuple[str, ...] = ()

    @property
    def classification(self) -> ClassificationGroup | None:
        return _classification_group(self.datasets)

    @property
    def extraction(self) -> ExtractionGroup | None:
        return _extraction_group(self.datasets)

    @property
    def languages(self) -> dict[str, LanguageScores]:
        """By language code: never pooled."""
        return {language: _language_scores(group) for language, group in _grouped(self.datasets, _language_of).items()}

    @property
    def score(self) -> float:
        """One number, to compare two models by: the mean over languages of the mean over tasks of the mean headline.

        Of a single dataset it is the dataset's headline: accuracy of a classification with one label, span F1 of NER
        and SF, triple F1 of RE, Arg-C of EE, token F1 of MRC-SE (metrics.py).
        """
        return _mean(language.score for language in self.languages.values())

    def summary(self) -> dict[str, float]:
        """The numbers to watch while a model trains: score, score_<language> where there are several, accuracy of
        the classification datasets, span F1 and string F1 of the others, where there are such."""
        found = {"score": self.score}
        if len(self.languages) > 1:
            found |= {f"score_{name}": language.score for name, language in self.languages.items()}
        if self.classification is not None:
            found["accuracy"] = self.classification.accuracy
        if self.extraction is not None:
            found |= {"span_f1": self.extraction.span_f1, "string_f1": self.extraction.string_f1}
        return found


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
) -> Evaluation:
    """Returns the scores of the predictor on `split` of every dataset that has it.

    limit: records a dataset, the same ones for every predictor. predictions_dir: one file a dataset,
    `<language>-<name>-<split>.jsonl`, one line a record with gold, prediction and every answer behind it.
    num_unconstrained: the questions about so many records of each dataset are asked again without constraints, to see
    how often the model errs by itself; None: of all. Without constraints an answer takes a step a token, so 0 (never)
    is for evaluations that have to be quick.
    The predictor is given the records without their gold. UserError where no dataset has the split.
    """
    present = datasets_with(datasets, split)
    golds = [sample_records(dataset, split, limit) for dataset in present]
    records = [record for gold in golds for record in gold]
    metas = [dataset.record_meta(record) for dataset, gold in zip(present, golds, strict=True) for record in gold]
    all_predictions = iter(predictor.predict_records(empty_predictions(records), metas, split, progress))
    predictions = [[next(all_predictions) for _ in gold] for gold in golds]
    again = [predicted[:num_unconstrained] for predicted in predictions]
    if num_unconstrained != 0 and isinstance(predictor, ConstrainedPredictor):
        free = _answer_again(predictor, again, progress)
    else:
        free = [_answers(predicted) for predicted in again]
    evaluated = []
    for dataset, gold, predicted, answers in zip(present, golds, predictions, free, strict=True):
        unconstrained = None if num_unconstrained == 0 else _rates(answers)
        evaluated.append(_evaluate_dataset(dataset.meta, split, gold, predicted, unconstrained))
        if predictions_dir is not None:
            path = predictions_dir / f"{dataset.meta.language}-{dataset.meta.name}-{split}.jsonl"
            _write_predictions(path, gold, predicted)
    skipped = tuple(dataset.meta.name for dataset in datasets if split not in dataset.splits)
    return Evaluation(split, limit, tuple(evaluated), skipped)


def _answer_again(
    predictor: ConstrainedPredictor, predictions: Sequence[Sequence[RecordPrediction]], progress: bool
) -> list[list[Answered]]:
    """The answers without constraints to the questions behind the predictions, dataset by dataset."""
    asked = [[answer.example for answer in _answers(predicted)] for predicted in predictions]
    questions = [question for each in asked for question in each]
    answers = iter(predictor.answer_questions(questions, progress, constrained=False))
    return [[next(answers) for _ in each] for each in asked]


def _answers(predicted: Iterable[RecordPrediction]) -> list[Answered]:
    return [answer for prediction in predicted for answer in prediction.answered]


def _evaluate_dataset(
    meta: DatasetMeta,
    split: str,
    gold: Sequence[Record],
    predicted: Sequence[RecordPrediction],
    unconstrained: AnswerRates | None,
) -> DatasetEvaluation:
    answered = _answers(predicted)
    return DatasetEvaluation(
        name=meta.name,
        task=meta.task,
        language=meta.language,
        kind=gold[0].kind if gold else "",
        split=split,
        score=score_dataset(gold, [prediction.record for prediction in predicted], meta),
        baseline=score_dataset(gold, baseline_predictions(gold, meta), meta),
        rates=_rates(answered),
        unconstrained=unconstrained,
        num_cut=sum(answer.tokens_cut > 0 for answer in answered),
        tokens_cut=sum(answer.tokens_cut for answer in answered),
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


# --- averages --------------------------------------------------------------------------------------------------------


def _language_of(dataset: DatasetEvaluation) -> str:
    return dataset.language


def _task_of(dataset: DatasetEvaluation) -> str:
    return dataset.task


def _grouped(
    datasets: Iterable[DatasetEvaluation], key: Callable[[DatasetEvaluation], str]
) -> dict[str, list[DatasetEvaluation]]:
    groups: dict[str, list[DatasetEvaluation]] = {}
    for dataset in datasets:
        groups.setdefault(key(dataset), []).append(dataset)
    return dict(sorted(groups.items()))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _classification_group(datasets: Iterable[DatasetEvaluation]) -> ClassificationGroup | None:
    group = [dataset for dataset in datasets if dataset.is_classification]
    if not group:
        return None
    return ClassificationGroup(
        accuracy=_mean(dataset.score.metrics["accuracy"] for dataset in group),
        majority_baseline=_mean(dataset.baseline.metrics["accuracy"] for dataset in group),
        parse_error_rate=_mean_rate("parse_error_rate", group),
        unasked_rate=_mean_rate("unasked_rate", group),
        num_datasets=len(group),
    )


def _extraction_group(datasets: Iterable[DatasetEvaluation]) -> ExtractionGroup | None:
    group = [dataset for dataset in datasets if not dataset.is_classification]
    if not group:
        return None
    return ExtractionGroup(
        span_f1=_mean(dataset.score.metrics["span_f1"] for dataset in group),
        copying_nothing=_mean(dataset.baseline.metrics["span_f1"] for dataset in group),
        string_f1=_mean(dataset.score.metrics["string_f1"] for dataset in group),
        parse_error_rate=_mean_rate("parse_error_rate", group),
        unasked_rate=_mean_rate("unasked_rate", group),
        hallucination_rate=_mean_rate("hallucination_rate", group),
        num_datasets=len(group),
    )


def _mean_rate(name: str, group: Iterable[DatasetEvaluation]) -> float | None:
    rates = [getattr(dataset.unconstrained, name) for dataset in group if dataset.unconstrained is not None]
    return _mean(rates) if rates else None


def _task_scores(datasets: Sequence[DatasetEvaluation]) -> TaskScores:
    return TaskScores(
        score=_mean(dataset.score.headline for dataset in datasets),
        baseline=_mean(dataset.baseline.metrics[dataset.score.headline_name] for dataset in datasets),
        headlines=tuple(sorted({dataset.score.headline_name for dataset in datasets})),
        classification=_classification_group(datasets),
        extraction=_extraction_group(datasets),
        num_datasets=len(datasets),
    )


def _language_scores(datasets: Sequence[DatasetEvaluation]) -> LanguageScores:
    tasks = {task: _task_scores(group) for task, group in _grouped(datasets, _task_of).items()}
    return LanguageScores(
        score=_mean(task.score for task in tasks.values()),
        baseline=_mean(task.baseline for task in tasks.values()),
        tasks=tasks,
        classification=_classification_group(datasets),
        extraction=_extraction_group(datasets),
        num_datasets=len(datasets),
    )


# --- predictions on disk ---------------------------------------------------------------------------------------------


def _write_predictions(path: Path, gold: Sequence[Record], predicted: Sequence[RecordPrediction]) -> None:
    """One line a record, so that any number can be traced to the answers behind it."""
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record, prediction in zip(gold, predicted, strict=True):
            line = {
                "gold": record_to_dict(record),
                "predicted": record_to_dict(prediction.record),
                "answers": [_answered_to_dict(answer) for answer in prediction.answered],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _answered_to_dict(answer: Answered) -> dict[str, Any]:
    example = answer.example
    return {
        "step": example.source.step,
        "query": list(example.source.query),
        "kind": example.kind,
        "text": example.text,
        "labels": list(example.labels),
        "raw": answer.raw,
        "problems": list(answer.parsed.problems),
        "unasked": list(answer.parsed.unasked),
        "invented": list(answer.invented),
        "tokens_cut": answer.tokens_cut,
    }
