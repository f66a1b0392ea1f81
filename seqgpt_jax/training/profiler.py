"""A window of steps recorded by jax.profiler, into run_dir/profile (open it with TensorBoard or xprof)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from seqgpt_jax.errors import UserError
from seqgpt_jax.training.hosts import is_main

PROFILE_FOLDER = "profile"


@dataclass(frozen=True)
class ProfileWindow:
    """Steps start .. stop, both recorded, counted as in metrics.jsonl, of the first stage that a call trains."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 1 <= self.start <= self.stop:
            raise UserError(
                f"--profile {self.start}:{self.stop} is no window (give START:STOP with 1 <= START <= STOP)"
            )

    @classmethod
    def parse(cls, text: str) -> ProfileWindow:
        """'10:12' -> steps 10, 11 and 12. UserError for anything else."""
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if match is None:
            raise UserError(f"--profile {text} is no window of steps (give START:STOP, such as 10:12)")
        return cls(int(match[1]), int(match[2]))


class Profiler:
    """Records a window of the first stage that is trained; a window of None records nothing.

    Use it as a context manager, which ends a recording that an interruption cut short.
    """

    def __init__(self, window: ProfileWindow | None, run_dir: Path) -> None:
        self._window, self._folder = window, run_dir / PROFILE_FOLDER
        self._in_first_stage = False
        self._running = False

    def __enter__(self) -> Profiler:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def begin_stage(self, stage: str, done: int, num_steps: int) -> None:
        """The steps done+1 .. num_steps of a stage come next. UserError for a window that is not among them."""
        window = self._window = None if self._in_first_stage else self._window
        self._in_first_stage = True
        if window is not None and not done < window.start <= window.stop <= num_steps:
            raise UserError(
                f"--profile {window.start}:{window.stop}: stage '{stage}' trains the steps {done + 1} to {num_steps} "
                "now (choose a window among them)"
            )

    def before(self, step: int, state: Any) -> None:
        """Called before a step is dispatched; the recording begins when the steps before it are done."""
        if self._window is not None and step == self._window.start and is_main():
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, state: Any) -> None:
        """Called after a step is dispatched."""
        if self._window is not None and step == self._window.stop:
            jax.block_until_ready(state)
            self._end()

    def _end(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
