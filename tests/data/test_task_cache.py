"""The files of one task's token examples: they come back as they were, and whatever has come to harm is recognised."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import seqgpt_jax.data.task_cache as task_cache
from seqgpt_jax.data.questions import TokenExample
from seqgpt_jax.data.task_cache import DamagedCacheError, TaskCache, finish_task, is_whole, publish, write_shard
from seqgpt_jax.errors import UserError

FROM_MEMORY, FROM_DISK = 1 << 20, 0


def random_examples(num: int) -> list[TokenExample]:
    rng = np.random.default_rng(0)
    sizes = rng.integers(2, 40, num)
    return [TokenExample(rng.integers(0, 250_000, n, np.int32), int(rng.integers(1, n))) for n in sizes]


def write(folder: Path, examples: list[TokenExample], num_shards: int = 1, stats: dict[str, int] | None = None) -> Path:
    folder.mkdir(parents=True)
    size = -(-len(examples) // num_shards)
    shards = [write_shard(folder, 0, i, examples[i * size : (i + 1) * size]) for i in range(num_shards)]
    finish_task(folder, "name", [shard for shard in shards if shard], stats or {}, {"seed": 1})
    return folder


@pytest.fixture
def memory_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_cache, "MEMORY_BYTES", request.param)


both_ways = pytest.mark.parametrize("memory_bytes", [FROM_MEMORY, FROM_DISK], indirect=True, ids=["memory", "disk"])


# --- what was written comes back -------------------------------------------------------------------------------------


@both_ways
def test_examples_come_back(tmp_path: Path, memory_bytes: None) -> None:
    examples = random_examples(200)
    cache = TaskCache(write(tmp_path / "task", examples, 3, {"examples": 200}))
    assert len(list((tmp_path / "task").glob("*.array_record"))) == 3
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


@both_ways
def test_many_threads_may_read(tmp_path: Path, memory_bytes: None) -> None:
    examples = random_examples(400)
    cache = TaskCache(write(tmp_path / "task", examples))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: cache[i % 400], range(1_600)))
    for i, example in enumerate(found):
        np.testing.assert_array_equal(example.ids, examples[i % 400].ids)


def test_a_task_without_examples_can_be_written(tmp_path: Path) -> None:
    cache = TaskCache(write(tmp_path / "task", [], stats={"dropped": 3}))
    assert len(cache) == 0 and cache.lengths.shape == (0, 2) and cache.stats["dropped"] == 3
    assert not list((tmp_path / "task").glob("*.array_record"))


def test_the_same_examples_give_the_same_bytes(tmp_path: Path) -> None:
    folders = [write(tmp_path / name, random_examples(100), 2, {"tokens": 5, "examples": 100}) for name in "ab"]
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1] and len(files[0]) == 4


# --- harm ------------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def drop_the_last_example(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("examples-000-00001.array_record", cut),
        ("examples-000-00001.array_record", os.unlink),
        ("lengths.npy", cut),
        ("lengths.npy", flip_a_bit),
        ("lengths.npy", drop_the_last_example),
        ("lengths.npy", os.unlink),
        ("meta.json", cut),
        ("meta.json", os.unlink),
        ("meta.json", lambda path: path.write_text("{}")),
        ("meta.json", lambda path: path.write_text("[]")),
    ],
)
def test_what_is_not_whole_is_not_opened(tmp_path: Path, file: str, harm: object) -> None:
    folder = write(tmp_path / "task", random_examples(200), 2)
    assert is_whole(folder)
    harm(folder / file)  # type: ignore[operator]
    with pytest.raises(DamagedCacheError) as error:
        TaskCache(folder)
    message = str(error.value)
    assert message.startswith(f"{folder / file}: damaged") and f"remove the folder {folder}" in message
    assert "\n" not in message and not is_whole(folder)


@both_ways
def test_a_shard_of_the_right_size_with_other_content_is_not_read(tmp_path: Path, memory_bytes: None) -> None:
    folder = write(tmp_path / "task", random_examples(20_000), 2)
    flip_a_bit(folder / "examples-000-00001.array_record")
    cache = TaskCache(folder)
    with pytest.raises(DamagedCacheError, match=r"examples-000-00001.*remove the folder"):
        [cache[i] for i in range(len(cache))]


@both_ways
def test_shards_that_do_not_agree_with_the_lengths_are_not_read(tmp_path: Path, memory_bytes: None) -> None:
    examples = random_examples(50)
    folder, other = write(tmp_path / "a", examples), write(tmp_path / "b", examples[::-1])
    name = "examples-000-00000.array_record"
    assert (folder / name).stat().st_size == (other / name).stat().st_size, "ArrayRecord pads small files to one size"
    shutil.copy(other / name, folder / name)
    with pytest.raises(DamagedCacheError, match=r"lengths\.npy.*other lengths"):
        TaskCache(folder)[0]


def test_publishing_keeps_what_is_whole_and_replaces_what_is_not(tmp_path: Path) -> None:
    folder = write(tmp_path / "task-key", random_examples(10))
    built = write(tmp_path / "building" / "task-key", random_examples(12))
    publish(built, folder)
    assert len(TaskCache(folder)) == 10, "another build was faster"
    (folder / "lengths.npy").unlink()
    publish(built, folder)
    assert len(TaskCache(folder)) == 12 and not built.exists()


# --- a full disk -----------------------------------------------------------------------------------------------------


def test_a_full_disk_is_one_line_with_a_remedy(small_disk: Path) -> None:
    with pytest.raises(UserError) as error:
        write(small_disk / "task", random_examples(20_000))
    message = str(error.value)
    assert str(small_disk / "task") in message and "No space left" in message and "data.cache_dir" in message
    assert "\n" not in message and not is_whole(small_disk / "task")


@pytest.mark.parametrize("name", ["lengths.npy", "meta.json"])
def test_a_disk_that_fills_up_at_the_last_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full) if name == "lengths.npy" else monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"task: .*No space left on device \(make room"):
        write(tmp_path / "task", random_examples(5))
    monkeypatch.undo()
    assert not is_whole(tmp_path / "task")


def test_our_own_faults_are_not_blamed_on_the_disk(tmp_path: Path) -> None:
    def examples() -> Iterator[TokenExample]:
        yield random_examples(1)[0]
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError, match="ours"):
        write_shard(tmp_path, 0, 0, examples())


def test_settings_and_counts_can_be_read_by_people(tmp_path: Path) -> None:
    folder = write(tmp_path / "task", random_examples(7), 2, {"examples": 7})
    fields = json.loads((folder / "meta.json").read_text("utf-8"))
    assert fields["settings"] == {"seed": 1} and fields["stats"]["examples"] == 7
    assert [shard["examples"] for shard in fields["shards"]] == [4, 3]
