"""Whole Hugging Face directories: read as a model with its tokenizer, and written so that transformers loads them."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.hf.architectures import Architecture, architecture_of, read_config_fields
from seqgpt_jax.hf.card import ModelCard, imported_card, render_card
from seqgpt_jax.hf.fields import CONFIG, ConfigFields
from seqgpt_jax.hf.files import (
    DTYPES,
    MAX_SHARD_BYTES,
    TORCH_PATTERNS,
    WEIGHT_PATTERNS,
    StoredTensor,
    has_weights,
    open_weights,
    save_weights,
)
from seqgpt_jax.hf.tables import Entry, ParamPath, gather_tensor, param_shapes, scatter_tensors
from seqgpt_jax.models.architectures import abstract_model
from seqgpt_jax.models.decoder import Decoder, DecoderConfig, embedding_rows
from seqgpt_jax.models.lora import merged
from seqgpt_jax.vocabulary import Vocabulary
from seqgpt_jax.whole import whole_folder, write_json

EXPORT_DTYPES = ("float32", "bfloat16", "float16")

_ROW_PATHS: tuple[ParamPath, ...] = (("embedding",), ("output",))  # one row a token
_BESIDE_WEIGHTS = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "README.md",
)


# --- reading ---------------------------------------------------------------------------------------------------------


def load_model(source: str | os.PathLike[str], *, param_dtype: str = "float32") -> tuple[Decoder, Vocabulary]:
    """Model and tokenizer of a directory, or of a hub id ("bigscience/bloom-560m"), which is downloaded.

    Vocabulary rows beyond the tokenizer's are kept. Where the tokenizer has no [GEN], it gets the first of them, or
    rows are added, with the mean of the other tokens' rows.
    Raises UserError for what is not a model, an architecture or a config field that we cannot run, and tensors that
    are missing, unknown or of the wrong shape; the message names them.
    """
    directory = local_directory(source)
    config = read_config(directory, param_dtype=param_dtype)
    vocabulary = Vocabulary.from_pretrained(directory)
    if config.vocab_size < vocabulary.size - vocabulary.gen_is_new:
        raise UserError(
            f"{directory}: the tokenizer has {vocabulary.size} ids, the model {config.vocab_size} vocabulary rows "
            "(the tokenizer is another model's, or its [GEN] token was never given a row)"
        )
    model = read_model(directory, config, gen_id=vocabulary.gen_id if vocabulary.gen_is_new else None)
    return model, vocabulary


def read_config(source: str | os.PathLike[str], *, param_dtype: str = "float32") -> DecoderConfig:
    """The sizes in config.json. Raises UserError if there is none, or if it is not a model that we can run."""
    return read_config_fields(ConfigFields.of_directory(local_directory(source)), param_dtype)


def read_model(source: str | os.PathLike[str], config: DecoderConfig, *, gen_id: int | None = None) -> Decoder:
    """The model with the weights of a directory, cast to config.param_dtype; one copy of them is in memory.

    gen_id: the id of a [GEN] that these weights do not know. Its row, and what rows must be added to have one, get the
    mean of the rows before it.
    """
    directory, architecture = local_directory(source), architecture_of(config)
    stored_rows, num_rows = config.vocab_size, config.vocab_size
    if gen_id is not None and gen_id >= stored_rows:
        num_rows = embedding_rows(gen_id + 1)

    def give_gen_its_row(path: ParamPath, values: np.ndarray) -> None:
        if gen_id is not None and path in _ROW_PATHS:
            mean = values[:gen_id].mean(0, dtype=np.float64)
            values[gen_id], values[stored_rows:] = mean, mean

    table = architecture.table(config)
    graph, abstract = abstract_model(dataclasses.replace(config, vocab_size=num_rows))
    tensors = _named_in_full(open_weights(directory), architecture)
    _check_tensors(directory, table, config.num_layers, tensors)
    params = scatter_tensors(
        table, config.num_layers, param_shapes(abstract), config.param_dtype, tensors, give_gen_its_row
    )
    state = [(path, variable.replace(params[path])) for path, variable in nnx.to_flat_state(abstract)]
    return nnx.merge(graph, nnx.from_flat_state(state))


def local_directory(source: str | os.PathLike[str]) -> Path:
    """The directory itself, or where a hub id lies after its download. UserError where there is neither."""
    path, name = Path(source), os.fspath(source)
    if path.is_dir():
        return path
    if path.exists() or not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        problem = "it is a file" if path.exists() else "there is no such directory"
        raise UserError(f"{name} is not a model: {problem} (give a Hugging Face directory, or a hub id as org/name)")
    import huggingface_hub

    try:
        folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=[*_BESIDE_WEIGHTS, *WEIGHT_PATTERNS]))
        if not has_weights(folder, torch_too=False):
            patterns = [*_BESIDE_WEIGHTS, *TORCH_PATTERNS]
            folder = Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # one of a dozen classes of huggingface_hub and its HTTP client
        raise UserError(
            f"{name} is neither a directory nor a model that the hub gives: {type(error).__name__} (check the name "
            "and the network, or download it elsewhere and give its directory)"
        ) from error
    return folder


def _named_in_full(tensors: Mapping[str, StoredTensor], architecture: Architecture) -> dict[str, StoredTensor]:
    prefix = architecture.prefix
    return {
        name if name.startswith((prefix, "lm_head.")) else prefix + name: tensor
        for name, tensor in tensors.items()
        if not name.endswith(".rotary_emb.inv_freq")  # early Llama files hold this constant
    }


def _check_tensors(directory: Path, table: list[Entry], num_layers: int, tensors: Mapping[str, StoredTensor]) -> None:
    """All of them, before any is read."""
    wanted = {name: entry for entry in table for _, name in entry.names(num_layers)}
    missing = sorted(wanted.keys() - tensors.keys())
    extra = sorted(tensors.keys() - wanted.keys() - {"lm_head.weight"})  # the tied head, where a file repeats it
    for problem, names in (("lacks tensors", missing), (f"has tensors that {CONFIG} does not ask for", extra)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise UserError(f"{directory} {problem}: {shown} (weights and {CONFIG} are of different models)")
    for name, entry in wanted.items():
        tensor = tensors[name]
        if tensor.shape != entry.shape:
            raise UserError(
                f"{directory}: tensor {name} has shape {list(tensor.shape)}, {CONFIG} asks for {list(entry.shape)} "
                "(weights and config are of different models)"
            )
        if tensor.dtype not in DTYPES:
            raise UserError(
                f"{directory}: tensor {name} is of type {tensor.dtype}, only {', '.join(DTYPES)} can be read "
                "(give the weights as they were before quantisation)"
            )


# --- writing ---------------------------------------------------------------------------------------------------------


def export_model(
    model: Decoder,
    vocabulary: Vocabulary,
    out_dir: str | os.PathLike[str],
    *,
    model_card: ModelCard | None = None,
    dtype: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    more_files: Mapping[str, str] | None = None,
) -> Path:
    """Writes a directory that AutoModelForCausalLM and AutoTokenizer load, and returns it. A LoRA is merged.

    Weights beyond max_shard_bytes are split over files; the tensors of one are in memory at a time. more_files: name ->
    text of whatever else is to lie there. Everything is
    written beside out_dir and renamed at the end, so that a directory that exists is complete. An earlier export there
    is replaced; UserError if out_dir is anything else that is not empty, and for a dtype that cannot hold the weights.
    """
    out_dir, config = Path(out_dir), model.config
    check_replaceable(out_dir)
    if dtype not in EXPORT_DTYPES:
        raise UserError(f"weights cannot be written as {dtype!r} (choose {', '.join(EXPORT_DTYPES)})")
    if config.vocab_size < vocabulary.size:
        raise UserError(
            f"the model has {config.vocab_size} vocabulary rows, the tokenizer {vocabulary.size} ids "
            "(export a model with the tokenizer that it was trained with)"
        )
    params = merged(model)
    hf_config = {
        **architecture_of(config).write_config(config),
        "use_cache": True,
        **_token_ids(vocabulary),
        "dtype": dtype,
        "torch_dtype": dtype,  # the name that transformers had before version 5
    }
    card = render_card(model_card or ModelCard(), hf_config, params)
    with whole_folder(out_dir) as folder:
        tensors = {tensor.name: tensor for tensor in _hf_tensors(config, params)}
        num_bytes = {name: math.prod(tensor.entry.shape) * DTYPES[dtype].itemsize for name, tensor in tensors.items()}
        save_weights(folder, num_bytes, lambda name: tensors[name].gather(dtype), max_shard_bytes)
        write_json(folder / CONFIG, hf_config)
        write_json(folder / "generation_config.json", _generation_config(vocabulary))
        vocabulary.save(folder)
        (folder / "README.md").write_text(card, "utf-8")
        for name, text in (more_files or {}).items():
            (folder / name).write_text(text, "utf-8")
    return out_dir


def import_model(
    source: str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Reads a checkpoint, adds [GEN] where it is missing, and writes it as export_model does; returns out_dir.

    dtype: of the weights written; as they are stored if None. UserError as of load_model and export_model.
    """
    check_replaceable(Path(out_dir))
    directory = local_directory(source)
    if Path(out_dir).resolve() == directory.resolve():
        raise UserError(f"{out_dir} is the directory to read from (give another one to write to)")
    dtype = dtype or _stored_dtype(directory)
    model, vocabulary = load_model(directory, param_dtype=dtype)
    card = imported_card(os.fspath(source), directory, gen_is_new=vocabulary.gen_is_new)
    return export_model(model, vocabulary, out_dir, model_card=card, dtype=dtype, max_shard_bytes=max_shard_bytes)


