"""The token cache: keys, and what the child process makes of a small data folder."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import seqgpt_jax.data.cache as cache_module
from seqgpt_jax.data.cache import CacheSpec, ensure_cache, planned_tasks, preprocessing_fingerprint
from seqgpt_jax.data.cache_build import BuildJob
from seqgpt_jax.data.datasets import atomic_tasks
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.questions import ask_record, encode_examples, training_texts
from seqgpt_jax.data.task_cache import TaskCache
from seqgpt_jax.errors import UserError
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


FINGERPRINTS = """
import shutil, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from seqgpt_jax.data.cache import code_fingerprint, preprocessing_fingerprint
print(preprocessing_fingerprint())
for name in sys.argv[2:]:
    path = Path(sys.argv[1], name)
    content = path.read_text("utf-8")
    path.write_text(content.replace("\\u8f93\\u5165", "Input") + "# changed\\n", "utf-8")
    code_fingerprint.cache_clear()
    print(preprocessing_fingerprint())
    path.write_text(content, "utf-8")
code_fingerprint.cache_clear()
print(preprocessing_fingerprint())
"""


def test_the_key_follows_every_module_on_the_way(tmp_path: Path) -> None:
    """A copy of the code, in another process with another hash seed, where one file after the other is changed."""
    root = Path(cache_module.__file__).parents[2]
    for package in ("seqgpt_jax", "tasks"):
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    on_the_way = [f"seqgpt_jax/{name}.py" for name in ("records", "atomic", "prompt", "negatives", "vocabulary")]
    on_the_way += [f"seqgpt_jax/{name}.py" for name in ("occurrences", "label_similarity")]
    on_the_way += [f"seqgpt_jax/data/{name}.py" for name in ("balance", "datasets", "label_pools", "questions")]
    on_the_way += [f"tasks/{name}.py" for name in ("preprocessors", "mixtures", "build")]
    beside = ["seqgpt_jax/metrics.py", "seqgpt_jax/models/bloom.py", "seqgpt_jax/synthesis/generator.py"]
    beside += ["seqgpt_jax/data/texts.py", "seqgpt_jax/data/text_cache.py", "seqgpt_jax/data/cache.py"]
    command = [sys.executable, "-c", FINGERPRINTS, str(tmp_path), *on_the_way, *beside]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": ""}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    first, *changed, last = output.split()
    assert first == last == preprocessing_fingerprint(), "the same code gives the same key anywhere"
    assert len({first, *changed[: len(on_the_way)]}) == len(on_the_way) + 1
    assert set(changed[len(on_the_way) :]) == {first}, "what no record passes changes nothing"


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
    monkeypatch.setattr(cache_module, "build_tasks", lambda *args: pytest.fail("built again"))
    again = ensure_cache(spec, cache_dir, progress=False)
    assert [cache.folder for cache in again] == [cache.folder for cache in caches]
    part = ensure_cache(dataclasses.replace(spec, mixture="held_in_zh_re"), cache_dir, progress=False)
    assert [cache.name for cache in part] == ["tiny_re_entities", "tiny_re_relation"]


@pytest.mark.parametrize("file", ["meta.json", "lengths.npy", "examples-001-00000.array_record"])
def test_what_is_damaged_is_built_again_with_a_warning(
    spec: CacheSpec, caches: list[TaskCache], tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str
) -> None:
    whole = next(cache for cache in caches if cache.name == "tiny_ner")
    folder = tmp_path / whole.folder.name
    shutil.copytree(whole.folder, folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:-3])
    built = []

    def build(job: BuildJob, folders: dict[str, Path], num_processes: int, progress: bool) -> None:
        built.extend(folders)
        shutil.rmtree(folder)
        shutil.copytree(whole.folder, folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_module, "build_tasks", build)
        (found,) = ensure_cache(dataclasses.replace(spec, mixture="tiny_ner"), tmp_path, progress=False)
    assert built == ["tiny_ner"] and len(found) == len(whole)
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {folder / file}: ") and warning.endswith("this token cache is built again\n")


def test_tasks_that_take_long_come_first(spec: CacheSpec, tmp_path: Path) -> None:
    names = [task.name for task in planned_tasks(spec, tmp_path, {})]
    assert names[0] == "tiny_re_relation" and names[1:] == sorted(names[1:]), (
        "all others have the same number of records"
    )


def test_reading_a_cache_imports_no_tensorflow(caches: list[TaskCache]) -> None:
    code = (
        "import sys; from pathlib import Path; from seqgpt_jax.data.task_cache import TaskCache;"
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
    # Without drop_leaks: the links lead to the data folder, with all of whose evaluation splits they would be compared.
    spec = CacheSpec(f"{tmp_path}/data", tokenizer, max_tokens=1_200, limit=15, drop_leaks=False)
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
