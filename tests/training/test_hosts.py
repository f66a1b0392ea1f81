"""Two processes with four devices each make the run of one with eight; they stop, go on and end together."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from seqgpt_jax.errors import UserError
from seqgpt_jax.training.hosts import JOIN_SECONDS, _connect, barrier, first_to_see, is_main, join_seconds, joined
from seqgpt_jax.training.launchers import Processes
from seqgpt_jax.training.partitioning import row_share
from seqgpt_jax.training.sinks import EVALUATIONS_FILE, read_rows
from tests.conftest import REPO
from tests.training.host_run import run_toy, toy_recipe

FLOAT32 = {"rtol": 2e-5}  # sums over devices are taken in another order


def start_processes(
    folder: Path, signal_at: Sequence[int] = (0, 0), run_dirs: Sequence[str] = ("run", "run"), mesh: str = "2,2,2"
) -> list[tuple[int, str]]:
    """Exit code and standard error of both processes."""
    (folder / "cache").mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPO),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.training.host_worker", str(folder), mesh, str(signal_at[index])),
                *("--run_dir", str(folder / run_dirs[index])),
                *("--coordinator", coordinator, "--num_processes", "2", "--process_id", str(index)),
            ],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in (0, 1)
    ]
    try:
        return [(process.wait(), error) for process in processes for _, error in [process.communicate(timeout=300)]]
    finally:
        for process in processes:
            process.kill()


def numbers(run_dir: Path, *names: str) -> np.ndarray:
    return np.array([[row[name] for name in names] for row in read_rows(run_dir)])


def test_two_processes_make_the_run_of_one(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "cache").mkdir(parents=True)

    # A signal to one process stops both after the same step, which is saved.
    ended = start_processes(two, signal_at=(0, 3))
    assert [code for code, _ in ended] == [75, 75], ended
    for index, (_, error) in enumerate(ended):
        assert f"seqgpt: 2 processes, by flags; this is {index} on " in error
        assert "stopped by SIGTERM after step 3 of 6, saved" in error
    assert len(read_rows(two / "run")) == 3
    shutil.copytree(two / "run", one / "moved")

    # Both go on, and make what one process makes: rows, answers, scores, and weights that one process reads.
    assert [code for code, _ in start_processes(two)] == [0, 0]
    run_toy(toy_recipe(one), one / "run")
    steps = numbers(two / "run", "step", "tokens", "targets")
    assert steps[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(steps, numbers(one / "run", "step", "tokens", "targets"))
    losses = numbers(one / "run", "loss", "grad_norm")
    np.testing.assert_allclose(numbers(two / "run", "loss", "grad_norm"), losses, **FLOAT32)
    want, found = (json.loads((folder / "run" / "found.json").read_text()) for folder in (one, two))
    assert found["answers"] == want["answers"]
    assert len({tuple(answer) for answer in want["answers"]}) > 1
    judged = [
        [(row["step"], row["score"]) for row in read_rows(folder / "run", file=EVALUATIONS_FILE)]
        for folder in (one, two)
    ]
    assert judged[0] == judged[1]
    assert [step for step, _ in judged[0]] == [5, 6]
    assert found["read_again"] == pytest.approx(want["read_again"], rel=2e-5)

    # Process 0 wrote, and read the data before the other; nothing is left of how they met.
    assert (two / "cache" / "calls.txt").read_text() == "main synthetic\nother synthetic\n" * 2
    assert len(list((two / "run" / "tensorboard").iterdir())) == 2  # one a start
    assert not list(two.glob("**/.host-*"))

    # What two processes have saved goes on in one.
    run_toy(toy_recipe(one), one / "moved")
    assert len(read_rows(one / "moved")) == 6
    np.testing.assert_allclose(numbers(one / "moved", "loss", "grad_norm"), losses, **FLOAT32)


def test_an_error_in_one_process_ends_the_other(tmp_path: Path) -> None:
    ended = start_processes(tmp_path, run_dirs=("run", "elsewhere"))
    assert [code for code, _ in ended] == [2, 2], ended
    problem = f"seqgpt: error: {tmp_path / 'elsewhere'}: process 1 on {socket.gethostname()} does not see there what"
    assert problem in ended[1][1]
    assert "seqgpt: error: process 1 ended: " in ended[0][1]


@pytest.mark.slow
def test_two_processes_on_other_meshes(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    run_toy(toy_recipe(tmp_path), tmp_path / "run")
    want = numbers(tmp_path / "run", "step", "loss", "grad_norm", "tokens")
    for mesh in ("8,1,1", "1,8,1", "1,1,8", "1,2,4"):
        folder = tmp_path / mesh
        folder.mkdir()
        assert [code for code, _ in start_processes(folder, mesh=mesh)] == [0, 0], mesh
        np.testing.assert_allclose(numbers(folder / "run", "step", "loss", "grad_norm", "tokens"), want, **FLOAT32)


@pytest.mark.slow
def test_an_error_between_two_steps_ends_the_process_that_waits_in_a_collective(tmp_path: Path) -> None:
    ended = start_processes(tmp_path, signal_at=(-3, 0))
    assert [code for code, _ in ended] == [2, 2], ended
    assert "seqgpt: error: the disk is full" in ended[0][1]
    assert "process 0 ended: the disk is full" in ended[1][1]


def test_a_coordinator_that_is_not_there_is_named() -> None:
    with pytest.raises(
        UserError, match=r"process 1 could not reach process 0 at localhost:1 in 0 s: .*is process 0 run"
    ):
        _connect(Processes("localhost:1", 2, 1, "flags"), seconds=0)


def test_one_process_waits_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("it looked for others"))
    for flags in (None, Processes("localhost:1", 1, 0, "flags")):
        with joined(flags):
            barrier("any")
            assert is_main()
            assert first_to_see(tmp_path / "missing") == 0


@pytest.mark.parametrize(
    ("owners", "tensor", "shares"),
    [
        ([0] * 4 + [1] * 4, 2, {0: (0, 2), 1: (1, 2)}),
        ([0] * 4 + [1] * 4, 8, {0: (0, 1), 1: (0, 1)}),
        ([0, 0, 1, 1, 2, 2, 3, 3], 4, {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}),
        ([1, 1, 0, 0, 1, 1, 0, 0], 1, {1: (0, 2), 0: (1, 2)}),  # a torus of chips numbers them row by row
    ],
)
def test_shares_of_the_rows(
    owners: list[int], tensor: int, shares: dict[int, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for process, share in shares.items():
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert row_share(mesh_of(owners, tensor)) == share


def test_rows_that_two_processes_share_in_part_are_refused() -> None:
    with pytest.raises(UserError, match="mesh.tensor=6 does not fit 4 devices a process"):
        row_share(mesh_of([0] * 4 + [1] * 4 + [2] * 4, 6))


def mesh_of(owners: list[int], tensor: int) -> Any:
    devices = np.array([SimpleNamespace(process_index=owner) for owner in owners]).reshape(-1, 1, tensor)
    shape = {"data": len(devices), "fsdp": 1, "tensor": tensor}
    return SimpleNamespace(devices=devices, shape=shape, local_devices=[d for d in devices.flat if not d.process_index])


def test_how_long_processes_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert join_seconds() == 300
    monkeypatch.setenv(JOIN_SECONDS, "3600")
    assert join_seconds() == 3600
    for wrong in ("0", "1h"):
        monkeypatch.setenv(JOIN_SECONDS, wrong)
        with pytest.raises(UserError, match=rf"SEQGPT_JOIN_SECONDS is '{wrong}' \(give whole seconds above 0\)"):
            join_seconds()
