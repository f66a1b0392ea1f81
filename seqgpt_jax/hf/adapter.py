"""A LoRA in PEFT's format: adapter_config.json and adapter_model.safetensors, which `peft` puts on the base model.

A tensor of the checkpoint may be made of several of our matrices (BLOOM's fused query, key and value), each with a LoRA
of its own. Its adapter has the sum of their ranks: the factors stand side by side, each reaching its own part alone.

Shapes: R rank, I inputs, O outputs of the checkpoint's matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.hf.architectures import architecture_of
from seqgpt_jax.hf.directories import check_replaceable
from seqgpt_jax.hf.files import save_safetensors
from seqgpt_jax.hf.tables import Entry, ParamPath
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.models.lora import LoraConfig
from seqgpt_jax.whole import whole_folder, write_json

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def export_adapter(model: Decoder, base_model: str, out_dir: Path) -> Path:
    """Writes the LoRA of a model for peft.PeftModel.from_pretrained, and returns out_dir, which is then complete.

    base_model: what it was trained on, a directory or a hub id, as peft is to load it. UserError where the model has no
    LoRA, or out_dir holds anything but an adapter.
    """
    lora = model.config.lora
    if lora is None:
        raise UserError("the model has no LoRA (train one with model.lora = @lora(), or export the whole model)")
    check_replaceable(out_dir, ADAPTER_WEIGHTS)
    params = {path: np.asarray(variable[...], np.float32) for path, variable in nnx.to_flat_state(nnx.state(model))}
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for entry in architecture_of(model.config).table(model.config):
        for layer, name in entry.names(model.config.num_layers):
            factors = _factors(entry, layer, params)
            if factors is not None:
                module = name.removesuffix(".weight")
                tensors[f"base_model.model.{module}.lora_A.weight"] = np.ascontiguousarray(factors[0])
                tensors[f"base_model.model.{module}.lora_B.weight"] = np.ascontiguousarray(factors[1])
                ranks[module.rsplit(".", 1)[-1]] = len(factors[0])
    with whole_folder(out_dir) as folder:
        save_safetensors(tensors, folder / ADAPTER_WEIGHTS)
        write_json(folder / ADAPTER_CONFIG, _config(lora, ranks, base_model))
    return out_dir


def _factors(
    entry: Entry, layer: int | None, params: Mapping[ParamPath, np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """lora_A [R, I] and lora_B [O, R] of a tensor of the checkpoint; None where none of its parts has a LoRA."""
    if layer is None or (*entry.paths[0][:-1], "kernel") != entry.paths[0]:
        return None
    inputs_of, outputs_of = [], []
    for part, path in enumerate(entry.paths):
        if (*path[:-1], "lora_a") not in params:
            continue
        a, b = (params[(*path[:-1], name)][layer] for name in ("lora_a", "lora_b"))
        rank = b.shape[0]
        # The table says how kernels lie in the tensor: a kernel that holds lora_b in its first input rows comes out as
        # a tensor whose first columns are lora_B.
        kernels = [np.zeros_like(params[other][layer]) for other in entry.paths]
        kernels[part].reshape(-1, *b.shape[1:])[:rank] = b
        inputs_of.append(a.reshape(-1, rank).T)
        outputs_of.append(entry.gather(kernels)[:, :rank])
    return (np.concatenate(inputs_of), np.concatenate(outputs_of, axis=1)) if inputs_of else None


def _config(lora: LoraConfig, ranks: Mapping[str, int], base_model: str) -> dict[str, object]:
    summed = {module: rank for module, rank in ranks.items() if rank != lora.rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "rank_pattern": summed,
        "alpha_pattern": {module: lora.scale * rank for module, rank in summed.items()},
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
