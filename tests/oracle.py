"""A model that answers as a function says: it takes the place of decoding.generate, and reads each prompt back."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from seqgpt_jax import answering
from seqgpt_jax.answering import DecodeConfig
from seqgpt_jax.predictor import SeqGPT
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer

Oracle = Callable[[str, str, tuple[str, ...]], str]  # (kind word, text, labels) -> answer text
PROMPT = re.compile(r"输入: (?P<text>[^\n]*)\n(?P<kind>分类|抽取): (?P<labels>[^\n]*)\n输出: ", re.DOTALL)


@functools.cache
def byte_vocabulary() -> Vocabulary:
    """Little more than a token a byte."""
    return train_tokenizer(["输入: 抽取: 分类: 输出: None\n the of and in"] * 3, 300)


class OracleDecoder:
    """batches: the prompts of each call; demonstrations: what stood before each prompt, in the same order."""

    def __init__(self, vocabulary: Vocabulary, oracle: Oracle) -> None:
        self.vocabulary, self.oracle = vocabulary, oracle
        self.batches: list[list[str]] = []
        self.demonstrations: list[list[str]] = []

    def __call__(
        self, model: object, prompts: list[list[int]], *, max_new_tokens: list[int], eos_id: int, **_: Any
    ) -> list[list[int]]:
        if not prompts:
            return []
        assert len(max_new_tokens) == len(prompts)
        self.batches.append([])
        answers = []
        for ids in prompts:
            *before, prompt = self._blocks(ids, eos_id)
            assert ids[-1] == self.vocabulary.gen_id
            match = PROMPT.fullmatch(prompt)
            assert match, prompt
            self.batches[-1].append(prompt)
            self.demonstrations.append(before)
            answer = self.oracle(match["kind"], match["text"], tuple(match["labels"].split("，")))
            answers.append([*self.vocabulary.encode(answer), eos_id])
        return answers

    def _blocks(self, ids: Sequence[int], eos_id: int) -> list[str]:
        ends = [place + 1 for place, token_id in enumerate(ids) if token_id == eos_id]
        return [self.vocabulary.decode(ids[a:b]) for a, b in zip([0, *ends], [*ends, len(ids)], strict=True)]


def oracle_model(
    monkeypatch: pytest.MonkeyPatch, vocabulary: Vocabulary, oracle: Oracle, **decode: int
) -> tuple[SeqGPT, OracleDecoder]:
    decoder = OracleDecoder(vocabulary, oracle)
    monkeypatch.setattr(answering, "generate", decoder)
    model = SeqGPT(None, vocabulary, decode=DecodeConfig(constrained=False, **decode))  # type: ignore[arg-type]
    return model, decoder


def write_spans(labels: Sequence[str], **spans: Sequence[str]) -> str:
    return "".join(f"{label}: {'	'.join(spans.get(label, ())) or 'None'}\n" for label in labels)


def finds(known: dict[str, Sequence[str]]) -> Oracle:
    """Extracts label -> strings wherever they are in the text; a choice is the first label that the text holds."""

    def oracle(kind: str, text: str, labels: tuple[str, ...]) -> str:
        if kind == "分类":
            return next((label for label in labels if label in text), "None") + "\n"
        return write_spans(labels, **{label: [s for s in known.get(label, ()) if s in text] for label in labels})

    return oracle
