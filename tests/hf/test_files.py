"""Every way in which weights lie in files gives the same tensors, in little memory; files that are broken are named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from seqgpt_jax import hf
from seqgpt_jax.errors import UserError
from seqgpt_jax.hf import tables
from tests.hf.checkpoints import random_twin, state_of, vocabulary_without_gen


@pytest.fixture(scope="module")
def twin() -> transformers.PreTrainedModel:
    return random_twin("bloom_six_heads")


@pytest.fixture
def saved(twin: transformers.PreTrainedModel, tmp_path: Path) -> Path:
    twin.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def tensors_of(directory: Path, param_dtype: str = "float32") -> dict[str, np.ndarray]:
    """What our model has read, by the names of transformers."""
    return dict(hf.model_to_hf(hf.read_model(directory, hf.read_config(directory, param_dtype=param_dtype))))


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def write_torch_files(directory: Path, state: dict[str, torch.Tensor], num_files: int, **options: object) -> None:
    """pytorch_model.bin, or shards with an index, instead of the safetensors there."""
    (directory / hf.WEIGHTS).unlink(missing_ok=True)
    if num_files == 1:
        torch.save(state, directory / hf.TORCH_WEIGHTS, **options)
        return
    names, where = list(state), {}
    for index in range(num_files):
        file = f"pytorch_model_{index + 1:05d}-of-{num_files:05d}.bin"  # so named in the released BLOOM
        part = names[index::num_files]
        torch.save({name: state[name].clone() for name in part}, directory / file)
        where |= dict.fromkeys(part, file)
    (directory / f"{hf.TORCH_WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.mark.parametrize("form", ["safetensors", "shards", "bin", "bin_shards", "old_bin"])
def test_forms_of_files(
    form: str, twin: transformers.PreTrainedModel, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_BLOCK_BYTES", 1000)  # a few rows, so that tensors are read in many pieces
    if form == "shards":
        twin.save_pretrained(tmp_path / "shards", max_shard_size="40KB")
        saved = tmp_path / "shards"
        assert len(list(saved.glob("model-*.safetensors"))) > 1
    elif form == "bin":
        write_torch_files(saved, twin.state_dict(), 1)  # the head is in it too, as a second name of the embedding
    elif form == "bin_shards":
        write_torch_files(saved, twin.state_dict(), 3)
    elif form == "old_bin":
        write_torch_files(saved, twin.state_dict(), 1, _use_new_zipfile_serialization=False)
    assert_equal(tensors_of(saved), state_of(twin))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str, kind: str, saved: Path) -> None:
    half = random_twin("bloom_six_heads").to(getattr(torch, dtype))
    half.save_pretrained(saved)
    if kind == "bin":
        write_torch_files(saved, half.state_dict(), 1)
    expected = {name: value.detach().float().numpy() for name, value in half.named_parameters()}
    assert_equal(tensors_of(saved), expected)  # halves are floats
    model = hf.read_model(saved, hf.read_config(saved, param_dtype=dtype))
    assert model.embedding[...].dtype == dtype
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    assert_equal(dict(hf.model_to_hf(model, dtype)), {name: x.astype(numpy_dtype) for name, x in expected.items()})


def test_names_without_the_prefix(twin: transformers.PreTrainedModel, saved: Path) -> None:
    """As bigscience/bloom has them."""
    tensors = load_file(saved / hf.WEIGHTS)
    save_file({name.removeprefix("transformer."): x for name, x in tensors.items()}, saved / hf.WEIGHTS)
    assert_equal(tensors_of(saved), state_of(twin))


def test_files_that_are_cut_off(twin: transformers.PreTrainedModel, saved: Path) -> None:
    for name in (hf.WEIGHTS, hf.TORCH_WEIGHTS):
        if name == hf.TORCH_WEIGHTS:
            write_torch_files(saved, twin.state_dict(), 1)
        whole = (saved / name).read_bytes()
        for length in (0, 5, 3000, len(whole) - 4):
            (saved / name).write_bytes(whole[:length])
            with pytest.raises(UserError, match=f"{name} is not a whole"):
                tensors_of(saved)


def test_a_torch_file_runs_no_code(saved: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "touched",)  # type: ignore[return-value]

    write_torch_files(saved, {"word_embeddings.weight": Evil()}, 1)  # type: ignore[dict-item]
    with pytest.raises(UserError, match="is not a whole PyTorch weights file"):
        tensors_of(saved)
    assert not (tmp_path / "touched").exists()


def test_without_torch_the_message_says_how_to_get_it(
    twin: transformers.PreTrainedModel, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_torch_files(saved, twin.state_dict(), 1)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install torch"):
        tensors_of(saved)


def test_an_index_that_is_wrong(twin: transformers.PreTrainedModel, saved: Path) -> None:
    write_torch_files(saved, twin.state_dict(), 2)
    (saved / "pytorch_model_00002-of-00002.bin").unlink()
    with pytest.raises(UserError, match=r"lacks pytorch_model_00002-of-00002.bin, which pytorch_model.bin.index.json"):
        tensors_of(saved)
    (saved / hf.WEIGHTS_INDEX).write_text("[]")
    with pytest.raises(UserError, match=r"model.safetensors.index.json has no weight_map"):
        tensors_of(saved)


def test_tensors_of_another_type_are_named(saved: Path) -> None:
    tensors = load_file(saved / hf.WEIGHTS)
    tensors["transformer.ln_f.bias"] = tensors["transformer.ln_f.bias"].astype(np.int8)
    save_file(tensors, saved / hf.WEIGHTS)
    with pytest.raises(UserError, match=r"tensor transformer.ln_f.bias is of type I8"):
        tensors_of(saved)


_MEASURE = """
import gc, re, sys
from pathlib import Path
import jax
from seqgpt_jax import hf
import huggingface_hub.serialization, safetensors.numpy  # what a call imports is not the weights' memory

def megabytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1000

def peak(call, *arguments, **options):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = megabytes("VmRSS")
    call(*arguments, **options)
    return megabytes("VmHWM") - before

jax.device_put([1.0])
source, out = sys.argv[1:]
print(peak(hf.read_model, source, hf.read_config(source)))
print(peak(hf.import_model, source, out, max_shard_bytes=20_000_000))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_near_one_copy(tmp_path: Path) -> None:
    source = tmp_path / "source"
    vocabulary_without_gen(source)
    config = transformers.BloomConfig(vocab_size=60_000, hidden_size=384, n_layer=6, n_head=6)
    with torch.device("meta"):
        shapes = transformers.BloomForCausalLM(config).state_dict()
    tensors = {name: np.ones(tuple(x.shape), np.float32) for name, x in shapes.items() if name != "lm_head.weight"}
    config.save_pretrained(source)
    save_file(tensors, source / hf.WEIGHTS)
    one_copy = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
    assert 100 < one_copy < 200
    command = [sys.executable, "-c", _MEASURE, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():  # reading, and reading and writing
        assert 0.9 * one_copy < float(line) < 1.35 * one_copy, (done.stdout, one_copy)
