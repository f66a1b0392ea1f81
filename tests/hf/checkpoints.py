"""Checkpoints as transformers writes them, random and tiny, for the tests of hf."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from seqgpt_jax.hf import CONFIG
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer

TEXTS = ["输入: Ada Lovelace lived in London.", "抽取: person，city", "输出: 北京 上海 分类: positive，negative"] * 3

_ROWS = {"vocab_size": 320, "eos_token_id": 2, "pad_token_id": 3, "bos_token_id": 1}
_LLAMA = {**_ROWS, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 6}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

# One of each kind that is read: name -> configuration.
CASES = {
    "bloom": transformers.BloomConfig(**_ROWS, hidden_size=32, n_layer=3, n_head=4),
    "bloom_six_heads": transformers.BloomConfig(**_ROWS, hidden_size=48, n_layer=2, n_head=6),
    "bloom_one_head": transformers.BloomConfig(
        **_ROWS, hidden_size=24, n_layer=1, n_head=1, layer_norm_epsilon=1e-3
    ),
    "llama": transformers.LlamaConfig(**_LLAMA, num_key_value_heads=2),
    "llama_biased": transformers.LlamaConfig(
        **_LLAMA, num_key_value_heads=6, head_dim=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=True,
        rope_parameters=_LLAMA3_ROPE, rms_norm_eps=1e-4,
    ),
    "qwen2": transformers.Qwen2Config(
        **_LLAMA, num_key_value_heads=3, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    ),
    "qwen3": transformers.Qwen3Config(**_LLAMA, num_key_value_heads=2, head_dim=16),
}  # fmt: skip


def random_twin(name: str, *, vocab_size: int | None = None, seed: int = 0) -> transformers.PreTrainedModel:
    """A transformers model of a case whose every parameter is random, biases and scales too."""
    config = CASES[name].__class__.from_dict({**CASES[name].to_dict(), "dtype": "float32"})
    config.vocab_size = vocab_size or config.vocab_size
    twin = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for path, parameter in twin.named_parameters():
            centre = 1.0 if path.endswith(("norm.weight", "ln_f.weight")) else 0.0
            values = centre + 0.3 * rng.standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.tensor(values, dtype=torch.float32))
    return twin


def state_of(twin: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """name -> tensor, without a head that is the embedding."""
    return {name: parameter.detach().numpy() for name, parameter in twin.named_parameters()}


def vocabulary_without_gen(folder: Path) -> Vocabulary:
    """Saves a tokenizer that knows no [GEN], as those of BLOOM and Qwen. What is read has it as its last id."""
    train_tokenizer(TEXTS, 300).save(folder)
    for path in folder.glob("*.json"):
        if "token" in path.name:
            path.write_text(path.read_text("utf-8").replace("[GEN]", "<other>"), "utf-8")
    return Vocabulary.from_pretrained(folder)


def edit_config(directory: Path, **fields: object) -> None:
    path = directory / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
