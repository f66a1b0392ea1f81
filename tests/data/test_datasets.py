"""A dataset: what may be read of a folder or the generator, and what a fingerprint notices."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from seqgpt_jax.data.datasets import (
    Dataset,
    FolderDataset,
    GeneratedDataset,
    atomic_tasks,
    generated_records,
    sample_records,
)
from seqgpt_jax.data.mixtures import find_folder_datasets, resolve_mixture
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.records import write_records
from tests.tiny_data import write_data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def names(datasets: list[Dataset]) -> list[str]:
    return [dataset.meta.name for dataset in datasets]


# --- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_or_a_tree_of_folders(root: Path, tmp_path: Path) -> None:
    assert names(find_folder_datasets(root / "en" / "tiny_ner")) == ["tiny_ner"]
    assert len(find_folder_datasets(root)) == 6
    assert names(resolve_mixture(str(root / "zh"))) == ["tiny_mrc", "tiny_re"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match=r"no meta\.json"):
        find_folder_datasets(tmp_path / "nothing")
    with pytest.raises(UserError, match="no such folder"):
        find_folder_datasets(tmp_path / "missing")
    (tmp_path / "nothing" / "meta.json").write_text((root / "en" / "tiny_ner" / "meta.json").read_text())
    with pytest.raises(UserError, match="no records"):
        find_folder_datasets(tmp_path / "nothing")


def test_two_datasets_of_one_name_are_refused(root: Path) -> None:
    copy = root / "en" / "copy"
    (root / "en" / "tiny_ner").rename(copy)
    find_folder_datasets(root)
    (root / "zh" / "again").mkdir()
    for path in copy.iterdir():
        (root / "zh" / "again" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="two datasets are named 'tiny_ner'"):
        find_folder_datasets(root)


def test_records_come_from_plain_and_compressed_files(root: Path) -> None:
    dataset = FolderDataset(root / "en" / "tiny_ner")
    assert dataset.splits == ("train", "validation", "test")
    assert [record.id for record in dataset.records("train", 2)] == ["tiny_ner-train-0", "tiny_ner-train-1"]
    assert len(list(dataset.records("test"))) == 6
    with pytest.raises(UserError, match=r"no split 'dev' \(it has: train, validation, test\)"):
        dataset.records("dev")


def test_a_record_outside_its_label_set_is_found(root: Path) -> None:
    file = root / "en" / "tiny_topics" / "test.jsonl"
    fields = json.loads(file.read_text("utf-8").splitlines()[0])
    file.write_text(json.dumps({**fields, "labels": ["cooking"]}) + "\n")
    with pytest.raises(RecordError, match=r"test\.jsonl:1: .*cooking"):
        list(FolderDataset(root / "en" / "tiny_topics").records("test"))


def test_relations_and_events_learn_their_schema_from_the_records(root: Path) -> None:
    relations, events = FolderDataset(root / "zh" / "tiny_re"), FolderDataset(root / "en" / "tiny_ee")
    assert relations.meta.pair_types == {("人物", "机构")}
    assert events.meta.event_schema == {"acquire": ("buyer", "time"), "open": ("thing",)}
    assert next(events.records("test")).kind == "event"


def test_a_train_split_shows_whether_several_labels_hold(root: Path) -> None:
    folder = root / "en" / "tiny_topics"
    assert FolderDataset(folder).meta.multi_label is False
    assert FolderDataset(root / "en" / "tiny_ner").meta.multi_label is None
    one, *rest = FolderDataset(folder).records("train")
    both = dataclasses.replace(one, labels=FolderDataset(folder).meta.labels[:2])
    write_records(folder / "train.jsonl.gz", [*rest, both])
    assert FolderDataset(folder).meta.multi_label is True
    given = json.loads((folder / "meta.json").read_text("utf-8"))
    (folder / "meta.json").write_text(json.dumps({**given, "multi_label": False}))
    assert FolderDataset(folder).meta.multi_label is False, "what is said counts"


# --- fingerprints and samples ----------------------------------------------------------------------------------------


def test_fingerprint_follows_the_content(root: Path) -> None:
    folder = root / "en" / "tiny_ner"
    before = {split: FolderDataset(folder).fingerprint(split) for split in ("train", "test")}
    text = (folder / "test.jsonl").read_text("utf-8")
    (folder / "test.jsonl").write_text(text.replace("number 2000", "number 3000"), "utf-8")
    after = {split: FolderDataset(folder).fingerprint(split) for split in ("train", "test")}
    assert after["train"] == before["train"] and after["test"] != before["test"]
    (folder / "meta.json").write_text((folder / "meta.json").read_text("utf-8").replace('"person"', '"human"'))
    assert FolderDataset(folder).fingerprint("train") != before["train"]


def test_generated_fingerprints_differ_by_dataset_and_split() -> None:
    first, second = resolve_mixture("mini_real_en")[:2]
    prints = {each.fingerprint(split) for each in (first, second) for split in ("train", "test")}
    assert len(prints) == 4


def test_samples_are_the_same_for_everybody(root: Path) -> None:
    dataset = FolderDataset(root / "en" / "tiny_ner")
    sample = sample_records(dataset, "train", 10)
    assert sample == sample_records(FolderDataset(root / "en" / "tiny_ner"), "train", 10)
    places = [int(record.id.rsplit("-", 1)[1]) for record in sample]
    assert places == sorted(set(places)) and len(places) == 10
    assert places != list(range(10))
    assert sample_records(dataset, "train", 10, seed=1) != sample
    assert sample_records(dataset, "train", 99) == list(dataset.records("train"))
    assert sample_records(dataset, "train", None) == list(dataset.records("train"))


def test_samples_are_uniform(root: Path) -> None:
    dataset = FolderDataset(root / "en" / "tiny_topics")
    counts = dict.fromkeys((record.id for record in dataset.records("train")), 0)
    for seed in range(300):
        for record in sample_records(dataset, "train", 6, seed):
            counts[record.id] += 1
    assert min(counts.values()) > 30 and max(counts.values()) < 95  # 60 expected, standard deviation 7


def test_generated_records() -> None:
    dataset = resolve_mixture("mini_real_en_ner")[0]
    assert isinstance(dataset, GeneratedDataset)
    assert sample_records(dataset, "train", 5) == list(islice(dataset.records("train"), 5))
    assert len(list(dataset.records("test"))) == dataset.meta.splits["test"]
    assert len(list(dataset.records("train", 12_000))) == 12_000
    assert len({record.id for record in generated_records("mini_real", 50)}) == 50
    relation = next(resolve_mixture("mini_real_en_re")[0].records("train"))
    whole, own = (
        resolve_mixture("mini_real_en_re")[0].meta,
        resolve_mixture("mini_real_en_re")[0].record_meta(relation),
    )
    assert set(own.labels) < set(whole.labels)


def test_atomic_tasks(root: Path) -> None:
    assert atomic_tasks(FolderDataset(root / "en" / "tiny_ner")) == {"tiny_ner": ("classify", "extract")}
    assert list(atomic_tasks(FolderDataset(root / "zh" / "tiny_re"))) == ["tiny_re_entities", "tiny_re_relation"]
    assert atomic_tasks(FolderDataset(root / "en" / "tiny_ee"))["tiny_ee_event_type"] == ("event_type",)


def test_reading_data_imports_no_tensorflow() -> None:
    code = (
        "import sys, seqgpt_jax.data.cache, seqgpt_jax.data.datasets, seqgpt_jax.data.questions;"
        "print(sorted({'tensorflow', 'seqio', 'transformers', 'torch', 'jax', 'tasks'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
