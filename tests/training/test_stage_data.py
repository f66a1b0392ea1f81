"""What is counted of a stage's data: tasks of one dataset together, leaked records once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from seqgpt_jax.data.cache import CacheSpec
from seqgpt_jax.training.stage_data import count_stage_data, read_stage_data, write_stage_data
from tests.tiny_data import write_data


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
