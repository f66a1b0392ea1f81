"""Packing: examples into rows of one length or of several, each row under two limits, tokens and supervised positions.

Several lengths (after Dataset Decomposition, arXiv 2405.13226): a token looks at all the row before it wherever the
attention kernel cannot skip other documents, so a short example costs least in a short row. A step has rows of one
length alone, and the same number of tokens whatever that length is.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
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

    Long rows are filled first: as many as the items need that no shorter row holds, each begun with the longest such
    item and filled up with items of any kind. So a long row wastes no room where short items are at hand, and short
    rows are for what is left. Worked example, lengths 10 and 20 without a second limit:
        tokens 12 11 9 7 4 3 -> of 20: [12 7] [11 9]; of 10: [4 3]

    What is next in a row keeps its two limits in balance (after Permutation Pack, Leinberger et al. 1999, for two
    capacities): as long as no smaller share of the tokens is left than of the supervised positions, the longest item
    that fits of those that take a larger share of the tokens; else the item with the most supervised positions of
    the others; and where its own kind has none that fits, one of the other kind. First-fit-decreasing by tokens would
    use up the long examples, of which few tokens are supervised, before the short ones, of which many are, and leave
    rows for these alone that one limit closes half empty (docs/data.md has the figures).
    The longest shape must hold every item.
    """
    order = np.lexsort((supervised, tokens))
    needed = needed_shapes(tokens, supervised, shapes)
    stock = _Stock(order.tolist(), tokens.tolist(), supervised.tolist(), shapes[-1])
    rows: list[list[list[int]]] = [[] for _ in shapes]
    for index in reversed(range(len(shapes))):
        for item in order[needed[order] == index][::-1].tolist():
            if not stock.is_placed[item]:
                rows[index].append(stock.fill_row(shapes[index], item))
    return rows


class _Stock:
    """Items that are in no row yet: on one shelf those that mostly take tokens, on the other supervised positions."""

    def __init__(self, order: list[int], tokens: list[int], supervised: list[int], longest: RowShape) -> None:
        """order: the items by tokens, then by supervised positions."""
        self._tokens, self._supervised, self._longest = tokens, supervised, longest
        self.is_placed = bytearray(len(order))
        self._long, self._answers = _Shelf(tokens, supervised), _Shelf(supervised, tokens)
        for item in order:
            self._shelf_of(tokens[item], supervised[item]).put(item)

    def fill_row(self, shape: RowShape, first: int) -> list[int]:
        """Takes `first`, and then what fits until nothing does."""
        item: int | None = first
        self._shelf_of(self._tokens[first], self._supervised[first]).remove(first)
        room, room_supervised = shape.tokens, shape.supervised
        row: list[int] = []
        while item is not None:
            row.append(item)
            self.is_placed[item] = True
            room -= self._tokens[item]
            room_supervised -= self._supervised[item]
            if self._shelf_of(room, room_supervised) is self._long:
                item = self._long.take(room, room_supervised)
                item = self._answers.take(room_supervised, room) if item is None else item
            else:
                item = self._answers.take(room_supervised, room)
                item = self._long.take(room, room_supervised) if item is None else item
        assert room >= 0 <= room_supervised, "an item that fits no empty row"
        return row

    def _shelf_of(self, tokens: int, supervised: int) -> _Shelf:
        """Where an item belongs, or what a row with this much room needs."""
        return self._long if tokens * self._longest.supervised >= supervised * self._longest.tokens else self._answers


class _Shelf:
    """Items by one size. A bit mask of the sizes that there are finds the largest that fits in one operation."""

    def __init__(self, sizes: Sequence[int], others: Sequence[int]) -> None:
        """sizes, others: of every item, the size that it is kept by and the other one."""
        self._sizes, self._others = sizes, others
        self._mask = 0  # bit n: there is an item of size n
        self._of_size: dict[int, list[tuple[int, int]]] = {}  # size -> (other size, item), ascending
        self._smallest_other = sys.maxsize

    def put(self, item: int) -> None:
        insort(self._of_size.setdefault(self._sizes[item], []), (self._others[item], item))
        self._mask |= 1 << self._sizes[item]
        self._smallest_other = min(self._smallest_other, self._others[item])

    def remove(self, item: int) -> None:
        size = self._sizes[item]
        self._pop(size, bisect_left(self._of_size[size], (self._others[item], item)))

    def take(self, room: int, room_other: int) -> int | None:
        """The largest item that fits, of those the one with the largest other size; None if there is none."""
        if room_other < self._smallest_other:
            return None
        fitting = self._mask & ((2 << room) - 1)
        while fitting:
            size = fitting.bit_length() - 1
            place = bisect_left(self._of_size[size], (room_other + 1,)) - 1
            if place >= 0:
                return self._pop(size, place)
            fitting ^= 1 << size
        return None

    def _pop(self, size: int, place: int) -> int:
        items = self._of_size[size]
        _, item = items.pop(place)
        if not items:
            self._mask ^= 1 << size
        return item
