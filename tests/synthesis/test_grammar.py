from __future__ import annotations

import random

import pytest

from seqgpt_jax.synthesis.grammar import GrammarCompiler

POOLS = {"onset": ["Br", "T"], "rime": ["ando", "elix"], "stem": ["{onset}{rime}"]}


def compiler(**pools: list[str]) -> GrammarCompiler:
    return GrammarCompiler(POOLS | pools, "en", 0)


def test_values_are_exactly_those_of_the_grammar() -> None:
    grammar = compiler().compile(["{stem} Airways", "Air {stem}", "Nil"])
    stems = {"Brando", "Brelix", "Tando", "Telix"}
    expected = {f"{stem} Airways" for stem in stems} | {f"Air {stem}" for stem in stems} | {"Nil"}
    draw = random.Random(1).random
    assert {grammar.compose(draw) for _ in range(1000)} == expected
    assert set(grammar.closed_values()) == expected
    assert grammar.num_values == len(expected)


def test_alternatives_are_equally_likely() -> None:
    grammar = compiler().compile(["a", "{stem}"])
    draw = random.Random(2).random
    share = sum(grammar.compose(draw) == "a" for _ in range(4000)) / 4000
    assert 0.46 < share < 0.54


def test_closed_values_leave_out_builtins() -> None:
    grammar = compiler().compile(["{number 1 30} {onset}", "{rime}"])
    assert set(grammar.closed_values()) == {"ando", "elix"}
    assert grammar.num_values == 10 * 2 + 2
    numbers = {grammar.compose(random.Random(i).random).split()[0] for i in range(500)} - {"ando", "elix"}
    assert numbers == {str(n) for n in range(3, 31, 3)}


@pytest.mark.parametrize(
    ("alternatives", "pools", "message"),
    [
        ([], {}, "no alternatives"),
        (["{stem"], {}, "unbalanced brace"),
        (["{nothing}"], {}, "neither a pool nor a builtin"),
        (["{}"], {}, "neither a pool nor a builtin"),
        (["{a}"], {"a": ["x{b}"], "b": ["{a}"]}, "refers to itself: a -> b -> a"),
    ],
)
def test_faults(alternatives: list[str], pools: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compiler(**pools).compile(alternatives)
