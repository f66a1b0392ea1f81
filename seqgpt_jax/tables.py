"""Rows of cells as lines of text: aligned for a terminal, or in Markdown. The first row names the columns."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def text_table(rows: Sequence[Sequence[str]], num_left: int) -> list[str]:
    """Columns two blanks apart. num_left: columns aligned to the left; the others hold numbers.

    Han characters and kana count as the two columns that a terminal gives them.
    """
    widths = [max(_columns(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            padding = " " * (width - _columns(cell))
            cells.append(cell + padding if place < num_left else padding + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def markdown_table(rows: Sequence[Sequence[str]], num_left: int) -> list[str]:
    """num_left: columns that are aligned to the left; the others hold numbers."""
    rule = ["---" if place < num_left else "---:" for place in range(len(rows[0]))]
    return [f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])]


def _columns(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
