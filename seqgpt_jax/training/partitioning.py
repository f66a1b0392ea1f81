"""Where every array lies: the mesh (data, fsdp, tensor), one table from logical axis names to it, and shardings.

A model names the axes of its parameters (models/layers.py) and knows nothing of devices. Parameters are handled here
and in the whole training package as a pure nested dict of arrays; a `ModelSkeleton` turns one back into a module.
"""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.lora import is_lora

Params = dict[str, Any]
"""Nested dict of arrays, shaped like the module: params["blocks"]["up"]["kernel"]."""

MESH_AXES = ("data", "fsdp", "tensor")

RULES: Mapping[str, str | None] = {
    "vocab": "tensor",
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "head_dim": None,
    "kv": None,
    "gate": None,
    "lora": None,
    "norm": None,
    "layers": None,
}

LARGE_PARAMETER = 2**18  # elements a layer from which a parameter must be split over all fsdp and tensor axes above 1


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: list[Any] | None = None) -> Mesh:
    """A mesh over all devices; one axis may be -1, which takes what the others leave.

    Raises UserError when the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    known = int(np.prod([size for size in sizes if size != -1]))
    wrong = sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes)
    if not wrong and -1 in sizes:
        wrong = len(devices) % known != 0
        sizes[sizes.index(-1)] = len(devices) // known
    if wrong or int(np.prod(sizes)) != len(devices):
        raise UserError(
            f"mesh data={data} fsdp={fsdp} tensor={tensor} does not fit {len(devices)} devices "
            "(the three must multiply to that number; one of them may be -1)"
        )
    return Mesh(np.asarray(devices).reshape(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 3)


@dataclass(frozen=True)
class ModelSkeleton:
    """A model without its numbers: what it takes to rebuild the module, to place it, and to sort its parameters."""

    graph: Any  # nnx.GraphDef
    shapes: Params  # jax.ShapeDtypeStruct
    axes: Params  # tuple of logical names
    is_trained: Params  # bool: the LoRAs alone where there are any, else everything, but for what is frozen
    frozen_layers: tuple[int, ...] = ()  # blocks that stay as they are, though their parameters are trained

    def merge(self, params: Params) -> Any:
        """The module around these parameters; call it inside the jitted function."""
        return nnx.merge(self.graph, params)

    def trained(self, tree: Any) -> Any:
        """What is trained, of a tree shaped like the parameters."""
        return _chosen(tree, self.is_trained, True) or {}

    def frozen(self, tree: Any) -> Any:
        """The rest; empty where everything is trained."""
        return _chosen(tree, self.is_trained, False) or {}

    def freezing(self, patterns: Sequence[str], layers: Sequence[int] = ()) -> ModelSkeleton:
        """The same model with less to train: no parameter whose path fits a pattern, and no block of these numbers.

        Patterns are those of a shell, where * stands for any part of a path: "embedding", "blocks/*", "*/bias".
        Raises UserError for one that fits no parameter, and where nothing is left to train.
        """
        names = [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(self.shapes)]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                known = sorted({*names, *(f"{name.split('/')[0]}/*" for name in names if "/" in name)})
                close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3) or known[:3]
                raise UserError(f"stage.frozen: '{pattern}' is no parameter (did you mean {', '.join(close)}?)")

        def goes_on(path: Any, trained: bool) -> bool:
            return trained and not any(fnmatch.fnmatchcase(path_name(path), pattern) for pattern in patterns)

        is_trained = jax.tree_util.tree_map_with_path(goes_on, self.is_trained)
        if not any(jax.tree.leaves(is_trained)):
            raise UserError(f"stage.frozen {list(patterns)} leaves nothing to train (freeze less)")
        return dataclasses.replace(self, is_trained=is_trained, frozen_layers=tuple(layers))

    def without_frozen_layers(self, tree: Params) -> Params:
        """Gradients or updates of what is trained, with zeros for the frozen layers (blocks are stacked)."""
        if not self.frozen_layers:
            return tree

        def zeroed(axes: tuple[str, ...], leaf: jax.Array) -> jax.Array:
            if "layers" not in axes:
                return leaf
            stack = axes.index("layers")
            is_frozen = np.isin(np.arange(leaf.shape[stack]), self.frozen_layers)
            return jnp.where(np.expand_dims(is_frozen, [axis for axis in range(leaf.ndim) if axis != stack]), 0, leaf)

        return jax.tree.map(zeroed, self.trained(self.axes), tree, is_leaf=lambda axes: isinstance(axes, tuple))

    @property
    def num_layers(self) -> int:
        return jax.tree.leaves(self.shapes["blocks"])[0].shape[0]

    def num_parameters(self) -> int:
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.shapes))


def _chosen(tree: Any, choice: Any, wanted: bool) -> Any:
    """The leaves of a tree that `choice`, shaped like it, has at `wanted`; None where there are none."""
    if not isinstance(choice, dict):
        return tree if choice == wanted else None
    parts = {key: _chosen(tree[key], child, wanted) for key, child in choice.items()}
    return {key: part for key, part in parts.items() if part is not None} or None


def path_name(path: Any) -> str:
    """blocks/up/kernel"""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def join_params(*parts: Params | None) -> Params:
    """One nested dict of several that have no leaf in common."""
    joined: Params = {}
    for part in parts:
        for key, child in (part or {}).items():
            joined[key] = join_params(joined.get(key), child) if isinstance(child, dict) else child
    return joined


def missing_from(given: Params, params: Params) -> Params:
    """The part of a nested dict that another has no leaf for."""
    missing: Params = {}
    for key, child in params.items():
        if key not in given:
            missing[key] = child
        elif isinstance(child, dict) and (part := missing_from(given[key], child)):
            missing[key] = part
    return missing


def make_skeleton(make_model: Callable[[], nnx.Module]) -> ModelSkeleton:
    """The skeleton of a model, which is only traced: nothing is allocated."""
    graph, variables, rest = nnx.split(nnx.eval_shape(make_model), nnx.Param, ...)  # type: ignore[misc]
    assert not jax.tree.leaves(rest), "a model's state must be parameters alone"
    axes = nnx.to_pure_dict(variables, extract_fn=lambda variable: variable.get_metadata("out_sharding"))
    shapes = nnx.to_pure_dict(variables)
    is_added = jax.tree_util.tree_map_with_path(lambda path, _: is_lora((path[-1].key,)), shapes)
    has_lora = any(jax.tree.leaves(is_added))
    return ModelSkeleton(graph, shapes, axes, is_added if has_lora else jax.tree.map(lambda _: True, shapes))


def params_of(model: nnx.Module) -> Params:
    """The parameters of a module as a pure dict (the same arrays, not copies)."""
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def partition_spec(axes: tuple[str, ...], shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Mesh axes of a parameter by RULES. A dimension that the mesh axis does not divide stays whole.

    ("layers", "embed", "mlp") of shape (4, 192, 768) on fsdp=2, tensor=4 -> (None, "fsdp", "tensor").
    """
    assert len(axes) == len(shape), (axes, shape)
    spec: list[str | None] = []
    for name, size in zip(axes, shape, strict=True):
        mesh_axis = RULES[name]
        usable = mesh_axis is not None and mesh_axis not in spec and size % mesh.shape[mesh_axis] == 0
        spec.append(mesh_axis if usable else None)
    return PartitionSpec(*spec)


