"""Leaks: by hand, against plain Python sets, as files, and what training makes of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.data import leaks as leaks_module
from seqgpt_jax.data.cache import CacheSpec, ensure_cache
from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.data.leaks import MIN_SHARE, NGRAM, DatasetLeaks, ensure_leaks, evaluation_splits, find_leaks
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.ngrams import split_tokens
from seqgpt_jax.errors import RecordError
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    ExtractionRecord,
    Record,
    Target,
)
from seqgpt_jax.vocabulary import train_tokenizer
from tests.tiny_data import write_data

WORDS = [f"w{number}" for number in range(1_000)]


class MemoryDataset(Dataset):
    """Records by split."""

    held_out = False

    def __init__(self, name: str, splits: dict[str, list[Record]], language: str = "en") -> None:
        self._meta = DatasetMeta(name, "CLS", language, ("x",))
        self._splits = splits

    @property
    def meta(self) -> DatasetMeta:
        return self._meta

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        return iter(self._splits[split][:limit])

    def fingerprint(self, split: str) -> str:
        return repr(self._splits[split])


def choice(id: str, text: str, **fields: Any) -> ClassificationRecord:
    return ClassificationRecord(id, "CLS", text, ("x",), **fields)


def found(train: list[Record], test: list[Record]) -> DatasetLeaks:
    dataset = MemoryDataset("own", {"train": train, "test": test})
    (leaks,) = find_leaks([dataset], [(dataset, "test")])
    return leaks


# --- by hand ---------------------------------------------------------------------------------------------------------


def test_equal_after_normalisation() -> None:
    result = found(
        [
            choice("a", "Ｈello, WORLD! It's 5."),
            choice("b", "hello world"),
            choice("c", "你好，世界"),
            choice("d", "?!"),
        ],
        [choice("1", "hello world - it s 5"), choice("2", "你好世界!"), choice("3", "...")],
    )
    assert [(leak.record_id, leak.reason, leak.evaluation_id) for leak in result.leaks] == [
        ("a", "same text", "1"),
        ("c", "same text", "2"),
    ]
    assert result.num_records == 4 and result.shared_texts == 0


def test_share_of_ngrams_at_the_threshold() -> None:
    """22 tokens have 10 windows of 13. A start of 17 tokens has 5 of them: one half. One of 16 has 4."""
    text, other = WORDS[:22], WORDS[500:505]
    result = found(
        [choice("half", " ".join(text))],
        [choice("17", " ".join(text[:17] + other))],
    )
    (leak,) = result.leaks
    assert (leak.reason, leak.share, leak.evaluation_id) == ("n-grams", 0.5, "17")
    assert found([choice("less", " ".join(text))], [choice("16", " ".join(text[:16] + other))]).leaks == ()


def test_share_is_over_all_evaluation_texts_together() -> None:
    """30 tokens have 18 windows; the starts and ends of 17 tokens have 5 each, 10 of 18 together."""
    text = WORDS[:30]
    parts = [choice("start", " ".join(text[:17])), choice("end", " ".join(text[13:] + WORDS[600:601]))]
    assert found([choice("a", " ".join(text))], parts[:1]).leaks == ()
    (leak,) = found([choice("a", " ".join(text))], parts).leaks
    assert leak.share == round(10 / 18, 4)


def test_chinese_is_counted_in_characters() -> None:
    """14 characters have 2 windows; with the last one changed 1 is left, with one in the middle changed none."""
    text = "黄河是中国第二长的河流，很长"[:13] + "啊呀"  # 12 characters, a comma, 2 characters
    assert len(list(split_tokens(text))) == 14
    assert [leak.share for leak in found([choice("a", text)], [choice("1", text[:-1] + "哦")]).leaks] == [0.5]
    assert found([choice("a", text)], [choice("1", text.replace("第", "弟"))]).leaks == ()


def test_short_texts_leak_only_as_the_same_text() -> None:
    twelve = " ".join(WORDS[:12])
    assert found([choice("a", twelve)], [choice("1", twelve + " more")]).leaks == ()
    assert len(found([choice("a", twelve)], [choice("1", twelve.upper())]).leaks) == 1


def test_a_repeated_word_is_no_ngram() -> None:
    assert found([choice("a", "@user " * 20 + "hi")], [choice("1", "@user " * 20 + "bye")]).leaks == ()


def test_a_passage_with_another_question_is_no_leak() -> None:
    passage = " ".join(WORDS[:40])

    def read(id: str, question: str) -> ExtractionRecord:
        return ExtractionRecord(id, "MRC-SE", passage, (), question=question, answers=())

    result = found([read("a", "Who?"), read("b", "Where to?")], [read("1", "where to ?")])
    assert [leak.record_id for leak in result.leaks] == ["b"]
    assert result.shared_texts == 1


@pytest.mark.parametrize(
    ("asked", "other"),
    [
        ({"text_pair": "It rains."}, {"text_pair": "It snows."}),
        ({"question": "Who?"}, {"question": "Where?"}),
        ({"target": Target("Ann")}, {"target": Target("Bob")}),
        ({"target": Target("Ann")}, {"question": "Ann"}),
        ({"text_pair": "It rains."}, {}),
    ],
)
@pytest.mark.parametrize("num_words", [5, 30])
def test_what_is_asked_is_part_of_the_record(num_words: int, asked: dict, other: dict) -> None:
    text = " ".join(WORDS[:num_words])
    result = found([choice("a", text, **asked)], [choice("1", text, **other)])
    assert (len(result.leaks), result.shared_texts) == (0, 1)
    assert len(found([choice("a", text, **asked)], [choice("1", text, **asked)]).leaks) == 1


def test_two_sentences_in_the_other_order_are_another_record() -> None:
    result = found([choice("a", "it rains", text_pair="it is wet")], [choice("1", "it is wet", text_pair="it rains")])
    assert result.leaks == ()


def test_labels_and_options_are_no_part_of_it() -> None:
    train = [ClassificationRecord("a", "CLS", "one two", ("x",), label_set=("x", "y"))]
    test = [ClassificationRecord("1", "CLS", "one two", ("z",), label_set=("z",))]
    assert len(found(train, test).leaks) == 1
    test = [ClassificationRecord("1", "CLS", "three four", ("x",), label_set=("x", "y"))]
    assert found(train, test).leaks == ()


def test_own_splits_are_named_before_other_datasets() -> None:
    long = " ".join(WORDS[:30])
    train = [choice("a", "same here"), choice("b", "same there"), choice("c", long), choice("d", "nowhere")]
    own = MemoryDataset("own", {"train": train, "test": [choice("1", "same here")]})
    other_test = [choice("1", "same here"), choice("2", "same there"), choice("3", long + " end")]
    other = MemoryDataset("other", {"train": [choice("t", "nowhere")], "validation": other_test})
    (result,) = find_leaks([own], [(other, "validation"), (own, "test")])
    assert [(leak.record_id, leak.dataset, leak.split) for leak in result.leaks] == [
        ("a", "own", "test"),
        ("b", "other", "validation"),
        ("c", "other", "validation"),
    ]
    assert result.counts() == {
        "same text, own splits": 1,
        "same text, other datasets": 1,
        "n-grams, own splits": 0,
        "n-grams, other datasets": 1,
    }
    assert DatasetLeaks.from_json(result.to_json()) == result


# --- against plain Python --------------------------------------------------------------------------------------------


def slow_leaks(train: list[Record], test: list[Record]) -> dict[str, float]:
    """Record id -> share, by the definition: sets of tuples of tokens."""

    def ngrams(text: str) -> list[tuple[str, ...]]:
        tokens = list(split_tokens(text))
        tokens = [token for i, token in enumerate(tokens) if not i or token != tokens[i - 1]]
        return [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]

    def fields(record: Any) -> tuple[tuple[str, ...], ...]:
        pair, question = (tuple(split_tokens(part or "")) for part in (record.text_pair, record.question))
        return tuple(split_tokens(record.text)), pair, question

    inputs = {fields(record) for record in test}
    windows = {(ngram, fields(record)[1:]) for record in test for ngram in ngrams(record.text)}
    result = {}
    for record in train:
        own = [(ngram, fields(record)[1:]) for ngram in ngrams(record.text)]
        if fields(record) in inputs and any(fields(record)[:2]):
            result[record.id] = 1.0
        elif own and sum(each in windows for each in own) / len(own) >= MIN_SHARE:
            result[record.id] = round(sum(each in windows for each in own) / len(own), 4)
    return result


LETTERS = st.text(alphabet=st.sampled_from("aB 中文。！"), max_size=20)
PIECES = st.lists(st.sampled_from(["one two three four ", "五六七八九十", "x, y! ", "z z z "]), max_size=8).map("".join)
ASKED = st.sampled_from([None, "Who?", "who", "哪里"])


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    rows = draw(st.lists(st.tuples(PIECES | LETTERS, ASKED, ASKED), max_size=8))
    return [choice(str(i), text, text_pair=pair, question=ask) for i, (text, pair, ask) in enumerate(rows)]


@given(records(), records())
def test_equal_to_sets_of_tuples(train: list[Record], test: list[Record]) -> None:
    assert {leak.record_id: leak.share for leak in found(train, test).leaks} == slow_leaks(train, test)


# --- folders, files and training -------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Training records 0 and 1 of tiny_ner, and 2 of tiny_topics, are made those of evaluation splits."""
    root = write_data(tmp_path / "data")
    leaked = {"tiny_topics": ("test", 1), "tiny_ner": ("validation", 2)}
    for name, (split, number) in leaked.items():
        (dataset,) = resolve_mixture(name, root)
        held = list(dataset.records(split))[:number]
        rows = [record_with_id(record, f"leak-{i}") for i, record in enumerate(held)]
        path = next((root / "en" / name).glob("train.jsonl*"))
        rest = [record_with_id(record, record.id) for record in dataset.records("train")]
        path.unlink()
        (root / "en" / name / "train.jsonl").write_text("".join(rows + rest[number:]), "utf-8")
    return root


