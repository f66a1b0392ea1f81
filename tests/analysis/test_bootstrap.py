"""Counts by record against the headlines of metrics.py, and intervals against plain loops and what is known of them."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest

from seqgpt_jax.analysis.bootstrap import interval, mean, resample
from seqgpt_jax.analysis.record_counts import RecordCounts, headline_counts
from seqgpt_jax.metrics import score_dataset
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, ExtractionRecord, Span
from tests.analysis.random_records import KINDS, TEXT, make_pairs


@pytest.mark.parametrize(("meta", "headline"), KINDS, ids=[meta.name for meta, _ in KINDS])
def test_headlines_follow_exactly_from_the_counts(meta: DatasetMeta, headline: str) -> None:
    for seed in range(20):
        gold, predicted = make_pairs(meta, 1 + 3 * seed, seed)
        counts, score = headline_counts(gold, predicted, meta), score_dataset(gold, predicted, meta)
        assert counts.headline == score.headline  # to the last bit
        assert counts.ids == tuple(record.id for record in gold)
        again = RecordCounts.from_dict(counts.to_dict())
        assert again.ids == counts.ids and again.headline == counts.headline
        part = [i for i in range(len(gold)) if i % 3 == 0]
        if all(isinstance(record, ClassificationRecord) for record in gold):
            continue  # which headline it is depends on all records
        of_part = score_dataset([gold[i] for i in part], [predicted[i] for i in part], meta)
        assert counts.select(part).headline == of_part.headline
    assert score.headline_name == headline
    assert 0 < score.headline < 1


def test_counts_by_hand() -> None:
    ada, bob = Span("who", 0, 3, "Ada"), Span("who", 8, 11, "Bob")
    rome = Span("where", 15, 19, "Rome")
    gold = [ExtractionRecord("x", "NER", TEXT, (ada, bob, rome)), ExtractionRecord("y", "NER", TEXT, ())]
    nowhere = Span("who", -1, -1, "Zoe")
    predicted = [ExtractionRecord("x", "NER", TEXT, (ada, nowhere)), ExtractionRecord("y", "NER", TEXT, (rome, rome))]
    counts = headline_counts(gold, predicted, DatasetMeta("d", "NER", "en", ("who", "where")))
    assert counts.counts.tolist() == [[1, 2, 3], [0, 1, 0]]
    assert counts.headline == 2 * 1 / (3 + 3)
    assert counts.to_dict() == {"ids": ["x", "y"], "counts": [[1, 2, 3], [0, 1, 0]]}
    assert counts.has_gold and not counts.select([1]).has_gold
    with pytest.raises(ValueError, match="1 ids but 2 rows"):
        RecordCounts.from_dict({"ids": ["x"], "counts": [[1, 1, 1], [1, 1, 1]]})


def _counts(rows: list[tuple[float, float, float]]) -> RecordCounts:
    return RecordCounts(tuple(map(str, range(len(rows)))), np.array(rows, float))


def test_resamples_are_those_of_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    rows = [(min(p, g, rng.randrange(3)), p, g) for p, g in ((rng.randrange(4), rng.randrange(4)) for _ in range(30))]
    drawn: list[list[int]] = []
    make = np.random.default_rng

    class Watched:
        def __init__(self, seed: object) -> None:
            self.rng = make(seed)  # type: ignore[arg-type]

        def integers(self, high: int, size: tuple[int, int]) -> np.ndarray:
            places = self.rng.integers(high, size=size)
            drawn.extend(places.tolist())
            return places

    monkeypatch.setattr(np.random, "default_rng", Watched)
    monkeypatch.setattr("seqgpt_jax.analysis.bootstrap._BLOCK", 100)  # several blocks
    values = resample(_counts(rows), "people")
    assert len(drawn) == 1000 and all(len(places) == 30 for places in drawn)
    assert {place for places in drawn for place in places} == set(range(30))
    for value, places in zip(values, drawn, strict=True):
        right, found = sum(rows[i][0] for i in places), sum(rows[i][1] + rows[i][2] for i in places)
        assert value == pytest.approx(2 * right / found)
    ordered = sorted(values)  # 0.025 * 999 = 24.975: between the 25th and the 26th
    low, high = ordered[24] + 0.975 * (ordered[25] - ordered[24]), ordered[974] + 0.025 * (ordered[975] - ordered[974])
    assert interval(values) == pytest.approx((low, high))


def test_the_interval_of_an_accuracy_is_the_binomial_one() -> None:
    """80 of 200 right: the standard error is sqrt(0.4 * 0.6 / 200) = 0.0346."""
    counts = _counts([(1, 1, 1)] * 80 + [(0, 1, 1)] * 120)
    low, high = interval(resample(counts, "topics"))
    assert low == pytest.approx(0.4 - 1.96 * 0.0346, abs=0.012)
    assert high == pytest.approx(0.4 + 1.96 * 0.0346, abs=0.012)
    assert interval(resample(counts, "topics")) == (low, high)
    assert not np.array_equal(resample(counts, "topics"), resample(counts, "tones"))
    # two datasets of that kind: the standard error of their mean is smaller by sqrt(2)
    both = mean([resample(counts, "topics"), resample(counts, "tones")])
    assert statistics.stdev(both.tolist()) == pytest.approx(0.0346 / 2**0.5, rel=0.1)


def test_differences_are_paired() -> None:
    """B is right wherever A is and on 20 records more: unpaired, the interval would cover 0."""
    a = _counts([(1, 1, 1)] * 80 + [(0, 1, 1)] * 120)
    b = _counts([(1, 1, 1)] * 100 + [(0, 1, 1)] * 100)
    low, high = interval(resample(b, "topics") - resample(a, "topics"))
    error = (0.1 * 0.9 / 200) ** 0.5  # of the share of records on which they differ
    assert (low, high) == pytest.approx((0.1 - 1.96 * error, 0.1 + 1.96 * error), abs=0.01)
    assert low > 0 > interval(resample(b, "topics"))[0] - interval(resample(a, "topics"))[1]


def test_certain_and_empty_scores() -> None:
    assert interval(resample(_counts([(1, 1, 1)] * 5), "d")) == (1.0, 1.0)
    assert interval(resample(_counts([(0, 0, 0)] * 5), "d")) == (0.0, 0.0)
    assert interval(resample(_counts([(0.25, 1, 1)]), "d")) == (0.25, 0.25)
