"""Texts as 64-bit hashes of their tokens and n-grams, for comparing hundreds of thousands of texts at once. NumPy only.

    "In 2019, Acme's 价格" -> NFKC, case folded -> in | 2019 | acme | s | 价 | 格 -> a hash a token -> one a window of n

A token is a run of letters, marks and digits; a Han character, kana or emoji is one by itself. All else (punctuation,
white space, signs) only stands between tokens: two texts with the same tokens are the same text.
"""

from __future__ import annotations

import functools
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_BETWEEN, _IN_WORD, _ALONE = 0, 1, 2
_ALONE_RANGES = (  # kana; Han with its repetition sign and zero, extensions and compatibility blocks
    (0x3005, 0x3007),
    (0x3041, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x1B000, 0x1B16F),
    (0x20000, 0x323AF),
)
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: no power of it is 0 modulo 2**64


@dataclass(frozen=True)
class HashedTexts:
    """Texts as token hashes, one after the other: text i has counts[i] of tokens, from starts[i] on."""

    tokens: np.ndarray  # uint64 [T]
    starts: np.ndarray  # int64 [N]
    counts: np.ndarray  # int64 [N]

    def whole(self) -> np.ndarray:
        """uint64 [N]: one hash a text, of all its tokens in order; 0 for a text without any."""
        return _hash_runs(self.tokens, self.starts, self.counts)

    def windows(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """uint64 [W]: a hash of each n tokens in a row of one text; int64 [W]: the number of that text, ascending.

        A token that repeats the one before it is left out: ten times "@user" says no more than once.
        """
        text = np.repeat(np.arange(len(self.counts)), self.counts)
        kept = np.ones(len(text), bool)
        kept[1:] = (self.tokens[1:] != self.tokens[:-1]) | (text[1:] != text[:-1])
        mixed = mix(self.tokens[kept])
        counts = np.bincount(text[kept], minlength=len(self.counts))
        per_text = np.maximum(counts - (n - 1), 0)
        first = _positions(np.cumsum(counts) - counts, per_text)
        hashes = np.zeros(len(first), np.uint64)
        for offset in range(n):
            hashes = hashes * _BASE + mixed[first + offset]
        return mix(hashes), np.repeat(np.arange(len(per_text)), per_text)


def normalise(text: str) -> str:
    """Returns the text in NFKC, case folded: ＡＢ -> ab, ﬁ -> fi, Straße -> strasse."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def split_tokens(text: str) -> Iterator[str]:
    """Yields the tokens of a text, as hash_texts sees them."""
    word = ""
    classes = _classes()
    for letter in normalise(text):
        kind = classes[ord(letter)]
        if kind == _IN_WORD:
            word += letter
            continue
        if word:
            yield word
            word = ""
        if kind == _ALONE:
            yield letter
    if word:
        yield word


def hash_texts(texts: Sequence[str]) -> HashedTexts:
    """The token hashes of texts. The same ones in every process and on every machine."""
    normal = [normalise(text) for text in texts]
    lengths = np.fromiter(map(len, normal), np.int64, len(normal))
    points = np.frombuffer("".join(normal).encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _classes()[points]
    text = np.repeat(np.arange(len(normal)), lengths)
    begins = kinds != _BETWEEN  # a token, where it stands alone, or follows none of its word
    begins[1:] &= ~((kinds[1:] == _IN_WORD) & (kinds[:-1] == _IN_WORD) & (text[1:] == text[:-1]))
    first = np.flatnonzero(begins)
    # A token ends where the next begins, but for what lies between them.
    inside = np.cumsum(kinds != _BETWEEN)
    before = np.append(inside[first] - 1, inside[-1] if len(inside) else 0)
    hashes = _hash_runs(points.astype(np.uint64), first, np.diff(before))
    counts = np.bincount(text[first], minlength=len(normal)).astype(np.int64)
    return HashedTexts(hashes, np.cumsum(counts) - counts, counts)


def mix(values: np.ndarray) -> np.ndarray:
    """uint64 -> uint64, one to one: each bit of the result depends on every bit given (splitmix64's finaliser)."""
    values = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _hash_runs(values: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """uint64 [N]: for each run values[start : start + count], the mixed sum of mix(value) * base**place, from 1."""
    hashes = np.zeros(len(counts), np.uint64)
    some = np.flatnonzero(counts)
    if len(some):
        counts = counts[some]
        powers = np.cumprod(np.full(counts.max(), _BASE))
        place = _positions(np.zeros(len(counts), np.int64), counts)
        terms = mix(values[_positions(starts[some], counts)]) * powers[place]
        hashes[some] = mix(np.add.reduceat(terms, np.cumsum(counts) - counts))
    return hashes


def _positions(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """int64 [sum of counts]: start, start + 1, ... of each run. [7, 2], [2, 3] -> [7, 8, 2, 3, 4]"""
    ends = np.cumsum(counts)
    return np.repeat(starts - (ends - counts), counts) + np.arange(ends[-1] if len(ends) else 0)


@functools.cache
def _classes() -> np.ndarray:
    """uint8 [code points]: what each is to a token."""
    classes = np.zeros(sys.maxunicode + 1, np.uint8)
    for point in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(point))
        if category[0] in "LMN":
            classes[point] = _IN_WORD
        elif category == "So":
            classes[point] = _ALONE
    for first, last in _ALONE_RANGES:
        named = classes[first : last + 1]
        named[named == _IN_WORD] = _ALONE
    return classes
