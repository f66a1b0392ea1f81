"""The batch plan: which examples stand in which row of which step, as a pure function of (mixture, seed, step).

NumPy only, no iterator state. The tasks' examples are drawn in windows of a fixed number of examples; each window is
packed on its own into rows, and the rows of window 0, 1, 2, ... are one endless stream of which step k takes the
rows k * num_rows to (k + 1) * num_rows. So the rows that a step leaves over open the next window, and the step of a
window follows from the prefix sum of the windows' row counts, which is computed once and can be kept in a file.

Worked example: two tasks at rates 3 and 1, windows of 4 examples, 2 rows a step
    window 0 draws a a b a -> rows [a0 a2] [a1 b0] [..]      window 1 draws a a b a -> rows [..] [..]
    step 0 takes rows 0 and 1 of window 0; step 1 takes row 2 of window 0 and row 0 of window 1.
"""

from __future__ import annotations

import hashlib
import os
import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqgpt_jax.errors import UserError

Row = tuple[tuple[int, int], ...]
"""One packed row: (task index, example index) of its documents, in the order in which they stand."""

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
    """Rows of a step over all hosts, the two limits of a row, examples of a window, and the seed."""

    num_rows: int
    row_tokens: int
    row_supervised: int
    window: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_rows", "row_tokens", "row_supervised", "window"):
            if getattr(self, name) < 1:
                raise UserError(f"batch plan: {name} is {getattr(self, name)} (it must be at least 1)")


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


