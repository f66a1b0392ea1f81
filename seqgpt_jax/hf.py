"""Hugging Face directories <-> our models: config.json, model.safetensors, tokenizer, generation config, model card.

Only `safetensors` and JSON are needed; neither torch nor transformers is imported. One table says where every tensor
goes, and both directions read it.

    ours, stacked over layers L            BloomForCausalLM, one of each a layer
    query      kernel [L, D, N, H]         self_attention.query_key_value.weight [N * 3 * H, D]: a head's q, k and v
    key_value  kernel [L, D, 2, N, H]      lie together, so the two kernels are cut out of it and put back

Shapes: L layers, D width, N heads, H head dim.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.bloom import Bloom, BloomConfig
from seqgpt_jax.vocabulary import Vocabulary

WEIGHTS, WEIGHTS_INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"

_PREFIX = "transformer."  # transformers writes it; the released BLOOM files leave it out


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


# --- writing ---------------------------------------------------------------------------------------------------------


def export_model(
    model: Bloom, vocabulary: Vocabulary, out_dir: str | os.PathLike[str], *, model_card: ModelCard | None = None
) -> Path:
    """Writes a directory that AutoModelForCausalLM and AutoTokenizer load (float32), and returns it.

    Everything is written beside out_dir and renamed at the end, so that a directory that exists is complete. An
    earlier export there is replaced; UserError if out_dir is anything else that is not empty.
    """
    out_dir, config = Path(out_dir), model.config
    _check_replaceable(out_dir)
    if config.vocab_size < vocabulary.size:
        raise UserError(
            f"the model has {config.vocab_size} vocabulary rows, the tokenizer {vocabulary.size} ids "
            "(export a model with the tokenizer that it was trained with)"
        )
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        temporary.chmod(0o755)
        save_file(dict(bloom_to_hf(model)), temporary / WEIGHTS, metadata={"format": "pt"})
        _write_json(temporary / CONFIG, _hf_config(config, vocabulary))
        _write_json(temporary / "generation_config.json", _generation_config(vocabulary))
        vocabulary.save(temporary)
        (temporary / "README.md").write_text(_render_card(model_card or ModelCard(), config), "utf-8")
        _replace_directory(temporary, out_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out_dir


def bloom_to_hf(model: Bloom) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 tensor) of each tensor of BloomForCausalLM. The head is tied to the embedding and not repeated."""
    params = nnx.to_flat_state(nnx.state(model, nnx.Param))
    ours = {path: np.asarray(variable[...], np.float32) for path, variable in params}
    for entry in _table(model.config):
        for layer, name in entry.names(model.config):
            parts = [ours[path] if layer is None else ours[path][layer] for path in entry.paths]
            yield name, np.ascontiguousarray(entry.to_hf(parts))


# --- reading ---------------------------------------------------------------------------------------------------------


def load_model(directory: str | os.PathLike[str], *, param_dtype: str = "float32") -> tuple[Bloom, Vocabulary]:
    """Model and tokenizer of a directory with BloomForCausalLM safetensors.

    Raises UserError for a directory that is not a model, another architecture, or tensors that are missing, unknown or
    of the wrong shape; the message names them.
    """
    config = read_config(directory, param_dtype=param_dtype)
    vocabulary = Vocabulary.from_pretrained(directory)
    if config.vocab_size < vocabulary.size:
        raise UserError(
            f"{directory}: the tokenizer has {vocabulary.size} ids, the model {config.vocab_size} vocabulary rows "
            "(the tokenizer is another model's, or its [GEN] token was never given a row)"
        )
    return read_bloom(directory, config), vocabulary


def read_config(directory: str | os.PathLike[str], *, param_dtype: str = "float32") -> BloomConfig:
    """The sizes in config.json. Raises UserError if there is none, or if it is not a BLOOM that we can run."""
    path = Path(directory) / CONFIG
    if not path.is_file():
        raise UserError(f"{directory} is not a model: it has no {CONFIG} (give an exported Hugging Face directory)")
    try:
        fields = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error} (export the model again)") from error
    if not isinstance(fields, dict) or fields.get("model_type") != "bloom":
        found = fields.get("model_type") if isinstance(fields, dict) else None
        raise UserError(f"{path}: model_type is {found!r}, only 'bloom' can be read (give a BloomForCausalLM)")
    if fields.get("apply_residual_connection_post_layernorm"):
        raise UserError(f"{path}: apply_residual_connection_post_layernorm is not supported (no released BLOOM has it)")

    def size(*names: str) -> int:
        for name in names:  # BLOOM's first files and transformers differ in names
            if isinstance(fields.get(name), int):
                return fields[name]
        raise UserError(f"{path} does not give '{names[0]}' (export the model again)")

    return BloomConfig(
        vocab_size=size("vocab_size"),
        num_layers=size("n_layer", "num_hidden_layers"),
        width=size("hidden_size", "n_embed"),
        num_heads=size("n_head", "num_attention_heads"),
        layer_norm_epsilon=float(fields.get("layer_norm_epsilon", 1e-5)),
        param_dtype=param_dtype,
    )


