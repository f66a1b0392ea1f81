"""Offsets in each unit, against JavaScript's own counts (written down here) and UTF-16 as Python encodes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.data.importers.offsets import Marked, count_units, resolve
from seqgpt_jax.errors import RecordError
from seqgpt_jax.fields import Fields
from seqgpt_jax.records import Span

FIREMAN = "👨🏻\u200d🚒 firemen drive firetrucks"  # "...".indexOf("firetrucks") is 22 in JavaScript, 19 in Python
UNITS = ("code_points", "utf16", "graphemes")


def read(text: str, start: int, end: int, unit: str | None = None, string: str | None = None, **more: bool) -> str:
    (span,) = resolve(text, [Marked("x", start, end, Fields({}, "s."), string)], unit, UNITS, **more)
    assert text[span.start : span.end] == span.text
    return span.text


@pytest.mark.parametrize(("unit", "start"), [("code_points", 19), ("utf16", 22), ("graphemes", 16)])
def test_each_unit(unit: str, start: int) -> None:
    assert read(FIREMAN, start, start + 10, unit) == "firetrucks"
    assert read(FIREMAN, start, start + 10, None, "firetrucks") == "firetrucks"
    span = Span("x", 19, 29, "firetrucks")
    assert count_units(FIREMAN, span, unit) == (start, start + 10)


def test_combining_marks_and_line_ends_are_one_grapheme() -> None:
    assert read("e\u0301\r\nab", 2, 3, "graphemes") == "a"
    assert count_units("e\u0301", Span("x", 1, 2, "\u0301"), "graphemes") is None


@given(st.text(st.characters(codec="utf-8")), st.data())
def test_utf16_is_that_of_the_codec(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    before, through = (len(text[:i].encode("utf-16-le")) // 2 for i in (start, end))
    assert count_units(text, Span("x", start, end, text[start:end]), "utf16") == (before, through)
    if start < end:
        assert read(text, before, through, "utf16") == text[start:end]


def test_plain_text_needs_no_unit() -> None:
    assert read("Ada in 北京", 7, 9) == "北京"


def test_all_spans_of_a_text_are_read_alike() -> None:
    """The second span would fit both readings, were it alone."""
    text = "😀 aaaa"
    marks = [Marked("x", 0, 2, Fields({}), "😀"), Marked("y", 4, 5, Fields({}), "a")]
    assert [span.start for span in resolve(text, marks, None, UNITS)] == [0, 3]
    with pytest.raises(RecordError, match="does not say which it counts .give --offsets code_points or utf16"):
        resolve("😀 aaab", [Marked("y", 3, 6, Fields({}))], None, UNITS[:2])


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [(-1, 2, "no span of a text of 4 code points"), (2, 2, "no span"), (3, 5, "no span"), (0, 2, 'is "ab", not "abc"')],
)
def test_what_no_reading_fits(start: int, end: int, words: str) -> None:
    with pytest.raises(RecordError) as caught:
        read("abcd", start, end, None, "abc")
    assert words in str(caught.value) and caught.value.field == "s.start"


def test_strings_as_an_editor_shows_them() -> None:
    assert read("New\n  York", 0, 10, None, "New\\nYork", displayed=True) == "New\n  York"
    assert read("New\nYork", 0, 8, None, "New York") == "New\nYork"
    with pytest.raises(RecordError):
        read("New\n  York", 0, 10, None, "New York")
