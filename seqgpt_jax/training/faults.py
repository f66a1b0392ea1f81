"""What can go wrong while training runs, and how it ends: steps that are no numbers, and a disk that is full."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from seqgpt_jax.data.loader import Batch
from seqgpt_jax.errors import UserError
from seqgpt_jax.training.hosts import from_main, is_main
from seqgpt_jax.training.sinks import read_rows
from seqgpt_jax.training.step import StepMetrics
from seqgpt_jax.whole import whole_file

MAX_BAD_STEPS = 10  # steps in a row without a finite loss and gradient before training gives up
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class BadSteps:
    """Counts the steps in a row whose loss or gradient was no number, those before an interruption included."""

    def __init__(self, run_dir: Path, stage: str, done: int) -> None:
        self._run_dir, self._stage = run_dir, stage
        skipped = set(from_main(lambda: [row["step"] for row in read_rows(run_dir, stage) if row.get("skipped")]))
        self._in_a_row = next(count for count in range(done + 1) if done - count not in skipped)

    def check(self, step: int, metrics: StepMetrics, batch: Batch) -> None:
        """Raises UserError at the last of MAX_BAD_STEPS; the batch of that step is then in bad_batches/.

        Of several hosts, the rows of process 0 are.
        """
        self._in_a_row = 0 if metrics.finite else self._in_a_row + 1
        if self._in_a_row < MAX_BAD_STEPS:
            return
        own = f"-process{jax.process_index()}" if jax.process_count() > 1 else ""
        file = self._run_dir / "bad_batches" / f"{self._stage}-{step}{own}.npz"
        if is_main():
            _dump(file, batch)
        raise UserError(
            f"stage '{self._stage}': loss or gradient was not a number in steps {step - self._in_a_row + 1} to {step}; "
            f"the last batch is in {file} (lower optimizer.learning_rate, or set optimizer.clip_norm)"
        )


def _dump(file: Path, batch: Batch) -> None:
    """Writes the arrays of a batch by name, with the rows that this host has."""
    with whole_file(file) as unfinished, unfinished.open("wb") as opened:
        arrays: dict[str, Any] = {name: _rows_here(array) for name, array in vars(batch).items()}
        np.savez(opened, **arrays)


def _rows_here(rows_B: Any) -> np.ndarray:
    parts = {shard.index[0].start or 0: shard.data for shard in rows_B.addressable_shards}
    return np.concatenate([jax.device_get(parts[first]) for first in sorted(parts)])


@contextlib.contextmanager
def full_disk_explained(run_dir: Path) -> Iterator[None]:
    """A block whose errors for want of disk space, also those of checkpoints in the background, become a UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = _want_of_room(error)
        if reason is None:
            raise
        raise UserError(
            f"{run_dir}: {reason}; what was saved before is whole "
            "(make room, or lower checkpoint.keep, and run again to go on)"
        ) from error


def _want_of_room(error: BaseException | None) -> str | None:
    """The system's words where a lack of disk space is behind an error, else None."""
    while error is not None:
        code = error.errno if isinstance(error, OSError) else None
        said = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's errors
        code = int(said[1]) if said else code
        if code in _NO_ROOM:
            return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None