def read_bloom(directory: str | os.PathLike[str], config: BloomConfig) -> Bloom:
    """The model with the weights of a directory's safetensors (one file or sharded), cast to config.param_dtype."""
    with _open_weights(Path(directory)) as tensors:
        _check_names(directory, config, tensors.names)
        values = {}
        for path, shape in _shapes(config).items():
            values[path] = np.empty(shape, jnp.dtype(config.param_dtype))
        for entry in _table(config):
            for layer, name in entry.names(config):
                tensor = tensors.read(name)
                if tensor.shape != entry.hf_shape:
                    raise UserError(
                        f"{directory}: tensor {name} has shape {list(tensor.shape)}, {CONFIG} asks for "
                        f"{list(entry.hf_shape)} (weights and config are of different models)"
                    )
                for path, part in zip(entry.paths, entry.from_hf(tensor), strict=True):
                    values[path][... if layer is None else layer] = part
    graph, abstract = nnx.split(nnx.eval_shape(lambda: Bloom(config, rngs=nnx.Rngs(0))))
    state = [(path, variable.replace(jnp.asarray(values.pop(path)))) for path, variable in nnx.to_flat_state(abstract)]
    return nnx.merge(graph, nnx.from_flat_state(state))


# --- the table -------------------------------------------------------------------------------------------------------

_Path = tuple[Any, ...]


@dataclass(frozen=True)
class _Entry:
    hf_name: str  # "{}" stands for the layer
    hf_shape: tuple[int, ...]
    paths: tuple[_Path, ...]  # our parameters that make up the tensor
    to_hf: Callable[[Sequence[np.ndarray]], np.ndarray]
    from_hf: Callable[[np.ndarray], tuple[np.ndarray, ...]]

    def names(self, config: BloomConfig) -> Iterator[tuple[int | None, str]]:
        if "{}" in self.hf_name:
            yield from ((layer, _PREFIX + self.hf_name.format(layer)) for layer in range(config.num_layers))
        else:
            yield None, _PREFIX + self.hf_name


def _table(config: BloomConfig) -> list[_Entry]:
    width, heads, head_dim = config.width, config.num_heads, config.head_dim

    def same(hf_name: str, path: _Path, shape: tuple[int, ...]) -> _Entry:
        return _Entry(hf_name, shape, (path,), lambda parts: parts[0], lambda tensor: (tensor,))

    def norm(hf_name: str, path: _Path) -> list[_Entry]:
        return [
            same(f"{hf_name}.weight", (*path, "scale"), (width,)),
            same(f"{hf_name}.bias", (*path, "bias"), (width,)),
        ]

    def linear(hf_name: str, path: _Path, in_shape: tuple[int, ...], out: int) -> list[_Entry]:
        kernel = _Entry(
            f"{hf_name}.weight",
            (out, int(np.prod(in_shape))),
            ((*path, "kernel"),),
            lambda parts: parts[0].reshape(-1, out).T,
            lambda tensor: (tensor.T.reshape(*in_shape, out),),
        )
        return [kernel, same(f"{hf_name}.bias", (*path, "bias"), (out,))]

    def joined_kernel(parts: Sequence[np.ndarray]) -> np.ndarray:
        query_DNH, key_value_DCNH = parts
        all_D3NH = np.concatenate([query_DNH[:, None], key_value_DCNH], axis=1)
        return all_D3NH.transpose(2, 1, 3, 0).reshape(3 * width, width)

    def split_kernel(tensor: np.ndarray) -> tuple[np.ndarray, ...]:
        all_D3NH = tensor.reshape(heads, 3, head_dim, width).transpose(3, 1, 0, 2)
        return all_D3NH[:, 0], all_D3NH[:, 1:]

    def joined_bias(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([parts[0][None], parts[1]]).transpose(1, 0, 2).reshape(-1)

    def split_bias(tensor: np.ndarray) -> tuple[np.ndarray, ...]:
        all_3NH = tensor.reshape(heads, 3, head_dim).transpose(1, 0, 2)
        return all_3NH[0], all_3NH[1:]

    query, key_value, fused = ("blocks", "query"), ("blocks", "key_value"), "h.{}.self_attention.query_key_value"
    kernels = ((*query, "kernel"), (*key_value, "kernel"))
    biases = ((*query, "bias"), (*key_value, "bias"))
    return [
        same("word_embeddings.weight", ("embedding",), (config.vocab_size, width)),
        *norm("word_embeddings_layernorm", ("embedding_norm",)),
        *norm("h.{}.input_layernorm", ("blocks", "attention_norm")),
        _Entry(f"{fused}.weight", (3 * width, width), kernels, joined_kernel, split_kernel),
        _Entry(f"{fused}.bias", (3 * width,), biases, joined_bias, split_bias),
        *linear("h.{}.self_attention.dense", ("blocks", "out"), (heads, head_dim), width),
        *norm("h.{}.post_attention_layernorm", ("blocks", "mlp_norm")),
        *linear("h.{}.mlp.dense_h_to_4h", ("blocks", "up"), (width,), 4 * width),
        *linear("h.{}.mlp.dense_4h_to_h", ("blocks", "down"), (4 * width,), width),
        *norm("ln_f", ("final_norm",)),
    ]


def _shapes(config: BloomConfig) -> dict[_Path, tuple[int, ...]]:
    model = nnx.eval_shape(lambda: Bloom(config, rngs=nnx.Rngs(0)))
    return {path: variable.get_value().shape for path, variable in nnx.to_flat_state(nnx.state(model))}


# --- files -----------------------------------------------------------------------------------------------------------


class _Tensors(NamedTuple):
    names: frozenset[str]  # with the prefix, whether the file has it or not
    read: Callable[[str], np.ndarray]


@contextlib.contextmanager
def _open_weights(directory: Path) -> Iterator[_Tensors]:
    """Tensors are read one at a time, so that memory stays near one copy of the weights."""
    with contextlib.ExitStack() as stack:
        where: dict[str, tuple[Any, str]] = {}
        for path in _weight_files(directory):
            try:
                file = stack.enter_context(safe_open(path, framework="numpy"))
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} is not a safetensors file: {error} (copy or export it again)") from error
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                where[name if name.startswith((_PREFIX, "lm_head.")) else _PREFIX + name] = (file, name)

        def read(name: str) -> np.ndarray:
            file, stored_name = where[name]
            return file.get_tensor(stored_name)

        yield _Tensors(frozenset(where), read)


