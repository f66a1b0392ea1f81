"""Building token caches: how tasks are dealt to child processes, and what is left when parent, child or disk fail.

Most tests give a stand-in for the child, which speaks its protocol without TensorFlow.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import seqgpt_jax.data.cache_build as cache_build
from seqgpt_jax.data.cache import CacheSpec, ensure_cache
from seqgpt_jax.data.cache_build import BuildJob, build_tasks, building_folder
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.questions import training_texts
from seqgpt_jax.data.task_cache import TaskCache, is_whole
from seqgpt_jax.errors import UserError
from seqgpt_jax.vocabulary import train_tokenizer
from tests.tiny_data import write_data

PYTHON = sys.executable  # which the stand-in takes the place of
STAND_IN = f"""#!{PYTHON}
import json, os, sys, time
from pathlib import Path
import numpy as np
from seqgpt_jax.data.cache_build import BuildJob
from seqgpt_jax.data.questions import TokenExample
from seqgpt_jax.data.task_cache import finish_task, write_shard

job = BuildJob.from_json(sys.stdin.readline())
for line in sys.stdin:
    order = json.loads(line)
    if order is None:
        sys.exit(0)
    if order["task"] == "fails":
        sys.exit("it broke")
    if order["task"] == "hangs":
        time.sleep(600)
    if order["task"] == "slow":
        time.sleep(0.3)
    while order["task"] == "waits" and len(list(Path(order["folder"]).parents[1].glob("task*"))) < 6:
        time.sleep(0.01)
    if order["task"] == "dies":
        os.kill(os.getpid(), 9)
    folder = Path(order["folder"])
    folder.mkdir(parents=True)
    shard = write_shard(folder, 0, 0, [TokenExample(np.arange(5, dtype=np.int32), 3)])
    finish_task(folder, order["task"], [shard], {{}}, {{"process": os.getpid()}})
    print(json.dumps({{"examples": 1}}))
    print(json.dumps({{"done": order["task"], "folder": order["folder"]}}), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "python"
    path.write_text(STAND_IN, "utf-8")
    path.chmod(0o755)
    monkeypatch.setattr(cache_build.sys, "executable", str(path))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The child processes that are started meanwhile."""
    found: list[subprocess.Popen[str]] = []
    original = subprocess.Popen

    def popen(*args: object, **options: object) -> subprocess.Popen[str]:
        found.append(original(*args, **options))  # type: ignore[call-overload]
        return found[-1]

    monkeypatch.setattr(cache_build.subprocess, "Popen", popen)
    return found


def build(cache_dir: Path, *names: str, num_processes: int = 1) -> None:
    folders = {name: cache_dir / f"{name}-key" for name in names}
    build_tasks(BuildJob(CacheSpec("mini_real", "tokenizer")), folders, num_processes, progress=False)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- dealing out -----------------------------------------------------------------------------------------------------


def test_who_is_done_takes_the_next_task(tmp_path: Path, stand_in: None) -> None:
    names = ["waits", *(f"task{i}" for i in range(6))]
    build(tmp_path / "cache", *names, num_processes=2)
    assert names_in(tmp_path / "cache") == {f"{name}-key" for name in names}
    builder = {name: TaskCache(tmp_path / "cache" / f"{name}-key").folder / "meta.json" for name in names}
    processes = [path.read_text("utf-8").split('"process": ')[1].split()[0] for path in builder.values()]
    assert processes.count(processes[0]) == 1 and len(set(processes)) == 2


def test_jobs_survive_json() -> None:
    job = BuildJob(CacheSpec("mini_real", "tokenizer", passes=2), {"tiny": frozenset("ba")})
    assert BuildJob.from_json(job.to_json()) == BuildJob(job.spec, {"tiny": ["a", "b"]})


# --- children that fail ----------------------------------------------------------------------------------------------


def test_our_own_fault_in_the_child_is_shown(tmp_path: Path, stand_in: None) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)token cache failed.*it broke"):
        build(tmp_path / "cache", "first", "fails", "last")
    assert names_in(tmp_path / "cache") == {"first-key"}


def test_a_child_that_is_killed_leaves_what_was_whole(
    tmp_path: Path, stand_in: None, started: list[subprocess.Popen[str]]
) -> None:
    with pytest.raises(UserError, match=r"killed by SIGKILL \(.*run again") as error:
        build(tmp_path / "cache", "first", "dies", "last")
    assert "\n" not in str(error.value)
    assert names_in(tmp_path / "cache") == {"first-key"} and is_whole(tmp_path / "cache" / "first-key")


@pytest.mark.parametrize("how", [KeyboardInterrupt, UserError])
def test_an_interrupted_parent_stops_its_children(
    tmp_path: Path,
    stand_in: None,
    started: list[subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    how: type[BaseException],
) -> None:
    def publish(built: Path, folder: Path) -> None:
        raise how("now")

    monkeypatch.setattr(cache_build, "publish", publish)
    with pytest.raises(how, match="now"):
        build(tmp_path / "cache", "first", "hangs", num_processes=2)
    assert len(started) == 2 and all(process.poll() is not None for process in started)
    assert not names_in(tmp_path / "cache")


def test_two_builds_at_once_do_not_disturb_each_other(tmp_path: Path, stand_in: None) -> None:
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {os.getcwd()!r})
import tests.data.test_cache_build as here
here.cache_build.sys.executable = sys.argv[1]
here.build(Path(sys.argv[2]), "slow", "first", "second")
"""
    command = [PYTHON, "-c", script, str(tmp_path / "python"), str(tmp_path / "cache")]
    builds = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in builds] == [0, 0]
    assert names_in(tmp_path / "cache") == {"slow-key", "first-key", "second-key"}
    assert all(is_whole(folder) for folder in (tmp_path / "cache").iterdir())