def param_shardings(skeleton: ModelSkeleton, mesh: Mesh, large: int = LARGE_PARAMETER) -> Params:
    """A NamedSharding for each parameter.

    Raises UserError when a parameter of `large` elements a layer would lie whole on every device of an fsdp or
    tensor axis above 1: memory that the mesh was meant to save.
    """

    def sharding(path: Any, shape: jax.ShapeDtypeStruct, axes: tuple[str, ...]) -> NamedSharding:
        spec = partition_spec(axes, shape.shape, mesh)
        whole = [axis for axis in ("fsdp", "tensor") if mesh.shape[axis] > 1 and axis not in spec]
        sizes = dict(zip(axes, shape.shape, strict=True))
        if whole and math.prod(size for axis, size in sizes.items() if axis != "layers") >= large:
            raise UserError(
                f"parameter {path_name(path)} {sizes} would stay whole over "
                f"mesh axis {whole[0]}={mesh.shape[whole[0]]}, which does not divide it (change mesh.{whole[0]})"
            )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(sharding, skeleton.shapes, skeleton.axes)


def abstract_params(skeleton: ModelSkeleton, mesh: Mesh) -> Params:
    """Shapes, dtypes and shardings of the parameters, to restore a checkpoint into."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        skeleton.shapes,
        param_shardings(skeleton, mesh),
    )


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows are split over data and fsdp together; it stands for every array of a Batch."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def row_share(mesh: Mesh) -> tuple[int, int]:
    """Which share of a step's rows this process feeds, counted from 0, and how many shares there are.

    Processes that lie along the tensor axis alone feed the same rows. UserError where rows are shared in part.
    """
    owners = [{device.process_index for device in row} for row in mesh.devices.reshape(-1, mesh.shape["tensor"])]
    parts = {
        process: tuple(part for part, own in enumerate(owners) if process in own) for process in set().union(*owners)
    }
    shares = sorted(set(parts.values()))
    if sum(map(len, shares)) != len(owners) or len(set(map(len, shares))) > 1:
        raise UserError(
            f"mesh.tensor={mesh.shape['tensor']} does not fit {len(mesh.local_devices)} devices a process "
            "(one must divide by the other)"
        )
    return shares.index(parts[jax.process_index()]), len(shares)


def place(tree: Any, shardings: Any) -> Any:
    """The arrays as their shardings say. What lies on this host alone must be the same on every host."""

    def put(leaf: Any, sharding: NamedSharding) -> Any:
        if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
            return jax.device_put(leaf, sharding)
        on_host = np.asarray(leaf)
        return jax.make_array_from_callback(on_host.shape, sharding, on_host.__getitem__)

    return jax.tree.map(put, tree, shardings)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def devices_for_rows(num_rows: int, fsdp: int, tensor: int, num_microbatches: int = 1) -> list[Any]:
    """The devices for a mesh whose data axis is -1: all, or as many of one host as the rows of a step divide by.

    Twelve rows on eight devices use six, with a warning; on several hosts no device can be left out, so all are given.
    """
    devices = jax.devices()
    if jax.process_count() > 1 or min(fsdp, tensor) < 1:
        return devices
    most = len(devices) // (fsdp * tensor)
    data = max((n for n in range(1, most + 1) if num_rows % (n * fsdp * num_microbatches) == 0), default=most)
    if data < most and len(devices) % (fsdp * tensor) == 0:
        warnings.warn(
            f"{num_rows} rows a step use {data * fsdp * tensor} of {len(devices)} devices; "
            f"all would be used if data.rows_per_step divided by {most * fsdp * num_microbatches}",
            stacklevel=2,
        )
        return devices[: data * fsdp * tensor]
    return devices


def check_rows(num_rows: int, mesh: Mesh, num_microbatches: int = 1) -> None:
    """Raises UserError unless the rows of a step divide by data * fsdp, in each microbatch."""
    parts = mesh.shape["data"] * mesh.shape["fsdp"] * num_microbatches
    if num_rows % parts:
        raise UserError(
            f"{num_rows} rows a step do not divide by {parts}, which is mesh data x fsdp x microbatches "
            "(change data.rows_per_step or the mesh)"
        )


def like_params(tree: Any, params: Params, values: Params, default: Any) -> Any:
    """For a tree that holds copies of the parameter dict (an optimiser state): each leaf's value of its parameter.

    A leaf belongs to the parameter whose path its own path ends with, if the shapes agree too; all others, such as
    step counts, get `default`.
    """

    def names(path: Any) -> tuple[str, ...]:
        return tuple(str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey))

    shapes = {names(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    flat_values = {
        names(path): value
        for path, value in jax.tree_util.tree_leaves_with_path(values, is_leaf=lambda leaf: isinstance(leaf, tuple))
    }

    def value(path: Any, leaf: Any) -> Any:
        full = names(path)  # an optimiser of parts has their names in front: muon/blocks/up/kernel
        own = next((full[i:] for i in range(len(full)) if shapes.get(full[i:]) == leaf.shape), None)
        return default if own is None else flat_values[own]

    return jax.tree_util.tree_map_with_path(value, tree)
