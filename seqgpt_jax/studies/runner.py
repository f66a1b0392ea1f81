"""Runs the jobs of a study, several at a time, as processes of their own, until each is done or has failed.

* Done: its result is there, and DIR/jobs/NAME.json, written before it began, holds the settings that it has now. A job
  that was begun with other settings is refused.
* Exit code 75: interrupted with everything saved, so it is started again. 2: the user's to mend, so it has failed.
  Anything else: it is tried once more.
* A job holds a lock that its process inherits: one that outlives a killed study is waited for, never doubled.
* SIGTERM and SIGINT go to the jobs as SIGTERM; when they have saved and ended, Interrupted is raised.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from seqgpt_jax.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from seqgpt_jax.studies.jobs import Job
from seqgpt_jax.studies.locks import take_lock
from seqgpt_jax.training.signals import Interrupted, SignalWatch
from seqgpt_jax.whole import write_json

SEQGPT = (sys.executable, "-m", "seqgpt_jax.cli")  # of this very environment
_TRIES = 2
_MAX_INTERRUPTIONS = 20  # in a row: whatever is interrupted so often does not get on
_POLL_SECONDS = 0.1
_LOG_TAIL = 4096  # bytes


@dataclass(frozen=True)
class Outcome:
    """How a job stands: its seconds in all tries, and why it has failed, if it has."""

    seconds: float = 0.0
    failure: str | None = None


@dataclass
class _Running:
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    lock: int
    started: float


def is_done(job: Job, folder: Path) -> bool:
    """UserError where what is there was made with other settings."""
    begun = _read(folder, job)
    if begun is None:
        return False
    old = begun["settings"]
    if old != job.settings:
        raise UserError(
            f"{folder}: {job.name} was begun with other settings (choose another --out, or remove "
            f"{folder / 'jobs' / job.name}.json and {job.place}):\n" + "\n".join(_changes(old, job.settings))
        )
    return begun["failure"] is None and job.result.is_file()


def read_outcome(folder: Path, name: str) -> Outcome | None:
    """How a job ended last time; None where it was never begun."""
    file = folder / "jobs" / f"{name}.json"
    if not file.is_file():
        return None
    fields = json.loads(file.read_text("utf-8"))
    return Outcome(fields["seconds"], fields["failure"])


def run_jobs(jobs: Sequence[Job], folder: Path, num_at_once: int = 1) -> dict[str, Outcome]:
    """Runs what is not done; returns how each job ended, by name. Each job stands after those that it needs.

    UserError before anything runs where a job was begun with other settings; Interrupted after a signal.
    """
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    pending: set[str] = set()
    for job in reversed(jobs):  # a training whose evaluations are done may have been removed
        users = [other for other in jobs if job.name in other.needs]
        if not is_done(job, folder) and (not users or any(user.name in pending for user in users)):
            pending.add(job.name)
    with SignalWatch() as watch, watch.deferred():
        return _Runner(jobs, folder, num_at_once, watch, pending).run()


class _Runner:
    def __init__(
        self, jobs: Sequence[Job], folder: Path, num_at_once: int, watch: SignalWatch, pending: set[str]
    ) -> None:
        self.jobs, self.folder, self.watch = jobs, folder, watch
        self.slots = shares_of_machine(num_at_once)
        self.running: dict[str, _Running] = {}
        self.outcomes = {
            job.name: read_outcome(folder, job.name) or Outcome() for job in jobs if job.name not in pending
        }
        self.tries, self.interruptions = Counter[str](), Counter[str]()
        self.bar = tqdm(
            total=len(jobs),
            initial=len(jobs) - len(pending),
            desc="study",
            unit="job",
            mininterval=0.5 if sys.stderr.isatty() else 20.0,
        )

    def run(self) -> dict[str, Outcome]:
        with self.bar:
            try:
                while len(self.outcomes) < len(self.jobs):
                    if self.watch.requested:
                        left = len(self.jobs) - len(self.outcomes)
                        raise Interrupted(
                            f"stopped by {self.watch.requested}, {left} jobs are left (run again to go on)"
                        )
                    self.step()
            finally:
                self.stop()
        return self.outcomes

    def step(self) -> None:
        for running in list(self.running.values()):
            if running.process.poll() is not None:
                self.end(running)
        for job in self.jobs:
            if job.name not in self.outcomes and job.name not in self.running:
                self.consider(job)
        self.bar.set_postfix_str(" ".join(self.running), refresh=False)
        time.sleep(_POLL_SECONDS)

    def consider(self, job: Job) -> None:
        """Starts a job, if what it needs is done, a slot is free, and no other process is at it."""
        needs = [self.outcomes.get(name) for name in job.needs]
        if failed := [name for name, need in zip(job.needs, needs, strict=True) if need and need.failure]:
            self.settle(job, Outcome(failure=f"{failed[0]} has failed"))
        elif all(needs) and len(self.running) < len(self.slots):
            lock = take_lock(self.folder / "jobs" / f"{job.name}.lock")
            if lock is None:
                return
            try:
                already = is_done(job, self.folder)
            except UserError:
                os.close(lock)
                raise
            if already:  # by a process that held the lock
                os.close(lock)
                self.settle(job, read_outcome(self.folder, job.name) or Outcome())
            else:
                self.start(job, lock)

    def start(self, job: Job, lock: int) -> None:
        slot = next(index for index in range(len(self.slots)) if all(r.slot != index for r in self.running.values()))
        before = read_outcome(self.folder, job.name) or Outcome()
        write_job(self.folder, job, Outcome(before.seconds))
        with (self.folder / "jobs" / f"{job.name}.log").open("ab") as log, self.slots[slot].taken() as environment:
            # What XLA compiled for one cell serves all that differ in data or seed.
            environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(self.folder.absolute() / "compiled"))
            process = subprocess.Popen(
                [*SEQGPT, *job.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                pass_fds=[lock],
                start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
            )
        self.running[job.name] = _Running(job, slot, process, lock, time.monotonic())

    def end(self, running: _Running) -> None:
        job, code = running.job, running.process.returncode
        failure = None if code == 0 and job.result.is_file() else self.why(job, code)
        again = failure is not None and self.may_go_on(job, code)
        outcome = self.leave(running, None if again else failure)
        if failure is not None:
            self.bar.write(f"{job.name}: {failure}{'; once more' if again else ''}", file=sys.stderr)
        if not again:
            self.settle(job, outcome)

    def may_go_on(self, job: Job, code: int) -> bool:
        """Whether a job that ended so is started again."""
        if code == EXIT_INTERRUPTED:
            self.interruptions[job.name] += 1
            return self.interruptions[job.name] <= _MAX_INTERRUPTIONS
        self.tries[job.name] += 1
        return code != EXIT_USER_ERROR and self.tries[job.name] < _TRIES

    def leave(self, running: _Running, failure: str | None) -> Outcome:
        """Writes down how a process ended, and lets others have the job."""
        del self.running[running.job.name]
        before = read_outcome(self.folder, running.job.name) or Outcome()
        outcome = Outcome(round(before.seconds + time.monotonic() - running.started, 1), failure)
        write_job(self.folder, running.job, outcome)
        os.close(running.lock)
        return outcome

    def why(self, job: Job, code: int) -> str:
        said = _last_line(self.folder / "jobs" / f"{job.name}.log")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{how if code else 'no result'}: {said}"

    def settle(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.name] = outcome
        self.bar.update()

    def stop(self) -> None:
        """Lets all that runs save and end."""
        for running in self.running.values():
            running.process.terminate()
        for running in list(self.running.values()):
            running.process.wait()
            self.leave(running, None)


# --- a share of the machine for each job -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Slot:
    """What one of several jobs at once may use; None: everything."""

    cpus: frozenset[int] | None = None
    gpus: tuple[str, ...] | None = None

    @contextmanager
    def taken(self) -> Iterator[dict[str, str]]:
        """A block whose children get the share; the environment for them."""
        environment = dict(os.environ)
        if self.gpus is not None:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        if self.cpus is None:
            yield environment
            return
        all_cpus = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cpus)  # a child inherits it
        try:
            yield environment
        finally:
            os.sched_setaffinity(0, all_cpus)


def shares_of_machine(num: int) -> list[Slot]:
    """CPU cores and NVIDIA GPUs dealt out to `num` jobs at once. UserError for more jobs than there are GPUs."""
    cpus, gpus = sorted(os.sched_getaffinity(0)), _visible_gpus()
    if gpus and num > len(gpus):
        raise UserError(f"--jobs {num}: there are {len(gpus)} GPUs (a job takes one or more: ask for fewer jobs)")
    return [
        Slot(
            frozenset(cpus[index::num]) if 1 < num <= len(cpus) else None,
            tuple(gpus[index::num]) if num > 1 and gpus else None,
        )
        for index in range(num)
    ]


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return sorted(file.name.removeprefix("nvidia") for file in Path("/dev").glob("nvidia[0-9]*"))


# --- files -----------------------------------------------------------------------------------------------------------


def write_job(folder: Path, job: Job, outcome: Outcome) -> None:
    fields = {"settings": dict(job.settings), "seconds": outcome.seconds, "failure": outcome.failure}
    write_json(folder / "jobs" / f"{job.name}.json", fields)


def _read(folder: Path, job: Job) -> dict[str, Any] | None:
    file = folder / "jobs" / f"{job.name}.json"
    try:
        return json.loads(file.read_text("utf-8")) if file.is_file() else None
    except ValueError as error:
        raise UserError(f"{file}: cannot be read ({error}; remove it)") from None


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    for name in new:
        before, after = old.get(name, "").splitlines(), new[name].splitlines()
        yield from (f"-{line}" for line in before if line not in after)
        yield from (f"+{line}" for line in after if line not in before)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        text = file.read().decode("utf-8", "replace")
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