def record_with_id(record: Record, id: str) -> str:
    from seqgpt_jax.records import record_to_dict

    return json.dumps(record_to_dict(dataclasses.replace(record, id=id)), ensure_ascii=False) + "\n"


def test_mixtures_are_checked_against_their_whole_data_folder(root: Path, tmp_path: Path) -> None:
    training = resolve_mixture("tiny_topics", root)
    against = {(dataset.declared.name, split) for dataset, split in evaluation_splits(training, None)}
    assert ("tiny_out", "test") in against and ("tiny_ner", "validation") in against
    assert len(against) == 12 and "train" not in {split for _, split in against}
    own = write_data(tmp_path / "own") / "en"
    (own.parent / "partitions.json").unlink()
    training = resolve_mixture(f"{own}/tiny_topics")
    assert [split for _, split in evaluation_splits(training, root)] == ["validation", "test"]
    assert ensure_leaks(resolve_mixture("synthetic_en_cls"), root, tmp_path / "cache") == []


def test_results_are_read_back_until_a_file_changes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = ensure_leaks(resolve_mixture("held_in", root), root, cache, progress=False)
    ids = {each.dataset: each.record_ids for each in first}
    assert ids["tiny_ner"] == {"leak-0", "leak-1"} and ids["tiny_topics"] == {"leak-0"} and not ids["tiny_ee"]
    assert len(list((cache / "leaks").iterdir())) == 5

    looked = []
    find = leaks_module.find_leaks

    def spy(training: Any, evaluations: Any, **options: Any) -> Iterator[DatasetLeaks]:
        looked.append([dataset.declared.name for dataset in training])
        return find(training, evaluations, **options)

    monkeypatch.setattr(leaks_module, "find_leaks", spy)
    assert ensure_leaks(resolve_mixture("held_in_en", root), root, cache, progress=False) == first[:3]
    assert looked == []
    with (root / "en" / "tiny_ner" / "train.jsonl").open("a") as file:
        file.write("\n")
    ensure_leaks(resolve_mixture("held_in", root), root, cache, progress=False)
    assert looked == [["tiny_ner"]]
    with (root / "en" / "tiny_out" / "test.jsonl").open("a") as file:
        file.write("\n")
    ensure_leaks(resolve_mixture("held_in_en", root), root, cache, progress=False)
    assert looked[1:] == [["tiny_ner", "tiny_topics", "tiny_ee"]]


