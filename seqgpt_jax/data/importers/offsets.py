"""What a file's offsets count, and the code points that they mean.

    "😀 Ada"        code points   0 1 2..5     Python, brat, Label Studio since 2021
                    utf16         0 2 3..6     JavaScript: doccano, Label Studio before
    "e\u0301 Ada"   graphemes     0 1 2..5     doccano with "count grapheme clusters as one character"

No format says which it has, and most texts read the same in all. So each reading is tried on a whole record: what lies
outside the text, cuts a character in two or is not the string that stands beside the offsets cannot be meant. Where
several readings are left and differ, the user is asked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import regex

from seqgpt_jax.errors import RecordError
from seqgpt_jax.fields import Fields, show
from seqgpt_jax.records import Span


def _code_points(text: str) -> Iterable[int]:
    return (1 for _ in text)


def _utf16(text: str) -> Iterable[int]:
    for character in text:
        if character > "\uffff":  # two units of one code point together; the place between them is none
            yield 0
        yield 1


def _graphemes(text: str) -> Iterable[int]:
    return map(len, regex.findall(r"\X", text))


# name -> how many code points each unit of a text has
UNITS: dict[str, Callable[[str], Iterable[int]]] = {
    "code_points": _code_points,
    "utf16": _utf16,
    "graphemes": _graphemes,
}


@dataclass(frozen=True, slots=True)
class Marked:
    """A span as a file has it: offsets of some unit, and its string where the file gives that too."""

    label: str
    start: int
    end: int
    place: Fields
    string: str | None = None


def resolve(
    text: str, marked: Sequence[Marked], unit: str | None, units: Sequence[str], *, displayed: bool = False
) -> tuple[Span, ...]:
    """The spans in code points, in the order given. unit: what the offsets count; None: whichever of ``units`` fits.

    displayed: the strings are as an editor shows them: white space differs, a line break may be a backslash and n.
    RecordError where no reading fits all spans of the text, or several do and give different spans.
    """
    if not marked:
        return ()
    readings: dict[tuple[Span, ...], str] = {}
    faults: list[RecordError] = []
    for each in (unit,) if unit else _distinct_units(text, units):
        try:
            readings.setdefault(_read(text, marked, each, displayed), each)
        except RecordError as error:
            faults.append(error)
    if not readings:
        raise faults[0]
    if len(readings) > 1:
        a, b = list(readings)[:2]
        first = next(i for i in range(len(a)) if a[i] != b[i])
        shown = f"{show(a[first].text)} in {readings[a]} and {show(b[first].text)} in {readings[b]}"
        problem = f"{marked[first].start}..{marked[first].end} is {shown}, and the file does not say which it counts"
        remedy = f"give --offsets {' or '.join(readings.values())}"
        raise marked[first].place.error("start", problem, remedy)
    return next(iter(readings))


def _distinct_units(text: str, units: Sequence[str]) -> Sequence[str]:
    """The units whose counts can differ on this text."""
    return units[:1] if text.isascii() and "\r" not in text else units


def _boundaries(text: str, unit: str) -> list[int]:
    """Offset in the unit -> offset in code points; -1 inside a character."""
    lengths = list(UNITS[unit](text))
    places = [0, *accumulate(lengths)]
    return [-1 if i and lengths[i - 1] == 0 else place for i, place in enumerate(places)]


def _read(text: str, marked: Sequence[Marked], unit: str, displayed: bool) -> tuple[Span, ...]:
    """The spans that the offsets mean if they count this unit; RecordError where they cannot."""
    places = _boundaries(text, unit)
    spans = []
    for mark in marked:
        if not 0 <= mark.start < mark.end < len(places):
            counted = unit.replace("_", " ")
            raise mark.place.error(
                "start", f"{mark.start}..{mark.end} is no span of a text of {len(places) - 1} {counted}"
            )
        start, end = places[mark.start], places[mark.end]
        if start < 0 or end < 0:
            raise mark.place.error("start", f"{mark.start}..{mark.end} cuts a character in two", "give other --offsets")
        found = text[start:end]
        if mark.string is not None and _as_shown(found, displayed) != _as_shown(mark.string, displayed):
            problem = f"{mark.start}..{mark.end} is {show(found)}, not {show(mark.string)}"
            place = text.find(mark.string)
            raise mark.place.error("start", problem, f"it occurs at {place}" if place >= 0 else "it is not in the text")
        spans.append(Span(mark.label, start, end, found))
    return tuple(spans)


def _as_shown(string: str, displayed: bool) -> str:
    """What two strings are compared by; a line break may always be written as another white space."""
    return "".join(string.replace("\\n", " ").split()) if displayed else re.sub(r"\s", " ", string)


def count_units(text: str, span: Span, unit: str) -> tuple[int, int] | None:
    """The offsets of a span in a unit, as a writer needs them; None where the unit has no such place."""
    places = _boundaries(text, unit)
    try:
        return places.index(span.start), places.index(span.end)
    except ValueError:
        return None
