"""Greedy decoding against a loop over the whole sequence, and against transformers' generate."""

from __future__ import annotations

import dataclasses
from collections import Counter

import jax
import numpy as np
import pytest
import torch

from seqgpt_jax.decoding.batching import bucket
from seqgpt_jax.decoding.generate import _decode, generate
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.bloom import Bloom
from seqgpt_jax.models.decoder import init_cache
from tests.models.tiny import TINY, random_model, torch_twin

EOS, PAD = 2, 3


@pytest.fixture(scope="module")
def model() -> Bloom:
    return random_model(TINY, seed=1)


def _prompts(number: int, longest: int = 40, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, TINY.vocab_size, rng.integers(1, longest + 1)).tolist() for _ in range(number)]


def test_fifty_prompts_equal_transformers(model: Bloom) -> None:
    """Lengths 1 to 40 in one call; of the answers some end by themselves and some are cut off."""
    twin, prompts = torch_twin(model), _prompts(50)
    free = generate(model, prompts, max_new_tokens=24, eos_id=EOS, pad_id=PAD, batch_size=16)
    spread = Counter(token for answer in free for token in set(answer))
    eos = min(
        spread, key=lambda token: abs(spread[token] - 25)
    )  # the model's own taste: ends about half of the answers
    answers = generate(model, prompts, max_new_tokens=24, eos_id=eos, pad_id=PAD, batch_size=16)
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            expected = twin.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=24,
                do_sample=False, eos_token_id=eos, pad_token_id=PAD,
            )  # fmt: skip
        assert answer == expected[0, len(prompt) :].tolist()
    ended = sum(answer[-1] == eos for answer in answers)
    assert 3 < ended < 47, "the tiny model must show both endings"
    assert all(len(answer) == 24 or answer[-1] == eos for answer in answers)


@pytest.mark.parametrize("layer_loop", ["scan", "unroll"])
def test_limits_one_each_and_any_batch_size(model: Bloom, layer_loop: str) -> None:
    model = random_model(dataclasses.replace(TINY, layer_loop=layer_loop), seed=1)
    prompts = _prompts(9, longest=30, seed=3)
    whole = generate(model, prompts, max_new_tokens=20, eos_id=EOS, pad_id=PAD, batch_size=16)
    limits = [0, 1, 2, 20, 5, 7, 20, 3, 11]
    calls: list[tuple[int, int]] = []
    each = generate(
        model, prompts, max_new_tokens=limits, eos_id=EOS, pad_id=PAD, batch_size=4,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert each == [answer[:limit] for answer, limit in zip(whole, limits, strict=True)]
    assert calls == [(4, 9), (8, 9), (9, 9)]
    assert generate(model, [], max_new_tokens=5, eos_id=EOS) == []


def test_long_prompts_go_in_smaller_batches(model: Bloom, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[5] * 10, [6] * 20, *([7, 8] * 45 for _ in range(5))]  # padded to 32, 32 and 96
    whole = generate(model, prompts, max_new_tokens=4, eos_id=EOS, pad_id=PAD)
    shapes = []

    def watched(graph, params, rows, *rest):
        shapes.append(rows.tokens_BT.shape)
        return _decode(graph, params, rows, *rest)

    monkeypatch.setattr("seqgpt_jax.decoding.generate._decode", watched)
    monkeypatch.setattr("seqgpt_jax.decoding.batching.MAX_BATCH_TOKENS", 200)
    assert generate(model, prompts, max_new_tokens=4, eos_id=EOS, pad_id=PAD) == whole
    assert shapes == [(2, 32), (2, 96), (2, 96), (1, 96)]
    shapes.clear()
    monkeypatch.setattr("seqgpt_jax.decoding.batching.MAX_BATCH_TOKENS", 8)  # less than any prompt: one at a time
    assert generate(model, prompts, max_new_tokens=4, eos_id=EOS, pad_id=PAD) == whole
    assert len(shapes) == 7


def test_few_programs_serve_any_length(model: Bloom) -> None:
    _decode.clear_cache()
    for seed in range(3):
        generate(model, _prompts(20, longest=60, seed=seed), max_new_tokens=4, eos_id=EOS, pad_id=PAD, batch_size=8)
    assert _decode._cache_size() <= 4  # two lengths, two sizes of batch
    lengths = range(1, 5000)
    assert all(length <= bucket(length) <= max(length + 15, 1.25 * length) for length in lengths)
    assert len({bucket(length) for length in lengths}) <= 30


def test_user_errors(model: Bloom) -> None:
    for prompts, limits, words in (
        ([[5], []], 4, "prompt 1 is empty"),
        ([[5, TINY.vocab_size]], 4, "id outside 0 .. 95"),
        ([[5], [6]], [4], "1 values of max_new_tokens for 2 prompts"),
        ([[5]], -1, "max_new_tokens at least 0"),
    ):
        with pytest.raises(UserError, match=words):
            generate(model, prompts, max_new_tokens=limits, eos_id=EOS, pad_id=PAD)


def test_the_cache_has_the_shape_that_the_config_says() -> None:
    cache = jax.eval_shape(lambda: init_cache(dataclasses.replace(TINY, compute_dtype="bfloat16"), 5, 64))
    assert (cache.keys_LBGKH.shape, cache.values_LBGKH.dtype) == ((3, 5, 4, 64, 8), "bfloat16")
