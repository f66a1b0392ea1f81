"""Beam search against transformers' generate, which gets the prompts of one length at a time, so without padding."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from seqgpt_jax.decoding.beam import beam_search
from seqgpt_jax.decoding.generate import generate
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.bloom import Bloom
from tests.models.tiny import TINY, random_model, torch_twin

PAD, LIMIT = 3, 20
LENGTHS, PER_LENGTH = (5, 23, 40), 4


@functools.cache
def _model() -> Bloom:
    return random_model(dataclasses.replace(TINY, layer_loop="scan"), spread=0.45)


@functools.cache
def _prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, TINY.vocab_size, length).tolist() for length in LENGTHS for _ in range(PER_LENGTH)]


@functools.cache
def _eos() -> int:
    """A token that about half of the greedy answers have: the model's own taste ends some answers and not others."""
    free = generate(_model(), _prompts(), max_new_tokens=LIMIT, eos_id=-1, pad_id=PAD)
    spread = Counter(token for answer in free for token in set(answer))
    return min(spread, key=lambda token: abs(spread[token] - len(free) / 2))


@functools.cache
def _twin() -> transformers.BloomForCausalLM:
    return torch_twin(_model())


def _expected(limit: int = LIMIT, **settings: Any) -> list[list[int]]:
    answers: list[list[int]] = []
    for start in range(0, len(_prompts()), PER_LENGTH):
        prompts = torch.tensor(_prompts()[start : start + PER_LENGTH])
        with torch.no_grad():
            ids = _twin().generate(
                prompts, attention_mask=torch.ones_like(prompts), do_sample=False, max_new_tokens=limit,
                eos_token_id=_eos(), pad_token_id=PAD, **settings,
            )  # fmt: skip
        for row in ids[:, prompts.shape[1] :].tolist():
            answers.append(row[: row.index(_eos()) + 1] if _eos() in row else row)
    return answers


def _found(limit: int | list[int] = LIMIT, batch_size: int = 64, **settings: Any) -> list[list[int]]:
    return beam_search(
        _model(), _prompts(), max_new_tokens=limit, eos_id=_eos(), pad_id=PAD, batch_size=batch_size, **settings
    )


@pytest.mark.parametrize(
    ("early_stopping", "length_penalty"),
    [
        (False, 1.0),
        (False, -1.0),
        (True, 2.5),
        *(
            pytest.param(*setting, marks=pytest.mark.slow)
            for setting in [(False, 0.0), (True, 1.0), ("never", 1.0), ("never", 2.5), ("never", -1.0)]
        ),
    ],
)
def test_answers_equal_transformers(early_stopping: Any, length_penalty: float) -> None:
    settings = {"num_beams": 4, "early_stopping": early_stopping, "length_penalty": length_penalty}
    assert _found(**settings) == _expected(**settings)


@pytest.mark.parametrize(
    ("num_beams", "repetition_penalty"),
    [(7, 1.3), pytest.param(4, 2.0, marks=pytest.mark.slow), pytest.param(4, 0.7, marks=pytest.mark.slow)],
)
def test_repetition_penalty_and_other_numbers_of_beams(num_beams: int, repetition_penalty: float) -> None:
    settings = {"num_beams": num_beams, "repetition_penalty": repetition_penalty}
    assert _found(**settings) == _expected(**settings)


def test_the_settings_matter() -> None:
    """Or the tests above would compare nothing: answers end and are cut off, and each setting changes some."""
    plain = _found(num_beams=4)
    assert {answer[-1] == _eos() for answer in plain} == {True, False}
    assert plain != generate(_model(), _prompts(), max_new_tokens=LIMIT, eos_id=_eos(), pad_id=PAD)
    for changed in ({"length_penalty": 0.0}, {"early_stopping": True}, {"repetition_penalty": 2.0}):
        assert _found(num_beams=4, **changed) != plain, changed
    longest = _found(num_beams=4, length_penalty=2.5)
    assert longest != plain
    assert longest != _found(num_beams=4, length_penalty=2.5, early_stopping="never")


def test_limits_one_each_and_any_batch_size() -> None:
    limits = [0, 1, 7, 20] * len(LENGTHS)
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