def pack(tokens: np.ndarray, supervised: np.ndarray, row_tokens: int, row_supervised: int) -> list[list[int]]:
    """First-fit-decreasing under two limits: rows of item numbers; every item is in exactly one row.

    Items are taken by tokens, longest first, then by supervised positions. Placing each item into the first row that
    has room is the same as filling one row after the other with the largest items that still fit, which needs only
    the largest length at or below the room left: a bit mask of the lengths in stock answers that in one operation.
    Items must fit an empty row.
    """
    order = np.lexsort((supervised, tokens))
    in_stock: dict[int, tuple[list[int], list[int]]] = {}  # tokens -> supervised positions ascending, item numbers
    for item, length, answer in zip(order.tolist(), tokens[order].tolist(), supervised[order].tolist(), strict=True):
        answers, items = in_stock.setdefault(length, ([], []))
        answers.append(answer)
        items.append(item)
    lengths_mask = 0
    for length in in_stock:
        lengths_mask |= 1 << length
    fewest_supervised = int(supervised.min()) if len(supervised) else 0
    rows: list[list[int]] = []
    while lengths_mask:
        row: list[int] = []
        room, room_supervised = row_tokens, row_supervised
        reachable = lengths_mask & ((2 << room) - 1)
        while reachable and room_supervised >= fewest_supervised:
            length = reachable.bit_length() - 1
            answers, items = in_stock[length]
            place = bisect_right(answers, room_supervised) - 1
            if place < 0:
                reachable ^= 1 << length
                continue
            row.append(items.pop(place))
            room_supervised -= answers.pop(place)
            room -= length
            if not items:
                lengths_mask ^= 1 << length
                reachable ^= 1 << length
            reachable &= (2 << room) - 1
        assert row, "an item that fits no empty row"
        rows.append(row)
    return rows


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
            _check_task(task, config)
        self._rates = np.array([task.rate for task in self.tasks], np.float64)
        self._lock = threading.RLock()
        self._orders: dict[int, dict[int, np.ndarray]] = {}  # task -> epoch -> permutation
        self._windows: dict[int, list[Row]] = {}  # the few windows last used
        self._ends: list[int] = []  # rows in windows 0 .. w
        self._counts_file = counts_folder / f"{self.key()}.npy" if counts_folder else None
        if self._counts_file is not None:
            self._ends = _read_ends(self._counts_file)
        self._num_saved = len(self._ends)

    def key(self) -> str:
        """Hash of all that the rows depend on."""
        digest = hashlib.blake2b(repr((self.config.row_tokens, self.config.row_supervised)).encode(), digest_size=16)
        digest.update(repr((self.config.window, self.config.seed)).encode())
        for task in self.tasks:
            digest.update(repr((task.name, float(task.rate), len(task.lengths))).encode())
            digest.update(np.ascontiguousarray(task.lengths, np.int32).tobytes())
        return digest.hexdigest()

    def rows(self, step: int) -> list[Row]:
        """The num_rows rows of a step (of all hosts), the same whether asked in order or at once."""
        assert step >= 0, step
        start, stop = step * self.config.num_rows, (step + 1) * self.config.num_rows
        with self._lock:
            while not self._ends or self._ends[-1] < stop:
                self._pack_window(len(self._ends))
            self._save_counts(force=False)
            rows: list[Row] = []
            window = bisect_right(self._ends, start)
            while start < stop:
                first = self._ends[window - 1] if window else 0
                rows += self._window_rows(window)[start - first : stop - first]
                start = min(stop, self._ends[window])
                window += 1
        return rows

    def draws(self, num_examples: int) -> np.ndarray:
        """Examples that each task gives among the first num_examples of the plan, int64 [K]."""
        return draw_counts(self._rates, num_examples)

    def examples_until(self, step: int) -> int:
        """About how many examples the steps before `step` hold: whole windows, and the share of the last one."""
        with self._lock:
            self.rows(step)
            start = step * self.config.num_rows
            window = bisect_right(self._ends, start)
            first = self._ends[window - 1] if window else 0
            return round(self.config.window * (window + (start - first) / (self._ends[window] - first)))

    def fill(self, num_windows: int = 1) -> float:
        """Share of the row positions of the first windows that hold a token."""
        with self._lock:
            rows = [row for window in range(num_windows) for row in self._window_rows(window)]
        tokens = sum(int(self.tasks[task].lengths[example, 0]) for row in rows for task, example in row)
        return tokens / (len(rows) * self.config.row_tokens)

    def save_counts(self) -> None:
        """Writes the row counts known so far to counts_folder, if there is one."""
        with self._lock:
            self._save_counts(force=True)

    def _save_counts(self, force: bool) -> None:
        new = len(self._ends) - self._num_saved
        if self._counts_file is None or not new or (new < _SAVE_EVERY and not force):
            return
        self._counts_file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._counts_file.with_name(f"{self._counts_file.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.save(file, np.array(self._ends, np.int64))
        temporary.replace(self._counts_file)
        self._num_saved = len(self._ends)

    def _window_rows(self, window: int) -> list[Row]:
        if window not in self._windows:
            self._pack_window(window)
        return self._windows[window]

    def _pack_window(self, window: int) -> None:
        """Draws and packs a window; its rows are shuffled, since packing puts long examples first."""
        tasks, examples, lengths = self._draw(window)
        rng = _Random(f"window/{self.config.seed}/{window}")
        shuffled = rng.permutation(len(tasks))  # so that equal lengths do not stay sorted by task
        tasks, examples, lengths = tasks[shuffled], examples[shuffled], lengths[shuffled]
        packed = pack(lengths[:, 0], lengths[:, 1], self.config.row_tokens, self.config.row_supervised)
        documents = list(zip(tasks.tolist(), examples.tolist(), strict=True))
        rows = [tuple(documents[item] for item in packed[index]) for index in rng.permutation(len(packed)).tolist()]
        if window == len(self._ends):
            self._ends.append((self._ends[-1] if self._ends else 0) + len(rows))
        self._windows[window] = rows
        while len(self._windows) > 3:
            del self._windows[next(iter(self._windows))]

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


def _check_task(task: TaskSize, config: PlanConfig) -> None:
    lengths = task.lengths
    if not len(lengths):
        raise UserError(f"batch plan: task {task.name} has no example (leave it out of the mixture)")
    if not task.rate > 0:
        raise UserError(f"batch plan: task {task.name} has rate {task.rate} (rates must be above 0)")
    for column, limit, what in ((0, config.row_tokens, "tokens"), (1, config.row_supervised, "supervised positions")):
        worst = int(np.argmax(lengths[:, column]))
        if lengths[worst, column] > limit:
            raise UserError(
                f"batch plan: example {worst} of task {task.name} has {lengths[worst, column]} {what}, more than the "
                f"{limit} of a row (make the rows longer, or cut examples to fit)"
            )
    assert lengths[:, 0].min() >= 1, task.name
    assert lengths[:, 1].min() >= 0, task.name


def _read_ends(counts_file: Path) -> list[int]:
    """Stored prefix sums; nothing when there is no file or it cannot be read."""
    try:
        return np.load(counts_file).tolist()
    except (OSError, ValueError, EOFError):
        return []
