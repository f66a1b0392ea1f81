from __future__ import annotations

import pytest

from seqgpt_jax.synthesis.content import Slot, Template, Trigger
from seqgpt_jax.synthesis.rendering import fill, is_readable


def test_fill_knows_where_everything_stands() -> None:
    pieces = (Slot("band"), " ", Trigger("plays"), " in ", Slot("city"), "!")
    filled = fill(Template("", pieces, (), None), {"band": "The Mills", "city": "Ostgard"})
    assert filled.text == "The Mills plays in Ostgard!"
    assert filled.places == {"band": (0, 9), "city": (19, 26)} and filled.trigger == (10, 15)
    later = filled.shifted(3, "So The Mills plays in Ostgard!")
    assert later.string("city") == "Ostgard" and later.text[slice(*later.trigger)] == "plays"


@pytest.mark.parametrize(
    ("text", "string", "readable"),
    [
        ("from Rome to Oslo", "Rome", True),
        ("from Rome to Rome", "Rome", False),
        ("from Rome to New Rome", "Rome", False),
        ("5 of 15", "5", False),
        ("aaa", "aa", False),
        ("in Romeo's hands", "Rome", False),
        ("in xRome", "Rome", False),
        ("Rome's hands", "Rome", True),
        ("the Rome-based firm", "Rome", True),
        ("在东京开会", "东京", True),
        ("用A4纸", "A4", True),
        ("用B5和B52", "B5", False),
        ("价格是30元", "30元", True),
        ("价格是130元", "30元", False),
    ],
)
def test_readable_spans_are_found_again_by_their_string_alone(text: str, string: str, readable: bool) -> None:
    start = text.find(string)
    assert is_readable(text, [(start, start + len(string))]) is readable
