"""How decoders make batches: few shapes, so that few programs are compiled, and a bound on memory."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

MAX_BATCH_TOKENS = 2**14  # of the padded prompts of a batch: scores of attention grow with the square of the length


def power_of_two(number: int) -> int:
    """The next one that is not smaller."""
    return 1 << (number - 1).bit_length()


def bucket(length: int) -> int:
    """The next multiple of 32, above 256 of an eighth of the next power of two: never more than a quarter too long."""
    step = max(32, power_of_two(length) // 8)
    return -(-length // step) * step


def next_batch(indices: Sequence[int], lengths: Sequence[int], max_rows: int) -> list[int]:
    """As many of the first prompts, which are sorted by length, as the memory bound lets through: at least one."""
    num_rows = min(len(indices), max_rows)
    while num_rows > 1 and power_of_two(num_rows) * bucket(lengths[indices[num_rows - 1]]) > MAX_BATCH_TOKENS:
        num_rows = power_of_two(num_rows) // 2
    return list(indices[:num_rows])


def padded(sequences: Sequence[Sequence[int]], num_rows: int, length: int, fill: int) -> np.ndarray:
    """int32 [num_rows, length]: a sequence a row, `fill` behind its end and in the rows that are left."""
    rows = np.full((num_rows, length), fill, np.int32)
    for row, sequence in enumerate(sequences):
        rows[row, : len(sequence)] = sequence
    return rows


def on_host(array: jax.Array) -> np.ndarray:
    """The whole of an array, which may lie on the devices of several processes: all of them must ask for it."""
    return np.asarray(array if array.is_fully_addressable else process_allgather(array, tiled=True))
