"""Foreign labels: from the right datasets, unlike the dataset's own, and part of the key of what is made with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqgpt_jax.atomic import check_labels
from seqgpt_jax.data.cache import CacheSpec, planned_tasks
from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.data.label_pools import foreign_labels, label_pool
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.questions import training_texts
from seqgpt_jax.label_similarity import ALIKE, similarity
from seqgpt_jax.negatives import AskConfig
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, ExtractionRecord, Record, Span, write_meta
from seqgpt_jax.vocabulary import train_tokenizer
from tests.tiny_data import write_data

THINGS = ("bill", "card", "cash", "coin", "loan", "rent", "fund")
OWN = tuple(f"{verb} {thing}" for verb in ("pay", "send", "get") for thing in THINGS)
OTHER = ("play song", "find hotel", "pay the bill", "PAY_RENT", "mute phone", "wake up", "tell joke", "ask time")
OTHER += ("buy ticket", "turn left", "sing，loudly", "None")


class Given(Dataset):
    """A dataset of records that are given."""

    held_out = False

    def __init__(self, meta: DatasetMeta, *records: Record) -> None:
        self._meta, self._records = meta, records

    @property
    def meta(self) -> DatasetMeta:
        return self._meta

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train",)

    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        return iter(self._records[:limit])

    def fingerprint(self, split: str) -> str:
        return ""


def intents(name: str, labels: tuple[str, ...], *holding: str, task: str = "ID", language: str = "en") -> Given:
    record = ClassificationRecord("0", task, "x", holding or labels[:1])
    return Given(DatasetMeta(name, task, language, labels), record)


def test_foreign_labels_of_a_choice() -> None:
    own, other = intents("own", OWN), intents("other", OTHER)
    found = foreign_labels(own, [own, other], AskConfig())
    # not what means the same as one of ours, nor `None`; the comma as prompts write it
    assert found == ("play song", "find hotel", "mute phone", "wake up", "tell joke", "ask time", "buy ticket",
                     "turn left", "sing,loudly")  # fmt: skip
    assert similarity(found, OWN).max() < ALIKE
    assert check_labels([*OWN, *found])


@pytest.mark.parametrize(
    "other",
    [
        intents("other", OTHER, task="CLS"),
        intents("other", OTHER, language="zh"),
        intents("other", OTHER[:9]),  # too few to be an inventory
        intents("other", OTHER, "wake up", "ask time"),  # several may hold, so ours do not exclude them
        intents("own", OTHER),
    ],
)
def test_where_foreign_labels_may_hold_they_are_not_asked(other: Given) -> None:
    assert foreign_labels(intents("own", OWN), [other], AskConfig()) == ()


@pytest.mark.parametrize(
    ("own", "config"),
    [
        (intents("own", OWN[:20]), AskConfig()),  # asked as a whole
        (intents("own", OWN, "pay bill", "get fund"), AskConfig()),  # several may hold
        (intents("own", OWN), AskConfig(foreign_choice_share=0)),
        (intents("own", OWN, task="RE"), AskConfig()),
    ],
)
def test_datasets_that_take_no_foreign_labels(own: Given, config: AskConfig) -> None:
    other = dataclasses.replace(intents("other", OTHER).meta, task=own.meta.task)
    assert foreign_labels(own, [Given(other, *intents("other", OTHER).records("train"))], config) == ()


def test_foreign_labels_of_extraction_are_asked_for() -> None:
    def ner(name: str, *labels: str) -> Given:
        return Given(DatasetMeta(name, "NER", "en", labels), ExtractionRecord("0", "NER", "x", (Span("x", 0, 1, "x"),)))

    own, other = ner("own", "disease"), ner("other", "location", "diseases")
    assert foreign_labels(own, [own, other], AskConfig()) == ()
    assert foreign_labels(own, [own, other], AskConfig(foreign_extract_share=0.2)) == ("location",)


def test_the_order_of_the_mixture_does_not_matter() -> None:
    datasets = [intents("own", OWN), intents("b", OTHER), intents("a", tuple(f"verb{i}" for i in range(10)))]
    assert foreign_labels(datasets[0], datasets, AskConfig()) == foreign_labels(
        datasets[0], datasets[::-1], AskConfig()
    )


def test_labels_are_pooled_as_prompts_write_them() -> None:
    meta = DatasetMeta("d", "NER", "en", ("a", "b，c"), descriptions={"a": "first  thing"})
    assert list(label_pool(meta).alike) == ["first thing", "b,c"]


def test_the_cache_follows_the_labels_of_other_datasets(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    train_tokenizer(training_texts(resolve_mixture("held_in", root), "train", 9), 400).save(tmp_path / "tokenizer")

    def folders(*topics: str) -> list[dict[str, str]]:
        """Task -> the name of its cache, without foreign labels and with them; tiny_topics is NER with these labels."""
        meta = resolve_mixture("tiny_topics", root)[0].meta
        write_meta(root / "en" / "tiny_topics", dataclasses.replace(meta, task="NER", labels=topics))
        specs = [
            CacheSpec("held_in_en", str(tmp_path / "tokenizer"), str(root), ask=AskConfig(foreign_extract_share=share))
            for share in (0.0, 0.2)
        ]
        return [{task.name: task.folder.name for task in planned_tasks(spec, tmp_path, {})} for spec in specs]

    before, after = folders("sport", "trade, money", "weather"), folders("sport", "trade, money", "climate")
    changed = [{name for name in b if b[name] != a[name]} for b, a in zip(before, after, strict=True)]
    assert changed == [{"tiny_topics"}, {"tiny_topics", "tiny_ner"}]


def test_real_datasets(data_dir: Path) -> None:
    """clinc150 has 151 labels, hwu64_intent 64: what one has of the other is unlike its own, and unique."""
    datasets = resolve_mixture("held_in", data_dir)
    found = {dataset.meta.name: foreign_labels(dataset, datasets, AskConfig()) for dataset in datasets}
    assert {name for name, labels in found.items() if labels} == {"clinc150", "hwu64_intent", "cmedtc"}
    for dataset in datasets:
        labels = found[dataset.meta.name]
        if labels:
            assert 5 < len(check_labels([*dataset.meta.labels, *labels])) - len(dataset.meta.labels) < 200
