"""Every parameter of a model: where it lies, and whether it is trained; model_info.txt says it of a run's stage."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from seqgpt_jax.recipe import Stage
from seqgpt_jax.tables import text_table
from seqgpt_jax.training.partitioning import ModelSkeleton, Params, path_name
from seqgpt_jax.whole import write_text

MODEL_INFO_FILE = "model_info.txt"


@dataclass(frozen=True)
class Parameter:
    """Where one parameter lies, and how many of its entries are trained.

    axes are logical names; spec names the mesh axis of each, None where it stays whole.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    axes: tuple[str, ...]
    spec: tuple[str | None, ...]
    bytes_per_device: int
    size: int
    trained: int


def parameters_of(skeleton: ModelSkeleton, shardings: Params) -> tuple[Parameter, ...]:
    """All parameters by path, placed as `shardings` says."""
    leaves = jax.tree_util.tree_leaves_with_path(skeleton.shapes)
    axes = jax.tree.leaves(skeleton.axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    columns = (leaves, axes, jax.tree.leaves(shardings), jax.tree.leaves(skeleton.is_trained))
    frozen_layers = len(skeleton.frozen_layers) / skeleton.num_layers

    def parameter(path: Any, leaf: Any, names: tuple[str, ...], place: Any, trained: bool) -> Parameter:
        size = math.prod(leaf.shape)
        share = 0.0 if not trained else 1.0 - frozen_layers if "layers" in names else 1.0
        return Parameter(
            path_name(path), leaf.shape, str(np.dtype(leaf.dtype)), names, tuple(place.spec), shard_bytes(leaf, place),
            size, round(size * share),
        )  # fmt: skip

    return tuple(
        parameter(path, leaf, names, place, trained)
        for (path, leaf), names, place, trained in zip(*columns, strict=True)
    )


def shard_bytes(leaf: Any, sharding: Any) -> int:
    """Bytes of an array on one device."""
    return int(np.prod(sharding.shard_shape(leaf.shape), dtype=np.int64)) * np.dtype(leaf.dtype).itemsize


def write_model_info(
    run_dir: Path, stage: Stage, skeleton: ModelSkeleton, shardings: Params, mesh: Mesh, steps: Mapping[int, Any]
) -> None:
    """Writes model_info.txt for the stage that begins. steps: row tokens -> the compiled step."""
    parameters, frozen = parameters_of(skeleton, shardings), skeleton.frozen_layers
    trained, total = sum(each.trained for each in parameters), sum(each.size for each in parameters)
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    lines = [
        f"stage {stage.name}",
        f"{total:,} parameters, {trained:,} of them trained",
        *([f"blocks that stay as they are: {', '.join(map(str, frozen))} of {skeleton.num_layers}"] if frozen else []),
        f"mesh {axes}: {mesh.size} devices of kind {mesh.devices.flat[0].device_kind}",
        "optimiser: " + _settings(stage.optimizer),
        *(line for row_tokens, step in steps.items() for line in _memory_lines(row_tokens, step)),
        "",
        *parameter_table(parameters),
    ]
    write_text(run_dir / MODEL_INFO_FILE, "\n".join(lines) + "\n")


def parameter_table(parameters: tuple[Parameter, ...]) -> list[str]:
    """A line a parameter, and one for all."""
    rows = [["parameter", "shape", "dtype", "axes", "spec", "trained", "bytes a device"]]
    for one in parameters:
        spec = ", ".join(axis or "-" for axis in one.spec)
        cells = [one.name, "x".join(map(str, one.shape)), one.dtype, f"({', '.join(one.axes)})", f"({spec})"]
        rows.append([*cells, f"{one.trained / one.size:.0%}", f"{one.bytes_per_device:,}"])
    rows.append(["all", "", "", "", "", "", f"{sum(one.bytes_per_device for one in parameters):,}"])
    return text_table(rows, num_left=5)


def _settings(settings: Any) -> str:
    return ", ".join(f"{field.name} {getattr(settings, field.name)}" for field in dataclasses.fields(settings))


def _memory_lines(row_tokens: int, step: Any) -> list[str]:
    stats = step.memory_analysis()
    if stats is None:
        return []
    mib = {
        "arguments": stats.argument_size_in_bytes,
        "outputs in new places": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
    }
    sizes = ", ".join(f"{name} {size / 2**20:,.1f} MiB" for name, size in mib.items())
    return [f"memory of a device, step of {row_tokens}-token rows: {sizes}"]
