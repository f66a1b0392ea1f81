"""Weights of less memory for inference: matrices as bfloat16, or as int8 with a scale for each output channel.

int8 is symmetric: a channel of a kernel (a row of the embedding, or of the head's table) is stored as
round(w / scale) with scale = max|w| / 127, so no weight moves by more than scale / 2. A product is made with the
integers and scaled afterwards. Norms and biases stay as they are.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.models.layers import Linear, param

Weights = Literal["float32", "bfloat16", "int8"]


def store_weights(model: Decoder, weights: Weights) -> Decoder:
    """The model itself, its matrices now stored so, where they lie; the old ones go as the new ones are made.

    "float32" leaves a model as it is. With "bfloat16" activations and products are bfloat16 too, but on a CPU, which
    would not gain by it. UserError for another name, and for a model that is stored so already.
    """
    if weights not in get_args(Weights):
        raise UserError(f"weights is {weights!r} (choose {', '.join(get_args(Weights))})")
    if weights == "float32":
        return model
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Linear):
            first = int("layers" in module.kernel.get_metadata("out_sharding"))  # stacking adds it in front
            _store(module, "kernel", tuple(range(first, first + module.num_in)), weights)
    for name in {"embedding", model.head_name()}:
        _store(model, name, (1,), weights)
    if weights == "bfloat16" and jax.default_backend() != "cpu":
        model.config = dataclasses.replace(model.config, compute_dtype="bfloat16")
    return model


def _store(module: nnx.Module, name: str, contracted: tuple[int, ...], weights: Weights) -> None:
    variable = getattr(module, name)
    if variable[...].dtype == jnp.int8:
        raise UserError("the weights are int8 already (load the model again)")
    axes = variable.get_metadata("out_sharding")
    if weights == "bfloat16":
        setattr(module, name, param(variable[...].astype(jnp.bfloat16), axes))
        return
    values, scale = _int8(variable[...], contracted)
    setattr(module, name, param(values, axes))
    setattr(module, f"{name}_scale", param(scale, [a for i, a in enumerate(axes) if i not in contracted]))


@functools.partial(jax.jit, static_argnames="contracted")
def _int8(values: jax.Array, contracted: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    values = values.astype(jnp.float32)
    scale = jnp.abs(values).max(contracted, keepdims=True) / 127
    scale = jnp.where(scale == 0, 1, scale)
    return jnp.round(values / scale).astype(jnp.int8), scale.squeeze(contracted)
