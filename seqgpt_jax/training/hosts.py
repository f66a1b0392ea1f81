"""Several processes as one run, on one host or on many: how they are joined, wait for each other, and end together.

All of them see one run directory. Process 0 alone writes to it; checkpoints are written by all. What is not a
collective of jax (who builds a cache, who has ended) goes through jax's coordination service, which process 0 runs.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import cloud_tpu_init, distributed  # the key-value store and its barriers have no public name
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqgpt_jax.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from seqgpt_jax.training.launchers import Processes, find_processes
from seqgpt_jax.training.signals import Interrupted, SignalWatch

JOIN_SECONDS = "SEQGPT_JOIN_SECONDS"  # the environment's
_JOIN_SECONDS = 300  # hosts of a cluster start minutes apart
_LEAVE_SECONDS = 10  # in which a process ends by itself after another has ended with an error
_SEE_SECONDS = 5  # in which a shared file system shows a file to all hosts
_FOR_EVER = 14 * 24 * 3600 * 1000  # milliseconds

T = TypeVar("T")


def is_main() -> bool:
    """Whether this is process 0, which writes what a run leaves."""
    return jax.process_index() == 0


# --- joining and leaving ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def joined(flags: Processes | None = None) -> Iterator[None]:
    """The block runs as one of several processes, where flags or the environment say so; alone otherwise.

    Enter it before anything asks jax for a device. When one process ends with an error, all others end with the same
    exit code, wherever they are; they leave after the last is done. UserError where process 0 cannot be reached.
    """
    found = flags or find_processes(os.environ, cloud_tpu_init.running_in_cloud_tpu_vm)
    if found is None or found.count == 1:
        yield
        return
    _connect(found, join_seconds())
    print(f"seqgpt: {found} on {socket.gethostname()}", file=sys.stderr, flush=True)
    _start_thread(lambda: _follow_others(found.index))
    try:
        with SignalWatch():
            yield
            barrier("end")
    except BaseException as error:
        end = _End(found.index, _exit_code(error), str(error) or type(error).__name__)
        with contextlib.suppress(RuntimeError):  # another was first
            _client().key_value_set(_END, json.dumps(end))
        raise
    finally:
        _leaving.set()
        jax.distributed.shutdown()
        for thread in _threads:  # one that returned from jax while Python ends would abort the process
            thread.join(5)


_threads: list[threading.Thread] = []
_leaving = threading.Event()


def _start_thread(run: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=run, daemon=True)
    _threads[:] = [*(each for each in _threads if each.is_alive()), thread]
    thread.start()
    return thread


def join_seconds() -> int:
    """How long processes wait for each other at the start: SEQGPT_JOIN_SECONDS, or 300. UserError for no number."""
    text = os.environ.get(JOIN_SECONDS) or str(_JOIN_SECONDS)
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"{JOIN_SECONDS} is {text!r} (give whole seconds above 0)")
    return int(text)


def _connect(found: Processes, seconds: int) -> None:
    host, _, port = found.coordinator.rpartition(":")
    advice = f"is process 0 running on {host}, and can port {port} there be reached from {socket.gethostname()}?"
    if found.index == 0:
        advice = f"are the others running, can they reach this host as {host}, and is port {port} free?"
    if found.index > 0:
        deadline = time.monotonic() + seconds
        while True:  # jax would end this process without a word that helps
            try:
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise UserError(
                        f"process {found.index} could not reach process 0 at {found.coordinator} in {seconds} s: "
                        f"{error} ({advice})"
                    ) from None
                time.sleep(1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from training/signals.py
    try:
        _wait_for(lambda: _initialize(found), seconds)
    except (RuntimeError, TimeoutError) as error:
        distributed.global_state.client = distributed.global_state.service = None  # nothing to take leave of
        raise UserError(
            f"process {found.index} of {found.count} could not join the others at {found.coordinator}: "
            f"{str(error).splitlines()[0]} ({advice})"
        ) from None


def _initialize(found: Processes) -> None:
    jax.distributed.initialize(
        found.coordinator,
        found.count,
        found.index,
        local_device_ids=found.local_devices,
        cluster_detection_method="deactivate",
        initialization_timeout=24 * 3600,  # at its end jax aborts this process; we give up before
        shutdown_timeout_seconds=60,
    )


def _exit_code(error: BaseException) -> int:
    if isinstance(error, UserError):
        return EXIT_USER_ERROR
    return EXIT_INTERRUPTED if isinstance(error, Interrupted) else 1


class _End(NamedTuple):
    """How a process ended that ended with an error."""

    process: int
    code: int
    message: str


_END = "seqgpt/end"
_ends: list[_End] = []  # the first, once it is known here


def _follow_others(own_index: int) -> None:
    """Waits for the error of another process; ends this one if it has not ended by itself soon after."""
    try:
        end = _End(*json.loads(_client().blocking_key_value_get(_END, _FOR_EVER)))
    except RuntimeError:  # the service has ended: so do we
        return
    _ends.append(end)
    if end.process == own_index or _leaving.wait(_LEAVE_SECONDS):
        return
    print(f"seqgpt: process {end.process} ended: {end.message}", file=sys.stderr, flush=True)
    with contextlib.suppress(RuntimeError):
        jax.distributed.shutdown()
    os._exit(end.code)


def _client() -> Any:
    """jax's client of the coordination service; None in a process that works alone."""
    return distributed.global_state.client


