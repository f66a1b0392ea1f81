"""Hugging Face directories <-> our models: config.json, weights, tokenizer, generation config, model card.

    load_model, import_model   any BLOOM, BLOOMZ or SeqGPT: a directory or a hub id, safetensors or pytorch_model.bin
    export_model               a directory that transformers loads
    export_adapter             a LoRA alone, which peft loads

Rooms: directories.py (whole directories), files.py (tensors in files), tables.py (which tensor goes where; one module
an architecture, listed in architectures.py), fields.py (config.json), card.py (README.md), adapter.py (LoRA).
Neither torch nor transformers is imported, but for torch where a .bin file is read.
"""

from seqgpt_jax.hf.adapter import export_adapter
from seqgpt_jax.hf.card import ModelCard
from seqgpt_jax.hf.directories import (
    export_model,
    import_model,
    load_model,
    local_directory,
    model_to_hf,
    read_config,
    read_model,
)
from seqgpt_jax.hf.fields import CONFIG
from seqgpt_jax.hf.files import MAX_SHARD_BYTES, TORCH_WEIGHTS, WEIGHTS, WEIGHTS_INDEX

__all__ = [
    "CONFIG",
    "MAX_SHARD_BYTES",
    "TORCH_WEIGHTS",
    "WEIGHTS",
    "WEIGHTS_INDEX",
    "ModelCard",
    "export_adapter",
    "export_model",
    "import_model",
    "load_model",
    "local_directory",
    "model_to_hf",
    "read_config",
    "read_model",
]
