"""The model card: README.md of an exported directory."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax


@dataclass(frozen=True)
class ModelCard:
    """What README.md says beyond sizes and usage. Lists that are empty leave their section out."""

    name: str = "SeqGPT"
    languages: tuple[str, ...] = ("en", "zh")
    licence: str = "apache-2.0"
    summary: str = "A decoder for open-domain language understanding: classification and extraction by instruction."
    base_model: str | None = None
    training_data: tuple[tuple[str, str], ...] = ()  # (name, what and how much)
    results: tuple[tuple[str, str], ...] = ()  # (what was measured, figure)
    limits: tuple[str, ...] = ()


def imported_card(source: str, directory: Path, *, gen_is_new: bool) -> ModelCard:
    """The card of somebody else's weights: their licence and languages, and what was added to them.

    directory: where they lie; source: the hub id or the directory that the user named.
    """
    said = _front_matter(directory / "README.md")
    languages = said.get("language") or ()
    languages = (
        (languages,) if isinstance(languages, str) else tuple(name for name in languages if isinstance(name, str))
    )
    licence = said.get("license")
    limits = ["The weights are those of the base model, which was not trained on SeqGPT's prompts by this import."]
    if gen_is_new:
        limits.append("`[GEN]` was added with the mean of all embeddings and is not trained.")
    return ModelCard(
        name=Path(source).name,
        languages=languages,
        licence=licence if isinstance(licence, str) else "unknown",
        summary=f"{Path(source).name}, imported into seqgpt_jax to be fine-tuned.",
        base_model=None if Path(source).is_dir() else source,
        limits=tuple(limits),
    )


def render_card(card: ModelCard, hf_config: Mapping[str, Any], params: Mapping[Any, jax.Array]) -> str:
    """README.md. hf_config is the config.json beside it; params are the model's."""
    architecture = str(hf_config["architectures"][0])
    lines = ["---"]
    lines += ["language:", *(f"- {language}" for language in card.languages)] if card.languages else []
    lines += [f"license: {card.licence}", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += ["tags:", "- seqgpt", f"- {hf_config['model_type']}"]
    lines += [f"base_model: {card.base_model}"] if card.base_model else []
    lines += ["---", "", f"# {card.name}", "", card.summary, ""]
    layers, heads = (
        hf_config.get(old, hf_config.get(new))
        for old, new in (("n_layer", "num_hidden_layers"), ("n_head", "num_attention_heads"))
    )
    num_parameters = sum(math.prod(value.shape) for value in params.values())
    lines += [
        f"{architecture}: {layers} layers, width {hf_config['hidden_size']}, {heads} heads, "
        f"{hf_config['vocab_size']:,} vocabulary rows, {num_parameters:,} parameters, {hf_config['dtype']}. "
        "The method is SeqGPT's (arXiv 2308.10529).",
        "",
        "## Use",
        "",
        _USAGE,
    ]
    for title, rows in (("Training data", card.training_data), ("Results", card.results)):
        if rows:
            lines += [f"## {title}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]
    if card.limits:
        lines += ["## Limits", "", *(f"- {limit}" for limit in card.limits), ""]
    return "\n".join(lines)


def _front_matter(path: Path) -> Mapping[str, Any]:
    """The YAML at the head of a model card; nothing where there is none that can be read."""
    from huggingface_hub import metadata_load

    try:
        return metadata_load(path) or {} if path.is_file() else {}
    except Exception:  # YAML's own classes; a card that cannot be read must not stop an import
        return {}


_USAGE = """\
```python
from seqgpt_jax import SeqGPT

model = SeqGPT.from_pretrained("PATH")
model.classify("The film was a delight.", ["positive", "negative"])
model.extract("Ada Lovelace was born in London.", ["person", "city"])
```

With transformers, the prompt is `输入: {text}\\n{分类|抽取}: {label，label，...}\\n输出: [GEN]`:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH")
model = AutoModelForCausalLM.from_pretrained("PATH")
prompt = "输入: The film was a delight.\\n分类: positive，negative\\n输出: [GEN]"
inputs = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
answer = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
print(tokenizer.decode(answer, skip_special_tokens=True))
```
"""
