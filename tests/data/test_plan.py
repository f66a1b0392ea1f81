"""The batch plan against its promises: every example once an epoch, limits kept, any step at once."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgpt_jax.data.plan import BatchPlan, PlanConfig, Row, TaskSize, draw_counts, pack
from seqgpt_jax.errors import UserError

ROW_TOKENS, ROW_SUPERVISED = 32, 12


@st.composite
def mixtures(draw: st.DrawFn) -> list[TaskSize]:
    tasks = []
    for index in range(draw(st.integers(1, 4))):
        lengths = draw(
            st.lists(st.tuples(st.integers(1, ROW_TOKENS), st.integers(0, ROW_SUPERVISED)), min_size=1, max_size=25)
        )
        lengths = [(max(tokens, supervised), supervised) for tokens, supervised in lengths]
        rate = draw(st.floats(0.01, 100.0))
        tasks.append(TaskSize(f"task_{index}", np.array(lengths, np.int32), rate))
    return tasks


def configs(**fixed: int) -> st.SearchStrategy[PlanConfig]:
    return st.builds(
        PlanConfig,
        num_rows=st.integers(1, 9),
        row_tokens=st.just(ROW_TOKENS),
        row_supervised=st.just(ROW_SUPERVISED),
        window=st.integers(1, 40),
        seed=st.integers(0, 5),
        **{name: st.just(value) for name, value in fixed.items()},
    )


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


def stream(plan: BatchPlan, num_steps: int) -> list[Row]:
    return [row for step in range(num_steps) for row in plan.rows(step)]


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9)), min_size=1, max_size=60))
def test_pack_is_first_fit_decreasing(items: list[tuple[int, int]]) -> None:
    tokens, supervised = [t for t, _ in items], [s for _, s in items]
    rows = pack(np.array(tokens), np.array(supervised), 20, 9)
    want = plain_first_fit_decreasing(tokens, supervised, 20, 9)
    sizes = [[(tokens[i], supervised[i]) for i in row] for row in rows]
    assert sizes == [[(tokens[i], supervised[i]) for i in row] for row in want]
    assert sorted(i for row in rows for i in row) == list(range(len(items)))


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.integers(0, 500))
def test_draw_counts_are_webster_quotas_that_never_fall(rates: list[float], num_draws: int) -> None:
    rates_K = np.array(rates)
    counts, more = draw_counts(rates_K, num_draws), draw_counts(rates_K, num_draws + 1)
    assert counts.sum() == num_draws
    assert ((more - counts) >= 0).all()
    times = sorted(((j + 0.5) / rate, k) for k, rate in enumerate(rates) for j in range(num_draws + 1))
    assert counts.tolist() == [sum(k == task for _, task in times[:num_draws]) for k in range(len(rates))]


@settings(max_examples=60)
@given(mixtures(), configs(), st.integers(1, 12))
def test_every_example_once_an_epoch_of_its_task(tasks: list[TaskSize], config: PlanConfig, num_windows: int) -> None:
    plan = BatchPlan(tasks, config)
    drawn: list[list[int]] = [[] for _ in tasks]
    for window in range(num_windows):
        rows = plan._window_rows(window)
        in_window = Counter(document for row in rows for document in row)
        quotas = draw_counts(plan._rates, (window + 1) * config.window) - draw_counts(
            plan._rates, window * config.window
        )
        for task in range(len(tasks)):
            assert sum(number for (own, _), number in in_window.items() if own == task) == quotas[task]
        for (task, example), number in in_window.items():
            drawn[task] += [example] * number
        for task, size in enumerate(tasks):
            # After e whole epochs and a part: every example e or e+1 times.
            seen = Counter(drawn[task])
            epochs, rest = divmod(len(drawn[task]), len(size.lengths))
            numbers = [seen[example] for example in range(len(size.lengths))]
            assert sorted(numbers) == [epochs] * (len(numbers) - rest) + [epochs + 1] * rest


@settings(max_examples=60)
@given(mixtures(), configs(), st.integers(0, 15))
def test_rows_keep_their_limits_and_do_not_depend_on_the_way(
    tasks: list[TaskSize], config: PlanConfig, step: int
) -> None:
    in_order = BatchPlan(tasks, config)
    rows = stream(in_order, step + 1)
    assert BatchPlan(tasks, config).rows(step) == rows[-config.num_rows :]
    assert in_order.rows(0) == rows[: config.num_rows]  # and backwards
    for row in rows:
        assert row
        lengths = np.array([tasks[task].lengths[example] for task, example in row])
        assert lengths[:, 0].sum() <= ROW_TOKENS
        assert lengths[:, 1].sum() <= ROW_SUPERVISED


def many_tasks(num_tasks: int = 40, row_tokens: int = 1024) -> list[TaskSize]:
    rng = np.random.default_rng(0)
    tasks = []
    for index in range(num_tasks):
        size = int(rng.integers(300, 5000))
        tokens = np.clip(rng.lognormal(4.3, 0.6, size), 10, row_tokens).astype(np.int32)
        supervised = np.maximum(2, tokens * rng.uniform(0.03, 0.2, size)).astype(np.int32)
        tasks.append(TaskSize(f"task_{index}", np.stack([tokens, supervised], axis=1), float(size)))
    return tasks


def test_order_depends_on_seed_and_name_alone() -> None:
    tasks = many_tasks(3)
    config = PlanConfig(8, 1024, 400)
    rows = BatchPlan(tasks, config).rows(0)
    assert rows != BatchPlan(tasks, PlanConfig(8, 1024, 400, seed=1)).rows(0)
    renamed = [TaskSize(task.name + "x", task.lengths, task.rate) for task in tasks]
    assert rows != BatchPlan(renamed, config).rows(0)
    assert rows == BatchPlan(tasks, PlanConfig(16, 1024, 400)).rows(0)[:8]  # the stream of rows is one


def test_fill_and_speed() -> None:
    plan = BatchPlan(many_tasks(), PlanConfig(8, 1024, 256))
    begin = time.process_time()  # of this process alone: the machine may be busy
    plan.rows(300)
    examples = len(plan._ends) * plan.config.window
    assert examples / (time.process_time() - begin) > 100_000
    assert plan.fill(3) > 0.98


def test_row_counts_are_kept(tmp_path) -> None:
    tasks, config = many_tasks(5), PlanConfig(8, 1024, 256)
    first = BatchPlan(tasks, config, tmp_path)
    want = first.rows(500)
    first.save_counts()
    again = BatchPlan(tasks, config, tmp_path)
    assert len(again._ends) == len(first._ends)
    assert again.rows(500) == want
    assert len(again._windows) <= 2  # only the windows of that step were packed
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"cut off")
    assert BatchPlan(tasks, config, tmp_path).rows(500) == want
    BatchPlan(tasks, PlanConfig(8, 1024, 256, seed=1), tmp_path).rows(500)
    assert BatchPlan(tasks, config, tmp_path).rows(500) == want


def test_what_cannot_be_planned_is_refused() -> None:
    fits = np.array([[10, 3]], np.int32)
    config = PlanConfig(2, 16, 4)
    with pytest.raises(UserError, match="no task"):
        BatchPlan([], config)
    with pytest.raises(UserError, match="task a has no example"):
        BatchPlan([TaskSize("a", fits[:0], 1.0)], config)
    with pytest.raises(UserError, match="example 1 of task a has 17 tokens, more than the 16"):
        BatchPlan([TaskSize("a", np.array([[3, 1], [17, 1]]), 1.0)], config)
    with pytest.raises(UserError, match="5 supervised positions, more than the 4"):
        BatchPlan([TaskSize("a", np.array([[9, 5]]), 1.0)], config)
    with pytest.raises(UserError, match="rates must be above 0"):
        BatchPlan([TaskSize("a", fits, 0.0)], config)
    with pytest.raises(UserError, match="window is 0"):
        PlanConfig(2, 16, 4, window=0)