# --- waiting for each other ------------------------------------------------------------------------------------------

_calls: Counter[str] = Counter()


def barrier(name: str) -> None:
    """Returns when all processes are here, however long that takes; signals are handled meanwhile.

    When another process ends with an error, this one raises it too.
    """
    client = _client()
    if client is None:
        return
    _calls[name] += 1
    _wait_for(lambda: client.wait_at_barrier(f"seqgpt/{name}/{_calls[name]}", _FOR_EVER))


def from_main(make: Callable[[], T]) -> T:
    """What make() returns in process 0, in all processes: something that JSON keeps as it is. All must ask for it.

    So what depends on files that process 0 writes is not read too early, or differently, elsewhere.
    """
    client = _client()
    if client is None:
        return make()
    _calls[""] += 1
    key = f"seqgpt/value/{_calls['']}"
    if is_main():
        made = make()
        client.key_value_set(key, json.dumps(made))
        return made
    return json.loads(_wait_for(lambda: client.blocking_key_value_get(key, _FOR_EVER)))


def _wait_for(call: Callable[[], Any], seconds: float = math.inf) -> Any:
    """What a call returns that blocks; signals, and the end of other processes, are handled while it does.

    Raises TimeoutError after so many seconds, and goes on without it.
    """
    outcome: list[tuple[Any, Exception | None]] = []

    def wait() -> None:
        try:
            outcome.append((call(), None))
        except RuntimeError as error:
            outcome.append((None, error))

    waiting = _start_thread(wait)
    deadline = time.monotonic() + seconds
    while not outcome:
        waiting.join(0.2)
        if _ends and not outcome:
            raise _error_of(_ends[0])
        if not outcome and time.monotonic() > deadline:
            raise TimeoutError(f"they did not all come in {seconds} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value


def _error_of(end: _End) -> Exception:
    kind = {EXIT_USER_ERROR: UserError, EXIT_INTERRUPTED: Interrupted}.get(end.code, RuntimeError)
    return kind(f"process {end.process} ended: {end.message}")


def main_alone(name: str, work: Callable[[], None]) -> None:
    """work() in process 0, for which the others wait."""
    if is_main():
        work()
    barrier(name)


def first_alone(name: str, is_first: bool, work: Callable[[], T]) -> T:
    """work() in the processes that are first, and when they are done in the others, who find what is there."""
    made = [work()] if is_first else []
    barrier(name)
    return made[0] if is_first else work()


# --- what they share -------------------------------------------------------------------------------------------------


def check_shared(run_dir: Path) -> None:
    """UserError unless every process sees what process 0 writes in the run directory."""
    first = first_to_see(run_dir)
    if first != 0:
        raise UserError(
            f"{run_dir}: process {jax.process_index()} on {socket.gethostname()} does not see there what process 0 "
            "wrote (give a --run_dir on a file system that all hosts share, such as NFS)"
        )


def first_to_see(folder: Path) -> int:
    """The lowest number of the processes that see this folder: 0 for a shared one, else of this host's first process.

    Makes the folder where it is missing; UserError where that cannot be done.
    """
    if jax.process_count() == 1:
        return 0
    index = jax.process_index()
    token = from_main(lambda: uuid.uuid4().hex)
    own = folder / f".host-{token}-{index}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        own.touch()
    except OSError as error:
        raise UserError(
            f"{folder}: process {index} on {socket.gethostname()} cannot write there: {error.strerror} "
            "(every host must be able to)"
        ) from None
    try:
        barrier("token written")  # the folders may have different names
        deadline = time.monotonic() + _SEE_SECONDS
        first = index
        while first > 0 and time.monotonic() < deadline:
            first = min(int(file.name.rpartition("-")[2]) for file in folder.glob(f".host-{token}-*"))
            time.sleep(0.05 if first == 0 else 0.5)
        barrier("token seen")
    finally:
        own.unlink(missing_ok=True)
    return first


# --- stopping at the same step ---------------------------------------------------------------------------------------


def agreed_signal(requested: str | None) -> str | None:
    """The signal that any process has had, if one has; all processes must ask, and wait for each other."""
    if jax.process_count() == 1:
        return requested
    return _name_of(int(process_allgather(np.int32(_number_of(requested))).max()))


def _number_of(name: str | None) -> int:
    return signal.Signals[name] if name else 0


def _name_of(number: int) -> str | None:
    return signal.Signals(number).name if number else None


class StopVote:
    """What signal has asked any process to stop, known to all of them at the same step.

    Each step every process casts the signal it has had, if any; their maximum is reduced over all devices while the
    step runs, and is read a step later, like metrics. A process that works alone knows at once and reduces nothing.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._several = jax.process_count() > 1
        self._cast: Any = None
        if self._several:
            self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            self._num_local = len(mesh.local_devices)
            self._maximum = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def signal_after(self, requested: str | None, wait: bool = False) -> str | None:
        """Casts this process's signal and returns the name of the one to stop for after this step, or None.

        wait: the votes of this step count already, for which the host has to wait until it has run.
        """
        if not self._several:
            return requested
        previous = self._cast
        own = np.full(self._num_local, _number_of(requested), np.int32)
        self._cast = self._maximum(jax.make_array_from_process_local_data(self._split, own))
        counted = self._cast if wait else previous
        return None if counted is None else _name_of(int(counted))
