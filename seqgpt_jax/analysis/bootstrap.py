"""Intervals of scores by the bootstrap: how far a score would move with other records of the same datasets.

Each resample draws, in every dataset, as many of its records as there are, with replacement (Efron and Tibshirani,
1993, chapters 6 and 13). Draws are seeded by the dataset's name, so that two systems on the same records get the same
ones: the difference of their resampled headlines is that of the paired bootstrap. A mean over datasets is taken
resample by resample, so its interval says nothing of other datasets, only of other records of these.

    headline of a dataset      interval(resample(counts, "people"))
    mean of a task             interval(mean([resample(...) of each of its datasets]))
    system b against a         interval(resample(counts_b, "people") - resample(counts_a, "people"))

Shapes: N resamples, R records.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from seqgpt_jax.analysis.record_counts import RecordCounts

NUM_RESAMPLES = 1000
COVERAGE = 0.95
_BLOCK = 1_000_000  # records drawn at once, so that memory has a bound

Interval: TypeAlias = tuple[float, float]  # low, high


@dataclass(frozen=True)
class Estimate:
    """A number, or a difference of two, with its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def shows(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0

    def text(self, sign: str = "") -> str:
        """0.413 [0.380, 0.447]; sign "+" writes it everywhere."""
        return f"{self.value:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


def resample(counts: RecordCounts, dataset: str, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """headlines_N: the headline of each resample of the records, of which there must be one. dataset: the seed."""
    num_records = len(counts.ids)
    at_once = max(1, _BLOCK // num_records)
    rng = np.random.default_rng(list(hashlib.sha256(dataset.encode()).digest()))
    parts = []
    for start in range(0, num_resamples, at_once):
        places_NR = rng.integers(num_records, size=(min(at_once, num_resamples - start), num_records))
        parts.append(counts.counts[places_NR].sum(axis=1))
    sums_N3 = np.concatenate(parts)
    found_N = sums_N3[:, 1] + sums_N3[:, 2]
    return np.divide(2 * sums_N3[:, 0], found_N, out=np.zeros(num_resamples), where=found_N > 0)


def mean(headlines: Iterable[np.ndarray]) -> np.ndarray:
    """values_N: the mean over datasets, or over tasks, resample by resample."""
    return np.mean(list(headlines), axis=0)


def estimate(value: float, values_N: np.ndarray) -> Estimate:
    """values_N: the same number of each resample."""
    return Estimate(value, *interval(values_N))


def interval(values_N: np.ndarray) -> Interval:
    """The middle 95% of the values (percentile interval), linear between two of them."""
    low, high = np.quantile(values_N, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return float(low), float(high)
