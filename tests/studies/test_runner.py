"""Studies as a whole, with a stub for `seqgpt train` and `seqgpt eval`: what runs, what is skipped, what survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqgpt_jax.studies import locks, runner
from tests.studies import toy

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _stub(monkeypatch: pytest.MonkeyPatch) -> None:
    toy.use_stub(monkeypatch, toy.toy_config())
    monkeypatch.setattr(runner, "_POLL_SECONDS", 0.01)


def behave(folder: Path, **does: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "behaviour.json").write_text(json.dumps({name.replace("__", "-"): each for name, each in does.items()}))


def calls(folder: Path) -> list[str]:
    file = folder / "calls.txt"
    return file.read_text().splitlines() if file.exists() else []


def started(folder: Path) -> list[str]:
    return [line.removeprefix("begin ") for line in calls(folder) if line.startswith("begin")]


def tables(folder: Path) -> str:
    """study.md without where it lies and how long it took."""
    lines = (folder / "study.md").read_text().replace(str(folder), "DIR").splitlines()
    return "\n".join(line for line in lines if " minutes of " not in line)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "study"
    with pytest.MonkeyPatch.context() as patch:
        toy.use_stub(patch, toy.toy_config())
        patch.setattr(runner, "_POLL_SECONDS", 0.01)
        assert toy.study(folder, "--jobs", "2") == 0
    return folder


def test_each_training_once_and_after_what_it_starts_from(whole: Path) -> None:
    names = started(whole)
    assert len(names) == len(set(names)) == 4 + 8 + 8  # stage 1 of two sizes; cells; evaluations; two seeds each
    assert "train-stage1-nano-seed0" in names and "train-nano-on-seed1" in names and "eval-mini-off-seed1" in names
    lines = calls(whole)
    assert lines.index("end train-stage1-mini-seed1") < lines.index("begin train-mini-on-seed1")
    assert lines.index("end train-mini-on-seed1") < lines.index("begin eval-mini-on-seed1")
    bindings = json.loads((whole / "runs/nano-on-seed1/export/config.json").read_text())["bindings"]
    assert f"START='{whole}/runs/stage1-nano-seed1/export'" in bindings and "recipe.seed=1" in bindings
    assert (whole / "figures/score.png").stat().st_size > 1000
    assert "seqgpt study toy.py" in (whole / "study.md").read_text().splitlines()[2]


def test_what_is_done_is_skipped_even_if_its_training_is_gone(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "moved"  # its settings name no absolute path
    subprocess.run(["cp", "-r", whole, folder], check=True)
    subprocess.run(["rm", "-r", folder / "runs/nano-on-seed0"], check=True)
    assert toy.study(folder) == 0
    assert len(calls(folder)) == len(calls(whole))
    (folder / "evaluations/nano-on-seed0/report.json").unlink()
    assert toy.study(folder) == 0
    assert started(folder)[20:] == ["train-nano-on-seed0", "eval-nano-on-seed0"]
    assert tables(folder) == tables(whole)


def test_a_killed_study_gives_the_same_tables(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    behave(folder, **{"train-mini-off-seed0": ["slow"]})
    study = subprocess.Popen([sys.executable, "-m", "tests.studies.toy", str(folder)], cwd=REPO)
    _wait(lambda: "begin train-mini-off-seed0" in calls(folder))
    os.kill(study.pid, signal.SIGKILL)
    study.wait()
    assert "end train-mini-off-seed0" not in calls(folder)
    assert toy.study(folder) == 0
    # The training that outlived the study was waited for: neither doubled while it ran nor made again.
    assert started(folder).count("train-mini-off-seed0") == 1
    assert len(started(folder)) == 20
    assert tables(folder) == tables(whole)


def test_sigterm_goes_to_the_cells_and_the_study_exits_with_75(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    behave(folder, **{"train-nano-off-seed0": ["slow"]})
    study = subprocess.Popen(
        [sys.executable, "-m", "tests.studies.toy", str(folder), "--only", "nano-off-seed0"],
        cwd=REPO, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _wait(lambda: "begin train-nano-off-seed0" in calls(folder))
    time.sleep(0.1)  # until the stub watches
    study.terminate()
    _, said = study.communicate(timeout=20)
    assert study.returncode == 75
    assert "saved train-nano-off-seed0" in calls(folder)
    assert "run again to go on" in said
    assert toy.study(folder, "--only", "nano-off-seed0") == 0
    assert started(folder) == ["train-nano-off-seed0", "train-nano-off-seed0", "eval-nano-off-seed0"]


def test_failures_are_tried_once_more_and_then_reported(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "study"
    behave(
        folder,
        **{
            "train-nano-off-seed0": ["die"],
            "train-stage1-mini-seed0": ["fail", "fail"],
            "eval-mini-off-seed1": ["bad input"],
            "train-nano-on-seed0": ["interrupted", "interrupted", "fail"],
        },
    )
    assert toy.study(folder, "--jobs", "3") == 1
    names = started(folder)
    assert names.count("train-nano-off-seed0") == 2
    assert names.count("train-stage1-mini-seed0") == 2
    assert names.count("eval-mini-off-seed1") == 1  # what the user must mend is not tried again
    assert names.count("train-nano-on-seed0") == 4  # interruptions are no failures
    assert "train-mini-on-seed0" not in names
    report = json.loads((folder / "study.json").read_text())
    assert report["failures"] == [
        {"cell": "mini-off-seed1", "why": "exit code 2: seqgpt: error: no such mixture"},
        {"cell": "mini-on-seed0", "why": "exit code 1: RuntimeError: out of memory"},
    ]
    assert "signal SIGKILL" in capsys.readouterr().err
    verdicts = {"-".join(row["cell"].values()): row["verdict"] for row in report["measures"]["score"]}
    assert verdicts["mini-off"] == "baseline" and verdicts["mini-on"] == "no common seed"
    assert verdicts["nano-on"] in ("higher", "lower", "no signal")
    assert toy.study(folder) == 0  # what failed is tried again
    assert tables(folder) == tables(whole)


def test_two_studies_in_one_directory_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "study"
    with locks.study_lock(folder, shared=False):
        assert toy.study(folder) == 2
        assert toy.study(folder, "--only", "nano-off") == 2
        assert "a study runs here already" in capsys.readouterr().err
    with locks.study_lock(folder, shared=True):
        assert toy.study(folder) == 2
        assert toy.study(folder, "--only", "nano-off-seed0") == 0
    assert started(folder) == ["train-nano-off-seed0", "eval-nano-off-seed0"]


def test_a_cell_of_other_settings_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "study"
    assert toy.study(folder, "--only", "nano-off-seed0") == 0
    config = toy.toy_config()
    config["gin"] = ["data.window=9"]
    with pytest.MonkeyPatch.context() as patch:
        toy.use_stub(patch, config)
        assert toy.study(folder) == 2
    said = capsys.readouterr().err
    assert "train-nano-off-seed0 was begun with other settings" in said
    assert "+recipes/toy.gin ['data.window=9', 'model.width=8', 'recipe.seed=0']" in said
    assert len(started(folder)) == 2


def test_dry_run_prints_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "study"
    assert toy.study(folder, "--dry_run", "--only", "mini-on-seed1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert not (folder / "calls.txt").exists()
    assert [line.split()[:2] for line in lines] == [["seqgpt", "train"], ["seqgpt", "train"], ["seqgpt", "eval"]]
    assert lines[2].endswith(
        f"--mixture held_out --split test --limit 40 --seed 0 --out {folder}/evaluations/mini-on-seed1"
    )


def test_jobs_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(5)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,6")
    slots = runner.shares_of_machine(2)
    assert [slot.cpus for slot in slots] == [frozenset({0, 2, 4}), frozenset({1, 3})]
    assert [slot.gpus for slot in slots] == [("3", "6"), ("4",)]
    assert runner.shares_of_machine(1) == [runner.Slot()]
    with pytest.raises(runner.UserError, match="there are 3 GPUs"):
        runner.shares_of_machine(4)


def _wait(condition: object) -> None:
    until = time.monotonic() + 60
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until
        time.sleep(0.02)
