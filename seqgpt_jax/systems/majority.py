"""majority: what a predictor that reads nothing would answer (metrics.baseline_predictions).

It is the baseline that stands beside every score, as a system of its own, so that it can be compared by label, length
and record. It looks at the gold answers of the very records that it is asked about: no constant answer has a better
accuracy than its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from seqgpt_jax.asking import RecordPrediction
from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.metrics import baseline_predictions
from seqgpt_jax.records import DatasetMeta, Record


class Majority:
    """datasets: those that it will be asked about, by whose gold it answers."""

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self._datasets = {dataset.declared.name: dataset for dataset in datasets}

    def predict_records(
        self, records: Sequence[Record], metas: Sequence[DatasetMeta], split: str = "test", progress: bool = False
    ) -> list[RecordPrediction]:
        by_dataset: dict[str, list[int]] = {}
        for i, meta in enumerate(metas):
            by_dataset.setdefault(meta.name, []).append(i)
        predicted: dict[int, RecordPrediction] = {}
        for name, places in by_dataset.items():
            dataset = self._datasets[name]
            gold = _gold(dataset, split, [records[i].id for i in places])
            for i, record in zip(places, baseline_predictions(gold, dataset.meta), strict=True):
                predicted[i] = RecordPrediction(record, ())
        return [predicted[i] for i in range(len(records))]

    def description(self) -> dict[str, Any]:
        return {"name": "majority", "kind": "majority", "settings": {}}


def _gold(dataset: Dataset, split: str, ids: Sequence[str]) -> list[Record]:
    """The records of these ids. A generated split, which has no end, is read as far as the last of them."""
    wanted = set(ids)
    found: dict[str, Record] = {}
    for record in dataset.records(split, sys.maxsize):
        if record.id in wanted:
            found[record.id] = record
            if len(found) == len(wanted):
                break
    return [found[each] for each in ids]
