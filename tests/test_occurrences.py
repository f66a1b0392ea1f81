"""Where an answered string stands in its text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.occurrences import locate, normalise_text, read_spans
from seqgpt_jax.records import Span


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
        ("party", ["art"], [1]),  # unless it is nowhere else
        ("élan lan", ["lan"], [5]),
        ("19 of 1990", ["19"], [0]),  # nor inside a number
        ("5km, B2", ["5", "B"], [0, 5]),  # a number beside letters is cut off from them
        ("小明和小明", ["小明"], [0, 3]),  # Chinese has no such edges
        ("用Python3写", ["Python"], [1]),
        ("New York, York", ["York", "New York"], [0, 10]),  # not inside a longer answer
        ("New York", ["York", "New York"], [0, 4]),  # unless it is nowhere else
        ("New York, Yorkshire", ["York", "New York"], [0, 4]),  # which is before inside a word
        ("aa.aa.aa", ["aa.aa", "aa"], [0, 6]),
        ("a\nb a b", ["a b"], [0, 4]),  # offsets are those of the text as it is
        ("x", ["y", ""], []),
    ],
)
def test_locate(text: str, strings: list[str], starts: list[int]) -> None:
    spans = locate(text, {"l": strings})
    assert [found.start for found in spans] == starts
    assert all(text[found.start : found.end] == found.text for found in spans)


def test_locate_looks_at_all_labels_together() -> None:
    def found(text: str, once: bool = False) -> list[tuple[str, int]]:
        answer = {"a": ["New York"], "b": ["York"], "c": ["York"]}
        return [(span.label, span.start) for span in locate(text, answer, once=once)]

    assert found("New York") == [("a", 0), ("b", 4), ("c", 4)]
    assert found("New York, York") == [("a", 0), ("b", 10), ("c", 10)]
    assert found("York, York", once=True) == [("b", 0), ("c", 0)]


def test_what_is_not_in_the_text() -> None:
    assert read_spans("New York", {"a": ["York", "Oslo"]}) == (Span("a", 4, 8, "York"), Span("a", -1, -1, "Oslo"))


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
