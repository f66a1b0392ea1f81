"""What config.json may say: released files of each family, their older names, and fields that we cannot run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax import hf
from seqgpt_jax.errors import UserError
from seqgpt_jax.hf.architectures import architecture_of
from seqgpt_jax.models.bloom import BloomConfig
from seqgpt_jax.models.llama import Llama3Rope, LlamaConfig

BLOOM = {"model_type": "bloom", "vocab_size": 250_880, "n_embed": 1024, "n_layer": 24, "num_attention_heads": 16}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131_072,
}
SCALING = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
QWEN2 = {**LLAMA, "model_type": "qwen2", "max_window_layers": 16}
QWEN3 = {**LLAMA, "model_type": "qwen3"}


def read(folder: Path, fields: dict[str, Any]) -> Any:
    (folder / hf.CONFIG).write_text(json.dumps(fields))
    return hf.read_config(folder)


def test_released_bloom(tmp_path: Path) -> None:
    expected = BloomConfig(vocab_size=250_880, num_layers=24, width=1024, num_heads=16)
    assert read(tmp_path, BLOOM) == expected


def test_llama_before_and_after_transformers_5(tmp_path: Path) -> None:
    old = read(tmp_path, {**LLAMA, "rope_theta": 500_000.0, "rope_scaling": SCALING, "tie_word_embeddings": True})
    assert old == LlamaConfig(
        vocab_size=128_256, num_layers=16, width=2048, num_heads=32, kv_heads=8, head_size=64, mlp_width=8192,
        rms_norm_epsilon=1e-5, rope_theta=500_000.0, rope_scaling=Llama3Rope(32.0, 1.0, 4.0, 8192), tied_head=True,
    )  # fmt: skip
    new = {**LLAMA, "rope_parameters": {**SCALING, "rope_theta": 500_000.0}, "tie_word_embeddings": True}
    assert read(tmp_path, new) == old
    older = {**LLAMA, "rope_scaling": {**SCALING, "type": SCALING["rope_type"], "rope_type": None}}
    assert read(tmp_path, older).rope_theta == 10_000.0


def test_the_families_differ_in_biases_and_norms(tmp_path: Path) -> None:
    def traits(fields: dict[str, Any]) -> tuple[bool, ...]:
        config = read(tmp_path, fields)
        return config.qkv_bias, config.out_bias, config.mlp_bias, config.qk_norm

    assert traits(LLAMA) == (False, False, False, False)
    assert traits({**LLAMA, "attention_bias": True, "mlp_bias": True}) == (True, True, True, False)
    assert traits(QWEN2) == (True, False, False, False)
    assert traits(QWEN3) == (False, False, False, True)
    assert traits({**QWEN3, "attention_bias": True}) == (True, True, False, True)
    assert read(tmp_path, QWEN3).head_dim == 128
    without_groups = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
    assert read(tmp_path, without_groups).num_kv_heads == 32


@pytest.mark.parametrize("fields", [BLOOM, LLAMA, {**LLAMA, "rope_scaling": SCALING}, QWEN2, QWEN3])
def test_what_is_written_reads_back(fields: dict[str, Any], tmp_path: Path) -> None:
    config = read(tmp_path, fields)
    written = architecture_of(config).write_config(config)
    assert written["model_type"] == fields["model_type"]
    assert read(tmp_path, written) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'.*give one of bloom, llama, qwen2, qwen3"),
        ({}, "model_type is None"),
        ({**BLOOM, "tie_word_embeddings": False}, "tie_word_embeddings false is not supported"),
        ({**BLOOM, "quantization_config": {"bits": 4}}, "quantization_config .* is not supported"),
        ({**BLOOM, "n_layer": "24"}, "n_layer is '24', not a size"),
        ({**BLOOM, "n_embed": None}, "does not give 'hidden_size'"),
        ({**BLOOM, "layer_norm_epsilon": -1}, "layer_norm_epsilon is -1, not a number above 0"),
        ({**BLOOM, "num_attention_heads": 15}, "width 1024 is no multiple of num_heads 15"),
        ({**LLAMA, "hidden_act": "gelu"}, 'hidden_act "gelu" is not supported'),
        ({**LLAMA, "num_key_value_heads": 5}, "num_heads 32 is no multiple of kv_heads 5"),
        ({**LLAMA, "attention_bias": "yes"}, "attention_bias is 'yes', not true or false"),
        ({**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}}, r"rope_scaling.rope_type 'linear' is not"),
        ({**LLAMA, "rope_parameters": {"rope_type": "yarn"}}, r"rope_parameters.rope_type 'yarn' is not supported"),
        ({**LLAMA, "rope_scaling": {"rope_type": "llama3"}}, r"rope_scaling.original_max_position_embeddings"),
        ({**LLAMA, "rope_scaling": {**SCALING, "factor": None}}, r"does not give 'rope_scaling.factor'"),
        ({**LLAMA, "rope_scaling": 2}, "rope_scaling is 2, not an object"),
        ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor is not supported"),
        ({**QWEN2, "use_sliding_window": True, "max_window_layers": 8}, "use_sliding_window with a window of 4096"),
        ({**QWEN3, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 16}, "use_sliding_window with"),
    ],
)
def test_fields_that_we_cannot_run(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        read(tmp_path, fields)


def test_sliding_windows_that_do_no_harm(tmp_path: Path) -> None:
    plain = read(tmp_path, QWEN2)
    assert read(tmp_path, {**QWEN2, "use_sliding_window": True}) == plain  # from layer 16 of 16 on
    beyond = {"use_sliding_window": True, "sliding_window": 131_072, "max_window_layers": 4}
    assert read(tmp_path, {**QWEN2, **beyond}) == plain


@pytest.mark.parametrize("change", [{"mlp_bias": True}, {"out_bias": True}])
def test_a_model_that_transformers_lacks_is_not_exported(change: dict[str, Any], tmp_path: Path) -> None:
    config = dataclasses.replace(read(tmp_path, QWEN3), **change)
    with pytest.raises(UserError, match=r"no class of transformers has .* and qk_norm=True together"):
        architecture_of(config).write_config(config)
