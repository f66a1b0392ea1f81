"""The catalogue: what a name finds, what may be read, and what a fingerprint notices."""

from __future__ import annotations

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
from seqgpt_jax.data.mixtures import find_folder_datasets, mixture_names, resolve_mixture
from seqgpt_jax.errors import RecordError, UserError
from tests.tiny_data import write_data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


def names(datasets: list[Dataset]) -> list[str]:
    return [dataset.meta.name for dataset in datasets]


# --- mixtures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixture", "expected"),
    [
        ("held_in", ["tiny_ner", "tiny_topics", "tiny_ee", "tiny_re", "tiny_mrc"]),
        ("held_in_zh", ["tiny_re", "tiny_mrc"]),
        ("held_in_ner", ["tiny_ner"]),
        ("held_in_zh_mrc_se", ["tiny_mrc"]),
        ("held_out", ["tiny_out"]),
        ("tiny_ee", ["tiny_ee"]),
    ],
)
def test_names_of_real_mixtures(root: Path, mixture: str, expected: list[str]) -> None:
    assert names(resolve_mixture(mixture, root)) == expected


def test_data_dir_comes_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQGPT_DATA_DIR", str(root))
    assert len(resolve_mixture("held_in")) == 5
    monkeypatch.delenv("SEQGPT_DATA_DIR")
    with pytest.raises(UserError, match="set SEQGPT_DATA_DIR"):
        resolve_mixture("held_in")


def test_names_of_generated_mixtures() -> None:
    assert names(resolve_mixture("mini_real_zh_ner")) == ["mini_real_zh_ner"]
    assert len(resolve_mixture("mini_real")) == 22
    assert {dataset.meta.task for dataset in resolve_mixture("mini_real_mrc_se")} == {"MRC-SE"}
    held_out = resolve_mixture("mini_held_out_en_ner")
    assert len(held_out) == 4 and all(dataset.held_out for dataset in held_out)
    one = held_out[0].meta.name
    assert names(resolve_mixture(one)) == [one]


def test_mixture_names_are_those_that_resolve(root: Path) -> None:
    found = mixture_names("held_in", root)
    assert "held_in_zh_re" in found and "held_in_zh_ner" not in found
    for name in found:
        assert resolve_mixture(name, root)


@pytest.mark.parametrize(
    ("mixture", "close"),
    [
        ("held_inn", "held_in"),
        ("held_in_en_mrcse", "held_in_en_mrc_se"),
        ("tiny_nr", "tiny_ner"),
        ("minireal", "mini_real"),
    ],
)
def test_unknown_mixtures_name_close_ones(root: Path, mixture: str, close: str) -> None:
    with pytest.raises(UserError, match=close):
        resolve_mixture(mixture, root)


def test_empty_part_and_missing_files_are_user_errors(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="held_in_sf' is empty"):
        resolve_mixture("held_in_sf", root)
    with pytest.raises(UserError, match=r"no partitions\.json"):
        resolve_mixture("held_in", tmp_path)
    (root / "partitions.json").write_text("{")
    with pytest.raises(RecordError, match=r"partitions\.json"):
        resolve_mixture("held_in", root)


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


# --- held out --------------------------------------------------------------------------------------------------------


def test_training_data_of_a_held_out_dataset_cannot_be_read(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "mine"
    link.symlink_to(root / "en" / "tiny_out")
    for dataset in (
        resolve_mixture("held_out", root)[0],
        resolve_mixture("tiny_out", root)[0],
        find_folder_datasets(root / "en" / "tiny_out")[0],
        find_folder_datasets(link)[0],
        resolve_mixture("mini_held_out")[0],
    ):
        assert "train" not in dataset.splits and "test" in dataset.splits
        with pytest.raises(UserError, match="is held out"):
            dataset.records("train")
        assert next(dataset.records("test"))


def test_real_partitions(data_dir: Path) -> None:
    held_in, held_out = resolve_mixture("held_in", data_dir), resolve_mixture("held_out", data_dir)
    assert (len(held_in), len(held_out)) == (100, 37)
    assert not set(names(held_in)) & set(names(held_out))
    assert {dataset.meta.task for dataset in held_in} == {dataset.meta.task for dataset in held_out}
    chemprot = resolve_mixture("chemprot", data_dir)[0]
    assert chemprot.meta.pair_types == {("chemical", "gene or protein")}


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
