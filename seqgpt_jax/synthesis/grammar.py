"""The value grammar: strings with {pool} and {builtin} parts, compiled once into functions that compose values.

With the pools stem = ["{onset}{rime}"], onset = ["Br", "T"], rime = ["ando", "elix"], the alternative
"{stem} Airways" gives "Brando Airways", "Brelix Airways", "Tando Airways" and "Telix Airways".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from seqgpt_jax.synthesis.numerals import BUILTIN_NAMES, Builtin, Draw, make_builtin

_PART = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class Grammar:
    """A compiled grammar: `compose(draw)` gives a value; `num_values` counts derivations (distinct values at most)."""

    compose: Callable[[Draw], str]
    num_values: int
    alternatives: tuple[tuple[str | Grammar, ...], ...]  # empty for a builtin

    def closed_values(self) -> Iterator[str]:
        """Every value that is composed without a builtin, some of them more than once."""
        for alternative in self.alternatives:
            choices = [[part] if isinstance(part, str) else list(part.closed_values()) for part in alternative]
            yield from ("".join(values) for values in itertools.product(*choices))


class GrammarCompiler:
    """Compiles the grammars of one language and family over that family's pools; each pool is compiled once."""

    def __init__(self, pools: Mapping[str, Sequence[str]], language: str, residue: int) -> None:
        self._pools, self._language, self._residue = pools, language, residue
        self._compiled: dict[str, Grammar] = {}
        self._open: list[str] = []
        self.used: set[str] = set()

    def compile(self, alternatives: Sequence[str]) -> Grammar:
        """The grammar of the alternatives; ValueError says which part is wrong."""
        if not alternatives:
            raise ValueError("no alternatives")
        parsed = tuple(self._parse(alternative) for alternative in alternatives)
        num_values = sum(_product(part.num_values for part in parts if isinstance(part, Grammar)) for parts in parsed)
        return Grammar(_composer(parsed), num_values, parsed)

    def compile_pool(self, name: str) -> Grammar:
        """The grammar of one pool; ValueError when it is unknown, empty or refers to itself."""
        if name in self._open:
            raise ValueError(f"pool '{name}' refers to itself: {' -> '.join([*self._open, name])}")
        self.used.add(name)
        if name not in self._compiled:
            self._open.append(name)
            try:
                self._compiled[name] = self.compile(self._pools[name])
            finally:
                self._open.pop()
        return self._compiled[name]

    def _parse(self, alternative: str) -> tuple[str | Grammar, ...]:
        pieces = _PART.split(alternative)
        parts: list[str | Grammar] = []
        for place, piece in enumerate(pieces):
            if place % 2 == 0:
                if "{" in piece or "}" in piece:
                    raise ValueError(f"unbalanced brace in '{alternative}'")
                if piece:
                    parts.append(piece)
                continue
            if piece in self._pools:
                parts.append(self.compile_pool(piece))
                continue
            name, *arguments = piece.split() or [""]
            try:
                parts.append(_builtin_grammar(make_builtin(name, arguments, self._language, self._residue)))
            except ValueError as error:
                raise ValueError(f"'{alternative}': {error}") from None
        if not parts:
            raise ValueError("an alternative is empty")
        return tuple(parts)


def check_pool_names(names: Sequence[str]) -> list[str]:
    """What is wrong with pool names: they may not hide a builtin."""
    return [f"pool '{name}' has the name of a builtin" for name in names if name in BUILTIN_NAMES]


def _builtin_grammar(builtin: Builtin) -> Grammar:
    return Grammar(builtin.compose, builtin.num_values, ())


def _product(counts: Iterator[int]) -> int:
    result = 1
    for count in counts:
        result *= count
    return result


def _composer(parsed: tuple[tuple[str | Grammar, ...], ...]) -> Callable[[Draw], str]:
    """A function of `draw` alone; closures instead of a walk over the grammar, because this is the hot path."""
    makers = [_sequence_composer(parts) for parts in parsed]
    if all(len(parts) == 1 and isinstance(parts[0], str) for parts in parsed):
        words = tuple(str(parts[0]) for parts in parsed)
        num_words = len(words)
        return lambda draw: words[int(draw() * num_words)]
    if len(makers) == 1:
        return makers[0]
    num_makers = len(makers)
    return lambda draw: makers[int(draw() * num_makers)](draw)


def _sequence_composer(parts: tuple[str | Grammar, ...]) -> Callable[[Draw], str]:
    if len(parts) == 1:
        (only,) = parts
        return (lambda draw: only) if isinstance(only, str) else only.compose
    pieces = [part if isinstance(part, str) else part.compose for part in parts]
    return lambda draw: "".join([piece if isinstance(piece, str) else piece(draw) for piece in pieces])
