"""The architectures that can be read and written: one row each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seqgpt_jax.errors import UserError
from seqgpt_jax.hf.bloom import bloom_table, read_bloom_config, write_bloom_config
from seqgpt_jax.hf.fields import ConfigFields
from seqgpt_jax.hf.llama import llama_table, read_llama_config, write_llama_config
from seqgpt_jax.hf.tables import Entry
from seqgpt_jax.models.bloom import BloomConfig
from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.models.llama import LlamaConfig


@dataclass(frozen=True)
class Architecture:
    """How a class of ours lies in Hugging Face directories.

    prefix: what transformers puts before every name but the head's; files saved from the model without its head, as
    the released BLOOM's, leave it out.
    """

    config_class: type[DecoderConfig]
    prefix: str
    model_types: tuple[str, ...]  # of config.json
    read_config: Callable[[ConfigFields, str], DecoderConfig]
    write_config: Callable[[Any], dict[str, object]]
    table: Callable[[Any], list[Entry]]


ARCHITECTURES = (
    Architecture(BloomConfig, "transformer.", ("bloom",), read_bloom_config, write_bloom_config, bloom_table),
    Architecture(
        LlamaConfig, "model.", ("llama", "qwen2", "qwen3"), read_llama_config, write_llama_config, llama_table
    ),
)


def architecture_of(config: DecoderConfig) -> Architecture:
    return next(row for row in ARCHITECTURES if isinstance(config, row.config_class))


def read_config_fields(fields: ConfigFields, param_dtype: str) -> DecoderConfig:
    """Our configuration of what config.json describes. UserError for what we cannot run."""
    model_type = fields.get("model_type")
    fields.refuse("quantization_config", unless=None, why="give the weights as they were before quantisation")
    for row in ARCHITECTURES:
        if model_type in row.model_types:
            return row.read_config(fields, param_dtype)
    known = ", ".join(name for row in ARCHITECTURES for name in row.model_types)
    raise UserError(f"{fields.path}: model_type is {model_type!r}, which cannot be read (give one of {known})")
