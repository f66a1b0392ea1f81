"""What is counted of a stage's data: tasks of one dataset together, leaked records once, draws as the plan has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from seqgpt_jax.data.cache import CacheSpec
from seqgpt_jax.data.plan import BatchPlan, PlanConfig
from seqgpt_jax.training.stage_data import (
    DatasetCounts,
    StageData,
    count_stage_data,
    mixture_rows,
    read_stage_data,
    write_stage_data,
)
from tests.tiny_data import write_data
from tests.training.toy import ToySource


@dataclass
class Source:
    name: str
    stats: dict[str, int]


def test_counts_are_by_dataset(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    sources = [
        Source("tiny_ee_argument", {"examples": 5, "tokens": 50, "cut": 1, "leaked": 6}),
        Source("tiny_ee_trigger", {"examples": 4, "tokens": 40, "cut": 2, "dropped": 1, "leaked": 6}),
        Source("tiny_ner", {"examples": 9, "tokens": 90, "supervised": 20, "leaked": 2, "surplus": 7}),
    ]
    data = count_stage_data(CacheSpec("tiny_ee+tiny_ner+tiny_topics", "", data_dir=str(root), passes=2), sources)
    found = {each.name: (each.examples, each.tokens, each.cut, each.dropped, each.leaked) for each in data.datasets}
    assert found == {"tiny_ee": (9, 90, 3, 1, 3), "tiny_ner": (9, 90, 0, 0, 1), "tiny_topics": (0, 0, 0, 0, 0)}
    assert data.total("leaked") == 4 and data.total("surplus") == 7
    write_stage_data(tmp_path, "one", data)
    assert read_stage_data(tmp_path, "one") == data and read_stage_data(tmp_path, "two") is None


def test_draws_are_those_of_the_steps(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    sources = [ToySource("tiny_ee_argument", 40, seed=1), ToySource("tiny_ee_trigger", 20), ToySource("tiny_ner", 30)]
    for source in sources:
        source.stats = {"examples": len(source)}
    plan = BatchPlan(
        [source.size(rate) for source, rate in zip(sources, (3, 1, 4), strict=True)], PlanConfig(8, 40, 20, 64)
    )
    spec, step = CacheSpec("tiny_ee+tiny_ner", "", data_dir=str(root)), 30
    data = count_stage_data(spec, sources, plan=plan, step=step)
    documents = [document for number in range(step) for row in plan.rows(number) for document in row]
    a_step = len(documents) / step
    for dataset, tasks in zip(data.datasets, ((0, 1), (2,)), strict=True):
        own = [(task, example) for task, example in documents if task in tasks]
        tokens = sum(int(sources[task].lengths[example, 0]) for task, example in own)
        assert dataset.drawn == pytest.approx(len(own), abs=2 * a_step)
        assert dataset.drawn_tokens == pytest.approx(tokens, rel=0.05)
        assert dataset.rate == 0.5
    assert sum(dataset.drawn for dataset in data.datasets) == pytest.approx(len(documents), abs=2 * a_step)
    assert data.datasets[1].drawn > 3 * 30  # epochs
    at_start = count_stage_data(spec, sources, plan=plan)
    assert [(dataset.rate, dataset.drawn) for dataset in at_start.datasets] == [(0.5, 0), (0.5, 0)]


def test_the_mixture_table_shows_the_largest_and_the_rest() -> None:
    def dataset(name: str, rate: float) -> DatasetCounts:
        return DatasetCounts(name, "NER", "en", 100, 5000, 900, cut=1, dropped=2, leaked=0, rate=rate, drawn=150,
                             drawn_tokens=7500)  # fmt: skip

    data = StageData("m", "train", 1, tuple(dataset(f"d{rank}", rank / 10) for rank in (1, 4, 2, 3)), step=9)
    assert mixture_rows(data, most=2) == [
        ["dataset", "task", "rate", "examples", "drawn", "epochs", "tokens drawn", "cut", "dropped"],
        ["d4", "en NER", "40.00%", "100", "150", "1.50", "7,500", "1", "2"],
        ["d3", "en NER", "30.00%", "100", "150", "1.50", "7,500", "1", "2"],
        ["2 others", "", "30.00%", "200", "300", "1.50", "15,000", "2", "4"],
        ["all", "", "100.00%", "400", "600", "1.50", "30,000", "4", "8"],
    ]
    assert [row[0] for row in mixture_rows(data, most=4)] == ["dataset", "d4", "d3", "d2", "d1", "all"]
