"""Which decoder answers, and with which settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax import answering
from seqgpt_jax.answering import OFFICIAL, DecodeConfig
from seqgpt_jax.atomic import AtomicExample, Source
from seqgpt_jax.decoding.beam import beam_search
from seqgpt_jax.errors import UserError
from seqgpt_jax.predictor import SeqGPT


def test_the_official_preset_is_beam_search_with_the_settings_of_the_script(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []

    def watched(*args: Any, **settings: Any) -> list[list[int]]:
        calls.append(settings)
        return beam_search(*args, **settings)

    monkeypatch.setattr(answering, "beam_search", watched)
    model = SeqGPT.from_pretrained(model_dir, decode=dataclasses.replace(OFFICIAL, max_new_tokens=5))
    question = AtomicExample(
        "Ada moved to Rome", "extract", ("person", "city"), {}, Source("toy", "test", "0", "NER", "en", "spans")
    )
    (answer,) = model.answer_questions([question])
    (prompt,) = model.answerer.vocabulary.encode_prompts(model.answerer.format, [question], 1024)
    (expected,) = beam_search(
        model.answerer.model, [prompt.ids], num_beams=4, max_new_tokens=5, repetition_penalty=2.0,
        eos_id=model.answerer.vocabulary.eos_id, pad_id=model.answerer.vocabulary.pad_id,
    )  # fmt: skip
    assert answer.raw == model.answerer.vocabulary.decode(expected)
    (settings,) = [call for call in calls if call["max_new_tokens"]]
    assert (settings["num_beams"], settings["repetition_penalty"], settings["max_new_tokens"]) == (4, 2.0, [5])
    assert (OFFICIAL.max_prompt_tokens, OFFICIAL.max_new_tokens) == (1024, 256)


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(UserError, match="add constrained=False"):
        DecodeConfig(num_beams=4)
    with pytest.raises(UserError, match="set num_beams above 1"):
        DecodeConfig(constrained=False, repetition_penalty=2.0)


def test_a_model_is_loaded_with_the_weights_that_were_asked_for(model_dir: Path) -> None:
    model = SeqGPT.from_pretrained(model_dir, weights="int8").answerer.model
    assert model.embedding[...].dtype == "int8"
    assert SeqGPT.from_pretrained(model_dir).answerer.model.embedding[...].dtype == "float32"
