"""Token hashes against tokens and n-grams taken one by one in plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.data.ngrams import hash_texts, mix, split_tokens

TEXTS = st.text(alphabet=st.sampled_from("ab1 .,中文か👍'Ａé\n\u0301"), max_size=12)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("In 2019, Acme's Straße!", ["in", "2019", "acme", "s", "strasse"]),
        ("ＡＢ①ﬁ", ["ab1fi"]),  # NFKC: full width, a circled digit, a ligature
        ("价格10元か", ["价", "格", "10", "元", "か"]),
        ("good👍👎", ["good", "👍", "👎"]),
        ("한국어 naïve", ["한국어", "naïve"]),
        ("... -- ，。 \t\n", []),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert list(split_tokens(text)) == tokens


@given(st.lists(TEXTS, max_size=6))
def test_hashes_are_equal_where_the_tokens_are(texts: list[str]) -> None:
    tokens = [tuple(split_tokens(text)) for text in texts]
    hashed = hash_texts(texts)
    assert hashed.counts.tolist() == list(map(len, tokens))
    flat = [token for each in tokens for token in each]
    assert _partition(hashed.tokens.tolist()) == _partition(flat)
    whole = hashed.whole()
    assert _partition(whole.tolist()) == _partition(tokens)
    assert [value == 0 for value in whole] == [not each for each in tokens]


@given(st.lists(TEXTS, max_size=6), st.integers(1, 4))
def test_windows_are_the_ngrams_without_repetitions(texts: list[str], n: int) -> None:
    expected: list[tuple[int, tuple[str, ...]]] = []
    for number, text in enumerate(texts):
        tokens = list(split_tokens(text))
        tokens = [token for i, token in enumerate(tokens) if i == 0 or token != tokens[i - 1]]
        expected += [(number, tuple(tokens[i : i + n])) for i in range(len(tokens) - n + 1)]
    hashes, owners = hash_texts(texts).windows(n)
    assert owners.tolist() == [number for number, _ in expected]
    assert _partition(hashes.tolist()) == _partition([ngram for _, ngram in expected])


def test_order_and_length_matter() -> None:
    whole = hash_texts(["a b", "b a", "a b a b", "a", "ab"]).whole()
    assert len(set(whole.tolist())) == 5


def test_hashes_are_polynomials_in_every_process() -> None:
    """Computed with Python's own integers: cached results may be compared with hashes made later, or elsewhere."""
    base, whole = 0x9E3779B97F4A7C15, 1 << 64

    def mixed(value: int) -> int:
        return int(mix(np.array([value], np.uint64))[0])

    a, b, price = (mixed(ord(letter)) for letter in "ab价")
    expected = [mixed(a * base % whole), mixed((a * base + b * base**2) % whole), mixed(price * base % whole)]
    assert hash_texts(["a", "", "ab 价"]).tokens.tolist() == expected


def test_splitmix64() -> None:
    """The first outputs of splitmix64 from seed 0, as in the reference implementation (Vigna, prng.di.unimi.it)."""
    state = np.array([0, 0x9E3779B97F4A7C15], np.uint64)
    assert mix(state).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def _partition(values: list) -> list[int]:
    """Which values are equal: each as the place of the first like it."""
    return [values.index(value) for value in values]
