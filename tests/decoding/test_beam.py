"""Beam search against transformers' generate, one prompt at a time there, batches here."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from seqgpt_jax.decoding.beam import beam_search
from seqgpt_jax.decoding.generate import generate
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.bloom import Bloom
from tests.models.tiny import TINY, random_model, torch_twin

PAD, LIMIT = 3, 20


@functools.cache
def _model() -> Bloom:
    """Spread so that beams part: a model that is sure of itself finds by beams what it finds greedily."""
    return random_model(dataclasses.replace(TINY, layer_loop="scan"), seed=1, spread=0.2)


@functools.cache
def _prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, TINY.vocab_size, length).tolist() for length in (1, 2, 5, 9, 17, 23, 31, 32, 33, 40, 12, 7)]


@functools.cache
def _eos() -> int:
    """A token that about half of the greedy answers have: the model's own taste ends some answers and not others."""
    free = generate(_model(), _prompts(), max_new_tokens=LIMIT, eos_id=-1, pad_id=PAD)
    spread = Counter(token for answer in free for token in set(answer))
    return min(spread, key=lambda token: abs(spread[token] - len(free) / 2))


def _expected(limit: int = LIMIT, **settings: Any) -> list[list[int]]:
    twin = torch_twin(_model())
    answers = []
    for prompt in _prompts():
        with torch.no_grad():
            ids = twin.generate(
                torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
                max_new_tokens=limit, eos_token_id=_eos(), pad_token_id=PAD, **settings,
            )  # fmt: skip
        answers.append(ids[0, len(prompt) :].tolist())
    return answers


def _found(limit: int | list[int] = LIMIT, batch_size: int = 64, **settings: Any) -> list[list[int]]:
    return beam_search(
        _model(), _prompts(), max_new_tokens=limit, eos_id=_eos(), pad_id=PAD, batch_size=batch_size, **settings
    )


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.5, -1.0])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
def test_answers_equal_transformers(early_stopping: Any, length_penalty: float) -> None:
    settings = {"num_beams": 4, "early_stopping": early_stopping, "length_penalty": length_penalty}
    assert _found(**settings) == _expected(**settings)


@pytest.mark.parametrize(("num_beams", "repetition_penalty"), [(4, 2.0), (4, 0.7), (3, 1.0), (7, 1.3)])
def test_repetition_penalty_and_other_numbers_of_beams(num_beams: int, repetition_penalty: float) -> None:
    settings = {"num_beams": num_beams, "repetition_penalty": repetition_penalty}
    assert _found(**settings) == _expected(**settings)


def test_the_settings_matter() -> None:
    """Or the tests above would compare nothing: answers end and are cut off, and each setting changes some."""
    plain = _found(num_beams=4)
    assert {answer[-1] == _eos() for answer in plain} == {True, False}
    assert plain != generate(_model(), _prompts(), max_new_tokens=LIMIT, eos_id=_eos(), pad_id=PAD)
    for changed in (
        {"length_penalty": 0.0},
        {"length_penalty": 2.5},
        {"early_stopping": True},
        {"repetition_penalty": 2.0},
    ):
        assert _found(num_beams=4, **changed) != plain, changed
    longest = _found(num_beams=4, length_penalty=2.5, early_stopping="never")
    assert longest != _found(num_beams=4, length_penalty=2.5)


def test_limits_one_each_and_any_batch_size() -> None:
    limits = [0, 1, 2, 20, 5, 7, 20, 3, 11, 4, 20, 6]
    each = _found(limits, batch_size=8, num_beams=4)  # two prompts at once
    alone = {limit: _expected(limit, num_beams=4) for limit in sorted(set(limits) - {0})}
    assert each == [alone[limit][i] if limit else [] for i, limit in enumerate(limits)]


def test_user_errors() -> None:
    for settings, words in (
        ({"num_beams": 1}, r"num_beams is 1 \(it must be 2 .. 48; one beam is greedy"),
        ({"num_beams": 49}, "num_beams is 49"),
        ({"num_beams": 2, "repetition_penalty": 0.0}, "repetition_penalty is 0.0"),
        ({"num_beams": 2, "early_stopping": "maybe"}, "early_stopping is 'maybe'"),
    ):
        with pytest.raises(UserError, match=words):
            _found(**settings)
