"""What upstream training gave: each dataset's score with it beside the score without, and the means over datasets.

The score of a dataset is the mean over its samples of the headline metric on the test split. Its relative gain is
(with - without) / without; the average relative gain (ARG) is the mean over datasets (CrossFit, arXiv 2104.08835). ARG
is a ratio: where a baseline is near 0 a hundredth more can double it, and at 0 it has no value. So the absolute gain
stands beside it, and what rests on such baselines is named.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ARMS = ("without", "with")
NEAR_ZERO = 0.05  # a baseline below it: one point of score moves its relative gain by a fifth or more


@dataclass(frozen=True)
class Result:
    """One model tuned on one sample. score: the headline `metric` on num_test records of the test split, in 0..1.

    learning_rate: None for the default. dev_scores: the validation score of each learning rate that was tried.
    short: see sampling.Sample.
    """

    dataset: str
    task: str
    language: str
    seed: int
    arm: str
    metric: str
    score: float
    num_train: int
    num_validation: int
    num_test: int
    short: dict[str, int]
    learning_rate: float | None
    dev_scores: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Gain:
    """One dataset: scores sample by sample, the same samples in both."""

    dataset: str
    task: str
    language: str
    metric: str
    without: tuple[float, ...]
    with_upstream: tuple[float, ...]

    @property
    def absolute(self) -> float:
        return statistics.fmean(self.with_upstream) - statistics.fmean(self.without)

    @property
    def relative(self) -> float | None:
        """None where the baseline is 0."""
        baseline = statistics.fmean(self.without)
        return self.absolute / baseline if baseline > 0 else None

    @property
    def differences(self) -> tuple[float, ...]:
        return tuple(b - a for a, b in zip(self.without, self.with_upstream, strict=True))

    @property
    def near_zero(self) -> bool:
        return statistics.fmean(self.without) < NEAR_ZERO


@dataclass(frozen=True)
class Summary:
    """Means over datasets. arg: over those whose baseline is not 0, None where all are; arg_sound: over those whose
    baseline is not near 0 either. undefined, near_zero: the datasets that the one and the other leave out."""

    num_datasets: int
    without: float
    with_upstream: float
    absolute: float
    arg: float | None
    arg_sound: float | None
    undefined: tuple[str, ...]
    near_zero: tuple[str, ...]


def gains_of(results: Iterable[Result]) -> list[Gain]:
    """One gain a dataset, of the samples that both models were tuned on; datasets without one are left out."""
    scores: dict[tuple[str, str], dict[int, dict[str, Result]]] = {}
    for result in results:
        scores.setdefault((result.language, result.dataset), {}).setdefault(result.seed, {})[result.arm] = result
    gains = []
    for (language, name), by_seed in sorted(scores.items()):
        pairs = [[by_arm[arm] for arm in ARMS] for by_arm in by_seed.values() if len(by_arm) == len(ARMS)]
        if pairs:
            first = pairs[0][0]
            without, with_upstream = (tuple(pair[i].score for pair in pairs) for i in range(2))
            gains.append(Gain(name, first.task, language, first.metric, without, with_upstream))
    return gains


def summarise(gains: Sequence[Gain]) -> Summary:
    """The means over at least one dataset."""
    defined = [gain for gain in gains if gain.relative is not None]
    return Summary(
        num_datasets=len(gains),
        without=statistics.fmean(statistics.fmean(gain.without) for gain in gains),
        with_upstream=statistics.fmean(statistics.fmean(gain.with_upstream) for gain in gains),
        absolute=statistics.fmean(gain.absolute for gain in gains),
        arg=_mean_relative(defined),
        arg_sound=_mean_relative([gain for gain in defined if not gain.near_zero]),
        undefined=tuple(gain.dataset for gain in gains if gain.relative is None),
        near_zero=tuple(gain.dataset for gain in defined if gain.near_zero),
    )


def _mean_relative(gains: Sequence[Gain]) -> float | None:
    relative = [gain.relative for gain in gains if gain.relative is not None]
    return statistics.fmean(relative) if relative else None


def deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample (n - 1); not a number for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else math.nan
