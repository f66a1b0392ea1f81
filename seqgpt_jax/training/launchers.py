"""Who started this process, and whether it is one of several: by flags, Open MPI, SLURM, GKE, TPU metadata, Kubernetes.

Every rule reads the environment and nothing else (a TPU virtual machine its metadata server too), and answers only
where there is more than one process. So a single machine, an interactive SLURM allocation and a plain TPU virtual
machine work alone. The rules are tried in the order above: mpirun inside a SLURM job starts the processes, not SLURM.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from seqgpt_jax.errors import UserError

_PORTS = range(61_440, 65_536)  # of coordinators whose port nobody names; one by job number, as jax does
_TPU_PORT = 8482


@dataclass(frozen=True)
class Processes:
    """The processes of a run. coordinator: HOST:PORT where process 0 listens; local_devices: None for all of a host."""

    coordinator: str
    count: int
    index: int
    found_by: str
    local_devices: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{self.count} processes, by {self.found_by}; this is {self.index}"


def processes_of_flags(coordinator: str | None, count: int | None, index: int | None) -> Processes | None:
    """What the flags of `seqgpt train` say; None without any. UserError for some but not all, or values amiss."""
    given = {"--coordinator": coordinator, "--num_processes": count, "--process_id": index}
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        raise UserError(f"{', '.join(missing)} is missing (give {', '.join(given)} together, or none of them)")
    assert coordinator is not None and count is not None and index is not None
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise UserError(f"--coordinator {coordinator} is no HOST:PORT (give the machine of process 0 and a free port)")
    if count < 1 or not 0 <= index < count:
        raise UserError(f"--process_id {index} of --num_processes {count} (it counts from 0 to num_processes - 1)")
    return Processes(coordinator, count, index, "flags")


def find_processes(
    environment: Mapping[str, str], on_tpu: bool, metadata: Callable[[str], str | None] | None = None
) -> Processes | None:
    """What the environment says, or None for one process. UserError where it says several, but not where process 0 is.

    on_tpu: whether this is a TPU virtual machine. metadata: instance attribute -> its text, None where it is missing.
    """
    rules = [_open_mpi, _slurm]
    if on_tpu:
        rules += [_gke_tpu, lambda env: _tpu_pod(env, metadata or instance_attribute)]
    rules.append(_kubernetes)
    return next((found for rule in rules if (found := rule(environment)) is not None and found.count > 1), None)


def _open_mpi(env: Mapping[str, str]) -> Processes | None:
    count = int(env.get("OMPI_COMM_WORLD_SIZE", 1))
    if count == 1:
        return None
    uri = env.get("OMPI_MCA_orte_hnp_uri", "")  # 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911
    launcher = re.match(r"(\d+)\..*?(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))", uri)
    if launcher is None:
        raise UserError(
            f"Open MPI started {count} processes and does not say where the first is (give --coordinator HOST:PORT "
            "--num_processes $OMPI_COMM_WORLD_SIZE --process_id $OMPI_COMM_WORLD_RANK)"
        )
    port = _PORTS[int(launcher[1]) // 2**12 % len(_PORTS)]  # job numbers of Open MPI are multiples of 2**12
    devices = _own_devices(env, int(env["OMPI_COMM_WORLD_LOCAL_SIZE"]), int(env["OMPI_COMM_WORLD_LOCAL_RANK"]))
    host = launcher[2] or f"[{launcher[3]}]"
    return Processes(f"{host}:{port}", count, int(env["OMPI_COMM_WORLD_RANK"]), "Open MPI", devices)


def _slurm(env: Mapping[str, str]) -> Processes | None:
    # The number of the step's tasks: SLURM_NTASKS is that of the whole job in a batch script or an interactive shell.
    count = int(env.get("SLURM_STEP_NUM_TASKS", 1))
    if count == 1:
        return None
    first_node = re.match(r"([^\[,]+)(?:\[([^\-,\]]+))?", env["SLURM_STEP_NODELIST"])  # node[001-004,007],host2
    assert first_node is not None, env["SLURM_STEP_NODELIST"]
    port = _PORTS[int(env["SLURM_JOB_ID"]) % len(_PORTS)]
    nodes = int(env.get("SLURM_STEP_NUM_NODES", 1))
    devices = _own_devices(env, -(-count // nodes), int(env["SLURM_LOCALID"]))
    return Processes(f"{first_node[1]}{first_node[2] or ''}:{port}", count, int(env["SLURM_PROCID"]), "SLURM", devices)


def _own_devices(env: Mapping[str, str], per_host: int, local_index: int) -> tuple[int, ...] | None:
    """An equal share of a host's GPUs where several processes are on it, unless the launcher has dealt them out."""
    if per_host == 1 or "SLURM_GPUS_PER_TASK" in env:
        return None
    visible = env.get("CUDA_VISIBLE_DEVICES")
    if not visible:
        return (local_index,)
    share = len(visible.split(",")) // per_host
    return tuple(range(local_index * share, (local_index + 1) * share)) or None


