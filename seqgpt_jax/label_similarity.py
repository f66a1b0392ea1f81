"""How alike two labels are in their letters: the cosine of their character n-grams, weighted by how rare they are.

Labels that look alike often mean alike ("card lost", "lost card"), and where they do not, they are the ones that a
model mixes up ("volume up", "volume down"). It needs no model and no data but the labels, in any script.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

ALIKE = 0.2  # similarity from which two labels are alike: they share a word, or in Chinese about half their characters
_LATIN_SIZES = (2, 3, 4)  # of the n-grams, in characters
_CJK_SIZES = (1, 2)  # a character is a syllable with a meaning
_CJK = re.compile("[\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NO_WORD = re.compile(r"[\W_]+")


def similarity(labels: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Returns cosines in 0..1, float64 [labels, others]: 1 for equal words in any order, 0 where no n-gram is shared.

    The vectors are TF-IDF, smoothed, over all given labels, of the 2- to 4-grams of each word with a blank at both ends
    (scikit-learn's TfidfVectorizer with analyzer="char_wb"); of a word with Chinese, Japanese or Korean characters, of
    its 1- and 2-grams without blanks. Case, punctuation and camelCase do not count.
    """
    vectors = _weighted([_n_grams(label) for label in (*labels, *others)])
    holders: dict[str, list[tuple[int, float]]] = {}
    for column, vector in enumerate(vectors[len(labels) :]):
        for gram, weight in vector.items():
            holders.setdefault(gram, []).append((column, weight))
    shared = {gram: np.array(pairs) for gram, pairs in holders.items()}
    cosines = np.zeros((len(labels), len(others)))
    for row, vector in zip(cosines, vectors[: len(labels)], strict=True):
        for gram, weight in vector.items():
            if gram in shared:
                row[shared[gram][:, 0].astype(int)] += weight * shared[gram][:, 1]
    return cosines


@lru_cache(maxsize=1024)
def alike_labels(labels: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
    """Returns label -> the others of them that are ALIKE, the most alike first."""
    cosines = np.round(similarity(labels, labels), 6)  # so that equal is equal, and the order given decides
    np.fill_diagonal(cosines, 0)
    order = np.argsort(-cosines, axis=1, kind="stable")
    counts = (cosines >= ALIKE).sum(axis=1)
    return {label: tuple(labels[i] for i in order[row, : counts[row]]) for row, label in enumerate(labels)}


def folded(label: str) -> str:
    """Returns the words of a label: "GetWeather_now" -> "get weather now"."""
    return _NO_WORD.sub(" ", _CAMEL_CASE.sub(" ", label)).strip().lower()


def _n_grams(label: str) -> Counter[str]:
    grams: Counter[str] = Counter()
    for word in folded(label).split():
        padded, sizes = (word, _CJK_SIZES) if _CJK.search(word) else (f" {word} ", _LATIN_SIZES)
        for size in sizes:
            grams.update(padded[start : start + size] for start in range(max(len(padded) - size, 0) + 1))
            if len(padded) <= size:  # the word as a whole, once
                break
    return grams


def _weighted(labels: Sequence[Counter[str]]) -> list[dict[str, float]]:
    """Counts times ln((1 + labels) / (1 + labels that have it)) + 1, at length 1."""
    num_holders = Counter(gram for grams in labels for gram in grams)
    rarity = {gram: math.log((1 + len(labels)) / (1 + number)) + 1 for gram, number in num_holders.items()}
    weighted = []
    for grams in labels:
        vector = {gram: count * rarity[gram] for gram, count in grams.items()}
        length = math.sqrt(sum(weight * weight for weight in vector.values())) or 1.0
        weighted.append({gram: weight / length for gram, weight in vector.items()})
    return weighted
