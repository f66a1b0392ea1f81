"""From rows of the plan to arrays: batches made in background threads, each host its own share of the rows.

Shapes: B rows of this host (of the whole step once placed on the mesh), T tokens of a row, S supervised positions.

Worked example: one row of T=8, S=3 with the documents [5 6 | 7 2] and [8 | 9 2] (prompt | answer with EOS 2)
    tokens           5 6 7 2 8 9 2 0        target_positions 1 2 4  (5 would be next, if S were larger)
    positions        0 1 2 3 0 1 2 0        targets          7 2 9
    segment_ids      1 1 1 1 2 2 2 0        target_mask      1 1 1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grain
import jax
import numpy as np

from seqgpt_jax.data.packing import RowShape
from seqgpt_jax.data.plan import BatchPlan, Row
from seqgpt_jax.errors import UserError


class Tokens(Protocol):
    """A tokenised example: the first num_prompt ids are given, the others supervised (data/cache.py TokenExample)."""

    @property
    def ids(self) -> np.ndarray: ...

    @property
    def num_prompt(self) -> int: ...


class ExampleSource(Protocol):
    """Random access to the examples of one task (data/cache.py TaskCache)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tokens: ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Packed rows. Arrays are NumPy as the loader makes them, jax.Array in the train step.

    The hidden state at t predicts token t+1, so a target's position is the place before its token. Padding has
    segment id 0; masks come from there and from target_mask, never from token ids.
    """

    tokens_BT: Any  # int32
    positions_BT: Any  # int32, place within the token's own document
    segment_ids_BT: Any  # int32, 0 is padding, documents count from 1
    target_positions_BS: Any  # int32, index into T of the hidden state that predicts
    targets_BS: Any  # int32
    target_mask_BS: Any  # bool


def make_batch(rows: Sequence[Row], sources: Sequence[ExampleSource], row_tokens: int, row_supervised: int) -> Batch:
    """The documents of each row laid one after another. A row that the plan made too full is our own fault."""
    num_rows = len(rows)
    tokens_BT, positions_BT, segment_ids_BT = (np.zeros((num_rows, row_tokens), np.int32) for _ in range(3))
    target_positions_BS, targets_BS = (np.zeros((num_rows, row_supervised), np.int32) for _ in range(2))
    target_mask_BS = np.zeros((num_rows, row_supervised), bool)
    places = np.arange(row_tokens, dtype=np.int32)
    for b, row in enumerate(rows):
        start, num_targets = 0, 0
        for segment, (task, index) in enumerate(row, start=1):
            example = sources[task][index]
            ids, num_prompt = example.ids, example.num_prompt
            stop, num_answer = start + len(ids), len(ids) - num_prompt
            assert stop <= row_tokens, (task, index, stop)
            assert num_targets + num_answer <= row_supervised, (task, index, num_targets, num_answer)
            tokens_BT[b, start:stop] = ids
            positions_BT[b, start:stop] = places[: len(ids)]
            segment_ids_BT[b, start:stop] = segment
            answer = slice(num_targets, num_targets + num_answer)
            target_positions_BS[b, answer] = places[start + num_prompt - 1 : stop - 1]
            targets_BS[b, answer] = ids[num_prompt:]
            target_mask_BS[b, answer] = True
            start, num_targets = stop, answer.stop
    return Batch(tokens_BT, positions_BT, segment_ids_BT, target_positions_BS, targets_BS, target_mask_BS)


class Loader:
    """Batches of a plan by step number, for one of several hosts.

    `loader.batch(step)` makes one; `loader.batches(start, stop)` makes them ahead in Grain's threads. Hosts take
    consecutive equal shares of a step's rows, so together they have the step exactly once. Raises UserError when the
    rows do not divide by the hosts.
    """

    def __init__(
        self, plan: BatchPlan, sources: Sequence[ExampleSource], process_index: int = 0, num_processes: int = 1
    ) -> None:
        for shape in plan.config.shapes:
            if shape.num_rows % num_processes:
                raise UserError(
                    f"{shape.num_rows} rows a step do not divide by {num_processes} hosts (change data.rows_per_step)"
                )
        assert len(sources) == len(plan.tasks), (len(sources), len(plan.tasks))
        self.plan, self._sources = plan, sources
        self._process_index, self._num_processes = process_index, num_processes

    def shapes(self) -> tuple[RowShape, ...]:
        """The shapes that steps can have, of the rows of all hosts."""
        return self.plan.shapes()

    def batch(self, step: int) -> Batch:
        """This host's rows of a step."""
        shape, rows = self.plan.shape(step), self.plan.rows(step)
        share = len(rows) // self._num_processes
        own = rows[self._process_index * share : (self._process_index + 1) * share]
        return make_batch(own, self._sources, shape.tokens, shape.supervised)

    def batches(self, start: int, stop: int, num_threads: int = 1, num_ahead: int = 4) -> Iterator[Batch]:
        """Batches of the steps start .. stop-1 in order, up to num_ahead of them made before they are asked for."""
        steps = grain.MapDataset.source(_Steps(self, start, stop))
        options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=num_ahead)
        return iter(steps.to_iter_dataset(options))


class _Steps:
    """A Grain data source whose element i is the batch of step start + i."""

    def __init__(self, loader: Loader, start: int, stop: int) -> None:
        self._loader, self._start, self._num_steps = loader, start, max(0, stop - start)

    def __len__(self) -> int:
        return self._num_steps

    def __getitem__(self, index: Any) -> Batch:
        return self._loader.batch(self._start + int(index))

    def __repr__(self) -> str:
        return f"steps({self._start}, {self._start + self._num_steps})"
