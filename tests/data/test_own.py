"""A user's own files become a dataset folder with a validation split, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqgpt_jax.data.convert import Description
from seqgpt_jax.data.own import prepare_own_data
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import read_records, split_files

TEXTS = [f"{word} number {number}" for number in range(100) for word in ("good", "bad")]


def csv_file(folder: Path, name: str = "mine.csv") -> Path:
    lines = ["text,label", *(f"{text},{text.split()[0]}" for text in TEXTS)]
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def texts(folder: Path) -> dict[str, list[str]]:
    return {split: [record.text for record in read_records(path)] for split, path in split_files(folder).items()}


def test_a_file_without_splits_gets_a_validation_split_by_text(tmp_path: Path) -> None:
    own = prepare_own_data(csv_file(tmp_path), tmp_path / "data")
    assert (own.meta.name, own.meta.task, own.meta.labels) == ("mine", "CLS", ("good", "bad"))
    found = texts(own.folder)
    assert set(found) == {"train", "validation"}
    assert not own.has_test
    assert sorted(found["train"] + found["validation"]) == sorted(TEXTS)
    assert 8 <= len(found["validation"]) <= 32  # 20 are expected
    assert own.meta.splits == {split: len(records) for split, records in found.items()}
    other = prepare_own_data(csv_file(tmp_path), tmp_path / "half", share=0.5)
    assert 70 <= len(texts(other.folder)["validation"]) <= 130


def test_splits_of_the_user_stay(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.csv", "test.csv"):
        csv_file(tmp_path / "in", name)
    own = prepare_own_data(tmp_path / "in", tmp_path / "data", description=Description(task="SA", name="mood"))
    assert own.meta.splits == {"train": 200, "validation": 200, "test": 200}
    assert (own.meta.task, own.meta.name, own.has_test) == ("SA", "mood", True)
    # A folder of records is taken too; what it has stays, what it lacks is made.
    (own.folder / "validation.jsonl").unlink()
    again = prepare_own_data(own.folder, tmp_path / "again")
    found = texts(again.folder)
    assert len(found["test"]) == 200
    assert 0 < len(found["validation"]) < 50
    assert len(found["train"]) + len(found["validation"]) == 200
    assert again.meta.labels == own.meta.labels


def test_it_is_made_once_and_never_of_other_data(tmp_path: Path) -> None:
    source = csv_file(tmp_path)
    own = prepare_own_data(source, tmp_path / "data")
    written = (own.folder / "train.jsonl").stat().st_mtime_ns
    assert prepare_own_data(source, tmp_path / "data").meta == own.meta
    assert (own.folder / "train.jsonl").stat().st_mtime_ns == written
    source.write_text(source.read_text("utf-8") + "good again,good\n", "utf-8")
    with pytest.raises(UserError, match="was made of other data than"):
        prepare_own_data(source, tmp_path / "data")


def test_what_cannot_be_trained_on_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.csv: no such file"):
        prepare_own_data(tmp_path / "none.csv", tmp_path / "data")
    with pytest.raises(UserError, match="no train split"):
        prepare_own_data(csv_file(tmp_path, "test.csv"), tmp_path / "data")
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps({"id": 1, "text": "good", "label": ["good"]}) + "\n", "utf-8")
    with pytest.raises(UserError, match="no record for"):
        prepare_own_data(few, tmp_path / "data")
    assert not (tmp_path / "data").exists()
