"""By label and confusion against scikit-learn; by length by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from seqgpt_jax.analysis.breakdowns import LabelScores, by_label, by_length, confusion
from seqgpt_jax.analysis.record_counts import headline_counts
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, ExtractionRecord, Record, Span
from tests.analysis.random_records import KINDS, make_pairs

LETTERS = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN")  # more than a confusion matrix shows


def _choices(chosen: list[str | None]) -> list[Record]:
    return [ClassificationRecord(str(i), "CLS", "text", () if c is None else (c,)) for i, c in enumerate(chosen)]


def test_labels_and_confusion_are_those_of_scikit_learn() -> None:
    rng = random.Random(0)
    gold: list[str | None] = [LETTERS[int(40 * rng.random() ** 2)] for _ in range(1500)]
    said = [g if rng.random() < 0.6 else rng.choice([*LETTERS, "unasked", None]) for g in gold]
    meta = DatasetMeta("letters", "CLS", "en", LETTERS)
    rows = {row.label: row for row in by_label(_choices(gold), _choices(said), meta)}
    written = [label or "nothing" for label in said]
    expected = precision_recall_fscore_support(gold, written, labels=LETTERS, zero_division=0)
    for label, *numbers in zip(LETTERS, *expected, strict=True):
        row = rows[label]
        assert [row.precision, row.recall, row.f1, row.support] == pytest.approx([float(each) for each in numbers])
    assert rows[None] == LabelScores(None, 0.0, 0.0, 0.0, 0, said.count("unasked"))

    found = confusion(_choices(gold), _choices(said), meta)
    assert found is not None
    assert len(found.labels) == 30 and list(found.labels) == sorted(found.labels, key=LETTERS.index)
    left_out = set(LETTERS) - set(found.labels)
    frequency = {label: gold.count(label) + said.count(label) for label in LETTERS}
    assert max(frequency[label] for label in left_out) <= min(frequency[label] for label in found.labels)
    axis = [*found.labels, "other", "nothing"]
    merged = [[each if each in axis else "other" for each in own] for own in (gold, written)]
    assert np.array_equal(confusion_matrix(*merged, labels=axis)[:-1], found.counts)
    assert np.sum(found.counts) == 1500


def test_no_confusion_of_what_is_no_single_choice() -> None:
    for meta, headline in KINDS:
        if headline != "accuracy":
            assert confusion(*make_pairs(meta, 20, 0), meta) is None
    varying = [ClassificationRecord(str(i), "MRC-MC", "t", ("x",), ("x", f"y{i}")) for i in range(3)]
    meta = DatasetMeta("options", "MRC-MC", "en", ())
    assert confusion(varying, varying, meta) is None
    assert by_label(varying, varying, meta) == ()


def test_labels_of_spans_by_hand() -> None:
    text = "Ada met Bob"
    ada, bob = Span("who", 0, 3, "Ada"), Span("who", 8, 11, "Bob")
    gold = [ExtractionRecord("0", "NER", text, (ada, bob)), ExtractionRecord("1", "NER", text, ())]
    planets = (Span("planet", 0, 3, "Ada"), Span("star", 0, 3, "Ada"))
    predicted = [ExtractionRecord("0", "NER", text, (ada,)), ExtractionRecord("1", "NER", text, (ada, *planets))]
    assert by_label(gold, predicted, DatasetMeta("d", "NER", "en", ("who", "where"))) == (
        LabelScores("who", 1 / 2, 1 / 2, 1 / 2, support=2, predicted=2),
        LabelScores(None, 0.0, 0.0, 0.0, support=0, predicted=2),
    )


@pytest.mark.parametrize("meta", [meta for meta, name in KINDS if name != "token_f1"], ids=lambda meta: meta.name)
def test_labels_add_up_to_the_headline(meta: DatasetMeta) -> None:
    gold, predicted = make_pairs(meta, 60, 1)
    rows = by_label(gold, predicted, meta)
    right = sum(round(row.recall * row.support) for row in rows)
    found = sum(row.support + row.predicted for row in rows)
    assert 2 * right / found == pytest.approx(headline_counts(gold, predicted, meta).headline)


def test_lengths_by_hand() -> None:
    texts = [99, 100, 199, 450]
    gold = [ClassificationRecord(str(i), "NLI", "x" * (n - 9), ("a",), text_pair="y" * 9) for i, n in enumerate(texts)]
    predicted = [ClassificationRecord(r.id, "NLI", r.text, ("a" if i % 2 else "b",)) for i, r in enumerate(gold)]
    counts = headline_counts(gold, predicted, DatasetMeta("d", "NLI", "en", ("a", "b")))
    rows = [(r.at_least, r.below, r.num_records, r.score) for r in by_length(gold, counts, "en")]
    assert rows == [(0, 100, 1, 0.0), (100, 200, 2, 0.5), (300, None, 1, 1.0)]
    assert [r.at_least for r in by_length(gold, counts, "zh")] == [40, 100]
