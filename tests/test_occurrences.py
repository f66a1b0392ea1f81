"""Where an answered string stands in its text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.occurrences import locate, normalise_text


def test_normalise_text_keeps_offsets() -> None:
    breaks = "\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
    assert normalise_text(f" a{breaks}b \u3000 c\x1f\n ") == " a" + " " * len(breaks) + "b \u3000 c"
    assert normalise_text("a\r\nb") == "a  b"


@given(st.text())
def test_normalised_text_is_one_line(text: str) -> None:
    written = normalise_text(text)
    assert len(written.splitlines()) <= 1 and "\t" not in written
    assert len(written) <= len(text) and normalise_text(written) == written
    assert all(a == b or b == " " for a, b in zip(text, written, strict=False))


@pytest.mark.parametrize(
    ("text", "strings", "starts"),
    [
        ("art party art", ["art"], [0, 10]),  # not inside a word
        ("party", ["art"], []),
        ("élan élan", ["lan"], []),
        ("19 of 1990", ["19"], [0]),  # nor inside a number
        ("5km, B2", ["5", "B"], [0, 5]),  # a number beside letters is cut off from them
        ("小明和小明", ["小明"], [0, 3]),  # Chinese has no such edges
        ("用Python3写", ["Python"], [1]),
        ("New York, York", ["York", "New York"], [0, 10]),  # not inside a longer answered span of its label
        ("aa.aa.aa", ["aa.aa", "aa"], [0, 6]),
        ("a\nb a b", ["a b"], [0, 4]),  # offsets are those of the text as it is
        ("x", ["y", ""], []),
    ],
)
def test_locate(text: str, strings: list[str], starts: list[int]) -> None:
    spans = locate(text, {"l": strings})
    assert [found.start for found in spans] == starts
    assert all(text[found.start : found.end] == found.text for found in spans)


def test_locate_looks_at_each_label_alone() -> None:
    assert len(locate("New York", {"a": ["New York"], "b": ["York"]})) == 2


@given(text=st.text("ab1 小é\n", max_size=20), strings=st.lists(st.text("ab1 小é", max_size=4), max_size=5))
def test_locate_finds_only_what_was_answered(text: str, strings: list[str]) -> None:
    spans = locate(text, {"l": strings})
    assert len(set(spans)) == len(spans)
    for found in spans:
        assert (
            normalise_text(text + "|")[found.start : found.end] in strings
            and text[found.start : found.end] == found.text
        )
    assert [s.start for s in spans] == sorted(s.start for s in spans)