# --- folders of the dead ---------------------------------------------------------------------------------------------


def test_the_folder_of_a_dead_builder_is_removed_and_that_of_a_live_one_is_not(tmp_path: Path) -> None:
    dead, live = (tmp_path / f".building-{name}-{socket.gethostname()}" for name in ("dead", "live"))
    for folder in (dead, live):
        (folder / "task-key").mkdir(parents=True)
        (folder / "lock").touch()
    with open(live / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with building_folder(tmp_path) as mine:
            assert not dead.exists() and live.exists() and mine.parent == tmp_path
            with building_folder(tmp_path) as another:
                assert mine.exists() and another.exists()
        assert names_in(tmp_path) == {live.name}


def test_the_folder_of_another_host_is_removed_when_nothing_has_stirred_for_a_day(tmp_path: Path) -> None:
    fresh, old, busy = (tmp_path / f".building-{name}-elsewhere" for name in ("fresh", "old", "busy"))
    day_ago = time.time() - 25 * 3600
    for folder in (fresh, old, busy):
        (folder / "task-key").mkdir(parents=True)
        (folder / "lock").touch()
        if folder != fresh:
            for path in (folder / "lock", folder / "task-key", folder):
                os.utime(path, (day_ago, day_ago))
    (busy / "task-key" / "examples").touch()
    with building_folder(tmp_path):
        assert fresh.exists() and busy.exists() and not old.exists()


# --- the real thing --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> CacheSpec:
    root = write_data(tmp_path_factory.mktemp("data"), {"train": 200})
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = training_texts(resolve_mixture("held_in", root), "train", 20)
    train_tokenizer(texts, 600).save(folder)
    return CacheSpec("held_in", str(folder), data_dir=str(root), passes=10, drop_leaks=False)


def test_what_a_killed_build_has_finished_stays_and_the_rest_is_built_later(spec: CacheSpec, tmp_path: Path) -> None:
    cache_dir = tmp_path / "cache"
    script = """
import sys
from pathlib import Path
from seqgpt_jax.data.cache import CacheSpec, ensure_cache
ensure_cache(CacheSpec.from_json(sys.argv[1]), Path(sys.argv[2]), num_processes=1, progress=False)
"""
    parent = subprocess.Popen([sys.executable, "-c", script, spec.to_json(), str(cache_dir)])
    whole: dict[Path, float] = {}
    while not whole and parent.poll() is None:
        time.sleep(0.005)
        whole = {path: path.stat().st_mtime for path in cache_dir.glob("tiny_*")}
    (child,) = _children(parent.pid)
    parent.kill()
    parent.wait()
    assert whole and list(cache_dir.glob(".building-*")), "the build was over before it could be killed"
    _wait_for_the_end_of(child)
    assert all(is_whole(path) for path in cache_dir.glob("tiny_*"))

    caches = ensure_cache(spec, cache_dir, num_processes=1, progress=False)
    assert len(caches) == 8 and names_in(cache_dir) == {cache.folder.name for cache in caches}
    assert {path: path.stat().st_mtime for path in whole} == whole


def _children(process: int) -> list[int]:
    return [
        int(pid) for task in Path(f"/proc/{process}/task").iterdir() for pid in (task / "children").read_text().split()
    ]


def _wait_for_the_end_of(process: int) -> None:
    for _ in range(3_000):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                time.sleep(0.02)
                continue
        return
    os.kill(process, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def test_a_full_disk_ends_the_build_with_one_line(spec: CacheSpec, small_disk: Path) -> None:
    with pytest.raises(UserError) as error:
        ensure_cache(spec, small_disk / "cache", num_processes=1, progress=False)
    message = str(error.value)
    assert str(small_disk) in message and "No space left" in message and "make room there" in message
    assert "\n" not in message and not list((small_disk / "cache").glob(".*"))
    assert all(is_whole(path) for path in (small_disk / "cache").iterdir())
