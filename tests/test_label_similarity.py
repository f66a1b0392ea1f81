"""Labels that are alike: against scikit-learn, and by hand."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from seqgpt_jax.label_similarity import alike_labels, folded, similarity

LETTERS = st.sampled_from("abcdé _-/AB1")
LABELS = st.lists(st.text(LETTERS, min_size=1, max_size=9), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(labels=LABELS, others=LABELS)
def test_as_scikit_learn_has_it(labels: list[str], others: list[str]) -> None:
    if not any(folded(label) for label in (*labels, *others)):
        return  # scikit-learn refuses an empty vocabulary
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), preprocessor=folded).fit([*labels, *others])
    expected = (vectorizer.transform(labels) @ vectorizer.transform(others).T).toarray()
    np.testing.assert_allclose(similarity(labels, others), expected, atol=1e-9)


def test_by_hand() -> None:
    """Order, case and punctuation do not count; " a", "a ", " a " and those of b have nothing in common."""
    np.testing.assert_allclose(similarity(["a"], ["b", "A", "-a-"]), [[0, 1, 1]], atol=1e-9)
    np.testing.assert_allclose(
        similarity(["lost card", "PlayMusic"], ["card_lost", "play music"]), np.eye(2), atol=1e-9
    )
    # 人 物 人物 against 人 名 人名: 人 is in both, ln(3 / 3) + 1 = 1; the others in one, ln(3 / 2) + 1
    own = np.log(3 / 2) + 1
    np.testing.assert_allclose(similarity(["人物"], ["人名"]), [[1 / (1 + 2 * own**2)]])


def test_most_alike_first() -> None:
    labels = ("alarm set", "alarm query", "set alarm", "weather", "人物", "人名")
    alike = alike_labels(labels)
    assert alike["alarm set"] == ("set alarm", "alarm query")
    assert alike["weather"] == ()
    assert alike["人物"] == ("人名",)
    assert list(alike) == list(labels)


def test_thousands_of_labels() -> None:
    labels = tuple(
        f"{first} {second}" for first in ["pay", "ask", "get", "set", "add"] for second in map(str, range(300))
    )
    start = time.process_time()
    alike = alike_labels(labels)
    assert time.process_time() - start < 20
    assert "ask 17" in alike["pay 17"]
