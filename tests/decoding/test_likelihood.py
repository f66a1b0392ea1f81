"""The loss of given answers against transformers, one sequence at a time."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from seqgpt_jax.answering import Answerer, DecodeConfig
from seqgpt_jax.atomic import AtomicExample, Source
from seqgpt_jax.decoding.likelihood import answer_losses
from seqgpt_jax.models.bloom import Bloom
from seqgpt_jax.prompt import get_format
from tests.models.tiny import TINY, random_model, torch_twin
from tests.oracle import byte_vocabulary

PAD = 3
SOURCE = Source("people", "test", "0", "NER", "en", "extract")


@pytest.fixture(scope="module")
def model() -> Bloom:
    return random_model(TINY, seed=2)


def _torch_loss(model: Bloom, prompt: list[int], answer: list[int]) -> float:
    with torch.no_grad():
        log_probs = torch.log_softmax(torch_twin(model)(torch.tensor([prompt + answer])).logits[0], dim=-1)
    return -sum(float(log_probs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))


def test_equals_transformers_whatever_the_batches(model: Bloom) -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(4, TINY.vocab_size, rng.integers(1, 40)).tolist() for _ in range(11)]
    answers = [rng.integers(4, TINY.vocab_size, rng.integers(1, 20)).tolist() for _ in range(11)]
    expected = [_torch_loss(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    for batch_size in (4, 16):
        found = answer_losses(model, prompts, answers, pad_id=PAD, batch_size=batch_size)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert answer_losses(model, [], [], pad_id=PAD) == []


def test_all_answers_of_one_token_share_the_whole_probability(model: Bloom) -> None:
    every = [[token] for token in range(TINY.vocab_size)]
    found = answer_losses(model, [[5, 6, 7]] * TINY.vocab_size, every, pad_id=PAD)
    assert sum(math.exp(-loss) for loss in found) == pytest.approx(1, abs=1e-5)


def test_of_questions_it_is_that_of_their_own_answers_and_none_without_room() -> None:
    vocabulary, written = byte_vocabulary(), get_format("seqgpt_v1")
    model = random_model(dataclasses.replace(TINY, vocab_size=vocabulary.size), seed=3)
    question = AtomicExample("Ada met Bob", "extract", ("person",), {"person": ("Ada", "Bob")}, SOURCE)
    answerer = Answerer(model, vocabulary, written, DecodeConfig(max_prompt_tokens=100))
    crowded = dataclasses.replace(question, labels=("a very long label " * 10,), answer={})
    loss, none = answerer.losses([question, crowded], None)
    answer = vocabulary.encode_answer(written.render_answer(question))
    prompt = vocabulary.encode_prompt(written, "extract", question.text, question.labels, 100).ids
    assert none is None and loss is not None
    assert (loss.nats, loss.num_tokens) == (pytest.approx(_torch_loss(model, prompt, answer), rel=1e-4), len(answer))
    assert answer[-1] == vocabulary.eos_id
