"""The batch plan: which examples stand in which row of which step, as a pure function of (mixture, seed, step).

NumPy only, no iterator state. The tasks' examples are drawn in windows of a fixed number of examples; each window is
packed on its own (data/packing.py), and the rows of windows 0, 1, 2, ... are one endless stream for each length of
row. A window gives the steps that its rows make whole, of all lengths in a seeded order; rows that are left over open
the next window of their length. So the steps until a window follow from prefix sums of the windows' row counts, which
are computed once and can be kept in a file.

Worked example: two tasks at rates 3 and 1, windows of 4 examples, rows of one length, 2 of them a step
    window 0 draws a a b a -> rows [a0 a2] [a1 b0] [..]      window 1 draws a a b a -> rows [..] [..]
    step 0 takes rows 0 and 1 of window 0; step 1 takes row 2 of window 0 and row 0 of window 1.
With rows of 256 and 512 tokens, 4 or 2 a step: window 0 packs 9 short and 3 long rows, and gives steps 0 to 2 as
short, long, short or in another order; 1 short and 1 long row open window 1.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import numpy as np
from tqdm import tqdm

from seqgpt_jax.data.packing import RowShape, needed_shapes, pack, row_shapes
from seqgpt_jax.errors import UserError
from seqgpt_jax.whole import whole_file

Row = tuple[tuple[int, int], ...]
"""One packed row: (task index, example index) of its documents, in the order in which they stand."""

PLAN_FORMAT = 2  # of the rows that a seed gives; another number makes other keys
_SAVE_EVERY = 16  # windows between two writes of the row counts


@dataclass(frozen=True)
class TaskSize:
    """A task of the mixture: its name (which seeds its order), its examples' lengths, and its rate.

    lengths is [N, 2] int: tokens of an example, and how many of them are supervised. Only ratios of rates matter.
    """

    name: str
    lengths: np.ndarray
    rate: float


@dataclass(frozen=True)
class PlanConfig:
    """Rows of a step over all hosts, a row's tokens and supervised positions, examples of a window, and the seed.

    row_tokens may be several lengths; num_rows and row_supervised are those of the longest (`packing.row_shapes`).
    """

    num_rows: int
    row_tokens: int | tuple[int, ...]
    row_supervised: int
    window: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.window < 1:
            raise UserError(f"data.window is {self.window} (it must be at least 1)")
        assert self.shapes

    @cached_property
    def shapes(self) -> tuple[RowShape, ...]:
        """Shortest first."""
        return row_shapes(self.num_rows, self.row_tokens, self.row_supervised)


def draw_counts(rates: np.ndarray, num_draws: int) -> np.ndarray:
    """How many of the first num_draws examples each task gives, int64 [K]; sums to num_draws, never falls as it grows.

    Draw j of a task comes at time (j + 1/2) / rate and the earliest num_draws are taken, ties by task number: the
    divisor method of Webster and Sainte-Lague, which is house monotone, so the counts of any number of draws are
    computed at once and differences of them are a window's exact quotas.
    """
    # Taken for certain: all that comes before a time at which the total is still short, whatever the rounding is.
    time = max(0.0, (num_draws - len(rates)) / rates.sum())
    counts = np.floor(time * rates + 0.5).astype(np.int64)
    short = num_draws - int(counts.sum())
    assert short >= 0, (num_draws, rates)
    next_times = (counts + 0.5) / rates
    for _ in range(short):
        task = int(np.argmin(next_times))
        counts[task] += 1
        next_times[task] = (counts[task] + 0.5) / rates[task]
    return counts


class BatchPlan:
    """Rows of any step of a mixture. Safe to share between threads.

    Raises UserError when a task has no example, or one that fits no row.
    """

    def __init__(self, tasks: Sequence[TaskSize], config: PlanConfig, counts_folder: Path | None = None) -> None:
        """counts_folder keeps the windows' row counts between runs, in a file named by `key()`."""
        if not tasks:
            raise UserError("batch plan: the mixture has no task (name at least one dataset)")
        self.tasks, self.config = tuple(tasks), config
        for task in self.tasks:
            _check_task(task, config.shapes[-1])
        self._rates = np.array([task.rate for task in self.tasks], np.float64)
        self._lock = threading.RLock()
        self._orders: dict[int, dict[int, np.ndarray]] = {}  # task -> epoch -> permutation
        self._rows: dict[tuple[int, int], list[Row]] = {}  # (window, shape) -> its rows, of the few windows last used
        self._ends: list[list[int]] = []  # rows of each shape in windows 0 .. w
        self._step_ends: list[int] = []  # whole steps in windows 0 .. w
        self._counts_file = counts_folder / f"{self.key()}.npy" if counts_folder else None
        if self._counts_file is not None:
            self._ends = _read_ends(self._counts_file, len(config.shapes))
            num_rows = [shape.num_rows for shape in config.shapes]
            self._step_ends = (np.array(self._ends, np.int64).reshape(-1, len(num_rows)) // num_rows).sum(1).tolist()
        self._num_saved = len(self._ends)

    def key(self) -> str:
        """Hash of all that the rows of a window depend on."""
        digest = hashlib.blake2b(repr(PLAN_FORMAT).encode(), digest_size=16)
        for shape in self.config.shapes:
            digest.update(repr((shape.tokens, shape.supervised)).encode())
        digest.update(repr((self.config.window, self.config.seed)).encode())
        for task in self.tasks:
            digest.update(repr((task.name, float(task.rate), len(task.lengths))).encode())
            digest.update(np.ascontiguousarray(task.lengths, np.int32).tobytes())
        return digest.hexdigest()

    def shape(self, step: int) -> RowShape:
        """The shape of the rows of a step."""
        with self._lock:
            return self.config.shapes[self._locate(step)[0]]

    def shapes(self) -> tuple[RowShape, ...]:
        """The shapes that steps can have: those that some example needs."""
        lengths = np.concatenate([task.lengths for task in self.tasks])
        needed = needed_shapes(lengths[:, 0], lengths[:, 1], self.config.shapes)
        return tuple(self.config.shapes[index] for index in np.unique(needed).tolist())

    def rows(self, step: int) -> list[Row]:
        """The rows of a step (of all hosts), as many as `shape(step)` says, the same whether asked in order or not."""
        with self._lock:
            index, number = self._locate(step)
            num_rows = self.config.shapes[index].num_rows
            start, stop = number * num_rows, (number + 1) * num_rows
            rows: list[Row] = []
            window = self._window_of(index, start)
            while start < stop:
                first, end = self._rows_until(window)[index], self._ends[window][index]
                rows += self._window_rows(window, index)[start - first : stop - first]
                start = min(stop, end)
                window += 1
        assert len(rows) == num_rows, (step, len(rows))
        return rows

    def draws(self, num_examples: int) -> np.ndarray:
        """Examples that each task gives among the first num_examples of the plan, int64 [K]."""
        return draw_counts(self._rates, num_examples)

    def examples_until(self, step: int) -> int:
        """About how many examples the steps before `step` hold: whole windows, and the share of the last one."""
        with self._lock:
            self._locate(step)
            window = bisect_right(self._step_ends, step)
            first = self._step_ends[window - 1] if window else 0
            return round(self.config.window * (window + (step - first) / (self._step_ends[window] - first)))

    def steps_until(self, num_examples: int) -> int:
        """The inverse: the first number of steps, at least 1, for which `examples_until` is num_examples or more."""
        last = max(0, num_examples - 1) // self.config.window
        with (
            self._lock,
            tqdm(desc="batch plan", total=num_examples, unit="example", delay=2.0, leave=False, file=sys.stderr) as bar,
        ):
            while len(self._ends) <= last:
                self._locate(self._step_ends[-1] if self._step_ends else 0)
                bar.update(min(len(self._ends) * self.config.window, num_examples) - bar.n)
            enough = self._step_ends[last]
            return max(1, bisect_left(range(enough + 1), num_examples, key=self.examples_until))

    def fill(self, num_windows: int = 1) -> float:
        """Share of the row positions of the first windows that hold a token."""
        tokens = positions = 0
        with self._lock:
            for window in range(num_windows):
                for index, shape in enumerate(self.config.shapes):
                    rows = self._window_rows(window, index)
                    tokens += sum(int(self.tasks[task].lengths[example, 0]) for row in rows for task, example in row)
                    positions += len(rows) * shape.tokens
        return tokens / positions

    def save_counts(self) -> None:
        """Writes the row counts known so far to counts_folder, if there is one."""
        with self._lock:
            self._save_counts(force=True)

    def _save_counts(self, force: bool) -> None:
        new = len(self._ends) - self._num_saved
        if self._counts_file is None or not new or (new < _SAVE_EVERY and not force):
            return
        with whole_file(self._counts_file) as temporary, temporary.open("wb") as file:
            np.save(file, np.array(self._ends, np.int64))
        self._num_saved = len(self._ends)

    # --- steps to windows: a step is (shape, number of the step among those of its shape) ---

    def _locate(self, step: int) -> tuple[int, int]:
        """Shape and number of a step; packs the windows until it that have never been packed."""
        assert step >= 0, step
        if not self._step_ends or self._step_ends[-1] <= step:
            done = self._step_ends[-1] if self._step_ends else 0
            with tqdm(
                desc="batch plan", total=step + 1, initial=done, unit="step", delay=2.0, leave=False, file=sys.stderr
            ) as bar:
                while not self._step_ends or self._step_ends[-1] <= step:
                    self._pack_window(len(self._ends))
                    bar.update(min(self._step_ends[-1], step + 1) - bar.n)
            self._save_counts(force=False)
        window = bisect_right(self._step_ends, step)
        before, place = self._steps_until(window), step - (self._step_ends[window - 1] if window else 0)
        counts = np.subtract(self._steps_until(window + 1), before)
        shapes = np.repeat(np.arange(len(counts)), counts)
        shapes = shapes[_Random(f"steps/{self.config.seed}/{window}").permutation(len(shapes))][: place + 1]
        index = int(shapes[-1])
        return index, before[index] + int((shapes[:-1] == index).sum())

    def _rows_until(self, window: int) -> list[int]:
        """Rows of each shape in the windows before this one."""
        return self._ends[window - 1] if window else [0] * len(self.config.shapes)

    def _steps_until(self, window: int) -> list[int]:
        """Steps of each shape that the windows before this one give."""
        rows = self._rows_until(window)
        return [have // shape.num_rows for have, shape in zip(rows, self.config.shapes, strict=True)]

    def _window_of(self, index: int, row: int) -> int:
        """The window that holds this row of the stream of a shape."""
        return bisect_right(self._ends, row, key=itemgetter(index))

    def _window_rows(self, window: int, index: int) -> list[Row]:
        if (window, index) not in self._rows:
            self._pack_window(window)
        return self._rows[window, index]

    def _pack_window(self, window: int) -> None:
        """Draws and packs a window; its rows are shuffled, since packing puts long examples first."""
        tasks, examples, lengths = self._draw(window)
        rng = _Random(f"window/{self.config.seed}/{window}")
        shuffled = rng.permutation(len(tasks))  # so that equal lengths do not stay sorted by task
        tasks, examples, lengths = tasks[shuffled], examples[shuffled], lengths[shuffled]
        packed = pack(lengths[:, 0], lengths[:, 1], self.config.shapes)
        documents = list(zip(tasks.tolist(), examples.tolist(), strict=True))
        for index, rows in enumerate(packed):
            order = rng.permutation(len(rows)).tolist()
            self._rows[window, index] = [tuple(documents[item] for item in rows[row]) for row in order]
        if window == len(self._ends):
            before = self._rows_until(window)
            self._ends.append([first + len(rows) for first, rows in zip(before, packed, strict=True)])
            self._step_ends.append(sum(self._steps_until(window + 1)))
        self._forget(window)

    def _forget(self, window: int) -> None:
        """Keeps what the steps of this window, of the one before (for threads that are behind) and the next need."""
        given = self._steps_until(max(0, window - 1))
        oldest = [
            self._window_of(index, number * shape.num_rows)
            for index, (number, shape) in enumerate(zip(given, self.config.shapes, strict=True))
        ]
        self._rows = {
            (own, index): rows
            for (own, index), rows in self._rows.items()
            if min(oldest[index], window) <= own <= window + 1
        }

    def _draw(self, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Task, example and lengths of the window's examples, in order of task."""
        begin = draw_counts(self._rates, window * self.config.window)
        end = draw_counts(self._rates, (window + 1) * self.config.window)
        tasks, examples, lengths = [], [], []
        for index, task in enumerate(self.tasks):
            draws = np.arange(begin[index], end[index])
            if not len(draws):
                continue
            epochs, places = np.divmod(draws, len(task.lengths))
            chosen = np.empty(len(draws), np.int64)
            for epoch in np.unique(epochs).tolist():
                inside = epochs == epoch
                chosen[inside] = self._order(index, epoch)[places[inside]]
            tasks.append(np.full(len(draws), index))
            examples.append(chosen)
            lengths.append(task.lengths[chosen])
        return np.concatenate(tasks), np.concatenate(examples), np.concatenate(lengths)

    def _order(self, index: int, epoch: int) -> np.ndarray:
        orders = self._orders.setdefault(index, {})
        if epoch not in orders:
            task = self.tasks[index]
            orders[epoch] = _Random(f"epoch/{self.config.seed}/{task.name}/{epoch}").permutation(len(task.lengths))
            while len(orders) > 2:
                del orders[next(iter(orders))]
        return orders[epoch]


class _Random:
    """Permutations from a string, of PCG64's raw output: NumPy promises that this stream never changes."""

    def __init__(self, seed: str) -> None:
        digest = hashlib.blake2b(seed.encode(), digest_size=16).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest, "little"))

    def permutation(self, size: int) -> np.ndarray:
        return np.argsort(np.asarray(self._bits.random_raw(size)), kind="stable")


def _check_task(task: TaskSize, longest: RowShape) -> None:
    lengths = task.lengths
    if not len(lengths):
        raise UserError(f"batch plan: task {task.name} has no example (leave it out of the mixture)")
    if not task.rate > 0:
        raise UserError(f"batch plan: task {task.name} has rate {task.rate} (rates must be above 0)")
    for column, limit, what in ((0, longest.tokens, "tokens"), (1, longest.supervised, "supervised positions")):
        worst = int(np.argmax(lengths[:, column]))
        if lengths[worst, column] > limit:
            raise UserError(
                f"batch plan: example {worst} of task {task.name} has {lengths[worst, column]} {what}, more than the "
                f"{limit} of a row (make the rows longer, or cut examples to fit)"
            )
    assert lengths[:, 0].min() >= 1, task.name
    assert lengths[:, 1].min() >= 0, task.name


def _read_ends(counts_file: Path, num_shapes: int) -> list[list[int]]:
    """Stored prefix sums; nothing when there is no file or it cannot be read."""
    try:
        return np.load(counts_file).reshape(-1, num_shapes).tolist()
    except (OSError, ValueError, EOFError):
        return []
