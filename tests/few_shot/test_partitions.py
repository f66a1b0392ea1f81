"""Partitions by task: what is upstream, what is downstream, and what an upstream model may have seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.errors import UserError
from seqgpt_jax.few_shot.partitions import (
    PARTITIONS,
    check_upstream,
    downstream_datasets,
    find_partition,
    upstream_mixture,
)
from seqgpt_jax.records import TASKS
from tests.tiny_data import write_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("partitions") / "data", {"train": 2, "validation": 1, "test": 1})


def test_one_task_is_left_out_and_learnt() -> None:
    names = [name for name in PARTITIONS if name.startswith("without_")]
    assert len(names) == len(TASKS)
    for name in names:
        partition = PARTITIONS[name]
        (task,) = partition.downstream
        assert sorted((task, *partition.upstream)) == sorted(TASKS)


def test_both_kinds_of_task_are_all_of_them() -> None:
    partition = PARTITIONS["classification_to_extraction"]
    assert sorted((*partition.upstream, *partition.downstream)) == sorted(TASKS)


@pytest.mark.parametrize(
    ("name", "mixture", "datasets"),
    [
        ("random", "held_in_ner+held_in_cls+held_in_re+held_in_ee+held_in_mrc_se", 5),
        ("classification_to_classification", "held_in_cls", 1),
        ("extraction_to_classification", "held_in_ner+held_in_re+held_in_ee+held_in_mrc_se", 4),
        ("without_cls", "held_in_ner+held_in_re+held_in_ee+held_in_mrc_se", 4),
    ],
)
def test_the_upstream_side_is_a_mixture(name: str, mixture: str, datasets: int, root: Path) -> None:
    partition = find_partition(name)
    assert upstream_mixture(partition, root) == mixture
    assert len(resolve_mixture(mixture, root)) == datasets
    (learnt,) = downstream_datasets(partition, data_dir=root)
    assert (learnt.declared.name, learnt.splits) == ("tiny_out", ("train", "validation", "test"))  # opened


def test_a_side_without_datasets(root: Path) -> None:
    with pytest.raises(UserError, match=r"held_out has no dataset of NER \(choose another partition\)"):
        downstream_datasets(find_partition("without_ner"), data_dir=root)
    with pytest.raises(UserError, match=r"unknown partition .without_nre. \(did you mean without_re, without_ner"):
        find_partition("without_nre")


def test_an_upstream_model_that_has_seen_too_much(root: Path) -> None:
    partition = find_partition("without_cls")
    learnt = downstream_datasets(partition, data_dir=root)
    check_upstream({"tiny_ner": "NER"}, learnt, partition)
    check_upstream({"tiny_topics": "CLS"}, learnt, None)
    with pytest.raises(UserError, match="was trained on tiny_topics, of tasks that this partition keeps"):
        check_upstream({"tiny_ner": "NER", "tiny_topics": "CLS"}, learnt, partition)
    with pytest.raises(UserError, match="was trained on tiny_out, which it is to learn"):
        check_upstream({"tiny_out": "CLS"}, learnt, None)