def test_a_broken_record_leaves_no_result(root: Path, tmp_path: Path) -> None:
    path = root / "en" / "tiny_out" / "test.jsonl"
    path.write_text(path.read_text("utf-8") + '{"id": "x"}\n', "utf-8")
    with pytest.raises(RecordError, match=r"tiny_out/test.jsonl:7"):
        ensure_leaks(resolve_mixture("held_in", root), root, tmp_path / "cache", progress=False)
    assert not (tmp_path / "cache").exists()


def test_training_leaves_leaks_out_unless_told_not_to(root: Path, tmp_path: Path) -> None:
    train_tokenizer(["Ada Lovelace met Charles in London", "News about sport, weather"], 300).save(tmp_path / "words")
    spec = CacheSpec("tiny_ner+tiny_topics", str(tmp_path / "words"), data_dir=str(root), passes=2)
    cache = tmp_path / "cache"
    caches = {each.name: each for each in ensure_cache(spec, cache, num_processes=1, progress=False)}
    assert {name: each.stats["leaked"] for name, each in caches.items()} == {"tiny_ner": 2 * 2, "tiny_topics": 2 * 1}
    assert caches["tiny_topics"].stats["examples"] == len(caches["tiny_topics"]) == 2 * 29

    (topics,) = resolve_mixture("tiny_topics", root)
    leaked = spec.leaked(cache)["tiny_topics"]
    assert leaked == {"leak-0"}
    assert spec.key(topics, ("classify",), "", leaked) != spec.key(topics, ("classify",), "")
    assert dataclasses.replace(spec, drop_leaks=False).leaked(cache) == {}
    assert dataclasses.replace(spec, split="validation").leaked(cache) == {}
