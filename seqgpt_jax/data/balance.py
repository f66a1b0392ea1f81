"""Which questions training leaves out, so that no answer is the right one too often. No TensorFlow.

A dataset's label that is right in nine of ten examples teaches to say it without reading. The answers of a split are
counted once; of an answer that is too frequent, the questions with the smallest hashes stay. A hash is one of (seed,
dataset, record, question), so what stays does not depend on the order of the records, and another pass keeps others.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from seqgpt_jax.atomic import gold_choices
from seqgpt_jax.records import Record

Question: TypeAlias = tuple[str, tuple[str, ...]]  # (step, query), as in atomic.Source
_Answer: TypeAlias = tuple[str, frozenset[str]]  # (step, the labels that hold together)


@dataclass(frozen=True)
class Balance:
    """What stays of a split's questions. largest: of an answer that is too frequent, the largest hash that stays."""

    place: str = ""
    largest: Mapping[_Answer, int] = field(default_factory=dict)

    def surplus(self, record: Record) -> set[Question]:
        """The questions about a record that are left out."""
        if not self.largest:
            return set()
        return {
            (step, query)
            for (step, query), labels in gold_choices(record).items()
            if (limit := self.largest.get((step, frozenset(labels)))) is not None
            and _hash(self.place, record.id, step, query) > limit
        }


EVEN = Balance()  # nothing is left out


def balance(records: Iterable[Record], steps: Collection[str], max_share: float, place: str) -> Balance:
    """The balance of a split in which no answer to a step has more than max_share of that step's answers.

    place: what makes the hashes this dataset's and this pass's. Labels that hold together are one answer. Of n answers
    that occur, one has 1/n at least, so a max_share below that means 1/n. Pairs without a relation do not count.
    """
    hashes: dict[_Answer, array[int]] = defaultdict(lambda: array("Q"))
    for record in records:
        for (step, query), labels in gold_choices(record).items():
            if step in steps:
                hashes[step, frozenset(labels)].append(_hash(place, record.id, step, query))
    largest = {}
    for step in {step for step, _ in hashes}:
        found = {answer: values for answer, values in hashes.items() if answer[0] == step}
        most = most_of_each([len(values) for values in found.values()], max_share)
        largest.update({answer: sorted(values)[most - 1] for answer, values in found.items() if len(values) > most})
    return Balance(place, largest)


def most_of_each(counts: Sequence[int], max_share: float) -> int:
    """Returns the largest number such that, cut to it, no count is more than max_share (or 1/n) of their sum.

    ([90, 10], 0.5) -> 10    ([90, 10], 0.75) -> 30    ([50, 40, 5], 0.4) -> 10
    """
    share = max(max_share, 1 / len(counts)) + 1e-9

    def fits(most: int) -> bool:
        return most <= share * sum(min(count, most) for count in counts)

    low, high = 1, max(counts)  # what fits is an interval from 1: the right side is concave in `most`
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _hash(place: str, record_id: str, step: str, query: tuple[str, ...]) -> int:
    name = "\0".join((place, record_id, step, *query))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
