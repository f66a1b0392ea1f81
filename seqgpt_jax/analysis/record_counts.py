"""The headline of a dataset as counts by record, from which it follows exactly, and so does that of any part of it.

    headline = 2 * true positives / (predicted + gold), each summed over records; 0 where that is 0/0

| headline | counts of a record |
|---|---|
| micro_f1, span_f1, triple_f1, argument_c | of its set of items (metrics.headline_items) |
| accuracy, token_f1 | (value, 1, 1): the same formula gives the mean of the values |

Worked example, span_f1: a record with 3 gold spans and 2 predicted ones, of which 1 is right, counts (1, 2, 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqgpt_jax.metrics import headline_items, headline_name, token_f1
from seqgpt_jax.records import DatasetMeta, Record


@dataclass(frozen=True, eq=False)
class RecordCounts:
    """counts: [records, 3] float64: true positives, predicted, gold (module docstring); ids: of the records."""

    ids: tuple[str, ...]
    counts: np.ndarray

    @property
    def headline(self) -> float:
        """That of all these records."""
        right, predicted, gold = (sum(column) for column in self.counts.T.tolist())  # in metrics.py's order of adding
        return 2 * right / (predicted + gold) if predicted + gold else 0.0

    @property
    def has_gold(self) -> bool:
        """Whether there is anything to find in these records."""
        return bool(self.counts[:, 2].any())

    def select(self, places: Sequence[int]) -> RecordCounts:
        """Those at these places, in this order."""
        return RecordCounts(tuple(self.ids[place] for place in places), self.counts[list(places)])

    def to_dict(self) -> dict[str, Any]:
        """{"ids": [...], "counts": [[true positives, predicted, gold], ...]}, of which from_dict makes the same."""
        rows = [[int(value) if value.is_integer() else value for value in row] for row in self.counts.tolist()]
        return {"ids": list(self.ids), "counts": rows}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> RecordCounts:
        """ValueError where there is not one row of three numbers for each id."""
        ids, rows = tuple(fields["ids"]), np.asarray(fields["counts"], np.float64).reshape(-1, 3)
        if len(ids) != len(rows):
            raise ValueError(f"{len(ids)} ids but {len(rows)} rows of counts")
        return cls(ids, rows)


def headline_counts(gold: Sequence[Record], predicted: Sequence[Record], meta: DatasetMeta) -> RecordCounts:
    """The counts of one dataset's headline: records of one kind, at least one, gold and predicted in the same order."""
    name = headline_name(gold, meta)
    rows: Iterable[tuple[float, float, float]]
    if name == "accuracy":
        rows = ((headline_items(g) == headline_items(p), 1, 1) for g, p in zip(gold, predicted, strict=True))
    elif name == "token_f1":
        rows = ((token_f1(g, p, meta.language), 1, 1) for g, p in zip(gold, predicted, strict=True))
    else:
        rows = (_counted(g, p) for g, p in zip(gold, predicted, strict=True))
    return RecordCounts(tuple(record.id for record in gold), np.array(list(rows), np.float64))


def _counted(gold: Record, predicted: Record) -> tuple[int, int, int]:
    wanted, given = headline_items(gold), headline_items(predicted)
    return len(wanted & given), len(given), len(wanted)
