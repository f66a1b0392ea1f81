"""A text as HTML with its spans highlighted, for notebooks: no style sheet, no script, readable on light and dark.

The text is cut at every edge of a span, and each piece is one flat element: spans may nest or overlap without breaking
anything. A piece has the colour of the shortest span over it, an underline for each, and behind a span's last piece
stands its label.
"""

from __future__ import annotations

import html
import itertools
import zlib
from collections.abc import Iterable, Sequence
from typing import Protocol


class Highlight(Protocol):
    """A piece of the text with a label; probability is None where it is not known."""

    @property
    def label(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def probability(self) -> float | None: ...


def render(text: str, spans: Iterable[Highlight], captions: Iterable[str] = ()) -> str:
    """The text with its spans, and below it the captions, one a line."""
    ordered = sorted(spans, key=lambda span: (span.start, -span.end))
    edges = sorted({0, len(text)} | {edge for span in ordered for edge in (span.start, span.end)})
    parts, covering = [], list[Highlight]()
    upcoming = iter(ordered)
    following = next(upcoming, None)
    for start, end in itertools.pairwise(edges):
        while following is not None and following.start <= start:
            covering.append(following)
            following = next(upcoming, None)
        parts.append(_piece(text[start:end], covering))
        parts += [_tag(span) for span in reversed(covering) if span.end <= end]
        covering = [span for span in covering if span.end > end]
    below = "".join(f'<div style="margin-top:.4em;font-weight:600">{html.escape(line)}</div>' for line in captions)
    return f'<div style="line-height:2.2;white-space:pre-wrap;overflow-wrap:anywhere">{"".join(parts)}{below}</div>'


def heading(title: str) -> str:
    return f'<div style="margin-top:.6em;font-size:.85em;opacity:.7">{html.escape(title)}</div>'


def _piece(text: str, covering: Sequence[Highlight]) -> str:
    if not covering:
        return html.escape(text)
    shortest = min(covering, key=lambda span: span.end - span.start)
    lines = ",".join(f"0 {2 * depth}px 0 {_colour(span.label)}" for depth, span in enumerate(covering, start=1))
    style = f"background:{_colour(shortest.label, 0.22)};color:inherit;box-shadow:{lines}"
    return f'<mark style="{style}">{html.escape(text)}</mark>'


def _tag(span: Highlight) -> str:
    sure = "" if span.probability is None else f" {span.probability:.2f}"
    style = f"font-size:.7em;margin:0 .3em;color:inherit;border-bottom:2px solid {_colour(span.label)}"
    return f'<sub style="{style}">{html.escape(span.label + sure)}</sub>'


def _colour(label: str, opacity: float = 1.0) -> str:
    """The same for a label wherever it is shown; half bright, so that it stands out from white and from black."""
    return f"hsla({zlib.crc32(label.encode('utf-8', 'replace')) % 360},70%,50%,{opacity})"
