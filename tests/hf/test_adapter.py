"""LoRAs in PEFT's format: peft loads them, and gives the logits that we give."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from flax import nnx

from seqgpt_jax import hf
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.models.llama import LlamaConfig
from seqgpt_jax.models.lora import LoraConfig, is_lora
from seqgpt_jax.vocabulary import train_tokenizer
from tests.models.tiny import SIX_HEADS, random_model, whole_rows

LLAMA = LlamaConfig(vocab_size=128, num_layers=2, width=32, num_heads=4, kv_heads=2, head_size=8, mlp_width=48)
EVERYWHERE = ("query", "key_value", "out", "up", "gate_up", "down")


@pytest.mark.parametrize("targets", [EVERYWHERE, ("query",), ("key_value", "down")], ids=["all", "query", "two"])
@pytest.mark.parametrize("config", [SIX_HEADS, LLAMA], ids=["bloom", "llama"])
def test_peft_gives_our_logits(config: DecoderConfig, targets: tuple[str, ...], tmp_path: Path) -> None:
    config = dataclasses.replace(config, vocab_size=320)
    adapted = dataclasses.replace(config, lora=LoraConfig(rank=3, alpha=5.0, targets=targets))
    model, base = random_model(adapted, spread=0.1), random_model(config, spread=0.1)
    frozen = [item for item in nnx.to_flat_state(nnx.state(model)) if not is_lora(item[0])]
    nnx.update(base, nnx.from_flat_state(frozen))
    hf.export_model(base, train_tokenizer(["a text"], 300), tmp_path / "base")
    hf.export_adapter(model, str(tmp_path / "base"), tmp_path / "adapter")
    for weights in (tmp_path / "base" / "model.safetensors", tmp_path / "adapter" / "adapter_model.safetensors"):
        assert weights.stat().st_mode & 0o777 == 0o644  # not for its owner alone
    twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokens = np.random.default_rng(0).integers(0, 300, (2, 11))
    with torch.no_grad():
        before = twin(torch.tensor(tokens)).logits.numpy()
        after = peft.PeftModel.from_pretrained(twin, tmp_path / "adapter").eval()(torch.tensor(tokens)).logits.numpy()
    ours = np.asarray(model.head(model(*whole_rows(tokens))[0]))
    assert np.abs(before - ours).max() > 1e-2
    np.testing.assert_allclose(after, ours, atol=1e-4)


def test_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the model has no LoRA \(train one"):
        hf.export_adapter(random_model(SIX_HEADS), "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a.tex").write_text("x")
    model = random_model(dataclasses.replace(SIX_HEADS, lora=LoraConfig(rank=1)))
    with pytest.raises(UserError, match=r"thesis is not empty"):
        hf.export_adapter(model, "base", tmp_path / "thesis")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]
