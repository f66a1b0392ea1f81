"""Rows of one length or several: nothing lost, limits kept, long rows full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.data.packing import RowShape, needed_shapes, pack, row_shapes
from seqgpt_jax.errors import UserError

SHAPES = (RowShape(4, 8, 4), RowShape(2, 16, 6), RowShape(1, 20, 9))
ITEMS = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9)), min_size=1, max_size=60)


def plain_first_fit_decreasing(
    tokens: list[int], supervised: list[int], limit: int, limit_supervised: int
) -> list[list[int]]:
    """The textbook form: each item, largest first, into the first row that has room."""
    rows: list[list[int]] = []
    room: list[list[int]] = []
    for item in sorted(range(len(tokens)), key=lambda i: (-tokens[i], -supervised[i])):
        fits = [left[0] >= tokens[item] and left[1] >= supervised[item] for left in room]
        if True not in fits:
            rows.append([])
            room.append([limit, limit_supervised])
            fits.append(True)
        place = fits.index(True)
        rows[place].append(item)
        room[place][0] -= tokens[item]
        room[place][1] -= supervised[item]
    return rows


@given(ITEMS)
def test_one_length_is_first_fit_decreasing(items: list[tuple[int, int]]) -> None:
    tokens, supervised = [t for t, _ in items], [s for _, s in items]
    (rows,) = pack(np.array(tokens), np.array(supervised), SHAPES[-1:])
    want = plain_first_fit_decreasing(tokens, supervised, 20, 9)
    sizes = [[(tokens[i], supervised[i]) for i in row] for row in rows]
    assert sizes == [[(tokens[i], supervised[i]) for i in row] for row in want]
    assert sorted(i for row in rows for i in row) == list(range(len(items)))


@given(ITEMS)
def test_several_lengths(items: list[tuple[int, int]]) -> None:
    tokens, supervised = np.array(items).T
    packed = pack(tokens, supervised, SHAPES)
    assert sorted(item for rows in packed for row in rows for item in row) == list(range(len(items)))
    for index, (shape, rows) in enumerate(zip(SHAPES, packed, strict=True)):
        unplaced = {item for shorter in packed[:index] for row in shorter for item in row}
        for row in reversed(rows):
            assert tokens[row].sum() <= shape.tokens
            assert supervised[row].sum() <= shape.supervised
            # A row is begun only for an item that no shorter row holds, and then filled up.
            shorter = SHAPES[max(0, index - 1)]
            assert index == 0 or tokens[row[0]] > shorter.tokens or supervised[row[0]] > shorter.supervised
            room, room_supervised = shape.tokens - tokens[row].sum(), shape.supervised - supervised[row].sum()
            assert all(tokens[item] > room or supervised[item] > room_supervised for item in unplaced)
            unplaced |= set(row)


def test_worked_examples() -> None:
    tokens, supervised = np.array([12, 11, 9, 7, 4, 3]), np.ones(6, np.int64)
    packed = pack(tokens, supervised, (RowShape(2, 10, 6), RowShape(1, 20, 6)))
    assert [[tokens[row].tolist() for row in rows] for rows in packed] == [[[4, 3]], [[12, 7], [11, 9]]]
    assert row_shapes(8, (256, 512), 96) == (RowShape(16, 256, 48), RowShape(8, 512, 96))
    assert row_shapes(8, (512, 128), 3) == (RowShape(32, 128, 1), RowShape(8, 512, 3))
    assert row_shapes(6, (192, 256), 64) == (RowShape(8, 192, 48), RowShape(6, 256, 64))
    assert needed_shapes(np.array([8, 9, 2, 2, 20]), np.array([0, 0, 4, 5, 0]), SHAPES).tolist() == [0, 1, 0, 1, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((8, (), 5), "data.row_tokens is empty"),
        ((8, (64, 32, 64), 5), r"data.row_tokens is \(64, 32, 64\) \(name each length once"),
        ((0, 64, 5), "data.rows_per_step is 0"),
        ((8, (64, 0), 5), "data.row_tokens is 0"),
        ((8, 64, 0), "data.row_supervised is 0"),
        ((4, (48, 64), 5), "data.row_tokens 48 does not divide the 4 x 64 tokens of a step"),
    ],
)
def test_shapes_that_do_not_come_out_are_refused(settings: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        row_shapes(*settings)
