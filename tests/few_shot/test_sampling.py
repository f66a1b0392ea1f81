"""Few-shot samples: how many of what, from where, and the same every time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.data.datasets import FolderDataset
from seqgpt_jax.errors import UserError
from seqgpt_jax.few_shot.sampling import SEEDS, Shots, draw_sample, has_one_class, write_sample
from seqgpt_jax.records import ClassificationRecord
from tests.tiny_data import write_data


def dataset(folder: Path, records: list[dict[str, Any]], test: Sequence[dict[str, Any]] = ()) -> FolderDataset:
    folder.mkdir()
    meta = {"name": "made", "task": "CLS", "language": "en", "labels": ["a", "b", "c"]}
    (folder / "meta.json").write_text(json.dumps(meta))
    for split, kept in (("train", records), ("test", test)):
        lines = [json.dumps({"id": f"{split}-{i}", "task": "CLS", **record}) for i, record in enumerate(kept)]
        (folder / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return FolderDataset(folder)


def topic(text: str, *labels: str, **more: Any) -> dict[str, Any]:
    return {"kind": "classification", "text": text, "labels": list(labels), **more}


def counts(records: tuple[Any, ...]) -> Counter[str]:
    return Counter(label for record in records for label in record.labels)


def texts(records: tuple[Any, ...]) -> list[str]:
    return [record.text for record in records]


def test_sixteen_of_each_class_for_train_and_for_validation(tmp_path: Path) -> None:
    made = dataset(tmp_path / "d", [topic(f"text {i}", "abc"[i % 3]) for i in range(150)])
    sample = draw_sample(made, 100, Shots())
    assert counts(sample.train) == counts(sample.validation) == {"a": 16, "b": 16, "c": 16}
    assert not set(texts(sample.train)) & set(texts(sample.validation))
    assert sample.short == {}
    again = draw_sample(FolderDataset(tmp_path / "d"), 100, Shots())
    assert again == sample
    drawn = [tuple(texts(draw_sample(made, seed, Shots()).train)) for seed in SEEDS]
    assert len(set(drawn)) == len(SEEDS)


def test_a_small_class_is_halved_and_named(tmp_path: Path) -> None:
    few = [topic(f"b {i}", "b") for i in range(5)] + [topic("c", "c")]
    made = dataset(tmp_path / "d", [*(topic(f"a {i}", "a") for i in range(40)), *few])
    sample = draw_sample(made, 13, Shots())
    assert counts(sample.train) == {"a": 16, "b": 3, "c": 1}
    assert counts(sample.validation) == {"a": 16, "b": 2}
    assert sample.short == {"b": 3, "c": 1}


def test_a_question_is_in_one_set_only(tmp_path: Path) -> None:
    """Texts that occur twice, and those of the test split, are not drawn twice; another target is another question."""
    double = [topic("double", "a"), topic("double", "a"), topic("tested", "a")]
    targets = [topic("asked twice", "b", target={"text": part}) for part in ("asked", "twice")]
    made = dataset(tmp_path / "d", [*double, topic("other", "a"), *targets], [topic("tested", "a")])
    sample = draw_sample(made, 0, Shots())
    assert sorted(texts((*sample.train, *sample.validation))) == ["asked twice", "asked twice", "double", "other"]


@pytest.mark.parametrize(
    "odd",
    [
        topic("several hold", "a", "b"),
        topic("none holds"),
        topic("own options", "a", label_set=["a", "b"]),
        {"kind": "extraction", "text": "span", "spans": [], "label_set": None},
    ],
)
def test_thirty_two_where_classes_do_not_part_the_dataset(tmp_path: Path, odd: dict[str, Any]) -> None:
    plain = [topic(f"text {i}", "a") for i in range(99)]
    if odd["kind"] == "extraction":
        plain = [{**odd, "text": f"text {i}"} for i in range(99)]
    sample = draw_sample(dataset(tmp_path / "d", [*plain, odd]), 21, Shots())
    assert (len(sample.train), len(sample.validation)) == (32, 32)


def test_one_class() -> None:
    record = ClassificationRecord("0", "CLS", "text", ("a",))
    assert has_one_class([record, record])
    assert not has_one_class([record, ClassificationRecord("1", "CLS", "text", ())])


def test_a_sample_is_a_dataset_with_the_schema_of_the_whole(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    made = FolderDataset(root / "en" / "tiny_ee")
    sample = draw_sample(made, 42, Shots(others=4))
    own = write_sample(sample, made, tmp_path / "sample")
    read = FolderDataset(own.folder)
    assert read.meta.event_schema == made.meta.event_schema == {"acquire": ("buyer", "time"), "open": ("thing",)}
    assert dict(read.meta.splits) == {"train": 4, "validation": 4}
    assert [record.text for record in read.records("train")] == texts(sample.train)
    (own.folder / "train.jsonl").write_text("")
    assert write_sample(sample, made, own.folder) == own  # taken as it is


def test_held_out_datasets_are_opened_first(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    closed = FolderDataset(root / "en" / "tiny_out", held_out=True)
    with pytest.raises(UserError, match="held out: its train split is never read"):
        draw_sample(closed, 0, Shots())
    assert len(draw_sample(closed.opened(), 0, Shots(per_class=2)).train) == 6


def test_too_few_records(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"made has too few train records to sample from \(it needs at least two"):
        draw_sample(dataset(tmp_path / "d", [topic("one", "a"), topic("two", "b")]), 0, Shots())
