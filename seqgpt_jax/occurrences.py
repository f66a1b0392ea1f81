"""Where an answered string stands in its text: an answer is strings, a record is spans.

A text is normalised before anything is looked for, one character for one, so that offsets stay true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

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


def read_spans(text: str, strings_by_label: Mapping[str, Sequence[str]]) -> tuple[Span, ...]:
    """The located spans, and with start = end = -1 the strings that occur nowhere, or only as parts of words."""
    written = normalise_text(text)
    pairs = ((label, string) for label, strings in strings_by_label.items() for string in strings)
    invented = (
        Span(label, -1, -1, string) for label, string in pairs if next(_occurrences(written, string), None) is None
    )
    return (*locate(text, strings_by_label), *invented)


_LATIN_RUN = re.compile("(?:[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ]{2}|[0-9]{2})")


def locate(text: str, spans_by_label: Mapping[str, Iterable[str]]) -> tuple[Span, ...]:
    """Returns the spans that answered strings mean, in text order.

    A string means each of its occurrences in the text that does not cut a Latin word (a run of letters or of digits) or
    lie inside a longer answered span of its label. A string without such an occurrence gives no span.

    ("Paris Hilton in Paris", {"person": ["Paris Hilton", "Paris"]})  ->  Paris Hilton at 0, Paris at 16
    """
    written = normalise_text(text)
    spans = []
    for label, strings in spans_by_label.items():
        taken: list[Span] = []
        for string in sorted(dict.fromkeys(strings), key=len, reverse=True):
            longer = [span for span in taken if span.end - span.start > len(string)]
            for start in _occurrences(written, string):
                end = start + len(string)
                if not any(span.start <= start and end <= span.end for span in longer):
                    taken.append(Span(label, start, end, text[start:end]))
        spans += taken
    return tuple(sorted(spans, key=lambda span: (span.start, -span.end)))


def _occurrences(text: str, string: str) -> Iterator[int]:
    start = text.find(string) if string else -1
    while start >= 0:
        end = start + len(string)
        cut = (start and _LATIN_RUN.match(text, start - 1)) or _LATIN_RUN.match(text, end - 1)
        if not cut:
            yield start
        start = text.find(string, start + 1 if cut else end)
