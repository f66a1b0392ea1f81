"""Two hours of kills, signals, full disks and other meshes, over and over, each run ended with an exact comparison.

    make soak                                 or: python -m tests.soak --minutes 5

Each round takes two toy runs (tests/training/killable.py) from their beginning to their end. One keeps its mesh; at its
end, parameters, optimiser state and metrics.jsonl must be bit-equal to those of an undisturbed run. The other goes on
with another mesh after each stop; its losses must be those of the undisturbed run to float32 tolerance. The last line
of stdout is a JSON object with what was done; the exit code is 0 when everything was equal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

# Must stand before anything imports jax.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np

from tests.training.killable import STAGES, ToyRun

MESHES = ((8, 1, 1), (4, 1, 1), (2, 2, 1), (1, 2, 2), (2, 2, 2), (1, 8, 1), (2, 1, 4))
KINDS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGTERM twice", "full disk")
TOLERANCE = 1e-4  # relative, of a loss on another mesh
DISK_MB = 16


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120, help="no round begins later (default: 120)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and kinds of disturbance (default: 0)")
    options = parser.parse_args()
    rng, counts, errors = random.Random(options.seed), Counter[str](), [0.0]
    with _small_disk() as (folder, is_small):
        undisturbed = ToyRun(folder.parent / "undisturbed", folder.parent / "cache")
        undisturbed.finish()
        begin = time.monotonic()
        while not counts or time.monotonic() - begin < 60 * options.minutes:
            for changes_mesh in (False, True):
                run = replace(undisturbed, run_dir=folder / "run", slow_save=rng.choice((0.0, 0.1, 0.3)))
                _disturb_to_the_end(run, rng, counts, changes_mesh, is_small)
                if changes_mesh:
                    errors.append(_loss_error(run, undisturbed))
                else:
                    _check_bit_equal(run, undisturbed)
                shutil.rmtree(run.run_dir)
                counts["bit-equal runs" if not changes_mesh else "runs on changing meshes"] += 1
            print(f"{(time.monotonic() - begin) / 60:.1f} min: {dict(counts)}", file=sys.stderr)
    passed = max(errors) <= TOLERANCE
    print(
        json.dumps(
            {
                "passed": passed,
                "minutes": round((time.monotonic() - begin) / 60, 1),
                "counts": dict(sorted(counts.items())),
                "largest_relative_loss_error": max(errors),
                "small_disk": is_small,
                "command": f"python -m tests.soak --minutes {options.minutes:g} --seed {options.seed}",
            }
        )
    )
    return 0 if passed else 1


@contextlib.contextmanager
def _small_disk() -> Iterator[tuple[Path, bool]]:
    """A folder on a file system of a few MB where one may be mounted; else a folder, and False: disks stay empty."""
    with tempfile.TemporaryDirectory(prefix="soak.") as parent:
        folder = Path(parent) / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)]
        try:
            is_small = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            is_small = False
        try:
            yield folder, is_small
        finally:
            if is_small:
                subprocess.run(["umount", str(folder)], check=True)


def _disturb_to_the_end(
    run: ToyRun, rng: random.Random, counts: Counter[str], changes_mesh: bool, may_fill_disk: bool
) -> None:
    """Starts and stops a run until it is at its end."""
    step = 0
    while True:
        if changes_mesh:
            run = replace(run, mesh=rng.choice(MESHES))
            counts["meshes"] += 1
        progress: Any = multiprocessing.get_context("forkserver").Value("i", 0)
        process = run.start(progress)
        step = rng.randrange(step, step + run.steps)  # where it is stopped, never before the last time
        while process.exitcode is None and progress.value < step:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.5))
        kind = rng.choice(KINDS if may_fill_disk else KINDS[:-1])
        if process.exitcode is not None or step > 2 * run.steps:
            process.join()
            assert process.exitcode == 0, f"exit code {process.exitcode}: {run.errors()}"
            return
        allowed = {0, _stop(process, kind, run.run_dir.parent)}
        if progress.value == 0:  # it may not have begun to watch for signals
            allowed.add(-signal.SIGTERM)
        counts[kind] += 1
        counts["checkpoints cut off"] += run.half_written()
        assert process.exitcode in allowed, f"exit code {process.exitcode} after {kind}: {run.errors()}"
        if process.exitcode == 0:  # it was at its end already
            return


def _stop(process: Any, kind: str, folder: Path) -> int:
    """Stops a process and waits for its end; the exit code that it should have, if it was not done before."""
    if kind == "full disk":
        ballast = folder / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        process.join()
        ballast.unlink()
        return 2
    if kind.startswith("SIGTERM"):
        for _ in range(2 if kind.endswith("twice") else 1):
            process.terminate()
            time.sleep(0.05)
        process.join()
        return 75
    process.kill()
    process.join()
    return -signal.SIGKILL


def _check_bit_equal(run: ToyRun, want: ToyRun) -> None:
    steps = [(row["stage"], row["step"]) for row in run.rows()]
    assert steps == [(stage, step) for stage in STAGES for step in range(1, run.steps + 1)], steps
    assert run.rows() == want.rows()
    jax.tree.map(np.testing.assert_array_equal, run.state(), want.state())


def _loss_error(run: ToyRun, want: ToyRun) -> float:
    losses, expected = (np.array([row["loss"] for row in each.rows()]) for each in (run, want))
    return float(np.abs(losses / expected - 1).max())


if __name__ == "__main__":
    sys.exit(main())
