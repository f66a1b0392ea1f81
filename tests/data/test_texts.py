"""Texts for language modelling: pieces by hand, and caches of a small data folder."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import seqgpt_jax.data.text_cache as text_cache
from seqgpt_jax.data.cache import CacheSpec
from seqgpt_jax.data.loader import make_batch
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.task_cache import TaskCache
from seqgpt_jax.data.text_cache import ensure_text_cache, text_key
from seqgpt_jax.data.texts import dataset_tasks, distinct_texts, text_examples
from seqgpt_jax.errors import UserError
from seqgpt_jax.negatives import AskConfig
from seqgpt_jax.records import ClassificationRecord
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer
from tests.tiny_data import write_data


class Letters:
    """a is 5, b is 6, ...; EOS is 2."""

    eos_id = 2

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(letter) - ord("a") + 5 for letter in text] for text in texts]


def pieces(texts: list[str], max_tokens: int | None) -> tuple[list[list[int]], Counter[str]]:
    stats: Counter[str] = Counter()
    examples = text_examples(texts, Letters(), max_tokens, stats)  # type: ignore[arg-type]
    assert all(example.num_prompt == 1 and example.ids.dtype == np.int32 for example in examples)
    return [example.ids.tolist() for example in examples], stats


def test_pieces_by_hand() -> None:
    found, stats = pieces(["abcde", "", "ab", "a"], 3)
    assert found == [[5, 6, 7], [7, 8, 9], [9, 2], [5, 6, 2], [5, 2]]
    assert stats == {"examples": 5, "tokens": 13, "supervised": 8, "dropped": 1}
    assert pieces(["abcde", "ab"], None)[0] == pieces(["abcde", "ab"], 6)[0] == [[5, 6, 7, 8, 9, 2], [5, 6, 2]]


def test_every_token_but_the_first_is_supervised_once() -> None:
    for length, max_tokens in itertools.product(range(1, 12), range(2, 14)):
        text = "abcdefghijkl"[:length]
        found, stats = pieces([text], max_tokens)
        document = [*Letters().encode_batch([text])[0], 2]
        assert [token for piece in found for token in piece[1:]] == document[1:]
        assert found[0][0] == 5 and max(map(len, found)) <= max_tokens and min(map(len, found)) >= 2
        assert stats["supervised"] == length == stats["tokens"] - stats["examples"]


def test_a_row_of_texts() -> None:
    examples = text_examples(["abc", "a"], Letters(), 8, Counter())  # type: ignore[arg-type]
    batch = make_batch([((0, 0), (0, 1))], [examples], 8, 8)
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 2, 5, 2, 0, 0]]
    assert batch.segment_ids_BT.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0]]
    assert batch.target_positions_BS[batch.target_mask_BS].tolist() == [0, 1, 2, 4]
    assert batch.targets_BS[batch.target_mask_BS].tolist() == [6, 7, 2, 2]


def test_a_text_is_that_of_prompts_and_comes_once() -> None:
    texts = ["one\ttwo\n", "one two", "", "one  two", "一\u2028二 "]
    records = [
        ClassificationRecord(str(i), "NLI", text, ("a",), text_pair=f"other {i}") for i, text in enumerate(texts)
    ]
    assert list(distinct_texts(records)) == ["one two", "", "one  two", "一 二"]


# --- caches ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def spec(root: Path, tmp_path_factory: pytest.TempPathFactory) -> CacheSpec:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["Ada Lovelace met Charles in London"], 300).save(folder)
    return CacheSpec("held_in", str(folder), data_dir=str(root), max_tokens=16, seed=1)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def caches(spec: CacheSpec, cache_dir: Path) -> list[TaskCache]:
    return ensure_text_cache(spec, cache_dir, progress=False)


def joined(cache: TaskCache) -> list[int]:
    """The ids of all documents, one after the other, without their first tokens."""
    return [int(token) for index in range(len(cache)) for token in cache[index].ids[1:]]


def test_a_cache_holds_each_text_of_a_dataset(root: Path, spec: CacheSpec, caches: list[TaskCache]) -> None:
    names = ["tiny_ee_text", "tiny_mrc_text", "tiny_ner_text", "tiny_re_text", "tiny_topics_text"]
    assert [cache.name for cache in caches] == names
    vocabulary = Vocabulary.from_pretrained(spec.tokenizer)
    for cache, dataset in zip(
        caches, sorted(resolve_mixture("held_in", root), key=lambda each: each.meta.name), strict=True
    ):
        records = list(dataset.records("train"))
        documents = [[*vocabulary.encode(record.text), vocabulary.eos_id] for record in records]
        assert len({record.text for record in records}) == 30
        assert joined(cache) == [token for document in documents for token in document[1:]]
        assert cache.lengths[:, 0].max() == 16 and (cache.lengths[:, 1] == cache.lengths[:, 0] - 1).all()
        assert cache.stats["tokens"] == cache.lengths[:, 0].sum() and cache.stats["examples"] == len(cache) > 30
        assert cache.stats["supervised"] == cache.lengths[:, 1].sum()


def test_leaked_records_and_those_beyond_the_limit_are_left_out(root: Path, spec: CacheSpec, cache_dir: Path) -> None:
    leaked = {"tiny_ner": frozenset({"tiny_ner-train-0", "tiny_ner-train-7"})}
    spec = dataclasses.replace(spec, mixture="tiny_ner", max_tokens=None)
    whole, *others = ensure_text_cache(spec, cache_dir, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CacheSpec, "leaked", lambda self, cache_dir, progress: leaked)
        (kept,) = ensure_text_cache(spec, cache_dir, progress=False)
    assert not others and (len(whole), len(kept), kept.stats["leaked"]) == (30, 28, 2)
    (sample,) = ensure_text_cache(dataclasses.replace(spec, limit=9), cache_dir, progress=False)
    assert len(sample) == 9 and {tuple(each.ids) for each in sample} < {tuple(each.ids) for each in whole}


def test_the_key_follows_what_the_ids_depend_on_and_nothing_else(root: Path, spec: CacheSpec) -> None:
    dataset, other = resolve_mixture("held_in", root)[:2]
    base = text_key(spec, dataset, "t", ())
    changes: dict[str, object] = {"split": "validation", "max_tokens": 100, "limit": 5}
    changed = {
        text_key(dataclasses.replace(spec, **{name: value}), dataset, "t", ()) for name, value in changes.items()
    }
    changed |= {text_key(spec, other, "t", ()), text_key(spec, dataset, "u", ()), text_key(spec, dataset, "t", ("id",))}
    sampled = dataclasses.replace(spec, limit=5)
    changed.add(text_key(dataclasses.replace(sampled, seed=2), dataset, "t", ()))
    assert len(changed | {base}) == 8
    same = dataclasses.replace(
        spec, mixture="tiny", tokenizer="x", seed=2, passes=3, max_supervised=9, ask=AskConfig(max_none_pairs=1)
    )
    assert text_key(same, dataset, "t", ()) == base


def test_what_is_there_is_kept_and_what_is_damaged_is_built_again(
    spec: CacheSpec,
    caches: list[TaskCache],
    cache_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = caches[0].folder / "lengths.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-3])
    again = ensure_text_cache(spec, cache_dir, progress=False)
    assert capsys.readouterr().err.startswith(f"warning: {file}: ")
    assert file.read_bytes() == content and joined(again[0]) == joined(caches[0])
    monkeypatch.setattr(text_cache, "_build", lambda *_: pytest.fail("built again"))
    assert [cache.folder for cache in ensure_text_cache(spec, cache_dir)] == [cache.folder for cache in caches]
    assert not [path for path in cache_dir.iterdir() if path.name.startswith(".")]


def test_what_cannot_be_built_is_a_user_error(spec: CacheSpec, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pieces of 1 token \(make data.row_tokens"):
        ensure_text_cache(dataclasses.replace(spec, max_tokens=1), tmp_path)
    with pytest.raises(UserError, match=r"tiny_out.*never trained on"):
        ensure_text_cache(dataclasses.replace(spec, mixture="held_out"), tmp_path)


def test_building_imports_no_tensorflow(spec: CacheSpec, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from seqgpt_jax.data.cache import CacheSpec;"
        "from seqgpt_jax.data.text_cache import ensure_text_cache;"
        "print(len(ensure_text_cache(CacheSpec.from_json(sys.argv[1]), Path(sys.argv[2]), progress=False)));"
        "assert not {'tensorflow', 'seqio', 'tasks', 'jax', 'torch', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, spec.to_json(), os.fspath(tmp_path)]
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) == 5


def test_tasks_of_a_stage(root: Path) -> None:
    (events,) = resolve_mixture("tiny_ee", root)
    assert dataset_tasks(events, "language_modelling") == ("tiny_ee_text",)
    assert dataset_tasks(events, "answers") == ("tiny_ee_trigger", "tiny_ee_event_type", "tiny_ee_argument")
