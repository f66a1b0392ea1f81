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


def plain_pack(tokens: list[int], supervised: list[int], shapes: tuple[RowShape, ...]) -> list[list[list[int]]]:
    """The rule of `pack` word for word, looking through all items for each that is taken."""
    left, longest = set(range(len(tokens))), shapes[-1]
    rows: list[list[list[int]]] = [[] for _ in shapes]

    def is_long(token_share: int, supervised_share: int) -> bool:
        return token_share / longest.tokens >= supervised_share / longest.supervised

    for index, shape in reversed(list(enumerate(shapes))):
        while True:
            smaller = shapes[index - 1] if index else RowShape(0, 0, -1)
            begin = [i for i in left if tokens[i] > smaller.tokens or supervised[i] > smaller.supervised]
            if not begin:
                break
            item: int | None = max(begin, key=lambda i: (tokens[i], supervised[i], i))
            row: list[int] = []
            while item is not None:
                row.append(item)
                left.remove(item)
                room = shape.tokens - sum(tokens[i] for i in row)
                room_supervised = shape.supervised - sum(supervised[i] for i in row)
                fits = [i for i in left if tokens[i] <= room and supervised[i] <= room_supervised]
                long = [i for i in fits if is_long(tokens[i], supervised[i])]
                other = [i for i in fits if i not in long]
                if (is_long(room, room_supervised) and long) or not other:
                    item = max(long, key=lambda i: (tokens[i], supervised[i], i), default=None)
                else:
                    item = max(other, key=lambda i: (supervised[i], tokens[i], i))
            rows[index].append(row)
    return rows


@pytest.mark.parametrize("shapes", [SHAPES, SHAPES[-1:]])
@given(items=ITEMS)
def test_pack_does_what_it_says(shapes: tuple[RowShape, ...], items: list[tuple[int, int]]) -> None:
    tokens, supervised = [t for t, _ in items], [s for _, s in items]
    assert pack(np.array(tokens), np.array(supervised), shapes) == plain_pack(tokens, supervised, shapes)


def test_neither_limit_leaves_rows_half_empty() -> None:
    """Long items with few supervised positions beside short ones with many: by length alone they would part."""
    tokens, supervised = np.repeat([70, 30], 100), np.repeat([2, 18], 100)
    (rows,) = pack(tokens, supervised, (RowShape(1, 100, 20),))
    assert all(sorted(tokens[row].tolist()) == [30, 70] for row in rows)
    assert len(rows) == 100
    tokens, supervised = np.repeat([40, 20], 120), np.repeat([1, 9], 120)
    (rows,) = pack(tokens, supervised, (RowShape(1, 120, 20),))
    assert len(rows) == 60  # 120 x 60 tokens, all of every row: two of each


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
    tokens, supervised = np.array([12, 11, 9, 7, 4, 3]), np.zeros(6, np.int64)
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
