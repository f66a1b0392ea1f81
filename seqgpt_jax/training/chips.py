"""Chips that a plan can be made for: their peak rates, and topologies by name, such as v5e:16x16, v5p:4x4x4 or cpu:8.

The rates are those that Google states a chip (docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e): bfloat16 FLOP/s, HBM
bytes/s, and interconnect bytes/s. The interconnect is given there in Gbit/s one way, all links together (v4 2,400, v5e
1,600, v5p 4,800), or in GB/s both ways (v5e 400, v5p 1,200, v6e 800); here it is bytes/s one way. HBM is what libtpu
0.0.42 leaves to a program of the chip's 32, 16, 95 and 32 GiB.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

from seqgpt_jax.errors import UserError

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """A kind of TPU chip and its peak rates."""

    flops: float  # bfloat16 a second
    hbm_bytes: int  # for a program
    hbm_bandwidth: float  # bytes a second
    ici_bandwidth: float  # bytes a second that it can receive over all its links
    dimensions: int  # of its torus
    largest_slice: int  # chips


CHIPS: dict[str, Chip] = {
    "v4": Chip(275e12, int(30.75 * GIB), 1228e9, 300e9, 3, 4096),
    "v5e": Chip(197e12, int(15.75 * GIB), 819e9, 200e9, 2, 256),
    "v5p": Chip(459e12, int(95.74 * GIB), 2765e9, 600e9, 3, 8960),
    "v6e": Chip(918e12, int(31.25 * GIB), 1638e9, 400e9, 2, 256),
}


# Dense bfloat16 FLOP/s of a device by the start of its device_kind; the first that fits. GPUs: NVIDIA's data sheets.
PEAK_FLOPS: dict[str, float] = {
    "NVIDIA H200": 989.4e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA A100": 312e12,
    "TPU v4": CHIPS["v4"].flops,
    "TPU v5 lite": CHIPS["v5e"].flops,
    "TPU v5e": CHIPS["v5e"].flops,
    "TPU v5": CHIPS["v5p"].flops,
    "TPU v6": CHIPS["v6e"].flops,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak bfloat16 FLOP/s of a device that is there, or None where the table does not have its kind."""
    return next((flops for kind, flops in PEAK_FLOPS.items() if device_kind.startswith(kind)), None)


@dataclass(frozen=True)
class Topology:
    """So many devices of one kind. chip is None for the CPU, whose rates nobody states."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def num_devices(self) -> int:
        return math.prod(self.shape)

    @property
    def chip(self) -> Chip | None:
        return CHIPS.get(self.kind)


def parse_topology(name: str) -> Topology:
    """The topology of a name. Raises UserError for one that is not known, or that the kind of chip cannot have."""
    example = "such as v5e:16x16, v5p:4x4x4 or cpu:8"
    match = re.fullmatch(r"(\w+):([1-9]\d*(?:x[1-9]\d*)*)", name)
    if match is None:
        raise UserError(f"topology '{name}' is not KIND:SHAPE ({example})")
    topology = Topology(name, match[1], tuple(int(size) for size in match[2].split("x")))
    dimensions = 1 if topology.kind == "cpu" else topology.chip.dimensions if topology.chip else 0
    if not dimensions:
        raise UserError(f"topology '{name}': chip '{topology.kind}' is unknown (choose {', '.join(CHIPS)} or cpu)")
    if len(topology.shape) != dimensions:
        wanted = "x".join("ABC"[:dimensions])
        raise UserError(f"topology '{name}': {topology.kind} takes {topology.kind}:{wanted} ({example})")
    if topology.chip and topology.num_devices > topology.chip.largest_slice:
        raise UserError(
            f"topology '{name}' has {topology.num_devices:,} chips "
            f"(a slice of {topology.kind} has at most {topology.chip.largest_slice:,})"
        )
    return topology


def topology_devices(topology: Topology) -> list[Any]:
    """One jax device a chip, to compile for; they need not exist.

    It makes jax use the CPU alone, so call it before jax has made an array. Raises UserError where libtpu is missing
    or refuses the shape, or jax runs already with too few CPU devices.
    """
    import jax

    if topology.kind == "cpu":
        try:
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", topology.num_devices)
        except RuntimeError:  # jax runs: it may have enough all the same
            pass
        devices = jax.devices("cpu")
        if len(devices) < topology.num_devices:
            raise UserError(f"jax runs already with {len(devices)} CPU devices (plan {topology.name} in a new process)")
        return devices[: topology.num_devices]
    return _tpu_devices(topology)


def _tpu_devices(topology: Topology) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("a plan for a TPU needs libtpu, which is not installed (pip install 'seqgpt_jax[tpu-plan]')")
    # libtpu would ask the metadata server of Google Cloud which machine this is, and warn that it got no answer.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_WORKER_ID", "0")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no device is opened, so two plans at once are fine
    import jax
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    options: dict[str, Any] = {}
    if topology.kind == "v4":
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, as jax runs them
    if topology.num_devices == 1:
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        return list(topologies.get_topology_desc(topology.name, "tpu", **options).devices)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"libtpu knows no topology '{topology.name}': {reason}") from None
