"""Studies on clusters: what is handed to SLURM and to Kubernetes, checked without either."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import submitit
import yaml

from seqgpt_jax.errors import UserError
from seqgpt_jax.studies import clusters
from tests.studies import toy

COMMANDS = [["seqgpt", "study", "f.py:cpu", "--out", "/shared/my runs", "--only", f"cell-seed{n}"] for n in (0, 1)]
SETTINGS = {"image": "registry/seqgpt_jax:gpu", "claim": "work"}


def test_kubernetes_job_is_one_index_a_cell() -> None:
    job = yaml.safe_load(clusters.kubernetes_job("My study_1", COMMANDS, 4, {**SETTINGS, "gpus": "2"}))
    assert (job["apiVersion"], job["kind"], job["metadata"]["name"]) == ("batch/v1", "Job", "seqgpt-my-study-1")
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 4)
    assert spec["backoffLimitPerIndex"] == 1 and "backoffLimit" not in spec
    rules = spec["podFailurePolicy"]["rules"]
    assert all(len({"onExitCodes", "onPodConditions"} & rule.keys()) == 1 for rule in rules)
    actions = {code: rule["action"] for rule in rules for code in rule.get("onExitCodes", {}).get("values", [])}
    assert actions == {75: "Ignore", 2: "FailIndex"}
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"  # what a podFailurePolicy needs
    (container,) = pod["containers"]
    assert container["image"] == SETTINGS["image"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert all(isinstance(value, str) for value in container["resources"]["requests"].values())
    assert container["volumeMounts"][0]["name"] == pod["volumes"][0]["name"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "work"


def test_each_pod_runs_its_own_cell() -> None:
    """The script as a shell runs it, with seqgpt replaced by echo."""
    job = yaml.safe_load(clusters.kubernetes_job("s", COMMANDS, 1, SETTINGS))
    (script,) = job["spec"]["template"]["spec"]["containers"][0]["args"]
    for index, command in enumerate(COMMANDS):
        said = subprocess.run(
            ["/bin/sh", "-c", script.replace("exec seqgpt", "exec printf '%s\\n'")],
            env={"JOB_COMPLETION_INDEX": str(index), "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert said.stdout.splitlines() == command[1:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": "a"}, "needs claim"),
        ({**SETTINGS, "imag": "a"}, "--launch imag: no such setting of Kubernetes \\(there is image\\)"),
    ],
)
def test_settings_of_kubernetes(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        clusters.kubernetes_job("s", COMMANDS, 1, settings)


def test_the_command_prints_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.use_stub(monkeypatch, toy.toy_config())
    options = ["--launcher", "kubernetes", "--jobs", "3", "--launch", "image=a/b", "--launch", "claim=work"]
    assert toy.study(tmp_path / "toy", *options) == 0
    job = yaml.safe_load(capsys.readouterr().out)
    assert job["spec"]["completions"] == 8  # four cells of two seeds
    assert toy.study(tmp_path / "toy", "--launcher", "kubernetes", "--launch", "image") == 2
    assert "write KEY=VALUE" in capsys.readouterr().err


def test_slurm_tasks_run_their_commands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        clusters.CellTask(["seqgpt", "study", "report", str(tmp_path)])()
    assert failed.value.returncode == 2
    assert "no study (give the --out of seqgpt study)" in capfd.readouterr().err


def test_the_batch_file_of_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What submitit hands to sbatch, which only keeps it here: one array with a limit, and our own settings."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in (("sbatch", f'cp "$1" {tmp_path}/batch.sh; echo Submitted batch job 77'), ("srun", "exit 1")):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    given = {"timeout_min": "600", "gpus_per_node": "1", "slurm_partition": "gpu"}
    assert clusters.submit_slurm(COMMANDS, tmp_path / "toy" / "slurm", 1, given) == ["77_0", "77_1"]
    lines = (tmp_path / "batch.sh").read_text().splitlines()
    for setting in ("array=0-1%1", "gpus-per-node=1", "partition=gpu", "time=600", "job-name=toy"):
        assert f"#SBATCH --{setting}" in lines
    tasks = [submitit.core.utils.DelayedSubmission.load(file) for file in (tmp_path / "toy/slurm").glob("77_*.pkl")]
    assert sorted(task.function.command for task in tasks) == COMMANDS


def test_a_preempted_task_saves_and_is_queued_again(tmp_path: Path) -> None:
    task = clusters.CellTask(["seqgpt", "study"])
    task._process = subprocess.Popen(["sleep", "60"])
    again = task.checkpoint()
    assert task._process.poll() == -15
    assert again.function.command == ["seqgpt", "study"]


@pytest.mark.parametrize(
    ("settings", "message"), [({"gpu_per_node": "1"}, "gpu_per_node"), ({"timeout_min": "x"}, "timeout_min")]
)
def test_settings_of_slurm(tmp_path: Path, settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        clusters.submit_slurm(COMMANDS, tmp_path, 1, settings, cluster="debug")


def test_no_slurm_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run it where sbatch is"):
        clusters.submit_slurm(COMMANDS, tmp_path, 1, {})
