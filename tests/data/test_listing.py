"""The list of datasets: numbers that are known, and what is said of what is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqgpt_jax.cli import main
from seqgpt_jax.data.listing import list_datasets, listing_to_dict, listing_to_text
from tests.tiny_data import write_data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def test_a_folder_is_described(root: Path) -> None:
    listed = {each.name: each for each in list_datasets("held_in+held_out", root)}
    assert len(listed) == 6
    ee, out = listed["tiny_ee"], listed["tiny_out"]
    assert (ee.source, ee.partition, ee.language, ee.task) == ("folder", "held_in", "en", "EE")
    assert ee.atomic_tasks == ("tiny_ee_trigger", "tiny_ee_event_type", "tiny_ee_argument")
    assert ee.splits == {"train": 30, "validation": 6, "test": 6} and ee.num_labels == 2
    assert out.partition == "held_out" and "train" not in out.splits
    counts = listing_to_dict(list(listed.values()), ["x"])
    assert counts["datasets"] == {"folder": 6} and counts["atomic_tasks"] == {"folder": 9}
    assert counts["missing"] == ["x"] and len(counts["list"]) == 6


def test_the_table(root: Path) -> None:
    lines = listing_to_text(list_datasets("tiny_re+tiny_out", root), ["more"]).splitlines()
    assert lines == [
        "dataset   source  partition  language  task  train  validation  test  labels  tasks",
        "tiny_re   folder  held_in    zh        RE       30           6     6       2      2",
        "tiny_out  folder  held_out   en        CLS       -           6     6       3      1",
        "",
        "folder: 2 datasets, 3 atomic tasks",
        "not listed: more",
    ]


def test_everything_is_listed_without_a_data_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEQGPT_DATA_DIR", raising=False)
    assert main(["data", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["datasets"]) == {"generator", "tfds", "t5"} and found["datasets"]["tfds"] >= 20
    assert "set SEQGPT_DATA_DIR" in found["missing"][0]


def test_the_real_datasets(data_dir: Path) -> None:
    found = listing_to_dict(list_datasets(None, data_dir), [])
    assert (found["datasets"]["folder"], found["atomic_tasks"]["folder"]) == (137, 154)
    names = [each["name"] for each in found["list"]]
    assert len(set(names)) == len(names) == sum(found["datasets"].values())
