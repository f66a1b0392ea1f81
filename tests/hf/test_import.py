"""Somebody else's checkpoint becomes ours: its [GEN] row, its rows beyond the tokenizer, its place on the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file

from seqgpt_jax import hf
from seqgpt_jax.errors import UserError
from seqgpt_jax.vocabulary import Vocabulary
from tests.hf.checkpoints import random_twin, state_of, vocabulary_without_gen

EMBEDDING = {"bloom": "transformer.word_embeddings.weight", "llama": "model.embed_tokens.weight"}


def checkpoint(folder: Path, name: str, spare_rows: int) -> tuple[Path, int, dict[str, np.ndarray]]:
    """A directory without [GEN] whose model has that many rows beyond its tokenizer; its ids; its tensors."""
    size = vocabulary_without_gen(folder).size - 1
    twin = random_twin(name, vocab_size=size + spare_rows)
    twin.save_pretrained(folder)
    return folder, size, state_of(twin)


@pytest.mark.parametrize("name", ["bloom", "llama"])
def test_gen_takes_the_first_spare_row(name: str, tmp_path: Path) -> None:
    source, size, stored = checkpoint(tmp_path / "source", name, spare_rows=5)
    model, vocabulary = hf.load_model(source)
    assert (vocabulary.gen_id, model.config.vocab_size) == (size, size + 5)
    for tensor, values in hf.model_to_hf(model):
        expected = stored[tensor].copy()
        if tensor in (EMBEDDING[name], "lm_head.weight"):
            expected[size] = expected[:size].mean(0, dtype=np.float64)
        np.testing.assert_array_equal(values, expected, err_msg=tensor)  # the other spare rows are as they were


@pytest.mark.parametrize("name", ["bloom", "llama"])
def test_rows_are_added_where_none_is_spare(name: str, tmp_path: Path) -> None:
    source, size, stored = checkpoint(tmp_path / "source", name, spare_rows=0)
    out = hf.import_model(source, tmp_path / "out")
    num_rows = -(-(size + 1) // 64) * 64
    written = load_file(out / hf.WEIGHTS)
    assert written.keys() == stored.keys()
    rows = [EMBEDDING[name], *(["lm_head.weight"] if name == "llama" else [])]
    for tensor, values in written.items():
        np.testing.assert_array_equal(values[: len(stored[tensor])], stored[tensor], err_msg=tensor)
        assert len(values) == (num_rows if tensor in rows else len(stored[tensor]))
    for tensor in rows:
        mean = stored[tensor].mean(0, dtype=np.float64).astype(np.float32)
        np.testing.assert_array_equal(written[tensor][size:], np.tile(mean, (num_rows - size, 1)))
    twin = transformers.AutoModelForCausalLM.from_pretrained(out)
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids("[GEN]") == size < twin.get_input_embeddings().num_embeddings == num_rows


def test_what_was_imported_is_read_as_it_is(tmp_path: Path) -> None:
    source, _, _ = checkpoint(tmp_path / "source", "bloom", spare_rows=5)
    first, first_vocabulary = hf.load_model(source)
    out = hf.import_model(source, tmp_path / "out")
    again, vocabulary = hf.load_model(out)
    assert first_vocabulary.gen_is_new
    assert not vocabulary.gen_is_new
    assert vocabulary.fingerprint() == first_vocabulary.fingerprint()
    for (name, left), (_, right) in zip(hf.model_to_hf(first), hf.model_to_hf(again), strict=True):
        np.testing.assert_array_equal(left, right, err_msg=name)
    twice = hf.import_model(out, tmp_path / "twice")
    assert (twice / hf.WEIGHTS).read_bytes() == (out / hf.WEIGHTS).read_bytes(), "[GEN] is there: nothing changes"


def test_types_and_shards(tmp_path: Path) -> None:
    source, size, _ = checkpoint(tmp_path / "source", "qwen2", spare_rows=5)
    half = random_twin("qwen2", vocab_size=size + 5).to(torch.float16)
    half.save_pretrained(source)
    kept = hf.import_model(source, tmp_path / "kept", max_shard_bytes=20_000)
    assert json.loads((kept / hf.CONFIG).read_text())["dtype"] == "float16"
    files = list(kept.glob("model-*.safetensors"))
    sizes = [sum(tensor.nbytes for tensor in load_file(file).values()) for file in files]
    largest = max(parameter.nbytes for parameter in half.parameters())
    assert len(files) > 2
    assert sorted(sizes)[-2] <= 20_000 < largest == max(sizes), "the embedding alone is beyond the limit"
    twin = transformers.AutoModelForCausalLM.from_pretrained(kept)
    assert twin.dtype == torch.float16
    for (name, ours), (_, theirs) in zip(twin.named_parameters(), half.named_parameters(), strict=True):
        if "embed" not in name:
            assert torch.equal(ours, theirs), name
    brain = hf.import_model(source, tmp_path / "brain", dtype="bfloat16")
    tensors = load_file(brain / hf.WEIGHTS)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(ml_dtypes.bfloat16)}
    assert hf.load_model(brain)[0].config.param_dtype == "float32"


def test_a_type_that_cannot_hold_the_weights(tmp_path: Path) -> None:
    source, _, _ = checkpoint(tmp_path / "source", "bloom", spare_rows=5)
    model, vocabulary = hf.load_model(source)
    nnx.update(model, nnx.State({"final_norm": {"bias": nnx.Param(model.final_norm.bias[...] + 1e5)}}))
    with pytest.raises(UserError, match=r"tensor transformer.ln_f.bias has values beyond float16"):
        hf.export_model(model, vocabulary, tmp_path / "out", dtype="float16")
    with pytest.raises(UserError, match=r"as 'int8' \(choose float32, bfloat16, float16\)"):
        hf.export_model(model, vocabulary, tmp_path / "out", dtype="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_tokenizer_of_another_model(tmp_path: Path) -> None:
    source, size, _ = checkpoint(tmp_path / "source", "bloom", spare_rows=0)
    random_twin("bloom", vocab_size=size - 1).save_pretrained(source)
    with pytest.raises(UserError, match=f"the model {size - 1} vocabulary rows"):
        hf.import_model(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_source_is_not_written_over(tmp_path: Path) -> None:
    source, _, _ = checkpoint(tmp_path / "source", "bloom", spare_rows=5)
    with pytest.raises(UserError, match="is the directory to read from"):
        hf.import_model(source, tmp_path / "." / "source")


def test_the_card_keeps_the_licence(tmp_path: Path) -> None:
    source, _, _ = checkpoint(tmp_path / "source", "bloom", spare_rows=5)
    (source / "README.md").write_text("---\nlicense: bigscience-bloom-rail-1.0\nlanguage: fr\n---\n# BLOOM\n")
    card = (hf.import_model(source, tmp_path / "out") / "README.md").read_text("utf-8")
    assert "language:\n- fr\nlicense: bigscience-bloom-rail-1.0\n" in card
    assert "`[GEN]` was added" in card
    (source / "README.md").write_text("---\n: [\n---\n")
    card = (hf.import_model(source, tmp_path / "out") / "README.md").read_text("utf-8")
    assert "license: unknown\n" in card


# --- the hub ---------------------------------------------------------------------------------------------------------


def cached(cache: Path, source: Path, hub_id: str) -> None:
    """Lays a directory out as huggingface_hub caches a download."""
    folder, commit = cache / f"models--{hub_id.replace('/', '--')}", "0" * 40
    shutil.copytree(source, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_hub_id_is_read_from_the_cache(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are offline (conftest.py): huggingface_hub itself finds the files that it downloaded before."""
    source, size, stored = checkpoint(tmp_path / "source", "bloom", spare_rows=5)
    if kind == "bin":
        torch.save({name: torch.tensor(value) for name, value in stored.items()}, source / hf.TORCH_WEIGHTS)
        (source / hf.WEIGHTS).unlink()
    cached(tmp_path / "cache", source, "org/tiny-bloom")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model, vocabulary = hf.load_model("org/tiny-bloom")
    assert vocabulary.gen_id == size
    np.testing.assert_array_equal(model.embedding[...][:size], stored[EMBEDDING["bloom"]][:size])
    card = (hf.import_model("org/tiny-bloom", tmp_path / "out") / "README.md").read_text("utf-8")
    assert "base_model: org/tiny-bloom\n" in card


def test_only_one_kind_of_weights_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def download(hub_id: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hf.local_directory("org/name") == tmp_path
    assert ["*.bin" in " ".join(patterns) for patterns in asked] == [False, True], "safetensors first"
    (tmp_path / hf.WEIGHTS_INDEX).touch()
    hf.local_directory("org/name")
    assert len(asked) == 3


@pytest.mark.parametrize("source", ["org/no-such-model", "./relative", "/absolute/path", "name"])
def test_neither_a_directory_nor_on_the_hub(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{source} is n(ot a model|either a directory nor)"):
        hf.import_model(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_seqgpt_vocabularies_have_gen(tmp_path: Path) -> None:
    vocabulary_without_gen(tmp_path).save(tmp_path)
    assert not Vocabulary.from_pretrained(tmp_path).gen_is_new
