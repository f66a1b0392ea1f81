"""What a mixture's name finds, and what may be trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from seqgpt_jax.data.datasets import Dataset, atomic_tasks
from seqgpt_jax.data.mixtures import (
    find_folder_datasets,
    known_sources,
    mixture_names,
    resolve_mixture,
    training_datasets,
)
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


# --- the first N of a mixture ----------------------------------------------------------------------------------------


def test_a_number_takes_the_first_in_a_seeded_order(root: Path) -> None:
    everything = names(resolve_mixture("held_in", root))
    orders = [names(resolve_mixture(f"held_in:5:{seed}", root)) for seed in range(20)]
    assert all(sorted(order) == sorted(everything) for order in orders)
    assert len(set(map(tuple, orders))) > 15, "seeds give orders of their own"
    assert {order[0] for order in orders} == set(everything), "and any dataset may be first"
    for number in range(1, 5):
        assert names(resolve_mixture(f"held_in:{number}:3", root)) == orders[3][:number]
    assert names(resolve_mixture("held_in:4", root)) == orders[0][:4], "without a seed it is 0"
    assert len(resolve_mixture("held_in_zh:1", root)) == 1
    assert names(resolve_mixture(f"{root}/en:2:1")) == names(resolve_mixture(f"{root}/en:4:1"))[:2]


def test_the_order_does_not_depend_on_which_other_datasets_there_are(root: Path) -> None:
    whole = names(resolve_mixture("held_in:5:7", root))
    english = set(names(resolve_mixture("held_in_en", root)))
    assert names(resolve_mixture("held_in_en:3:7", root)) == [name for name in whole if name in english]


@pytest.mark.parametrize("number", [0, 6])
def test_more_datasets_than_there_are_is_an_error(root: Path, number: int) -> None:
    with pytest.raises(UserError, match="held_in has 5 datasets"):
        resolve_mixture(f"held_in:{number}", root)


# --- unions ----------------------------------------------------------------------------------------------------------


def test_a_union_has_each_dataset_once(root: Path) -> None:
    found = names(resolve_mixture("held_in_zh + tiny_ner+held_in_ner+mini_real_zh_ner", root))
    assert found == ["tiny_re", "tiny_mrc", "tiny_ner", "mini_real_zh_ner"]
    assert names(resolve_mixture(f"tiny_ner+{root}/en/tiny_ner", root)) == ["tiny_ner"], "its path is the same dataset"
    with pytest.raises(UserError, match="did you mean tiny_ner"):
        resolve_mixture("held_in+tiny_nr", root)
    with pytest.raises(UserError, match="empty part"):
        resolve_mixture("held_in+", root)


def test_two_datasets_of_one_name_are_refused_in_a_union(root: Path, tmp_path: Path) -> None:
    other = write_data(tmp_path / "other") / "en" / "tiny_ner"
    with pytest.raises(UserError, match="two datasets are named 'tiny_ner'"):
        resolve_mixture(f"held_in+{other}", root)


def test_a_path_may_hold_a_plus(tmp_path: Path) -> None:
    assert len(resolve_mixture(str(write_data(tmp_path / "c++")))) == 6


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


HELD_OUT = (
    "held_out",
    "tiny_out",
    "held_in+tiny_out",
    "{root}/en/tiny_out",
    "{root}",
    "{link}",
    "mini_held_out_en_ner",
)


@pytest.mark.parametrize("mixture", HELD_OUT)
def test_a_stage_cannot_train_on_what_is_held_out(root: Path, tmp_path: Path, mixture: str) -> None:
    (tmp_path / "mine").symlink_to(root / "en" / "tiny_out")
    mixture = mixture.format(root=root, link=tmp_path / "mine")
    with pytest.raises(UserError, match=r"held out \(.*\): it is never trained on .*protocol='few_shot'"):
        training_datasets(mixture, "train", root)
    with pytest.raises(UserError, match="held out"):
        training_datasets(mixture, "validation", root, "zero_shot")
    opened = training_datasets(mixture, "train", root, "few_shot")
    found = next(dataset for dataset in opened if dataset.held_out)
    assert next(found.records("train")) and found.few_shot
    assert "train" not in next(d for d in resolve_mixture(mixture, root) if d.held_out).splits, (
        "opened for this one alone"
    )


def test_opening_leaves_the_dataset_itself_closed(root: Path) -> None:
    for name in ("tiny_out", "mini_held_out_en_ner", "tiny_ner"):
        dataset = resolve_mixture(name, root)[0]
        opened, splits = dataset.opened(), dataset.splits
        assert opened.few_shot == dataset.held_out and "train" in opened.splits
        assert not dataset.few_shot and ("train" in splits) == (name == "tiny_ner")


def test_training_datasets_are_those_that_have_the_split(root: Path) -> None:
    (root / "en" / "tiny_ner" / "validation.jsonl.gz").unlink()
    assert "tiny_ner" not in names(training_datasets("held_in", "validation", root))
    with pytest.raises(UserError, match="has a split 'dev'"):
        training_datasets("held_in", "dev", root)
    with pytest.raises(UserError, match="unknown protocol 'fewshot'"):
        training_datasets("held_in", "train", root, "fewshot")


def test_a_copy_of_a_held_out_dataset_in_another_source_is_held_out(root: Path) -> None:
    assert not resolve_mixture("tfds:glue/rte", root)[0].held_out
    partitions = (root / "partitions.json").read_text("utf-8").replace("tiny_out", "rte")
    (root / "partitions.json").write_text(partitions, "utf-8")
    for name in ("tfds:glue/rte", "tfds:super_glue/rte", "t5:glue_rte_v002", "t5_super_glue_rte_v102", "tfds:glue"):
        with pytest.raises(UserError, match="held out"):
            training_datasets(name, "train", root)
    assert names(training_datasets("tfds:glue/cola", "train", root)) == ["tfds_glue_cola"]


# --- everything that there is ----------------------------------------------------------------------------------------


def test_every_source_is_listed(root: Path) -> None:
    sources = known_sources(root)
    assert list(sources) == ["folder", "generator", "tfds", "t5"]
    assert len(sources["folder"]) == 6 and len(sources["generator"]) > 100
    assert len(sources["tfds"]) >= 20 and len(sources["t5"]) >= 15
    for source, datasets in sources.items():
        for dataset in datasets[:: max(1, len(datasets) // 10)]:
            assert names(resolve_mixture(dataset.declared.name, root)) == [dataset.declared.name], source
    tasks = [task for datasets in sources.values() for dataset in datasets for task in atomic_tasks(dataset)]
    assert len(tasks) == len(set(tasks)), "all of them could be in one mixture"


def test_without_a_data_folder_there_are_no_folder_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEQGPT_DATA_DIR", raising=False)
    assert known_sources()["folder"] == []


def test_all_real_datasets_are_listed(data_dir: Path) -> None:
    datasets = known_sources(data_dir)["folder"]
    assert len(datasets) == 137
    assert Counter(dataset.held_out for dataset in datasets) == {False: 100, True: 37}
    assert sum(len(atomic_tasks(dataset)) for dataset in datasets) == 154
    assert len({dataset.declared.task for dataset in datasets}) == 11


@pytest.mark.parametrize(
    ("mixture", "close"),
    [("tfds:glue/coala", "glue/cola"), ("t5:superglue_wic_v102", "super_glue_wic_v102")],
)
def test_unknown_names_of_a_source_give_close_ones(mixture: str, close: str) -> None:
    with pytest.raises(UserError, match=close):
        resolve_mixture(mixture)
