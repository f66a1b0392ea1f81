"""LlamaForCausalLM, Qwen2ForCausalLM and Qwen3ForCausalLM <-> models/llama.py: config.json and the table of tensors.

The three differ in biases and in the norms of queries and keys, so that our configuration says which of them it is:
qk_norm is Qwen3, a bias of queries, keys and values alone is Qwen2, anything else is Llama.

Shapes: D width, N heads, G key and value heads, H head dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seqgpt_jax.errors import UserError
from seqgpt_jax.hf.fields import ConfigFields
from seqgpt_jax.hf.tables import Entry, linear, linear_of_two, same
from seqgpt_jax.models.llama import Llama3Rope, LlamaConfig

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_QWEN3_HEAD_DIM = 128  # where config.json does not say
_MAX_POSITIONS = 32_768  # rotary positions have no end; transformers wants a number


def read_llama_config(fields: ConfigFields, param_dtype: str) -> LlamaConfig:
    """The sizes in config.json. Raises UserError for a field that our model does not have."""
    family = fields.get("model_type")
    fields.refuse("hidden_act", unless="silu", why="only SwiGLU can be run")
    if family != "llama":
        _refuse_sliding_window(fields)
    width, num_heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    attention_bias = family != "qwen2" and fields.flag("attention_bias", False)
    theta, scaling = _read_rope(fields)
    return LlamaConfig(
        vocab_size=fields.size("vocab_size"),
        num_layers=fields.size("num_hidden_layers"),
        width=width,
        num_heads=num_heads,
        kv_heads=fields.size("num_key_value_heads", default=num_heads),
        head_size=fields.size("head_dim", default=_QWEN3_HEAD_DIM if family == "qwen3" else width // num_heads),
        mlp_width=fields.size("intermediate_size"),
        rms_norm_epsilon=fields.number("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        qkv_bias=family == "qwen2" or attention_bias,
        out_bias=attention_bias,
        mlp_bias=family == "llama" and fields.flag("mlp_bias", False),
        qk_norm=family == "qwen3",
        tied_head=fields.flag("tie_word_embeddings", False),
        param_dtype=param_dtype,
    )


def write_llama_config(config: LlamaConfig) -> dict[str, object]:
    """config.json. UserError for a combination of biases and norms that none of the three classes has."""
    family = _family(config)
    rope: dict[str, object] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rope_scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_freq_factor,
            "high_freq_factor": config.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": config.rope_scaling.original_length,
        }
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    biases: dict[str, object] = {} if family == "qwen2" else {"attention_bias": config.out_bias}
    return {
        "architectures": [_CLASSES[family]],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": _MAX_POSITIONS,
        "rms_norm_eps": config.rms_norm_epsilon,
        "rope_parameters": rope,
        "rope_theta": config.rope_theta,  # this and the next: the names that transformers had before version 5
        "rope_scaling": scaling if config.rope_scaling is not None else None,
        **biases,
        **({"mlp_bias": config.mlp_bias} if family == "llama" else {"use_sliding_window": False}),
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tied_head,
    }


def llama_table(config: LlamaConfig) -> list[Entry]:
    width, head_dim, mlp = config.width, config.head_dim, config.mlp_width
    queries, keys, bias = (config.num_heads, head_dim), (config.num_kv_heads, head_dim), config.qkv_bias
    layer, key_value, gate_up = "model.layers.{}", ("blocks", "key_value"), ("blocks", "gate_up")
    norms_of_heads = [
        same(f"{layer}.self_attn.q_norm.weight", ("blocks", "query_norm", "scale"), (head_dim,)),
        same(f"{layer}.self_attn.k_norm.weight", ("blocks", "key_norm", "scale"), (head_dim,)),
    ]
    return [
        same("model.embed_tokens.weight", ("embedding",), (config.vocab_size, width)),
        same(f"{layer}.input_layernorm.weight", ("blocks", "attention_norm", "scale"), (width,)),
        *linear(f"{layer}.self_attn.q_proj", ("blocks", "query"), (width,), queries, bias),
        *linear_of_two(f"{layer}.self_attn.k_proj", key_value, 0, width, keys, bias),
        *linear_of_two(f"{layer}.self_attn.v_proj", key_value, 1, width, keys, bias),
        *(norms_of_heads if config.qk_norm else []),
        *linear(f"{layer}.self_attn.o_proj", ("blocks", "out"), queries, (width,), config.out_bias),
        same(f"{layer}.post_attention_layernorm.weight", ("blocks", "mlp_norm", "scale"), (width,)),
        *linear_of_two(f"{layer}.mlp.gate_proj", gate_up, 0, width, (mlp,), config.mlp_bias),
        *linear_of_two(f"{layer}.mlp.up_proj", gate_up, 1, width, (mlp,), config.mlp_bias),
        *linear(f"{layer}.mlp.down_proj", ("blocks", "down"), (mlp,), (width,), config.mlp_bias),
        same("model.norm.weight", ("final_norm", "scale"), (width,)),
        *([] if config.tied_head else [same("lm_head.weight", ("output",), (config.vocab_size, width))]),
    ]


def _family(config: LlamaConfig) -> str:
    if config.qk_norm:
        family = "qwen3"
    else:
        family = "qwen2" if config.qkv_bias and not config.out_bias else "llama"
    uneven_bias = family != "qwen2" and config.qkv_bias != config.out_bias
    if uneven_bias or (family != "llama" and config.mlp_bias):
        raise UserError(
            f"no class of transformers has qkv_bias={config.qkv_bias}, out_bias={config.out_bias}, "
            f"mlp_bias={config.mlp_bias} and qk_norm={config.qk_norm} together, so it cannot be exported "
            "(take the biases of Llama, Qwen2 or Qwen3)"
        )
    if family == "llama" and config.width % config.num_heads:
        raise UserError(
            f"transformers' Llama wants a width that its heads divide, not {config.width} and {config.num_heads} "
            "(change one of them)"
        )
    return family


def _read_rope(fields: ConfigFields) -> tuple[float, Llama3Rope | None]:
    # transformers 5 has one field, earlier versions had two.
    name = "rope_parameters" if fields.get("rope_parameters") else "rope_scaling"
    rope = fields.get(name, {})
    if not isinstance(rope, Mapping):
        fields.fail(name, f"is {rope!r}, not an object (export the model again)")
    rope_fields = ConfigFields(fields.path, {f"{name}.{key}": value for key, value in rope.items()})

    def number(key: str) -> float:
        if rope.get(key) is None:
            raise UserError(f"{fields.path} does not give '{name}.{key}' (export the model again)")
        return rope_fields.number(f"{name}.{key}", 1.0)

    theta = number("rope_theta") if "rope_theta" in rope else fields.number("rope_theta", 10_000.0)
    kind: Any = rope.get("rope_type") or rope.get("type") or "default"
    if fields.get("partial_rotary_factor", rope.get("partial_rotary_factor") or 1.0) != 1.0:
        fields.fail("partial_rotary_factor", "is not supported (only whole heads can be rotated)")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        fields.fail(f"{name}.rope_type", f"{kind!r} is not supported (only 'default' and 'llama3' are)")
    length = rope_fields.size(f"{name}.original_max_position_embeddings")
    return theta, Llama3Rope(number("factor"), number("low_freq_factor"), number("high_freq_factor"), length)


def _refuse_sliding_window(fields: ConfigFields) -> None:
    """A window does no harm where it is longer than any text, or where no layer has it."""
    if not fields.flag("use_sliding_window", False):
        return
    window, longest = fields.size("sliding_window", default=4096), fields.size("max_position_embeddings")
    whole_layers = fields.get("layer_types", ["full_attention"] * fields.get("max_window_layers", 28))
    all_whole = set(whole_layers) == {"full_attention"} and len(whole_layers) >= fields.size("num_hidden_layers")
    if window < longest and not all_whole:
        fields.fail("use_sliding_window", f"with a window of {window} is not supported (attention sees whole texts)")