def _gke_tpu(env: Mapping[str, str]) -> Processes | None:
    """The variables that the TPU webhook of GKE sets in the pods of a Job or JobSet."""
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
    return _tpu_slices(hosts, int(env.get("TPU_WORKER_ID", 0)), env, "GKE") if hosts else None


def _tpu_pod(env: Mapping[str, str], metadata: Callable[[str], str | None]) -> Processes | None:
    """The metadata of a TPU virtual machine, which is one worker of a slice."""
    if "TPU_SKIP_MDS_QUERY" in env or env.get("TPU_WORKER_HOSTNAMES"):
        return None
    worker, hosts = metadata("agent-worker-number"), metadata("worker-network-endpoints")
    if worker is None or hosts is None:
        return None
    lines = (line.partition(":") for line in (metadata("tpu-env") or "").splitlines())  # MEGASCALE_NUM_SLICES: '2'
    slices = {name.strip(): value.strip().strip("'") for name, _, value in lines}
    addresses = ",".join(host.split(":")[-1] for host in hosts.split(","))  # an address, or name:number:address
    return _tpu_slices(addresses, int(worker), {**slices, **env}, "TPU metadata")


def _tpu_slices(hosts: str, worker: int, env: Mapping[str, str], found_by: str) -> Processes:
    workers = [host.split(":")[0] for host in hosts.split(",")]
    num_slices, own_slice = (int(env.get(f"MEGASCALE_{name}") or n) for name, n in (("NUM_SLICES", 1), ("SLICE_ID", 0)))
    first = (env.get("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]).split(":")[0]
    index = own_slice * len(workers) + worker
    return Processes(f"{first}:{_TPU_PORT}", num_slices * len(workers), index, found_by)


def instance_attribute(key: str) -> str | None:
    """A metadata attribute of this Google Cloud virtual machine; None where there is none."""
    url = f"http://metadata.google.internal/computeMetadata/v1/instance/attributes/{key}"
    try:
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, TimeoutError):
        return None


def _kubernetes(env: Mapping[str, str]) -> Processes | None:
    """An indexed Job or JobSet without TPUs, by the Kubernetes API, which jax asks."""
    if "KUBERNETES_SERVICE_HOST" not in env or "JOB_COMPLETION_INDEX" not in env:
        return None
    if importlib.util.find_spec("kubernetes") is None:
        print(
            f"warning: this is pod {env['JOB_COMPLETION_INDEX']} of an indexed Job, and trains alone (for one run on "
            "all pods: give --coordinator, --num_processes and --process_id, or pip install kubernetes)",
            file=sys.stderr,
        )
        return None
    from jax._src.clusters import K8sCluster

    if not K8sCluster.is_env_present() or (count := K8sCluster.get_process_count()) == 1:
        return None
    coordinator = K8sCluster.get_coordinator_address(60, None)
    return Processes(coordinator, count, K8sCluster.get_process_id(), "Kubernetes")