def _weight_files(directory: Path) -> list[Path]:
    index = directory / WEIGHTS_INDEX
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if not index.is_file():
        raise UserError(f"{directory} is not a model: it has no {WEIGHTS} (give an exported Hugging Face directory)")
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{index} has no weight_map (copy or export it again)") from error
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise UserError(f"{directory} lacks {', '.join(missing)}, which {index.name} names (copy it again)")
    return [directory / name for name in names]


def _check_names(directory: str | os.PathLike[str], config: BloomConfig, found: frozenset[str]) -> None:
    wanted = {name for entry in _table(config) for _, name in entry.names(config)}
    missing = sorted(wanted - found)
    extra = sorted(found - wanted - {"lm_head.weight"})  # the tied head, where a file repeats it
    for problem, names in (("lacks tensors", missing), ("has tensors that a BLOOM does not have", extra)):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise UserError(f"{directory} {problem}: {shown} (weights and {CONFIG} are of different models)")


def _check_replaceable(out_dir: Path) -> None:
    if out_dir.exists() and not out_dir.is_dir():
        raise UserError(f"{out_dir} is a file (give a directory to export to)")
    if out_dir.is_dir() and any(out_dir.iterdir()) and not (out_dir / WEIGHTS).is_file():
        raise UserError(f"{out_dir} is not empty and holds no exported model (give a new or an empty directory)")


def _replace_directory(new: Path, out_dir: Path) -> None:
    if out_dir.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.old.", dir=out_dir.parent))
        out_dir.rename(old / out_dir.name)
        new.rename(out_dir)
        shutil.rmtree(old, ignore_errors=True)
    else:
        new.rename(out_dir)


def _write_json(path: Path, fields: Mapping[str, object]) -> None:
    path.write_text(json.dumps(fields, ensure_ascii=False, indent=2) + "\n", "utf-8")


# --- what the files say ----------------------------------------------------------------------------------------------


def _token_ids(vocabulary: Vocabulary) -> dict[str, int | None]:
    return {
        "bos_token_id": vocabulary.bos_id,
        "eos_token_id": vocabulary.eos_id,
        "pad_token_id": vocabulary.pad_id,
    }


def _hf_config(config: BloomConfig, vocabulary: Vocabulary) -> dict[str, object]:
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "initializer_range": 0.02,
        "apply_residual_connection_post_layernorm": False,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "pretraining_tp": 1,
        "slow_but_exact": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        **_token_ids(vocabulary),
        "dtype": "float32",
        "torch_dtype": "float32",  # the name that transformers had before version 5
    }


def _generation_config(vocabulary: Vocabulary) -> dict[str, object]:
    return {"do_sample": False, "num_beams": 1, "max_new_tokens": 256, **_token_ids(vocabulary)}


def _render_card(card: ModelCard, config: BloomConfig) -> str:
    lines = ["---", "language:", *(f"- {language}" for language in card.languages), f"license: {card.licence}"]
    lines += ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- seqgpt", "- bloom"]
    lines += [f"base_model: {card.base_model}"] if card.base_model else []
    lines += ["---", "", f"# {card.name}", "", card.summary, ""]
    lines += [
        f"BLOOM architecture: {config.num_layers} layers, width {config.width}, {config.num_heads} heads, "
        f"{config.vocab_size:,} vocabulary rows, {_num_parameters(config):,} parameters. "
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


def _num_parameters(config: BloomConfig) -> int:
    return sum(int(np.prod(shape)) for shape in _shapes(config).values())


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
