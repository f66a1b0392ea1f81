"""t5's GLUE and SuperGLUE tasks as classification, against t5's own registry, mock data and files of TFDS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.t5_sources import ROWS, T5Row
from seqgpt_jax.errors import UserError
from tests.tiny_data import write_tfds

tfds = pytest.importorskip("tensorflow_datasets")
seqio = pytest.importorskip("seqio")
pytest.importorskip("t5")


@pytest.fixture
def tfds_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEQGPT_TFDS_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_agrees_with_t5_and_its_targets_are_labels(row: T5Row, tfds_dir: Path) -> None:
    from tasks.t5_glue import pretokenized

    with tfds.testing.mock_data(num_examples=6):
        pairs = list(pretokenized(row.name, next(iter(row.splits.values())), str(tfds_dir)))
        config = row.tfds.split("/")[1]
        loader = seqio.TaskRegistry.get(row.name).source.tfds_dataset
        assert loader.name.replace(":", "/") == row.tfds
        classes = loader.builder.builder_config.label_classes
    benchmark = "mnli" if "mnli" in config else config
    assert len(pairs) == 6 and all(text.startswith(f"{benchmark} ") for text, _ in pairs)
    if config == "stsb":
        assert row.labels == ("0.0", "0.2", *row.labels[2:-1], "5.0") and len(row.labels) == 26
    else:
        assert row.labels == tuple(classes)
        assert {target for _, target in pairs} <= set(row.labels)


def test_records_come_through_the_child_process(tfds_dir: Path) -> None:
    rows = [{"sentence": f"They drank {i}.", "label": i % 2, "idx": i} for i in range(5)]
    folder = write_tfds(tfds_dir, "glue/cola", {"train": rows, "validation": rows[:2]}, "1.0.0")
    (dataset,) = resolve_mixture("t5:glue_cola_v002")
    assert dataset.splits == ("train", "validation") and dataset.meta.splits == {"train": 5, "validation": 2}
    records: list[Any] = list(dataset.records("train"))
    assert sorted((record.text, record.labels) for record in records) == [
        (f"cola sentence: They drank {i}.", (("unacceptable", "acceptable")[i % 2],)) for i in range(5)
    ]
    assert [record.id for record in records] == [f"t5_glue_cola_v002-train-{i}" for i in range(5)]
    assert list(dataset.records("train", 2)) == records[:2]
    before = dataset.fingerprint("train")
    assert before != dataset.fingerprint("validation")
    info = folder / "dataset_info.json"
    info.write_text(info.read_text("utf-8").replace("1.0.0", "1.0.0 "), "utf-8")
    assert dataset.fingerprint("train") != before


def test_what_is_not_prepared_says_how_to(tfds_dir: Path) -> None:
    (dataset,) = resolve_mixture("t5:super_glue_wic_v102")
    for ask in (dataset.records, dataset.fingerprint):
        with pytest.raises(UserError, match=rf"`tfds build super_glue/wic:1.0.2 --data_dir {tfds_dir}`"):
            ask("train")
    assert len(resolve_mixture("t5:glue")) == 11 and len(resolve_mixture("t5:super_glue")) == 6


def test_importing_registers_nothing() -> None:
    code = (
        "import seqio, tasks.t5_glue, seqgpt_jax.data.t5_sources, sys;"
        "assert not [name for name in seqio.TaskRegistry.names() if 'glue' in name];"
        "assert 't5.data.tasks' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})
