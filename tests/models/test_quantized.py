"""Weights of bfloat16 and int8: error bounds by hand, logits and answers close to float32, memory, meshes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (NumPy then knows bfloat16)
import numpy as np
import pytest
from flax import nnx

from seqgpt_jax.decoding.generate import generate
from seqgpt_jax.errors import UserError
from seqgpt_jax.hf import model_to_hf
from seqgpt_jax.models import layers
from seqgpt_jax.models.decoder import Decoder, DecoderConfig
from seqgpt_jax.models.layers import Table
from seqgpt_jax.models.llama import LlamaConfig
from seqgpt_jax.models.quantized import store_weights
from tests.models.tiny import TINY, random_model, whole_rows

LLAMA = LlamaConfig(vocab_size=96, num_layers=2, width=32, num_heads=4, kv_heads=2, mlp_width=64, qkv_bias=True)
SCANNED = dataclasses.replace(TINY, layer_loop="scan")


def _logits(model: Decoder) -> np.ndarray:
    batch = whole_rows(np.random.default_rng(0).integers(0, 96, (3, 30)))

    @nnx.jit
    def run(model: Decoder, *batch: Any) -> jax.Array:
        return model.head(model(*batch)[0])

    return np.asarray(run(model, *batch))


def _num_bytes(model: Decoder) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))


def test_int8_of_a_kernel_and_of_a_table_by_hand() -> None:
    model = random_model(SCANNED)
    kernel_LDCNH = np.asarray(model.blocks.key_value.kernel[...])
    kernel_LNHD, table_VD = np.asarray(model.blocks.out.kernel[...]), np.asarray(model.embedding[...])
    store_weights(model, "int8")
    for stored, scale, original, contracted in (
        (model.blocks.key_value.kernel, model.blocks.key_value.kernel_scale, kernel_LDCNH, (1,)),
        (model.blocks.out.kernel, model.blocks.out.kernel_scale, kernel_LNHD, (1, 2)),
        (model.embedding, model.embedding_scale, table_VD, (1,)),
    ):
        steps = np.abs(original).max(contracted, keepdims=True) / 127
        assert stored[...].dtype == jnp.int8
        np.testing.assert_allclose(np.expand_dims(scale[...], contracted), steps, rtol=1e-6)
        error = np.abs(np.asarray(stored[...], np.float32) * steps - original)
        assert (error <= steps * 0.5001).all()
        assert error.max() > steps.min() / 4  # something was rounded
        assert np.abs(stored[...]).max(contracted).min() == 127  # every channel uses the whole range
    assert {v[...].dtype for p, v in nnx.to_flat_state(nnx.state(model)) if "norm" in str(p) or p[-1] == "bias"} == {
        jnp.dtype("float32")
    }


def test_a_channel_of_zeros_stays_zero() -> None:
    model = random_model(SCANNED)
    model.embedding[...] = model.embedding[...].at[7].set(0.0)
    store_weights(model, "int8")
    np.testing.assert_array_equal(model.head_rows(jnp.asarray([7])), np.zeros((1, TINY.width)))


_OUTPUT_AXES = {"query": 2, "key_value": 3, "out": 1, "up": 1, "gate_up": 2, "down": 1}  # how many a kernel ends with


def _rounded(model: Decoder, weights: str) -> Decoder:
    """The float32 model whose matrices are what `weights` can hold, made with NumPy."""
    values = []
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        value = np.asarray(variable[...])
        if path[-1] in ("kernel", "embedding", "output"):
            first, num_out = (1, _OUTPUT_AXES[path[-2]]) if path[-1] == "kernel" else (1, 0)
            step = np.abs(value).max(tuple(range(first, value.ndim - num_out)), keepdims=True) / np.float32(127)
            value = np.round(value / step) * step if weights == "int8" else value.astype("bfloat16").astype("float32")
        values.append((path, variable.replace(jnp.asarray(value))))
    nnx.update(model, nnx.from_flat_state(values))
    return model


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
@pytest.mark.parametrize("config", [SCANNED, pytest.param(LLAMA, marks=pytest.mark.slow)], ids=["bloom", "llama"])
def test_logits_are_those_of_the_rounded_weights_and_near_the_original(config: DecoderConfig, weights: Any) -> None:
    found = _logits(store_weights(random_model(config), weights))
    np.testing.assert_allclose(found, _logits(_rounded(random_model(config), weights)), rtol=1e-3, atol=1e-3)
    original = _logits(random_model(config))
    error = np.sqrt(np.square(found - original).mean()) / original.std()
    assert 0 < error < {"bfloat16": 0.03, "int8": 0.06}[weights], error


@pytest.mark.parametrize(("weights", "share"), [("bfloat16", 1 / 2), ("int8", 1 / 4)])
def test_the_parameters_take_that_share_of_memory(weights: Any, share: float) -> None:
    config = dataclasses.replace(TINY, width=128, vocab_size=512)
    model = random_model(config)
    whole = _num_bytes(model)
    assert (
        share < _num_bytes(store_weights(model, weights)) / whole < share + 0.02
    )  # norms, biases and scales are beside


def test_rows_and_tables_agree() -> None:
    model = store_weights(random_model(LLAMA), "int8")
    ids_BC = jnp.asarray([[3, 95], [0, 7]])
    np.testing.assert_allclose(model.head_rows(ids_BC), model.head_table()[ids_BC], rtol=1e-6)
    hidden_BD = jnp.asarray(np.random.default_rng(0).standard_normal((2, LLAMA.width)), jnp.float32)
    np.testing.assert_allclose(model.head(hidden_BD), hidden_BD @ model.head_table().T, rtol=1e-4, atol=1e-4)


def test_a_large_table_is_unpacked_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = Table(jnp.asarray(rng.integers(-127, 128, (384, 16)), jnp.int8), jnp.asarray(rng.random(384), jnp.float32))
    hidden_BTD = jnp.asarray(rng.standard_normal((2, 3, 16)), jnp.float32)
    monkeypatch.setattr(layers, "_piece", lambda num_words, width: 96)
    np.testing.assert_allclose(table.logits(hidden_BTD), hidden_BTD @ table.whole().T, rtol=1e-4, atol=1e-4)


def test_pieces_fit_the_vocabularies_of_the_presets() -> None:
    assert layers._piece(250_880, 1024) == 1280
    assert layers._piece(16_384, 256) == 16_384  # small enough to be unpacked at once
    assert layers._piece(250_883, 1024) == 250_883  # a prime has no pieces


def test_what_cannot_be_done_is_refused() -> None:
    model = store_weights(random_model(SCANNED), "int8")
    with pytest.raises(UserError, match="the weights are int8 already"):
        store_weights(model, "int8")
    with pytest.raises(UserError, match="weights of int8 are for inference alone"):
        list(model_to_hf(model))
    with pytest.raises(UserError, match="weights is 'int4'"):
        store_weights(model, "int4")  # type: ignore[arg-type]


def test_int8_generates() -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(4, 96, length).tolist() for length in (3, 17, 30)]
    found = generate(store_weights(random_model(SCANNED), "int8"), prompts, max_new_tokens=8, eos_id=2)
    assert found == generate(_rounded(random_model(SCANNED), "int8"), prompts, max_new_tokens=8, eos_id=2)
