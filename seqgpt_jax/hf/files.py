"""Tensors in the files of a Hugging Face directory: safetensors and pytorch_model.bin, one file or shards with index.

Reading streams: a file is opened for its table of contents, and rows of a tensor are read when they are asked for, so
that one tensor at most is in memory beside what the caller keeps. Writing makes the tensors of one shard at a time.
torch is imported only where a .bin file is read.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from seqgpt_jax.errors import UserError
from seqgpt_jax.whole import write_json

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_WEIGHTS, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHT_PATTERNS, TORCH_PATTERNS = ("model*.safetensors", WEIGHTS_INDEX), ("pytorch_model*.bin", TORCH_INDEX)
MAX_SHARD_BYTES = 5 * 10**9  # as the hub has it

DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float32", "bfloat16", "float16", "float64")}
_SAFETENSORS_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}


class StoredTensor(NamedTuple):
    """A tensor that still lies in its file. rows(start, stop) reads that part of its first dimension."""

    shape: tuple[int, ...]
    dtype: str  # a name of DTYPES, or the file's own name for another type
    rows: Callable[[int, int], np.ndarray]

    def read(self) -> np.ndarray:
        return self.rows(0, self.shape[0])


# --- reading ---------------------------------------------------------------------------------------------------------


def open_weights(directory: Path) -> dict[str, StoredTensor]:
    """All tensors of a directory by the names that its files give them; safetensors where there are both kinds.

    Raises UserError for a directory without weights, an index that names an absent file, a file that is cut off, and
    where torch is needed but absent.
    """
    tensors: dict[str, StoredTensor] = {}
    for path in _weight_files(directory):
        tensors |= _open_torch(path) if path.suffix == ".bin" else _open_safetensors(path)
    return tensors


def has_weights(directory: Path, *, torch_too: bool = True) -> bool:
    """Whether there are files to read, by their names alone."""
    names = (WEIGHTS, WEIGHTS_INDEX, *((TORCH_WEIGHTS, TORCH_INDEX) if torch_too else ()))
    return any((directory / name).is_file() for name in names)


def _weight_files(directory: Path) -> list[Path]:
    for single, index in ((WEIGHTS, WEIGHTS_INDEX), (TORCH_WEIGHTS, TORCH_INDEX)):
        if (directory / single).is_file():
            return [directory / single]
        if (directory / index).is_file():
            return _indexed_files(directory / index)
    raise UserError(
        f"{directory} is not a model: it has no {WEIGHTS} and no {TORCH_WEIGHTS} (give an exported Hugging Face "
        "directory)"
    )


def _indexed_files(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} has no weight_map (copy or export it again)") from error
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise UserError(f"{index.parent} lacks {', '.join(missing)}, which {index.name} names (copy it again)")
    return [index.parent / name for name in names]


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """The library checks the file; the rows are read here, as its own slices of an unmapped file read whole tensors,
    and the pages of a mapped one would count as ours: a second copy of the weights."""
    try:
        with safe_open(path, framework="numpy"):
            pass
        with path.open("rb") as file:
            num_header_bytes = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(num_header_bytes))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a whole safetensors file: {error} (copy or export it again)") from error

    def stored(shape: tuple[int, ...], code: str, begin: int) -> StoredTensor:
        dtype = _SAFETENSORS_DTYPES.get(code, code)

        def rows(start: int, stop: int) -> np.ndarray:
            row_size = math.prod(shape[1:])
            offset = 8 + num_header_bytes + begin + start * row_size * DTYPES[dtype].itemsize
            values = np.fromfile(path, DTYPES[dtype], (stop - start) * row_size, offset=offset)
            return values.reshape(stop - start, *shape[1:])

        return StoredTensor(shape, dtype, rows)

    return {
        name: stored(tuple(fields["shape"]), fields["dtype"], fields["data_offsets"][0])
        for name, fields in header.items()
        if name != "__metadata__"
    }


def _open_torch(path: Path) -> dict[str, StoredTensor]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{path} is a PyTorch file and torch is not installed (pip install torch, or give safetensors)"
        ) from error
    try:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        tensors = {name: tensor for name, tensor in found.items() if isinstance(tensor, torch.Tensor)}
    except Exception as error:  # pickle, zip and torch each have their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is not a whole PyTorch weights file: {reason} (copy or save it again)") from error

    def stored(tensor: Any) -> StoredTensor:
        dtype = str(tensor.dtype).removeprefix("torch.")

        def rows(start: int, stop: int) -> np.ndarray:
            part = tensor[start:stop].contiguous()
            return part.view(torch.int16).numpy().view(DTYPES[dtype]) if dtype == "bfloat16" else part.numpy()

        return StoredTensor(tuple(tensor.shape), dtype, rows)

    return {name: stored(tensor) for name, tensor in tensors.items()}


# --- writing ---------------------------------------------------------------------------------------------------------


def save_weights(
    folder: Path, num_bytes: Mapping[str, int], make: Callable[[str], np.ndarray], max_shard_bytes: int
) -> None:
    """Writes the tensors that num_bytes names as safetensors: one file, or shards of at most max_shard_bytes each and
    their index. make(name) gives a tensor when its shard is due. A tensor beyond the limit has a shard of its own."""
    from huggingface_hub import split_state_dict_into_shards_factory

    split = split_state_dict_into_shards_factory(
        dict(num_bytes),
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    for file, names in split.filename_to_tensors.items():
        save_safetensors({name: make(name) for name in names}, folder / file)
    if split.is_sharded:
        write_json(folder / WEIGHTS_INDEX, {"metadata": split.metadata, "weight_map": split.tensor_to_filename})


def save_safetensors(tensors: dict[str, np.ndarray], path: Path) -> None:
    """One file, which others may read: the library would keep it to its owner."""
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)
