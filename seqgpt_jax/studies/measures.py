"""The numbers of a study: what a cell scores over its seeds, and by how much more than its baseline, with intervals.

A measure is the mean over languages of the mean over tasks of the mean headline of the datasets that it names:

    score             all datasets
    en, zh, NER ...   those of a language or a task; en/NER those of both
    classification    every choice (CLS, SA, ID, NLI, ET, MRC-MC); extraction: all others
    loss, loss/en ... of the gold answers, in nats a token, in place of the headline (evaluated with --loss)

Intervals are those of analysis/bootstrap.py, over the records of each dataset and over the seeds. A draw takes the same
records and the same seeds for every cell, so differences are paired. Of few seeds there are few different draws: what
seeds add is then underestimated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from seqgpt_jax.analysis import bootstrap
from seqgpt_jax.analysis.bootstrap import Estimate
from seqgpt_jax.analysis.record_counts import RecordCounts
from seqgpt_jax.analysis.report_files import ReportedDataset
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import LANGUAGES, TASKS

Floats: TypeAlias = npt.NDArray[np.float64]
GROUPS = ("classification", "extraction")
LOSS = "loss"


def check_measure(measure: str) -> None:
    """UserError for a measure that cannot be."""
    for part in measure.split("/"):
        if part not in ("score", LOSS, *LANGUAGES, *TASKS, *GROUPS):
            known = ", ".join(("score", LOSS, *LANGUAGES, *GROUPS, "a task such as NER"))
            raise UserError(f"measure '{measure}' is unknown (one of {known}, or several of them: en/NER)")


def is_loss(measure: str) -> bool:
    """Whether less of it is better."""
    return LOSS in measure.split("/")


def _counts(dataset: ReportedDataset, measure: str) -> RecordCounts | None:
    """What the measure is made of in a dataset; None where it has no part in it."""
    group = "classification" if dataset.kind == "classification" else "extraction"
    own = ("score", LOSS, dataset.meta.language, dataset.meta.task, group)
    counts = dataset.loss if is_loss(measure) else dataset.counts
    return counts if all(part in own for part in measure.split("/")) else None


class Draws:
    """The same bootstrap draws for everything that is judged on the same records.

    evaluations: of every cell and seed, by any key. UserError where two were judged on other records or datasets.
    """

    def __init__(self, evaluations: Mapping[str, Mapping[str, ReportedDataset]]) -> None:
        first = next(iter(evaluations.values()))
        for key, datasets in evaluations.items():
            for name in first.keys() | datasets.keys():
                if name not in first or name not in datasets or first[name].counts.ids != datasets[name].counts.ids:
                    raise UserError(f"{key}: judged on other records of {name} (evaluate all cells with one setting)")
        self.evaluations, self.datasets = evaluations, first
        # Where in the list of seeds each draw takes its own.
        self._seeds = np.random.default_rng(0).random((bootstrap.NUM_RESAMPLES, len(evaluations)))
        self._headlines: dict[tuple[str, str, bool], Floats] = {}

    def scores(self, key: str, measure: str) -> Floats | None:
        """[1 + draws]: the measure of one cell and seed on all records, then by draw. None: no dataset is of it."""
        counts = {name: _counts(dataset, measure) for name, dataset in self.evaluations[key].items()}
        known = {name: each for name, each in counts.items() if each is not None}
        if not known:
            return None
        return self._mean({name: self._headline(key, name, each, measure) for name, each in known.items()})

    def baseline(self, measure: str) -> float | None:
        """The measure of the majority answer and of copying nothing, the mean over all that were evaluated."""
        names = [name for name, dataset in self.datasets.items() if _counts(dataset, measure) is not None]
        if not names or is_loss(measure):
            return None
        return float(self._mean({name: np.array([self.datasets[name].baseline]) for name in names})[0])

    def _headline(self, key: str, name: str, counts: RecordCounts, measure: str) -> Floats:
        place = key, name, is_loss(measure)
        if place not in self._headlines:
            self._headlines[place] = np.concatenate([[counts.headline], bootstrap.resample(counts, name)])
        return self._headlines[place]

    def _mean(self, headlines: Mapping[str, Floats]) -> Floats:
        """Dataset -> task -> language -> one number, as evaluation.py does."""
        groups: dict[str, dict[str, list[Floats]]] = {}
        for name, values in headlines.items():
            meta = self.datasets[name].meta
            groups.setdefault(meta.language, {}).setdefault(meta.task, []).append(values)
        means = [bootstrap.mean([bootstrap.mean(each) for each in tasks.values()]) for tasks in groups.values()]
        return bootstrap.mean(means)

    def over_seeds(self, by_seed: Sequence[Floats]) -> Floats:
        """[1 + draws]: the mean over all seeds, then over those of each draw."""
        values = np.stack(by_seed)  # [seeds, 1 + draws]
        num = len(values)
        chosen = (self._seeds[:, :num] * num).astype(int)  # [draws, seeds]
        drawn = values[chosen, np.arange(1, values.shape[1])[:, None]].mean(axis=1)
        return np.concatenate([[values[:, 0].mean()], drawn])


def interval(values: Floats) -> Estimate:
    """values: the number itself, then the same of each draw."""
    return bootstrap.estimate(float(values[0]), values[1:])


@dataclass(frozen=True)
class LogFit:
    """score = a + b ln x, by least squares over cells. a_doubling: what twice as much adds, b ln 2."""

    a: float
    b: float
    r2: float
    a_doubling: Estimate


def fit_log(x: Sequence[float], scores: Sequence[Floats]) -> LogFit:
    """x: of each cell, at least two different ones; scores: each [1 + draws], paired."""
    values = np.stack(scores)  # [cells, 1 + draws]
    b, a = np.polyfit(np.log(x), values, 1)
    residual = values[:, 0] - (a[0] + b[0] * np.log(x))
    spread = values[:, 0] - values[:, 0].mean()
    total = float(spread @ spread)
    r2 = 1 - float(residual @ residual) / total if total else 0.0
    return LogFit(float(a[0]), float(b[0]), r2, interval(b * np.log(2)))
