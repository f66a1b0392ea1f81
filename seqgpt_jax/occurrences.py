"""Where an answered string stands in its text: an answer is strings, a record is spans.

A text is normalised before anything is looked for, one character for one, so that offsets stay true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from seqgpt_jax.records import Span

_LINE_BREAK = re.compile("[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def normalise_text(text: str) -> str:
    """Returns the text with each tab and line break as one space (offsets stay true) and no trailing white space."""
    return _LINE_BREAK.sub(" ", text).rstrip()


def normalise_string(text: str) -> str:
    """A span, mention or target as a prompt or an answer holds it."""
    return normalise_text(text).lstrip()


def gap(a: Span, b: Span) -> tuple[int, int]:
    """The distance of two spans: code points between them, then from start to start."""
    return max(a.start - b.end, b.start - a.end, 0), abs(a.start - b.start)


def locate(text: str, strings_by_label: Mapping[str, Iterable[str]], *, once: bool = False) -> tuple[Span, ...]:
    """Returns the spans that answered strings mean, in text order; a string that is not in the text gives none.

    A string means each of its occurrences that does not cut a Latin word (a run of letters or of digits) and does not
    lie inside a longer answered string, of whatever label. Where there is none of these, it means those inside longer
    ones; where there is none of these either, those that cut words. once: only the first of what it means.

    ("Paris Hilton in Paris", {"person": ["Paris Hilton"], "city": ["Paris"]})  ->  Paris Hilton at 0, Paris at 16
    ("New York", {"state": ["New York"], "city": ["York"]})                     ->  New York at 0, York at 4
    """
    labels: dict[str, list[str]] = {}
    for label, strings in strings_by_label.items():
        for string in dict.fromkeys(strings):
            labels.setdefault(string, []).append(label)
    written = normalise_text(text)
    taken: list[tuple[int, int]] = []
    spans = []
    for string in sorted(labels, key=len, reverse=True):
        found = [(start, start + len(string)) for start in _occurrences(written, string)]
        free = [(start, end) for start, end in found if not any(a <= start and end <= b for a, b in taken)]
        meant = free or found
        taken += meant
        meant = meant[:1] if once else meant
        spans += [Span(label, start, end, text[start:end]) for start, end in meant for label in labels[string]]
    return tuple(sorted(spans, key=lambda span: (span.start, -span.end)))


def read_spans(text: str, strings_by_label: Mapping[str, Sequence[str]], *, once: bool = False) -> tuple[Span, ...]:
    """The located spans, and with start = end = -1 the strings that are not in the text."""
    written = normalise_text(text)
    pairs = ((label, string) for label, strings in strings_by_label.items() for string in strings)
    invented = (Span(label, -1, -1, string) for label, string in pairs if not string or string not in written)
    return (*locate(text, strings_by_label, once=once), *invented)


def borders(text: str) -> list[int]:
    """The places, 0 and the length included, at which a span may begin or end without cutting a Latin word."""
    return [i for i in range(len(text) + 1) if not (i and _LATIN_RUN.match(text, i - 1))]


_LATIN_RUN = re.compile("(?:[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ]{2}|[0-9]{2})")


def _occurrences(text: str, string: str) -> list[int]:
    """Starts of a string, one after the other without overlap; those that cut words only where there are no others."""
    whole: list[int] = []
    cutting: list[int] = []
    start = text.find(string) if string else -1
    while start >= 0:
        end = start + len(string)
        cut = (start and _LATIN_RUN.match(text, start - 1)) or _LATIN_RUN.match(text, end - 1)
        (cutting if cut else whole).append(start)
        start = text.find(string, start + 1 if cut else end)
    return whole or cutting
