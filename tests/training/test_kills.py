"""kill -9 at random moments, other meshes, a full disk: the run ends where it would have ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from seqgpt_jax.training.checkpoints import checkpoint_folder, saved_steps
from tests.training.killable import STAGES, ToyRun

NUM_KILLS = 10


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    folder = tmp_path_factory.mktemp("undisturbed")
    run = ToyRun(folder / "run", folder / "cache")
    run.finish()
    return run


def assert_same_end(run: ToyRun, want: ToyRun) -> None:
    """Bit for bit: parameters and optimiser state of both stages, and metrics.jsonl but for the time."""
    steps = [(row["stage"], row["step"]) for row in run.rows()]
    assert steps == [(stage, step) for stage in STAGES for step in range(1, run.steps + 1)]
    assert run.rows() == want.rows()
    jax.tree.map(np.testing.assert_array_equal, run.state(), want.state())


def wait_for(progress: Any, step: int, process: Any, run: ToyRun) -> None:
    while progress.value < step:
        assert process.exitcode is None, f"exit code {process.exitcode}: {run.errors()}"
        time.sleep(0.002)


def test_killed_at_random_moments_it_ends_bit_equal(undisturbed: ToyRun, tmp_path: Path) -> None:
    rng = random.Random(5)
    run = replace(undisturbed, run_dir=tmp_path / "run", slow_save=0.2)
    progress = multiprocessing.get_context("forkserver").Value("i", 0)
    half_written = 0
    for step in sorted(rng.sample(range(1, 2 * run.steps - 1), NUM_KILLS)):
        process = run.start(progress)
        wait_for(progress, step, process, run)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        half_written += run.half_written()
    assert half_written >= 3  # of the kills hit a checkpoint that was being written
    run.finish()
    assert_same_end(run, undisturbed)
    assert run.half_written() == 0


@pytest.mark.slow  # each mesh is compiled for each stage
def test_other_meshes_go_on_with_the_same_losses(undisturbed: ToyRun, tmp_path: Path) -> None:
    run = replace(undisturbed, run_dir=tmp_path / "run")
    for step, mesh in ((9, (8, 1, 1)), (26, (2, 2, 1)), (40, (1, 2, 2))):
        run = replace(run, mesh=mesh)
        progress = multiprocessing.get_context("forkserver").Value("i", 0)
        process = run.start(progress)
        if step == 40:
            process.join()
            break
        wait_for(progress, step, process, run)
        os.kill(process.pid, signal.SIGTERM)
        process.join()
        assert process.exitcode == 75, run.errors()
    assert process.exitcode == 0, run.errors()
    rows, want = run.rows(), undisturbed.rows()
    assert [(row["stage"], row["step"], row["targets"]) for row in rows] == [
        (row["stage"], row["step"], row["targets"]) for row in want
    ]
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in want], rtol=1e-4)


@pytest.mark.parametrize("num_damaged", [1, 2])
def test_what_a_damaged_checkpoint_held_is_made_again(undisturbed: ToyRun, tmp_path: Path, num_damaged: int) -> None:
    """With one, the stage goes on from the one before it; with both that are kept, from where it began."""
    run = replace(undisturbed, run_dir=tmp_path / "run")
    shutil.copytree(undisturbed.run_dir, run.run_dir)
    folder = checkpoint_folder(run.run_dir, "two")
    for step in sorted(saved_steps(folder))[-num_damaged:]:
        file = max((folder / str(step) / "params").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))
    run.finish()
    assert_same_end(run, undisturbed)
    assert len(list(folder.glob("*.damaged"))) == num_damaged
    assert f"warning: {folder / '20'}: damaged checkpoint: params/" in run.errors()
    assert ("stage 'two' starts again" in run.errors()) == (num_damaged == 2)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_stops_the_run_and_loses_nothing(undisturbed: ToyRun, small_disk: Path) -> None:
    run = replace(undisturbed, run_dir=small_disk / "run")
    progress = multiprocessing.get_context("forkserver").Value("i", 0)
    process = run.start(progress)
    wait_for(progress, 9, process, run)
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    process.join(120)
    assert process.exitcode == 2, run.errors()
    error = f"error: {run.run_dir}: No space left on device; what was saved before is whole (make room"
    assert error in run.errors()
    ballast.unlink()
    run.finish()
    assert_same_end(run, undisturbed)


def test_a_checkpoint_that_may_not_be_written_stops_the_run_and_loses_nothing(
    undisturbed: ToyRun, tmp_path: Path
) -> None:
    run = replace(undisturbed, run_dir=tmp_path / "run")  # its parameters take 100 kB, its metrics 12
    process = replace(run, max_file_bytes=60_000).start()
    process.join(240)
    assert process.exitcode == 2, run.errors()
    assert f"error: {run.run_dir}: File too large; what was saved before is whole (make room" in run.errors()
    assert run.half_written() == 1
    run.finish()
    assert_same_end(run, undisturbed)
