"""Export and import: files that transformers loads, the same weights bit by bit, and errors that name what is wrong."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file, save_file

from seqgpt_jax import hf
from seqgpt_jax.decoding.generate import generate
from seqgpt_jax.errors import UserError
from seqgpt_jax.hf import directories
from seqgpt_jax.models.bloom import Bloom
from seqgpt_jax.models.lora import LoraConfig
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer
from tests.models.tiny import SIX_HEADS, random_model, whole_rows

TEXTS = ["输入: Ada Lovelace lived in London.", "抽取: person，city", "输出: 北京 上海 分类: positive，negative"] * 3


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train_tokenizer(TEXTS, 300)


@pytest.fixture(scope="module")
def model(vocabulary: Vocabulary) -> Bloom:
    return random_model(dataclasses.replace(SIX_HEADS, vocab_size=vocabulary.size + 3))  # spare rows are kept


@pytest.fixture(scope="module")
def exported(model: Bloom, vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    card = hf.ModelCard(name="Tiny", training_data=(("made up", "nine lines"),), results=(("accuracy", "0.5"),))
    return hf.export_model(model, vocabulary, tmp_path_factory.mktemp("hf") / "export", model_card=card)


@pytest.fixture
def broken(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "broken"))


def test_transformers_loads_it_with_equal_logits_and_text(model: Bloom, vocabulary: Vocabulary, exported: Path) -> None:
    twin, report = transformers.AutoModelForCausalLM.from_pretrained(exported, output_loading_info=True)
    assert type(twin) is transformers.BloomForCausalLM
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert twin.dtype == torch.float32
    tokens_BT = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 30))
    with torch.no_grad():
        expected = twin(torch.tensor(tokens_BT)).logits.numpy()
    logits = nnx.jit(lambda model, *rows: model.head(model(*rows)[0]))(model, *whole_rows(tokens_BT))
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)

    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    text = "输入: Ada\n抽取: city\n输出: [GEN]"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == [*vocabulary.encode(text.removesuffix("[GEN]")), vocabulary.gen_id]
    # No settings are given to transformers: the generation config must say greedy and name the ids.
    answer = twin.generate(torch.tensor([ids]), max_new_tokens=20)[0, len(ids) :].tolist()
    ours = generate(model, [ids], max_new_tokens=20, eos_id=vocabulary.eos_id, pad_id=vocabulary.pad_id)
    assert ours == [answer]
    assert (twin.generation_config.eos_token_id, twin.generation_config.pad_token_id) == (2, 3)


def test_export_and_import_are_bit_exact(model: Bloom, vocabulary: Vocabulary, exported: Path, tmp_path: Path) -> None:
    loaded, loaded_vocabulary = hf.load_model(exported)
    assert loaded.config == model.config
    assert loaded_vocabulary.fingerprint() == vocabulary.fingerprint()
    before, after = nnx.state(model), nnx.state(loaded)
    assert jax.tree.structure(before) == jax.tree.structure(after)  # the axis names too
    for left, right in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        np.testing.assert_array_equal(left, right)
    again = hf.export_model(loaded, loaded_vocabulary, tmp_path / "again")
    assert (again / hf.WEIGHTS).read_bytes() == (exported / hf.WEIGHTS).read_bytes()


def test_reads_what_transformers_saved_and_released_names(model: Bloom, exported: Path, tmp_path: Path) -> None:
    """Sharded files with an index, and tensor names without the prefix, as bigscience/bloom has them."""
    twin = transformers.AutoModelForCausalLM.from_pretrained(exported)
    twin.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert not (tmp_path / "shards" / hf.WEIGHTS).exists()
    config = hf.read_config(tmp_path / "shards")
    for directory in (tmp_path / "shards", tmp_path / "released"):
        if directory.name == "released":
            directory.mkdir()
            tensors = load_file(exported / hf.WEIGHTS)
            save_file({name.removeprefix("transformer."): x for name, x in tensors.items()}, directory / hf.WEIGHTS)
        loaded = hf.read_model(directory, config)
        for left, right in zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(loaded)), strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_lora_is_merged(model: Bloom, vocabulary: Vocabulary, tmp_path: Path) -> None:
    lora = LoraConfig(rank=2, targets=("query", "down"))
    with_lora = random_model(dataclasses.replace(model.config, lora=lora), spread=0.1)
    out = hf.export_model(with_lora, vocabulary, tmp_path / "out")
    tokens_BT = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, 9))
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(out)(torch.tensor(tokens_BT)).logits.numpy()
    logits = with_lora.head(with_lora(*whole_rows(tokens_BT))[0])
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
    assert (
        f"{sum(x.size for x in load_file(out / hf.WEIGHTS).values()):,} parameters" in (out / "README.md").read_text()
    )


def test_model_card(exported: Path) -> None:
    text = (exported / "README.md").read_text("utf-8")
    _, header, body = text.split("---\n", 2)
    assert "language:\n- en\n- zh\nlicense: apache-2.0\nlibrary_name: transformers\n" in header
    assert "| made up | nine lines |" in body
    assert "| accuracy | 0.5 |" in body
    assert "6 heads" in body


def test_export_replaces_an_export_and_nothing_else(model: Bloom, vocabulary: Vocabulary, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hf.export_model(model, vocabulary, out)
    (out / "stale.txt").write_text("old")
    hf.export_model(model, vocabulary, out)
    assert not (out / "stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "nothing is left beside it"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        hf.export_model(model, vocabulary, other)
    assert (other / "thesis.tex").exists()
    with pytest.raises(UserError, match="is a file"):
        hf.export_model(model, vocabulary, other / "thesis.tex")


def test_a_failed_export_leaves_the_old_one(
    model: Bloom, vocabulary: Vocabulary, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(exported, tmp_path / "out"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full_disk(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(directories, "write_json", full_disk)
    with pytest.raises(OSError, match="No space"):
        hf.export_model(model, vocabulary, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_vocabulary_larger_than_the_model_is_refused(vocabulary: Vocabulary, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="128 vocabulary rows"):
        hf.export_model(random_model(SIX_HEADS), vocabulary, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def _edit_config(directory: Path, **fields: object) -> None:
    path = directory / hf.CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_directories_that_are_no_model(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such directory"):
        hf.load_model(tmp_path / "absent")
    with pytest.raises(UserError, match=r"is not a model: it has no config\.json"):
        hf.load_model(tmp_path)
    (broken / hf.WEIGHTS).rename(broken / "elsewhere")
    with pytest.raises(UserError, match=r"is not a model: it has no model\.safetensors"):
        hf.load_model(broken)
    (broken / hf.WEIGHTS).write_bytes(b"not tensors")
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        hf.load_model(broken)
    (broken / hf.CONFIG).write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        hf.load_model(broken)


def test_other_architectures_and_sizes(broken: Path) -> None:
    _edit_config(broken, hidden_size=96)
    with pytest.raises(UserError, match=r"word_embeddings.weight has shape \[\d+, 48\], config.json asks for"):
        hf.load_model(broken)
    _edit_config(broken, apply_residual_connection_post_layernorm=True)
    with pytest.raises(UserError, match="post_layernorm true is not supported"):
        hf.load_model(broken)
    _edit_config(broken, model_type="gpt2")
    with pytest.raises(UserError, match="model_type is 'gpt2'"):
        hf.load_model(broken)


def test_missing_and_extra_tensors_are_named(broken: Path) -> None:
    tensors = load_file(broken / hf.WEIGHTS)
    bias = tensors.pop("transformer.h.1.mlp.dense_h_to_4h.bias")
    save_file(tensors, broken / hf.WEIGHTS)
    with pytest.raises(UserError, match=r"lacks tensors: transformer.h.1.mlp.dense_h_to_4h.bias"):
        hf.load_model(broken)
    tensors["transformer.h.1.mlp.dense_h_to_4h.bias"] = bias
    tensors["transformer.h.2.ln.bias"] = bias
    save_file(tensors, broken / hf.WEIGHTS)
    with pytest.raises(UserError, match=r"does not ask for: transformer.h.2.ln.bias"):
        hf.load_model(broken)


def test_neither_torch_nor_transformers_is_imported() -> None:
    code = (
        "import sys, seqgpt_jax.hf, seqgpt_jax.decoding.generate\n"
        "print([name for name in ('torch', 'transformers', 'tensorflow', 'seqio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
