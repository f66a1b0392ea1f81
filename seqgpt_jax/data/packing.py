"""Packing: examples into rows of one length or of several, each row under two limits, tokens and supervised positions.

Several lengths (after Dataset Decomposition, arXiv 2405.13226): a token looks at all the row before it wherever the
attention kernel cannot skip other documents, so a short example costs least in a short row. A step has rows of one
length alone, and the same number of tokens whatever that length is.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqgpt_jax.errors import UserError


@dataclass(frozen=True)
class RowShape:
    """Rows of one length: how many of them a step has over all hosts, and the two limits of a row."""

    num_rows: int
    tokens: int
    supervised: int


def row_shapes(num_rows: int, row_tokens: int | Sequence[int], row_supervised: int) -> tuple[RowShape, ...]:
    """The shapes of rows of these lengths, shortest first. num_rows and row_supervised are those of the longest.

    Shorter rows are more, and hold less, in proportion: every step has the same number of tokens.
        row_shapes(8, (256, 512), 96) == (RowShape(16, 256, 48), RowShape(8, 512, 96))
    UserError where that does not come out whole; messages speak of the recipe's settings.
    """
    lengths = (row_tokens,) if isinstance(row_tokens, int) else tuple(row_tokens)
    if not lengths:
        raise UserError("data.row_tokens is empty (give at least one length)")
    if len(set(lengths)) < len(lengths):
        raise UserError(f"data.row_tokens is {lengths} (name each length once)")
    for name, value in (("rows_per_step", num_rows), ("row_tokens", min(lengths)), ("row_supervised", row_supervised)):
        if value < 1:
            raise UserError(f"data.{name} is {value} (it must be at least 1)")
    longest, shapes = max(lengths), []
    for tokens in sorted(lengths):
        if num_rows * longest % tokens:
            raise UserError(
                f"data.row_tokens {tokens} does not divide the {num_rows} x {longest} tokens of a step "
                "(change it, or data.rows_per_step, so that every length does)"
            )
        shapes.append(RowShape(num_rows * longest // tokens, tokens, max(1, row_supervised * tokens // longest)))
    return tuple(shapes)


def needed_shapes(tokens: np.ndarray, supervised: np.ndarray, shapes: Sequence[RowShape]) -> np.ndarray:
    """For each item the index of the shortest shape that holds it, int64 [N]; the longest must hold every one."""
    needed = np.full(len(tokens), len(shapes) - 1)
    for index in reversed(range(len(shapes) - 1)):
        needed[(tokens <= shapes[index].tokens) & (supervised <= shapes[index].supervised)] = index
    return needed


def pack(tokens: np.ndarray, supervised: np.ndarray, shapes: Sequence[RowShape]) -> list[list[list[int]]]:
    """The rows of each shape (shortest first) as lists of item numbers; every item is in exactly one row.

    Long rows are filled first: as many as the items need that no shorter row holds, each begun with the largest such
    item and filled up with the largest items of any kind that still fit. So a long row wastes no room where short
    items are at hand, and short rows are for what is left. Worked example, lengths 10 and 20:
        tokens 12 11 9 7 4 3 -> of 20: [12 7] [11 9]; of 10: [4 3]
    With one shape this is first-fit-decreasing (by tokens, then by supervised positions): to place each item, largest
    first, into the first row that has room is to fill one row after the other with the largest items that still fit.
    The longest shape must hold every item.
    """
    order = np.lexsort((supervised, tokens))
    needed = needed_shapes(tokens, supervised, shapes)
    stock = _Stock(order.tolist(), tokens.tolist(), supervised.tolist())
    rows: list[list[list[int]]] = [[] for _ in shapes]
    for index in reversed(range(len(shapes))):
        for item in order[needed[order] == index][::-1].tolist():
            if not stock.is_placed[item]:
                rows[index].append(stock.fill_row(shapes[index], item))
    return rows


class _Stock:
    """Items that are in no row yet. A bit mask of their lengths gives the largest that fits in one operation."""

    def __init__(self, order: list[int], tokens: list[int], supervised: list[int]) -> None:
        """order: the items by tokens, then by supervised positions."""
        self._tokens, self._supervised = tokens, supervised
        self.is_placed = bytearray(len(order))
        self._fewest_supervised = min(supervised, default=0)
        self._mask = 0  # bit n: an item of n tokens is in stock
        self._of_length: dict[int, tuple[list[int], list[int]]] = {}  # tokens -> supervised ascending, item numbers
        for item in order:
            answers, items = self._of_length.setdefault(tokens[item], ([], []))
            answers.append(supervised[item])
            items.append(item)
        for length in self._of_length:
            self._mask |= 1 << length

    def fill_row(self, shape: RowShape, first: int) -> list[int]:
        """Takes `first` and, again and again, the largest item that still fits."""
        length, answer = self._tokens[first], self._supervised[first]
        room, room_supervised = shape.tokens - length, shape.supervised - answer
        assert room >= 0 <= room_supervised, "an item that fits no empty row"
        answers, items = self._of_length[length]
        row = [self._take(length, items.index(first, bisect_left(answers, answer)))]
        reachable = self._mask & ((2 << room) - 1)
        while reachable and room_supervised >= self._fewest_supervised:
            length = reachable.bit_length() - 1
            answers = self._of_length[length][0]
            place = bisect_right(answers, room_supervised) - 1
            if place < 0:
                reachable ^= 1 << length
                continue
            room -= length
            room_supervised -= answers[place]
            row.append(self._take(length, place))
            reachable &= self._mask & ((2 << room) - 1)
        return row

    def _take(self, length: int, place: int) -> int:
        answers, items = self._of_length[length]
        item = items.pop(place)
        del answers[place]
        if not items:
            self._mask ^= 1 << length
        self.is_placed[item] = True
        return item
