"""Logits and gradients of transformers from the files that it wrote, and the same bits in the files that it reads."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.numpy import load_file

from seqgpt_jax import hf
from seqgpt_jax.data.loader import Batch
from seqgpt_jax.models.architectures import make_model
from seqgpt_jax.models.loss import answer_loss
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer
from tests.hf.checkpoints import CASES, TEXTS, random_twin, state_of

LENGTH, PADDING, FIRST = 24, 7, 10  # tokens a row; of padding on the left; of the first of two documents in a row


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train_tokenizer(TEXTS, 300)


@nnx.jit
def _logits(model: nnx.Module, tokens_BT: jax.Array, positions_BT: jax.Array, segment_ids_BT: jax.Array) -> jax.Array:
    return model.head(model(tokens_BT, positions_BT, segment_ids_BT)[0])


@pytest.mark.parametrize("name", CASES)
def test_logits_and_bits(name: str, vocabulary: Vocabulary, tmp_path: Path) -> None:
    twin = random_twin(name)
    twin.save_pretrained(tmp_path / "theirs")
    config = hf.read_config(tmp_path / "theirs")
    model = hf.read_model(tmp_path / "theirs", config)

    # Three rows: one document; a document after padding; two documents packed.
    tokens_BT = np.random.default_rng(0).integers(0, config.vocab_size, (3, LENGTH), dtype=np.int32)
    positions_BT = np.tile(np.arange(LENGTH, dtype=np.int32), (3, 1))
    segment_ids_BT = np.ones_like(tokens_BT)
    positions_BT[1] = np.maximum(positions_BT[1] - PADDING, 0)
    segment_ids_BT[1, :PADDING] = 0
    positions_BT[2, FIRST:] -= FIRST
    segment_ids_BT[2, FIRST:] = 2
    logits_BTV = np.asarray(_logits(model, tokens_BT, positions_BT, segment_ids_BT))

    with torch.no_grad():
        mask = torch.tensor(segment_ids_BT[:2] > 0).long()
        padded = twin(torch.tensor(tokens_BT[:2]), attention_mask=mask).logits.numpy()
        packed = [twin(torch.tensor(part[None])).logits.numpy()[0] for part in np.split(tokens_BT[2], [FIRST])]
    assert np.abs(padded[0]).max() > 1, "the model says something"
    for ours, theirs in (
        (logits_BTV[0], padded[0]),
        (logits_BTV[1, PADDING:], padded[1, PADDING:]),
        (logits_BTV[2], np.concatenate(packed)),
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)

    out = hf.export_model(model, vocabulary, tmp_path / "ours")
    expected, written = state_of(twin), load_file(out / hf.WEIGHTS)
    assert written.keys() == expected.keys()
    for tensor in written:
        np.testing.assert_array_equal(written[tensor], expected[tensor], err_msg=tensor)
    again, report = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert type(again) is type(twin)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():  # the same config too
        assert torch.equal(again(torch.tensor(tokens_BT[:1])).logits, twin(torch.tensor(tokens_BT[:1])).logits)

    assert hf.read_config(out) == config
    back = hf.read_model(out, config)
    for left, right in zip(jax.tree.leaves(nnx.state(model)), jax.tree.leaves(nnx.state(back)), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str, tmp_path: Path) -> None:
    """Of the mean loss of each row's last tokens: every tensor to 1e-4 of its largest entry."""
    twin = random_twin(name)
    twin.save_pretrained(tmp_path)
    config = hf.read_config(tmp_path)
    model = hf.read_model(tmp_path, config)

    tokens_BT = np.random.default_rng(1).integers(0, config.vocab_size, (2, LENGTH), dtype=np.int32)
    labels = torch.tensor(tokens_BT).long()
    labels[:, :FIRST] = -100
    twin(torch.tensor(tokens_BT), labels=labels).loss.backward()
    expected = {path: parameter.grad.numpy() for path, parameter in twin.named_parameters()}

    positions_BT = np.tile(np.arange(LENGTH, dtype=np.int32), (2, 1))
    targets_BS = tokens_BT[:, FIRST:]
    batch = Batch(
        tokens_BT, positions_BT, np.ones_like(tokens_BT), positions_BT[:, FIRST - 1 : -1], targets_BS,
        np.ones_like(targets_BS, bool),
    )  # fmt: skip

    def mean_loss(model: nnx.Module) -> jax.Array:
        sums = answer_loss(model, batch)
        return sums.loss_sum / sums.num_targets

    as_model = make_model(config, rngs=nnx.Rngs(0))  # gradients go through the same names as weights do
    nnx.update(as_model, nnx.jit(nnx.grad(mean_loss))(model))
    found = dict(hf.model_to_hf(as_model))
    assert found.keys() == expected.keys()
    for tensor, gradient in found.items():
        scale = np.abs(expected[tensor]).max()
        assert scale > 0, tensor
        np.testing.assert_allclose(gradient, expected[tensor], atol=1e-4 * scale, rtol=0, err_msg=tensor)
