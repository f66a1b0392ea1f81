"""Who started the processes: made-up environments of every launcher, and the flags."""

from __future__ import annotations

import importlib.util

import pytest

from seqgpt_jax.errors import UserError
from seqgpt_jax.training.launchers import Processes, find_processes, processes_of_flags

SLURM_STEP = {
    "SLURM_JOB_ID": "4097",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NODELIST": "gpu[007-010],login2",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
MPI_RANK = {
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
JOBSET_SLICE = {
    "TPU_WORKER_HOSTNAMES": "run-slice-1-0.run,run-slice-1-1.run",
    "TPU_WORKER_ID": "1",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "run-slice-0-0.run:8081",
}
POD_WORKER = {
    "agent-worker-number": "3",
    "worker-network-endpoints": "unknown:unknown:10.0.0.7,unknown:unknown:10.0.0.8,10.0.0.9,10.0.0.10",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\nZONE: 'z'",
}


def found(
    environment: dict[str, str], on_tpu: bool = False, metadata: dict[str, str] | None = None
) -> Processes | None:
    return find_processes(environment, on_tpu, (metadata or {}).get)


def test_flags() -> None:
    assert processes_of_flags(None, None, None) is None
    assert processes_of_flags("host:1234", 2, 1) == Processes("host:1234", 2, 1, "flags")
    assert str(processes_of_flags("[::1]:80", 4, 2)) == "4 processes, by flags; this is 2"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("host:1234", None, None), r"--num_processes, --process_id is missing \(give --coordinator, --num"),
        ((None, 2, 0), "--coordinator is missing"),
        (("host", 2, 0), r"--coordinator host is no HOST:PORT \(give the machine"),
        (("host:0", 2, 0), "is no HOST:PORT"),
        (("host:1234", 2, 2), "--process_id 2 of --num_processes 2"),
        (("host:1234", 0, 0), "--process_id 0 of --num_processes 0"),
        (("host:1234", 2, -1), "--process_id -1"),
    ],
)
def test_wrong_flags(flags: tuple[str | None, int | None, int | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        processes_of_flags(*flags)


def test_slurm() -> None:
    assert found(SLURM_STEP) == Processes("gpu007:61441", 4, 2, "SLURM")
    for nodes, first in (("a1", "a1"), ("a1,b2", "a1"), ("n-1-[3,5-7]", "n-1-3")):
        processes = found({**SLURM_STEP, "SLURM_STEP_NODELIST": nodes})
        assert processes is not None
        assert processes.coordinator == f"{first}:61441"


@pytest.mark.parametrize(
    ("changes", "devices"),
    [
        ({}, (1,)),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (1,)),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, (2, 3)),
        ({"CUDA_VISIBLE_DEVICES": "1"}, None),  # bound to its own
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7", "SLURM_GPUS_PER_TASK": "8"}, None),
    ],
)
def test_slurm_tasks_of_one_node_share_its_gpus(changes: dict[str, str], devices: tuple[int, ...] | None) -> None:
    processes = found({**SLURM_STEP, "SLURM_STEP_NUM_NODES": "1", "SLURM_LOCALID": "1", **changes})
    assert processes is not None
    assert processes.local_devices == devices


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {name: value for name, value in SLURM_STEP.items() if "STEP" not in name},  # a batch script without srun
        {**SLURM_STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # an interactive shell of four tasks
        {**MPI_RANK, "OMPI_COMM_WORLD_SIZE": "1"},
        {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},  # a pod of no indexed Job
    ],
)
def test_one_process_works_alone(environment: dict[str, str]) -> None:
    assert found(environment) is None


def test_open_mpi_also_inside_slurm() -> None:
    want = Processes("10.96.0.1:61441", 8, 5, "Open MPI", (1,))
    uri = MPI_RANK["OMPI_MCA_orte_hnp_uri"].replace("1531576320", str(2**12 * 4097))
    assert found({**MPI_RANK, "OMPI_MCA_orte_hnp_uri": uri}) == want
    assert found({**SLURM_STEP, **MPI_RANK, "OMPI_MCA_orte_hnp_uri": uri}) == want
    six = found({**MPI_RANK, "OMPI_MCA_orte_hnp_uri": "4096.0;tcp6://[fe80::b9b:3,2620:10d:3000:2]:43370"})
    assert six is not None
    assert six.coordinator == "[fe80::b9b:3]:61441"
    with pytest.raises(UserError, match=r"8 processes and does not say where the first is \(give --coordinator"):
        found({name: value for name, value in MPI_RANK.items() if "orte" not in name})


def test_gke_tpu() -> None:
    assert found(JOBSET_SLICE, on_tpu=True) == Processes("run-slice-0-0.run:8482", 4, 3, "GKE")
    one_slice = {name: value for name, value in JOBSET_SLICE.items() if "MEGASCALE" not in name}
    assert found(one_slice, on_tpu=True) == Processes("run-slice-1-0.run:8482", 2, 1, "GKE")
    assert found({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, on_tpu=True) is None
    assert found(JOBSET_SLICE) is None  # the variables without a TPU


def test_tpu_pod() -> None:
    assert found({}, on_tpu=True, metadata=POD_WORKER) == Processes("10.0.0.7:8482", 4, 3, "TPU metadata")
    slices = "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\nMEGASCALE_COORDINATOR_ADDRESS: '10.0.0.1:8080'"
    two = found({}, on_tpu=True, metadata={**POD_WORKER, "tpu-env": slices})
    assert two == Processes("10.0.0.1:8482", 8, 7, "TPU metadata")
    plain = {"agent-worker-number": "0", "worker-network-endpoints": "10.0.0.7"}
    assert found({}, on_tpu=True, metadata=plain) is None
    assert found({}, on_tpu=True) is None
    assert found({"TPU_SKIP_MDS_QUERY": "1"}, on_tpu=True, metadata=POD_WORKER) is None


def test_a_pod_of_an_indexed_job_is_told_how_to_join(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert found({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "2"}) is None
    assert "this is pod 2 of an indexed Job, and trains alone (for one run on all pods: give --co" in (
        capsys.readouterr().err
    )
