"""The child process that builds token caches, run in this one: shards, orders, and faults of the records."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("seqio")

from seqgpt_jax.data.cache import CacheSpec
from seqgpt_jax.data.cache_build import BuildJob
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.questions import training_texts
from seqgpt_jax.data.task_cache import TaskCache
from seqgpt_jax.vocabulary import train_tokenizer
from tasks import build, preprocessors
from tests.tiny_data import write_data

SIZES = {"train": 300}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), SIZES)


@pytest.fixture(scope="module")
def tokenizer(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(training_texts(resolve_mixture("held_in", root), "train", 20), 600).save(folder)
    return str(folder)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[Any]]]:
    """Runs the child on orders for tasks of a spec; returns its exit status and its messages."""

    def main(job: BuildJob, folders: dict[str, Path]) -> tuple[int, list[Any]]:
        orders = [json.dumps({"task": name, "folder": str(folder)}) for name, folder in folders.items()]
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join([job.to_json(), *orders, "null"]) + "\n"))
        status = build.main()
        return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return main


def test_shards_change_where_examples_lie_and_not_what_they_are(
    root: Path, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    job = BuildJob(CacheSpec("held_in", tokenizer, str(root), passes=2), {"tiny_ner": ["tiny_ner-train-7"]})
    names = ("tiny_ner", "tiny_re_relation")
    status, messages = run(job, {name: tmp_path / "one" / name for name in names})
    assert status == 0 and [message["done"] for message in messages if "done" in message] == list(names)
    monkeypatch.setattr(build, "BATCHES_PER_SHARD", 1)
    assert run(job, {name: tmp_path / "many" / name for name in names})[0] == 0
    for name in names:
        one, many = TaskCache(tmp_path / "one" / name), TaskCache(tmp_path / "many" / name)
        files = sorted(path.name for path in many.folder.glob("*.array_record"))
        assert files == [f"examples-00{p}-0000{i}.array_record" for p in range(2) for i in range(3)]
        assert len(list(one.folder.glob("*.array_record"))) == 2
        assert one.stats == many.stats
        assert one.stats["leaked"] == (2 if name == "tiny_ner" else 0), "once in every pass"
        np.testing.assert_array_equal(one.lengths, many.lengths)
        for i in range(len(one)):
            assert one[i].num_prompt == many[i].num_prompt
            np.testing.assert_array_equal(one[i].ids, many[i].ids)
    counted = sum(message.get("examples", 0) for message in messages)
    assert counted == sum(len(TaskCache(tmp_path / "one" / name)) for name in names)


def test_records_whose_questions_all_fall_away_are_no_example(
    root: Path, tokenizer: str, tmp_path: Path, run: Callable[..., Any]
) -> None:
    job = BuildJob(CacheSpec("tiny_ner", tokenizer, str(root), max_tokens=3))
    assert run(job, {"tiny_ner": tmp_path / "task"})[0] == 0
    cache = TaskCache(tmp_path / "task")
    assert len(cache) == 0 and cache.stats["dropped"] > 0


# --- faults of the records -------------------------------------------------------------------------------------------


def edit(line: int, **changes: Any) -> Callable[[list[str]], list[str]]:
    def change(lines: list[str]) -> list[str]:
        return [*lines[: line - 1], json.dumps({**json.loads(lines[line - 1]), **changes}), *lines[line:]]

    return change


WRONG_SPAN = {"label": "person", "start": 1, "end": 4, "text": "Ada"}
UNKNOWN_LABEL = {"label": "planet", "start": 0, "end": 3, "text": "Ada"}


@pytest.mark.parametrize(
    ("change", "place", "remedy"),
    [
        (lambda lines: [*lines[:199], lines[199][:40], *lines[200:]], ":200: not JSON", "one record a line"),
        (edit(200, spans=[WRONG_SPAN]), ":200: field 'spans[0].start'", "it occurs at 0"),
        (edit(3, kind="picture"), ":3: field 'kind'", "one of classification, extraction"),
        (edit(3, task="POS"), ":3: field 'task'", "one of NER"),
        (edit(3, spans=[UNKNOWN_LABEL]), ":3: field 'spans'", 'the dataset\'s labels: ["person", "city"'),
        (edit(3, text=None), ":3: field 'text'", "it must be a string"),
        (lambda lines: [], ": split 'train' of tiny_ner holds no record", "write records into its file"),
    ],
    ids=["broken JSON", "wrong offset", "unknown kind", "unknown task", "unknown label", "no text", "empty split"],
)
def test_a_wrong_record_is_one_line_that_says_where_and_what_to_do(
    tokenizer: str, tmp_path: Path, run: Callable[..., Any], change: Callable[..., Any], place: str, remedy: str
) -> None:
    file = write_data(tmp_path / "data", SIZES) / "en" / "tiny_ner" / "train.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    file.write_bytes(gzip.compress("".join(f"{line}\n" for line in change(lines)).encode()))
    status, messages = run(
        BuildJob(CacheSpec("tiny_ner", tokenizer, str(tmp_path / "data"))), {"tiny_ner": tmp_path / "a"}
    )
    assert status == 2 and list(messages[-1]) == ["user_error"]
    message = messages[-1]["user_error"]
    assert message.startswith(str(file) + place if place[1].isdigit() else str(file.parent) + place), message
    assert remedy in message and "\n" not in message
    assert not (tmp_path / "a" / "meta.json").exists()


def test_a_file_that_is_cut_off_is_one_line_too(tokenizer: str, tmp_path: Path, run: Callable[..., Any]) -> None:
    file = write_data(tmp_path / "data", SIZES) / "en" / "tiny_ner" / "train.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-20])
    status, messages = run(
        BuildJob(CacheSpec("tiny_ner", tokenizer, str(tmp_path / "data"))), {"tiny_ner": tmp_path / "a"}
    )
    message = messages[-1]["user_error"]
    assert status == 2 and message.startswith(str(file)) and "cannot be read" in message and "\n" not in message
    assert not (tmp_path / "a" / "meta.json").exists()


def test_a_full_disk_in_the_middle_of_a_task(
    root: Path, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]
) -> None:
    class FullDisk:
        def __init__(self, *_: object) -> None:
            self.left = 100

        def write(self, record: bytes) -> None:
            self.left -= 1
            if not self.left:
                raise RuntimeError("write() failed: No space left on device; writing /x; at byte 0")

    monkeypatch.setattr("seqgpt_jax.data.task_cache.ArrayRecordWriter", FullDisk)
    status, messages = run(BuildJob(CacheSpec("tiny_ner", tokenizer, str(root))), {"tiny_ner": tmp_path / "a"})
    assert status == 2 and not (tmp_path / "a" / "meta.json").exists()
    assert f"{tmp_path}/a/examples-000-00000.array_record" in messages[-1]["user_error"]
    assert "No space left on device (make room there" in messages[-1]["user_error"]


def test_the_task_ends_with_a_placeholder_for_caches_and_single_questions(root: Path, tokenizer: str) -> None:
    """What the cache is made of is what SeqIO's consumers get, question by question."""
    job = BuildJob(CacheSpec("tiny_mrc", tokenizer, str(root)))
    (dataset,) = job.spec.datasets()
    task = build.make_task(dataset, "tiny_mrc", ("classify", "extract"), build.task_settings(job))
    assert task.supports_caching and not task.requires_caching
    source = task.source.get_dataset("train", shuffle=False, seed=4)
    examples = list(build.token_examples(task.preprocess_precache(source, 4)))
    single = list(task.get_dataset(None, "train", shuffle=False, seed=4).as_numpy_iterator())
    assert len(examples) == len(single) == 300 and preprocessors.BATCH < 300
    for example, features in zip(examples, single, strict=True):
        np.testing.assert_array_equal(example.ids, np.concatenate([features["inputs"], features["targets"]]) - 1)
        assert example.num_prompt == len(features["inputs"])


def test_a_child_without_a_parent_ends(tokenizer: str, root: Path, tmp_path: Path) -> None:
    """Its standard input ends without null: there is nobody at the other end."""
    spec = CacheSpec("tiny_ner", tokenizer, str(root), passes=100_000)
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "tasks.build"], stdin=subprocess.PIPE, text=True)
    assert child.stdin is not None
    child.stdin.write(BuildJob(spec).to_json() + "\n")
    child.stdin.write(json.dumps({"task": "tiny_ner", "folder": str(tmp_path / "a")}) + "\n")
    child.stdin.close()
    assert child.wait(timeout=300) == 1
