"""Building token caches: child processes that run SeqIO tasks, and folders that appear when complete. No TensorFlow.

    <cache_dir>/.building-<random>-<host>/lock             held by the builder for as long as it lives
                                          <task>-<key>/    a task on its way; moved to <cache_dir> when it is whole

An interrupted build loses the tasks that it was at, and no others. Its folder is removed at once, or, where it was
killed, by the next build. Children end with their parent: they watch their standard input.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tqdm import tqdm

from seqgpt_jax.data.task_cache import publish, writing
from seqgpt_jax.errors import UserError

if TYPE_CHECKING:
    from seqgpt_jax.data.cache import CacheSpec

_BUILDING = ".building-"
_LOCK = "lock"
_QUIET_SECONDS = 24 * 3600  # after which another host's folder counts as abandoned, if its lock is free


@dataclass(frozen=True)
class BuildJob:
    """What all child processes are told. leaked: dataset name -> ids of the records to leave out."""

    spec: CacheSpec
    leaked: Mapping[str, Collection[str]] = field(default_factory=dict)

    def to_json(self) -> str:
        leaked = {name: sorted(ids) for name, ids in self.leaked.items()}
        return json.dumps({"spec": self.spec.to_json(), "leaked": leaked})

    @classmethod
    def from_json(cls, text: str) -> BuildJob:
        from seqgpt_jax.data.cache import CacheSpec

        fields = json.loads(text)
        return cls(CacheSpec.from_json(fields["spec"]), fields["leaked"])


def build_tasks(job: BuildJob, folders: Mapping[str, Path], num_processes: int, progress: bool) -> None:
    """Builds tasks, each into its folder of one cache folder; dealt out in their order to the processes.

    UserError for records that are wrong, a disk that is full, or a child process that was killed.
    """
    cache_dir = next(iter(folders.values())).parent
    with building_folder(cache_dir) as unfinished:
        orders = deque((name, unfinished / folder.name) for name, folder in folders.items())
        title = f"token cache of {job.spec.mixture}"
        with (
            tqdm(desc=title, unit=" examples", disable=not progress, file=sys.stderr) as bar,
            contextlib.ExitStack() as stack,
        ):
            children = [_Child(job, orders, single_threaded=num_processes > 1) for _ in range(num_processes)]
            for child in children:
                stack.callback(child.stop)
            num_built = 0
            for message in _messages(children):
                if "user_error" in message:
                    raise UserError(message["user_error"])
                if "failure" in message:
                    raise RuntimeError(f"building the token cache failed:\n{message['failure']}")
                if "done" in message:
                    publish(Path(message["folder"]), folders[message["done"]])
                    num_built += 1
                    bar.set_postfix_str(f"{num_built}/{len(folders)} tasks")
                else:
                    bar.update(message["examples"])


# --- the folder of what is unfinished --------------------------------------------------------------------------------


@contextlib.contextmanager
def building_folder(cache_dir: Path) -> Iterator[Path]:
    """A folder for unfinished tasks, removed in the end; those of builders that are no more go first."""
    host = socket.gethostname()
    with writing(cache_dir):
        cache_dir.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(cache_dir, host)
        # The lock is held before the folder bears the name that others look for.
        starting = Path(tempfile.mkdtemp(dir=cache_dir, prefix=".starting-", suffix=f"-{host}"))
        lock = open(starting / _LOCK, "w")  # noqa: SIM115
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = starting.rename(starting.with_name(starting.name.replace(".starting-", _BUILDING)))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(cache_dir: Path, host: str) -> None:
    """Removes the folders of builders that died. The lock tells; across hosts, where locks may not reach, time too."""
    for folder in cache_dir.glob(f"{_BUILDING}*"):
        with contextlib.suppress(OSError):  # it is removed by its builder, or by another of us, right now
            if not folder.name.endswith(f"-{host}"):
                touched = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
                if time.time() - touched < _QUIET_SECONDS:
                    continue
            with open(folder / _LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


# --- child processes -------------------------------------------------------------------------------------------------


class _Child:
    """One `python -m tasks.build`: JSON lines on its standard output, everything else on its standard error.

    It takes the next of the orders, which all children share, whenever it is done with one.
    """

    def __init__(self, job: BuildJob, orders: deque[tuple[str, Path]], *, single_threaded: bool) -> None:
        self._orders = orders
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        package_root = os.fspath(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH")))),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",  # TensorFlow and jax would claim what training needs
            "JAX_PLATFORMS": "cpu",
        }
        if single_threaded:
            environment["TOKENIZERS_PARALLELISM"] = "false"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tasks.build"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment,
            process_group=0,  # Ctrl-C is for the parent, who stops its children
        )
        self._tell(job.to_json())
        self._order()

    def _order(self) -> None:
        try:
            name, folder = self._orders.popleft()
        except IndexError:
            self._tell("null")
        else:
            self._tell(json.dumps({"task": name, "folder": os.fspath(folder)}))

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died at once; its exit status says so
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Its messages until it ends; with "user_error" or "failure" where that was not well."""
        assert self.process.stdout is not None
        told = False
        for line in self.process.stdout:
            if line.startswith("{"):
                message = json.loads(line)
                told = told or "user_error" in message
                if "done" in message:
                    self._order()
                yield message
        status = self.process.wait()
        if status < 0:
            killer = signal.Signals(-status).name
            remedy = "often for want of memory; run again: what is built stays"
            yield {"user_error": f"token cache: a process that builds it was killed by {killer} ({remedy})"}
        elif status and not told:
            self._errors.seek(0)
            yield {"failure": self._errors.read()[-4_000:] or f"exit status {status}"}

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


def _messages(children: Sequence[_Child]) -> Iterator[dict[str, Any]]:
    """The messages of all children as they come, until every one has ended."""
    waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def read(child: _Child) -> None:
        try:
            for message in child.messages():
                waiting.put(message)
        except ValueError:  # its output was closed under us: it was stopped
            pass
        finally:
            waiting.put(None)

    for child in children:
        threading.Thread(target=read, args=(child,), daemon=True).start()
    num_running = len(children)
    while num_running:
        message = waiting.get()
        if message is None:
            num_running -= 1
        else:
            yield message
