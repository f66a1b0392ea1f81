"""The token cache: files, keys, and what the child process makes of a small data folder."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import seqgpt_jax.data.cache as cache_module
from seqgpt_jax.data.cache import CacheSpec, TaskCache, ensure_cache, preprocessing_fingerprint, write_task_cache
from seqgpt_jax.data.datasets import atomic_tasks
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.questions import TokenExample, ask_record, encode_examples, training_texts
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.negatives import AskConfig
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer
from tests.tiny_data import write_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def tokenizer(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(training_texts(resolve_mixture("held_in", root), "train", None), 600).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def spec(root: Path, tokenizer: str) -> CacheSpec:
    return CacheSpec("held_in", tokenizer, data_dir=str(root), max_tokens=200, passes=2, seed=1)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def caches(spec: CacheSpec, cache_dir: Path) -> list[TaskCache]:
    return ensure_cache(spec, cache_dir, num_processes=2, progress=False)


# --- files -----------------------------------------------------------------------------------------------------------


def random_examples(num: int) -> list[TokenExample]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 40, num)
    return [TokenExample(rng.integers(0, 250_000, n, np.int32), int(rng.integers(1, n))) for n in sizes]


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_examples_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int) -> None:
    monkeypatch.setattr(cache_module, "SHARD_EXAMPLES", 70)
    monkeypatch.setattr(cache_module, "MEMORY_BYTES", memory_bytes)
    examples = random_examples(200)
    write_task_cache(tmp_path / "task", "name", examples, {"examples": 200}, {})
    assert len(list((tmp_path / "task").glob("*.array_record"))) == 3
    cache = TaskCache(tmp_path / "task")
    assert (cache.name, len(cache), cache.stats["examples"], cache.stats["dropped"]) == ("name", 200, 200, 0)
    for i in np.random.default_rng(1).permutation(200):
        assert cache[int(i)].num_prompt == examples[i].num_prompt
        np.testing.assert_array_equal(cache[int(i)].ids, examples[i].ids)
    np.testing.assert_array_equal(cache[-1].ids, examples[-1].ids)
    np.testing.assert_array_equal(cache.lengths[:, 0], [len(example.ids) for example in examples])
    np.testing.assert_array_equal(cache.lengths[:, 1], [len(e.ids) - e.num_prompt for e in examples])
    assert cache.lengths.dtype == np.int32
    with pytest.raises(IndexError):
        cache[200]


@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_many_threads_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int) -> None:
    monkeypatch.setattr(cache_module, "MEMORY_BYTES", memory_bytes)
    examples = random_examples(400)
    write_task_cache(tmp_path / "task", "name", examples, {}, {})
    cache = TaskCache(tmp_path / "task")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: cache[i % 400], range(1_600)))
    for i, example in enumerate(found):
        np.testing.assert_array_equal(example.ids, examples[i % 400].ids)


def test_a_task_without_examples_can_be_written(tmp_path: Path) -> None:
    write_task_cache(tmp_path / "task", "name", [], {"dropped": 3}, {})
    cache = TaskCache(tmp_path / "task")
    assert len(cache) == 0 and cache.lengths.shape == (0, 2) and cache.stats["dropped"] == 3


# --- keys ------------------------------------------------------------------------------------------------------------


def test_the_key_follows_all_that_the_ids_depend_on(root: Path, spec: CacheSpec) -> None:
    dataset, other = resolve_mixture("held_in", root)[:2]
    base = spec.key(dataset, ("extract",), "tokenizer")
    changes: dict[str, object] = {"split": "validation", "max_tokens": 100, "max_supervised": 9, "limit": 5, "seed": 2}
    changes |= {"ask": AskConfig(max_none_pairs=1), "passes": 1}
    changed = [dataclasses.replace(spec, **{name: value}) for name, value in changes.items()]
    keys = {each.key(dataset, ("extract",), "tokenizer") for each in changed}
    keys |= {spec.key(other, ("extract",), "tokenizer"), spec.key(dataset, ("classify",), "tokenizer")}
    keys |= {spec.key(dataset, ("extract",), "another"), spec.key(dataset, ("extract",), "tokenizer", ("foreign",))}
    assert len(keys) == len(changes) + 4 and base not in keys
    moved = dataclasses.replace(spec, mixture="held_in_en", data_dir=None, tokenizer="elsewhere")
    assert moved.key(dataset, ("extract",), "tokenizer") == base, "where things lie is not what they are"


def test_the_key_follows_records_and_code(
    root: Path, spec: CacheSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = write_data(tmp_path / "data")
    dataset = resolve_mixture("tiny_ner", copy)[0]
    base = spec.key(dataset, ("extract",), "t")
    assert base == spec.key(resolve_mixture("tiny_ner", root)[0], ("extract",), "t")
    monkeypatch.setattr(cache_module, "preprocessing_fingerprint", lambda: "other code")
    assert spec.key(dataset, ("extract",), "t") != base
    monkeypatch.undo()
    meta = copy / "en" / "tiny_ner" / "meta.json"
    meta.write_text(meta.read_text("utf-8").replace("dish", "meal"), "utf-8")
    assert spec.key(resolve_mixture("tiny_ner", copy)[0], ("extract",), "t") != base


def test_the_fingerprint_of_the_code_reads_every_module_on_the_way() -> None:
    read = []
    original = Path.read_bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or original(path))
        preprocessing_fingerprint.__wrapped__()
    expected = "records occurrences atomic prompt negatives label_similarity vocabulary "
    expected += "balance datasets label_pools questions preprocessors build"
    assert read == [f"{name}.py" for name in expected.split()]


def test_specs_survive_json(spec: CacheSpec) -> None:
    assert CacheSpec.from_json(spec.to_json()) == spec


def test_wrong_specs_are_user_errors(root: Path, tokenizer: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="passes is 0"):
        CacheSpec("held_in", tokenizer, passes=0)
    with pytest.raises(UserError, match=r"tiny_out.*never trained on"):
        ensure_cache(CacheSpec("held_out", tokenizer, data_dir=str(root), split="test"), tmp_path)
    with pytest.raises(UserError, match="never trained on"):
        ensure_cache(CacheSpec("mini_held_out", tokenizer, split="validation"), tmp_path)
    with pytest.raises(UserError, match="has a split 'dev'"):
        ensure_cache(CacheSpec("held_in", tokenizer, data_dir=str(root), split="dev"), tmp_path)
    assert not list(tmp_path.iterdir())


# --- building --------------------------------------------------------------------------------------------------------


def test_the_child_builds_what_the_functions_give(
    root: Path, spec: CacheSpec, caches: list[TaskCache], cache_dir: Path
) -> None:
    vocabulary = Vocabulary.from_pretrained(spec.tokenizer)
    expected = {}
    for dataset in resolve_mixture("held_in", root):
        for name, steps in atomic_tasks(dataset).items():
            examples = [
                question
                for seed in (2, 3)  # seed 1 of 2 passes
                for record in dataset.records("train")
                for question in ask_record(record, dataset, "train", steps, spec.ask, seed)
            ]
            stats: Counter[str] = Counter()
            expected[name] = (encode_examples(examples, vocabulary, spec.encode_config(), stats), stats)
    assert [cache.name for cache in caches] == sorted(expected)
    for cache in caches:
        tokens, stats = expected[cache.name]
        kept = [each for each in tokens if each is not None]
        assert len(cache) == len(kept) > 20
        assert {name: count for name, count in cache.stats.items() if count} == dict(stats)
        for i, example in enumerate(kept):
            assert cache[i].num_prompt == example.num_prompt
            np.testing.assert_array_equal(cache[i].ids, example.ids)
    assert not [path for path in cache_dir.iterdir() if path.name.startswith(".")]


def test_what_is_there_is_not_built_again(
    spec: CacheSpec, caches: list[TaskCache], cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_build", lambda *args: pytest.fail("built again"))
    again = ensure_cache(spec, cache_dir, progress=False)
    assert [cache.folder for cache in again] == [cache.folder for cache in caches]
    part = ensure_cache(dataclasses.replace(spec, mixture="held_in_zh_re"), cache_dir, progress=False)
    assert [cache.name for cache in part] == ["tiny_re_entities", "tiny_re_relation"]


def test_half_a_cache_is_not_read(spec: CacheSpec, caches: list[TaskCache], tmp_path: Path) -> None:
    whole = next(cache for cache in caches if cache.name == "tiny_ner")
    folder = tmp_path / whole.folder.name
    folder.mkdir()
    (folder / "lengths.npy").write_bytes(b"half")
    built = []

    def build(spec: CacheSpec, folders: dict[str, Path], num_processes: int, progress: bool) -> None:
        built.extend(folders)
        raise UserError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "_build", build)
        with pytest.raises(UserError, match="enough"):
            ensure_cache(dataclasses.replace(spec, mixture="tiny_ner"), tmp_path)
    assert built == ["tiny_ner"]


def test_a_wrong_record_is_the_same_error_in_the_parent(
    tokenizer: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_data(tmp_path / "data")
    file = root / "en" / "tiny_ner" / "test.jsonl"
    lines = file.read_text("utf-8").splitlines()
    fields = json.loads(lines[3])
    fields["spans"][0]["start"] += 1
    file.write_text("\n".join([*lines[:3], json.dumps(fields), *lines[4:]]) + "\n", "utf-8")
    dataset = resolve_mixture("tiny_ner", root)[0]
    with pytest.raises(RecordError) as direct:
        list(dataset.records("test"))
    spec = CacheSpec("tiny_ner", tokenizer, data_dir=str(root), split="test")
    with pytest.raises(UserError) as through_child:
        ensure_cache(spec, tmp_path / "cache")
    assert str(through_child.value) == str(direct.value)
    assert "test.jsonl:4" in str(direct.value) and "\n" not in str(direct.value)
    assert not list((tmp_path / "cache").iterdir()), "nothing half-written stays"
    assert "Traceback" not in capfd.readouterr().err


def test_our_own_fault_in_the_child_is_shown(spec: CacheSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho Traceback: it broke >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(cache_module.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(RuntimeError, match=r"(?s)token cache failed.*it broke"):
        ensure_cache(spec, tmp_path / "cache", progress=False)
    assert not list((tmp_path / "cache").iterdir())


def test_reading_a_cache_imports_no_tensorflow(caches: list[TaskCache]) -> None:
    code = (
        "import sys; from pathlib import Path; from seqgpt_jax.data.cache import TaskCache;"
        "print(len(TaskCache(Path(sys.argv[1]))[0].ids));"
        "assert not {'tensorflow', 'seqio', 'tasks', 'jax', 'torch', 'transformers'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, os.fspath(caches[0].folder)]
    assert int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) == caches[0].lengths[0, 0]


def test_real_data_from_record_to_cache(data_dir: Path, tokenizer: str, tmp_path: Path) -> None:
    """NER, CLS, RE and EE end to end, in both languages, through one folder of links to the real ones."""
    chosen = (
        "en/wikigold",
        "zh/cluener",
        "en/scicite",
        "zh/thucnews_title",
        "en/ade_corpus",
        "zh/dialogre_zh",
        "zh/duee",
    )
    for name in chosen:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).symlink_to(data_dir / name)
    spec = CacheSpec(f"{tmp_path}/data", tokenizer, max_tokens=1_200, limit=15)
    caches = {cache.name: cache for cache in ensure_cache(spec, tmp_path / "cache", num_processes=1, progress=False)}
    assert set(caches) == {
        "wikigold", "cluener", "scicite", "thucnews_title",
        "ade_corpus_entities", "ade_corpus_relation", "dialogre_zh_entities", "dialogre_zh_relation",
        "duee_trigger", "duee_event_type", "duee_argument",
    }  # fmt: skip
    vocabulary = Vocabulary.from_pretrained(tokenizer)
    for cache in caches.values():
        assert len(cache) >= 15 and cache.stats["dropped"] <= 0.1 * len(cache)
        for i in range(0, len(cache), 5):
            example = cache[i]
            prompt, answer = example.ids[: example.num_prompt], example.ids[example.num_prompt :]
            text, asked = vocabulary.decode(prompt).split("\n", 1)
            kind, labels = asked.split(": ", 1)[0], asked.split(": ", 1)[1].split("\n")[0].split("，")
            parsed = SEQGPT_V1.parse(vocabulary.decode(answer), "classify" if kind == "分类" else "extract", labels)
            assert text.startswith("输入: ") and not parsed.problems and not parsed.unasked
            for span in itertools.chain(*parsed.answer.values()) if isinstance(parsed.answer, dict) else ():
                assert span in text
