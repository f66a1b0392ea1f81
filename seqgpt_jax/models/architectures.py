"""The architectures by name. Everything but them, their presets and their Hugging Face tables speaks of `Decoder`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx

from seqgpt_jax.models.bloom import Bloom, BloomConfig
from seqgpt_jax.models.decoder import Decoder, DecoderConfig
from seqgpt_jax.models.llama import Llama, LlamaConfig


class Architecture(NamedTuple):
    config: type[DecoderConfig]
    model: Callable[..., Decoder]  # (config, *, rngs)


ARCHITECTURES: Mapping[str, Architecture] = {
    "bloom": Architecture(BloomConfig, Bloom),
    "llama": Architecture(LlamaConfig, Llama),
}


def architecture_of(config: DecoderConfig) -> str:
    """The name of the architecture that this configuration is of."""
    return next(name for name, architecture in ARCHITECTURES.items() if type(config) is architecture.config)


def make_model(config: DecoderConfig, *, rngs: nnx.Rngs) -> Decoder:
    """A model with random weights. Trace it (nnx.eval_shape) where only its shapes are wanted."""
    return ARCHITECTURES[architecture_of(config)].model(config, rngs=rngs)


def abstract_model(config: DecoderConfig) -> tuple[nnx.GraphDef[Decoder], nnx.State]:
    """What a model of these sizes is put together from: its graph, and its parameters as shapes. Nothing is made."""
    return nnx.split(nnx.eval_shape(lambda: make_model(config, rngs=nnx.Rngs(0))))


def config_to_dict(config: DecoderConfig) -> dict[str, Any]:
    """All fields and the architecture's name, as JSON has them."""
    return {"architecture": architecture_of(config), **dataclasses.asdict(config)}


def config_from_dict(fields: Mapping[str, Any]) -> DecoderConfig:
    """The inverse of config_to_dict. Files without an architecture are BLOOM's."""
    fields = dict(fields)
    return ARCHITECTURES[fields.pop("architecture", "bloom")].config(**fields)
