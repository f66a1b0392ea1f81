"""What an evaluation found, and its averages.

Averages: dataset -> mean of its task -> mean over tasks, English and Chinese apart (`LanguageScores.score`). Beside
them stand two groups that are plain means over datasets:

* classification: every dataset of kind classification (CLS, SA, ID, NLI, ET, MRC-MC): accuracy, beside the accuracy
  of the majority baseline (metrics.baseline_predictions).
* extraction: every other dataset. Its span F1 is that of the spans in NER, SF, SA with spans and MRC-SE; of the
  entities in RE; of triggers and arguments, with type and role, in EE. Beside it stands copying nothing (the same
  measure of empty predictions). Triples, Arg-C and span reading's token F1 are headlines of datasets, hence of tasks.

Every score has an interval (analysis/bootstrap.py): where it would lie with other records of the same datasets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from seqgpt_jax.analysis import bootstrap
from seqgpt_jax.analysis.bootstrap import Interval
from seqgpt_jax.analysis.breakdowns import Confusion, LabelScores, LengthScore
from seqgpt_jax.analysis.error_kinds import ErrorKind
from seqgpt_jax.analysis.record_counts import RecordCounts
from seqgpt_jax.metrics import DatasetScore


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


@dataclass(frozen=True)
class DatasetEvaluation:
    """One dataset: its scores, those of the baseline on the same records, and how well-behaved the answers were.

    rates: of the answers that were scored. unconstrained: of answers to the same questions without constraints, on the
    first records; the same where the predictor has no constraints, None where this was not asked for.
    counts: what the headline is made of, record by record. loss: what the loss of the gold answers is made of, its
    `headline` being nats a token; None where this was not asked for. errors: by kind, in the order of ERROR_KINDS.
    predictions: the file that has every record with its answers; None where none was written.
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
    counts: RecordCounts
    labels: tuple[str, ...] = ()  # that are asked; () where each record has its own
    by_label: tuple[LabelScores, ...] = ()
    by_length: tuple[LengthScore, ...] = ()
    errors: Mapping[str, ErrorKind] = field(default_factory=dict)
    confusion: Confusion | None = None
    loss: RecordCounts | None = None
    predictions: Path | None = None

    @property
    def is_classification(self) -> bool:
        return self.kind == "classification"

    @functools.cached_property
    def resampled(self) -> np.ndarray:
        """headlines_N of resamples of the records."""
        return bootstrap.resample(self.counts, self.name)

    @property
    def interval(self) -> Interval:
        return bootstrap.interval(self.resampled)

    @property
    def nats_per_token(self) -> float | None:
        """The loss of the gold answers; None where it was not asked for, or no question had room for its text."""
        return self.loss.headline if self.loss is not None and self.loss.has_gold else None


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
    datasets: tuple[DatasetEvaluation, ...]

    @property
    def num_datasets(self) -> int:
        return len(self.datasets)

    @property
    def nats_per_token(self) -> float | None:
        return _mean_known(dataset.nats_per_token for dataset in self.datasets)

    @property
    def resampled(self) -> np.ndarray:
        return bootstrap.mean(dataset.resampled for dataset in self.datasets)

    @property
    def interval(self) -> Interval:
        return bootstrap.interval(self.resampled)


@dataclass(frozen=True, slots=True)
class LanguageScores:
    """One language: the mean of its task means, and the groups over its datasets."""

    score: float
    baseline: float
    tasks: Mapping[str, TaskScores]
    classification: ClassificationGroup | None
    extraction: ExtractionGroup | None
    num_datasets: int

    @property
    def nats_per_token(self) -> float | None:
        return _mean_known(task.nats_per_token for task in self.tasks.values())

    @property
    def resampled(self) -> np.ndarray:
        return bootstrap.mean(task.resampled for task in self.tasks.values())

    @property
    def interval(self) -> Interval:
        return bootstrap.interval(self.resampled)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A predictor on a set of datasets.

    skipped: datasets that have no such split. unscored: name -> why a dataset has no score; it is in no mean.
    seed: of the choice of records. system: what was evaluated: name, kind, settings, seconds ...
    """

    split: str
    limit: int | None
    datasets: tuple[DatasetEvaluation, ...]
    skipped: tuple[str, ...] = ()
    unscored: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    system: Mapping[str, Any] = field(default_factory=dict)

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
        and SF, triple F1 of RE, Arg-C of EE, token F1 of MRC-SE (metrics.py). Not a number where nothing has a score.
        """
        return _mean(language.score for language in self.languages.values())

    @property
    def interval(self) -> Interval | None:
        """That of `score`."""
        if not self.datasets:
            return None
        return bootstrap.interval(bootstrap.mean(language.resampled for language in self.languages.values()))

    @property
    def nats_per_token(self) -> float | None:
        """The loss of the gold answers, averaged as `score` is."""
        return _mean_known(language.nats_per_token for language in self.languages.values())

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
    return sum(values) / len(values) if values else float("nan")


def _mean_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _mean(known) if known else None


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
    return _mean_known(
        None if dataset.unconstrained is None else getattr(dataset.unconstrained, name) for dataset in group
    )


def _task_scores(datasets: Sequence[DatasetEvaluation]) -> TaskScores:
    return TaskScores(
        score=_mean(dataset.score.headline for dataset in datasets),
        baseline=_mean(dataset.baseline.metrics[dataset.score.headline_name] for dataset in datasets),
        headlines=tuple(sorted({dataset.score.headline_name for dataset in datasets})),
        classification=_classification_group(datasets),
        extraction=_extraction_group(datasets),
        datasets=tuple(datasets),
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
