"""`seqgpt doctor`: is this machine ready to train? Each finding says how to mend it."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

# t5 asks for the nightly builds of packages that we ask for as releases; both write the same files.
TWINS = (("seqio", "seqio-nightly"), ("tensorflow-datasets", "tfds-nightly"))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `remedy` is empty where nothing is to be done."""

    status: Literal["ok", "warning", "error"]
    subject: str
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.status:<8}{self.subject}: {self.detail}"
        return f"{line}\n        -> {self.remedy}" if self.remedy else line


def examine() -> Iterator[Finding]:
    """Yields a finding for each check, in the order in which one would mend them."""
    for check in (check_python, check_requirements, check_twins, check_devices, check_step, check_disk, check_data):
        yield from check()


def check_python() -> Iterator[Finding]:
    version = platform.python_version()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        yield Finding("ok", "python", version)
    else:
        yield Finding(
            "error", "python", f"{version} is not supported", "install Python 3.11 or 3.12 and run make again"
        )


def check_requirements(distribution: str = "seqgpt_jax") -> Iterator[Finding]:
    """Compares every installed requirement of `distribution` with the bounds that it declares."""
    try:
        lines = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("error", distribution, "is not installed", "pip install -e . in the source folder")
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        install = f"pip install '{requirement.name}{requirement.specifier}'"
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("error", requirement.name, "is not installed", install)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            yield Finding("ok", requirement.name, version)
        else:
            yield Finding("error", requirement.name, f"{version} is outside {requirement.specifier}", install)


def check_twins(
    twins: tuple[tuple[str, str], ...] = TWINS,
    find: Callable[[str], importlib.metadata.Distribution] = importlib.metadata.distribution,
) -> Iterator[Finding]:
    """Finds releases whose files on disk were written over by their nightly twin (by the hashes in RECORD)."""
    for name, twin in twins:
        try:
            release = find(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # check_requirements has said so
        changed = [str(file) for file in release.files or [] if file.suffix == ".py" and not _has_recorded_hash(file)]
        if changed:
            yield Finding(
                "error",
                name,
                f"{len(changed)} files are not those of release {release.version} (such as {changed[0]}); "
                f"{twin} has written over them",
                f"pip install --force-reinstall --no-deps {name}=={release.version}",
            )
        else:
            yield Finding("ok", f"{name} files", f"those of release {release.version}, not of {twin}")


def _has_recorded_hash(file: importlib.metadata.PackagePath) -> bool:
    if file.hash is None:
        return True
    path = Path(str(file.locate()))
    if not path.is_file():
        return False
    digest = hashlib.new(file.hash.mode, path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == file.hash.value


def check_devices() -> Iterator[Finding]:
    import jax

    devices = jax.devices()
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    yield Finding("ok", "devices", f"{len(devices)} x {kinds} ({jax.default_backend()})")
    if jax.default_backend() == "cpu":
        if shutil.which("nvidia-smi"):
            yield Finding("warning", "GPU", "is there, but jax runs on the CPU", "pip install 'jax[cuda13]'")
        if os.environ.get("TPU_NAME") or Path("/dev/accel0").exists():
            yield Finding("warning", "TPU", "is there, but jax runs on the CPU", "pip install 'jax[tpu]'")


def check_step() -> Iterator[Finding]:
    """Runs one jitted gradient step of a tiny model, and shows that it lowers the loss."""
    import jax
    import numpy as np
    from flax import nnx

    from seqgpt_jax.data.loader import Batch
    from seqgpt_jax.models.bloom import Bloom, BloomConfig
    from seqgpt_jax.models.loss import answer_loss

    tokens_BT = np.arange(32, dtype=np.int32).reshape(2, 16)
    places_BT = np.broadcast_to(np.arange(16, dtype=np.int32), (2, 16))
    batch = Batch(
        tokens_BT, places_BT, np.ones_like(tokens_BT), places_BT[:, :-1], tokens_BT[:, 1:], np.ones((2, 15), bool)
    )
    graph, params = nnx.split(Bloom(BloomConfig(vocab_size=64, num_layers=2, width=16, num_heads=2), rngs=nnx.Rngs(0)))

    def loss_of(params: nnx.State) -> jax.Array:
        sums = answer_loss(nnx.merge(graph, params), batch)
        return sums.loss_sum / sums.num_targets

    @jax.jit
    def step(params: nnx.State) -> tuple[jax.Array, jax.Array]:
        loss, gradient = jax.value_and_grad(loss_of)(params)
        stepped = jax.tree.map(lambda value, slope: value - 0.1 * slope, params, gradient)
        return loss, loss_of(stepped)

    before, after = map(float, step(params))
    if after < before:
        yield Finding("ok", "training step", f"loss of a tiny model went from {before:.3f} to {after:.3f}")
    else:
        yield Finding(
            "error",
            "training step",
            f"loss of a tiny model went from {before:.3f} to {after:.3f}",
            "reinstall jax, jaxlib and flax in the versions above",
        )


def check_disk(needed_gib: float = 2.0) -> Iterator[Finding]:
    """Checks that the current folder can be written, and has room for a run."""
    free_gib = shutil.disk_usage(".").free / 2**30
    try:
        with tempfile.NamedTemporaryFile(dir="."):
            pass
    except OSError as error:
        yield Finding("error", "disk", f"{Path.cwd()} cannot be written ({error.strerror})", "run from another folder")
        return
    if free_gib < needed_gib:
        yield Finding(
            "warning", "disk", f"{free_gib:.1f} GiB free", f"free {needed_gib:g} GiB for checkpoints and caches"
        )
    else:
        yield Finding("ok", "disk", f"{free_gib:.0f} GiB free in {Path.cwd()}")


def check_data() -> Iterator[Finding]:
    folder = os.environ.get("SEQGPT_DATA_DIR")
    if not folder:
        yield Finding("ok", "data", "SEQGPT_DATA_DIR is not set; the embedded data needs nothing")
    elif Path(folder, "partitions.json").is_file():
        yield Finding("ok", "data", f"SEQGPT_DATA_DIR={folder}")
    else:
        yield Finding(
            "warning",
            "data",
            f"SEQGPT_DATA_DIR={folder} has no partitions.json",
            "point it at a folder of records; held_in and held_out are read from its partitions.json",
        )
