"""No answer is the right one too often, whatever the order of the records; and another seed keeps others."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.data.balance import EVEN, balance, most_of_each
from seqgpt_jax.records import ClassificationRecord, Record, Relation, RelationRecord, Span


def choices(answers: list[tuple[str, ...]]) -> list[Record]:
    return [ClassificationRecord(str(i), "CLS", "x", labels) for i, labels in enumerate(answers)]


def kept(records: list[Record], share: float, place: str = "0/d") -> list[Record]:
    found = balance(records, ("classify",), share, place)
    return [record for record in records if not found.surplus(record)]


def answers_of(records: list[Record]) -> Counter[frozenset[str]]:
    return Counter(frozenset(record.labels) for record in records if isinstance(record, ClassificationRecord))


@pytest.mark.parametrize(
    ("counts", "share", "most"),
    [
        ([90, 10], 0.5, 10),
        ([90, 10], 0.75, 30),
        ([90, 10], 0.9, 90),
        ([50, 40, 5], 0.4, 10),  # 10, 10, 5: 40% of 25
        ([50, 40, 5], 0.1, 5),  # a third is the least that one of three has
        ([7], 0.5, 7),
        ([3, 2], 0.5, 2),
        ([100, 100, 100], 1 / 3, 100),
    ],
)
def test_most_of_each_by_hand(counts: list[int], share: float, most: int) -> None:
    assert most_of_each(counts, share) == most


@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=8), share=st.floats(0.01, 1))
def test_most_of_each_is_the_largest_that_fits(counts: list[int], share: float) -> None:
    least = max(share, 1 / len(counts)) + 1e-9
    fitting = [m for m in range(1, max(counts) + 1) if m <= least * sum(min(count, m) for count in counts)]
    assert most_of_each(counts, share) == max(fitting)


labels = st.sampled_from([(), ("a",), ("b",), ("c",), ("a", "b"), ("b", "a")])


@given(
    answers=st.lists(labels, min_size=1, max_size=80),
    share=st.sampled_from([0.2, 0.34, 0.5, 0.8, 1.0]),
    seed=st.integers(0, 9),
)
def test_the_cap_is_kept_and_no_more_is_left_out_than_it_needs(
    answers: list[tuple[str, ...]], share: float, seed: int
) -> None:
    records = choices(answers)
    before, after = answers_of(records), answers_of(kept(records, share, f"{seed}/d"))
    limit = max(share, 1 / len(before))
    assert max(after.values()) <= limit * after.total() + 1e-6
    assert after.keys() == before.keys(), "no answer is lost"
    most = max(after.values())
    assert after == {answer: min(count, most) for answer, count in before.items()}
    if most < max(before.values()):  # one more of each that was cut would be too many
        larger = {answer: min(count, most + 1) for answer, count in before.items()}
        assert most + 1 > limit * sum(larger.values())


@given(answers=st.lists(labels, min_size=1, max_size=60), shuffle=st.integers())
def test_neither_order_nor_unrelated_settings_matter(answers: list[tuple[str, ...]], shuffle: int) -> None:
    records = choices(answers)
    shuffled = records.copy()
    random.Random(shuffle).shuffle(shuffled)
    ids = {record.id for record in kept(records, 0.4)}
    assert ids == {record.id for record in kept(shuffled, 0.4)}


def test_a_skewed_dataset() -> None:
    records = choices([("often",)] * 900 + [("seldom",)] * 100)
    assert answers_of(kept(records, 0.5)) == {frozenset({"often"}): 100, frozenset({"seldom"}): 100}
    passes = [{record.id for record in kept(records, 0.5, f"{seed}/d")} for seed in range(30)]
    assert len(set[str]().union(*passes)) > 0.9 * len(records), "what one pass leaves out, another keeps"
    assert {record.id for record in kept(records, 0.5, "0/other")} != passes[0]
    assert kept(records, 1.0) == records


def test_relations_are_balanced_and_pairs_without_one_are_none_of_them() -> None:
    def record(i: int, *relations: tuple[str, int, int]) -> RelationRecord:
        text = "Ann Bob Eve"
        entities = tuple(Span("p", start, start + 3, text[start : start + 3]) for start in (0, 4, 8))
        return RelationRecord(str(i), "RE", text, entities, tuple(Relation(*each) for each in relations))

    records: list[Record] = [record(i, ("often", 0, 1), ("often", 1, 2)) for i in range(50)]
    records += [record(50 + i, ("seldom", 2, 0)) for i in range(20)]
    found = balance(records, ("relation",), 0.5, "0/d")
    left_out = Counter(question for each in records for question in found.surplus(each))
    assert left_out.total() == 100 - 20
    assert left_out.keys() == {("relation", ("Ann", "Bob")), ("relation", ("Bob", "Eve"))}
    assert not balance(records, ("classify",), 0.5, "0/d").largest, "a step that is not asked"
    assert EVEN.surplus(records[0]) == set()