def model_to_hf(model: Decoder, dtype: str = "float32") -> Iterator[tuple[str, np.ndarray]]:
    """(name, tensor) of each tensor of the transformers model. A head tied to the embedding is not repeated; a LoRA is
    merged."""
    return ((tensor.name, tensor.gather(dtype)) for tensor in _hf_tensors(model.config, merged(model)))


class _HfTensor(NamedTuple):
    name: str
    entry: Entry
    layer: int | None
    params: Mapping[ParamPath, jax.Array]

    def gather(self, dtype: str) -> np.ndarray:
        return gather_tensor(self.entry, self.layer, self.params, dtype)


def _hf_tensors(config: DecoderConfig, params: Mapping[ParamPath, jax.Array]) -> Iterator[_HfTensor]:
    for entry in architecture_of(config).table(config):
        for layer, name in entry.names(config.num_layers):
            yield _HfTensor(name, entry, layer, params)


def _stored_dtype(directory: Path) -> str:
    """The widest type among a checkpoint's tensors that an export can have."""
    stored = {tensor.dtype for tensor in open_weights(directory).values()}
    if stored <= {"float16"} or stored <= {"bfloat16"}:
        return stored.pop()
    return "float32"


def check_replaceable(out_dir: Path, file: str | None = None) -> None:
    """UserError unless out_dir is new, empty or an earlier export: it has `file`, or weights if None."""
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"{out_dir} is a file (give a directory to export to)")
    if not out_dir.is_dir() or not any(out_dir.iterdir()):
        return
    if not (has_weights(out_dir, torch_too=False) if file is None else (out_dir / file).is_file()):
        raise UserError(f"{out_dir} is not empty and holds no exported model (give a new or an empty directory)")


def _token_ids(vocabulary: Vocabulary) -> dict[str, int | None]:
    return {
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "pad_token_id": vocabulary.pad_id,
    }


def _generation_config(vocabulary: Vocabulary) -> dict[str, object]:
    return {"do_sample": False, "num_beams": 1, "max_new_tokens": 256, **_token_ids(vocabulary)}
