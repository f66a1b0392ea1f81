"""The batch plan against its promises: every example once an epoch, limits kept, any step at once."""

from __future__ import annotations

import hashlib
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgpt_jax.data.plan import BatchPlan, PlanConfig, Row, TaskSize, draw_counts
from seqgpt_jax.errors import UserError
from tests.data.plans import mixtures_and_configs


def stream(plan: BatchPlan, num_steps: int) -> list[Row]:
    return [row for step in range(num_steps) for row in plan.rows(step)]


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.integers(0, 500))
def test_draw_counts_are_webster_quotas_that_never_fall(rates: list[float], num_draws: int) -> None:
    rates_K = np.array(rates)
    counts, more = draw_counts(rates_K, num_draws), draw_counts(rates_K, num_draws + 1)
    assert counts.sum() == num_draws
    assert ((more - counts) >= 0).all()
    times = sorted(((j + 0.5) / rate, k) for k, rate in enumerate(rates) for j in range(num_draws + 1))
    assert counts.tolist() == [sum(k == task for _, task in times[:num_draws]) for k in range(len(rates))]


@settings(max_examples=80)
@given(mixtures_and_configs(), st.integers(1, 12))
def test_every_example_once_an_epoch_of_its_task(
    mixture_and_config: tuple[list[TaskSize], PlanConfig], num_windows: int
) -> None:
    tasks, config = mixture_and_config
    plan = BatchPlan(tasks, config)
    drawn: list[list[int]] = [[] for _ in tasks]
    for window in range(num_windows):
        rows = [row for index in range(len(config.shapes)) for row in plan._window_rows(window, index)]
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


@settings(max_examples=80)
@given(mixtures_and_configs(), st.integers(0, 25))
def test_steps_are_all_rows_of_the_windows_in_order(
    mixture_and_config: tuple[list[TaskSize], PlanConfig], last: int
) -> None:
    """With the test above: every example stands in exactly one step for each epoch."""
    tasks, config = mixture_and_config
    plan = BatchPlan(tasks, config)
    plan.rows(last)
    num_steps, num_windows = plan._step_ends[-1], len(plan._ends)
    assert plan._step_ends[num_windows - 2] <= last or num_windows == 1  # no window was packed for nothing
    given_rows: dict[int, list[Row]] = {shape.tokens: [] for shape in config.shapes}
    for step in range(num_steps):
        given_rows[plan.shape(step).tokens] += plan.rows(step)
    for index, shape in enumerate(config.shapes):
        packed = [row for window in range(num_windows) for row in plan._window_rows(window, index)]
        assert given_rows[shape.tokens] == packed[: len(given_rows[shape.tokens])]
        assert len(packed) - len(given_rows[shape.tokens]) < shape.num_rows  # left over for the next window


@settings(max_examples=80)
@given(mixtures_and_configs(), st.integers(0, 15))
def test_rows_keep_their_limits_and_do_not_depend_on_the_way(
    mixture_and_config: tuple[list[TaskSize], PlanConfig], step: int
) -> None:
    tasks, config = mixture_and_config
    in_order = BatchPlan(tasks, config)
    steps = [(in_order.shape(each), in_order.rows(each)) for each in range(step + 1)]
    at_once = BatchPlan(tasks, config)
    assert (at_once.shape(step), at_once.rows(step)) == steps[step]
    assert (in_order.shape(0), in_order.rows(0)) == steps[0]  # and backwards
    for shape, rows in steps:
        assert shape in in_order.shapes()
        assert len(rows) == shape.num_rows
        assert shape.num_rows * shape.tokens == config.num_rows * max(each.tokens for each in config.shapes)
        for row in rows:
            assert row
            lengths = np.array([tasks[task].lengths[example] for task, example in row])
            assert lengths[:, 0].sum() <= shape.tokens
            assert lengths[:, 1].sum() <= shape.supervised


@settings(max_examples=60)
@given(mixtures_and_configs(), st.integers(1, 400))
def test_steps_until_is_the_first_number_that_is_enough(
    mixture_and_config: tuple[list[TaskSize], PlanConfig], num_examples: int
) -> None:
    plan = BatchPlan(*mixture_and_config)
    steps = plan.steps_until(num_examples)
    assert steps == BatchPlan(*mixture_and_config).steps_until(num_examples)  # nothing was known of its windows
    assert plan.examples_until(steps) >= num_examples
    assert steps == 1 or plan.examples_until(steps - 1) < num_examples


def test_steps_until_by_hand() -> None:
    """Eight examples a row and two rows a step, 64 examples a window: 4 steps of 16 examples."""
    plan = BatchPlan([TaskSize("a", np.full((80, 2), 2), 1.0)], PlanConfig(2, 16, 16, window=64))
    assert [plan.steps_until(number) for number in (1, 16, 17, 64, 65, 160)] == [1, 1, 2, 4, 5, 10]


def steady_tasks(num_tasks: int, size: int) -> list[TaskSize]:
    """Lengths by arithmetic, which no random generator can change."""
    tasks = []
    for k in range(num_tasks):
        number = np.arange(size + 37 * k)
        tokens = 6 + (number * (61 + k) + 13 * k) % 197
        supervised = np.minimum(tokens - 2, 1 + (number * (7 + k)) % 41)
        tasks.append(TaskSize(f"task_{k}", np.stack([tokens, supervised], axis=1).astype(np.int32), 1.0 + k))
    return tasks


def test_rows_of_one_length_stay_what_they_are() -> None:
    """A run that is gone on with must find the rows that it began with."""
    lengths = ([[5, 2], [9, 3], [12, 4], [3, 1]], [[7, 2], [16, 5]])
    tasks = [TaskSize(name, np.array(own), rate) for name, own, rate in zip("ab", lengths, (3.0, 1.0), strict=True)]
    plan = BatchPlan(tasks, PlanConfig(2, 20, 6, window=8, seed=1))
    assert [plan.rows(step) for step in range(4)] == [
        [((0, 1), (0, 0)), ((1, 1), (0, 3))],
        [((0, 2), (0, 0)), ((0, 2), (1, 0))],
        [((0, 1), (0, 1)), ((0, 0), (0, 3))],
        [((1, 1), (0, 3)), ((0, 2), (1, 0))],
    ]
    plan = BatchPlan(steady_tasks(5, 700), PlanConfig(6, 256, 64, window=512, seed=3))
    digest = hashlib.blake2b(digest_size=16)
    for step in (*range(60), 700):
        digest.update(repr(plan.rows(step)).encode())
    assert digest.hexdigest() == "66f461d69f55cbf6a58745bfdeb91977"
    assert plan.key() == "e40c4baccca3f4568d75e6ad215045c3"  # so that stored row counts are found again


def test_rows_of_several_lengths_stay_what_they_are() -> None:
    plan = BatchPlan(steady_tasks(5, 700), PlanConfig(3, (64, 128, 256), 64, window=512, seed=3))
    digest = hashlib.blake2b(digest_size=16)
    for step in (*range(60), 700):
        digest.update(repr((plan.shape(step).tokens, plan.rows(step))).encode())
    assert digest.hexdigest() == "4970cdeba67136d61d7e5c5a8d4a77be"


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
    assert len({window for window, _ in again._rows}) <= 2  # only the windows of that step were packed
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
