"""A study on a cluster: an array of SLURM jobs (submitit), or one indexed Job of Kubernetes; a cell and seed is a task.

Each task is `seqgpt study FILE --out DIR --only CELL` on a file system that all share. What several cells start from is
trained by the first of them, while the others wait for its lock; `--only` with its name trains it before.
"""

from __future__ import annotations

import difflib
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from seqgpt_jax.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from seqgpt_jax.studies.grid import Study
from seqgpt_jax.studies.jobs import cell_seed

_MISSING = "not installed (pip install 'seqgpt_jax[launch]')"


def parse_settings(given: Sequence[str]) -> dict[str, str]:
    """["image=a/b"] -> {"image": "a/b"}; UserError for what has no =."""
    settings = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name:
            raise UserError(f"--launch {each}: not a setting (write KEY=VALUE)")
        settings[name] = value
    return settings


def all_cells(study: Study) -> list[str]:
    return [cell_seed(cell, seed) for seed in study.seeds for cell in study.cells]


def cell_command(file: str, out: Path, cell: str) -> list[str]:
    return ["seqgpt", "study", file, "--out", str(out), "--only", cell]


# --- SLURM -----------------------------------------------------------------------------------------------------------


class CellTask:
    """What submitit runs on a node. A task that SLURM preempts or times out saves, ends, and is queued again."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> None:
        """Runs the command with this Python. CalledProcessError where it fails."""
        command = [sys.executable, "-m", "seqgpt_jax.cli", *self.command[1:]]
        # SLURM may send all processes of a step the signal by which submitit saves: ours is to get SIGTERM instead.
        handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        self._process = subprocess.Popen(command, start_new_session=True)
        signal.signal(signal.SIGUSR2, handler)
        code = self._process.wait()
        if code:
            raise subprocess.CalledProcessError(code, self.command)

    def checkpoint(self) -> Any:
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        return DelayedSubmission(CellTask(self.command))


def submit_slurm(
    commands: Sequence[Sequence[str]], folder: Path, num_at_once: int, settings: Mapping[str, str],
    cluster: str = "slurm",
) -> list[str]:  # fmt: skip
    """Submits an array of which num_at_once tasks run at a time; returns the jobs' ids. cluster: one of submitit's.

    settings: parameters of submitit.AutoExecutor, whole numbers as such. UserError for one that it does not know, and
    where there is no submitit or no SLURM.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(f"submitit is {_MISSING}") from None
    parameters = {name: int(value) if value.isdecimal() else value for name, value in settings.items()}
    parameters.setdefault("name", re.sub(r"\W", "_", folder.parent.name) or "study")
    if cluster == "slurm":
        parameters.setdefault("slurm_array_parallelism", num_at_once)
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**parameters)
    except (AssertionError, NameError, TypeError, ValueError) as error:
        raise UserError(f"--launch: {str(error).splitlines()[0]} (see submitit's AutoExecutor)") from None
    except RuntimeError as error:
        raise UserError(f"--launcher slurm: {error} (run it where sbatch is)") from None
    with executor.batch():
        tasks = [executor.submit(CellTask(command)) for command in commands]
    return [task.job_id for task in tasks]


# --- Kubernetes ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KubernetesSettings:
    """What --launch sets of a Kubernetes Job."""

    image: str  # with seqgpt_jax in it, such as registry/seqgpt_jax:gpu
    claim: str  # PersistentVolumeClaim (ReadWriteMany) with the data and the study's folder
    mount: str = "/shared"  # where the claim lies; commands run in it
    gpus: str = "1"  # of NVIDIA, a pod; 0: none
    cpu: str = "8"
    memory: str = "64Gi"
    data_dir: str = "/shared/data"  # SEQGPT_DATA_DIR


def kubernetes_job(name: str, commands: Sequence[Sequence[str]], num_at_once: int, settings: Mapping[str, str]) -> str:
    """The YAML of an indexed Job, one index a command. A pod that saved and ended (75) is started again without being
    counted as failed; one that the user must mend (2) is not. UserError for settings that are missing or unknown.
    """
    try:
        import yaml
    except ImportError:
        raise UserError(f"PyYAML is {_MISSING}") from None
    return yaml.safe_dump(_job(name, commands, num_at_once, _kubernetes_settings(settings)), sort_keys=False)


def _kubernetes_settings(given: Mapping[str, str]) -> KubernetesSettings:
    known = [field.name for field in fields(KubernetesSettings)]
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1) or known
            raise UserError(f"--launch {name}: no such setting of Kubernetes (there is {', '.join(close)})")
    for name in ("image", "claim"):
        if not given.get(name):
            raise UserError(f"--launcher kubernetes needs {name} (add --launch {name}=...)")
    return KubernetesSettings(**given)


def _job(
    name: str, commands: Sequence[Sequence[str]], num_at_once: int, settings: KubernetesSettings
) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:50] or "study"
    resources = {"cpu": settings.cpu, "memory": settings.memory}
    if settings.gpus != "0":
        resources["nvidia.com/gpu"] = settings.gpus
    lines = "\n".join(f"  {index}) exec {shlex.join(command)} ;;" for index, command in enumerate(commands))
    container = {
        "name": "cell",
        "image": settings.image,
        "command": ["/bin/sh", "-c"],
        "args": [f'case "$JOB_COMPLETION_INDEX" in\n{lines}\nesac\n'],
        "workingDir": settings.mount,
        "env": [{"name": "SEQGPT_DATA_DIR", "value": settings.data_dir}],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "volumeMounts": [{"name": "shared", "mountPath": settings.mount}],
    }
    rules = [
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [EXIT_INTERRUPTED]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
        {"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [EXIT_USER_ERROR]}},
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"seqgpt-{name}", "labels": {"app": "seqgpt-study"}},
        "spec": {
            "completionMode": "Indexed",
            "completions": len(commands),
            "parallelism": num_at_once,
            "backoffLimitPerIndex": 1,
            "maxFailedIndexes": len(commands),
            "podFailurePolicy": {"rules": rules},
            "template": {
                "metadata": {"labels": {"app": "seqgpt-study"}},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 300,  # to save in
                    "containers": [container],
                    "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": settings.claim}}],
                },
            },
        },
    }
