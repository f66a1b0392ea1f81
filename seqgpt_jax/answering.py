"""Questions to answers: prompts are made, decoded in batches of one kind, and what was written is read."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tqdm import tqdm

from seqgpt_jax.atomic import AtomicExample
from seqgpt_jax.decoding.beam import beam_search
from seqgpt_jax.decoding.generate import generate
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.prompt import Parsed, PromptFormat
from seqgpt_jax.vocabulary import EncodedPrompt, Vocabulary


@dataclass(frozen=True)
class DecodeConfig:
    """How answers are found, and their limits. UserError where beams are to be constrained."""

    max_prompt_tokens: int = 1024  # a longer prompt loses the end of its text
    max_new_tokens: int = 256  # a longer answer is cut off
    batch_size: int = 64  # prompts decoded at once, or beams
    constrained: bool = True
    num_beams: int = 1  # above 1: beam search (decoding/beam.py) instead of the greedy answer
    repetition_penalty: float = 1.0  # of beam search, on every token that the prompt or the answer has

    def __post_init__(self) -> None:
        if self.num_beams > 1 and self.constrained:
            raise UserError(f"num_beams={self.num_beams} is for what is not constrained (add constrained=False)")
        if self.num_beams == 1 and self.repetition_penalty != 1:
            raise UserError("repetition_penalty is for beam search (set num_beams above 1)")


OFFICIAL = DecodeConfig(constrained=False, num_beams=4, repetition_penalty=2.0)
"""What SeqGPT's released inference.py does, by today's beam rule (decoding/beam.py says what was different).

Two things differ: it runs in float16 on a GPU, and cuts the beginning of a prompt that is too long, not the end of its
text.
"""


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with its answer.

    example: the question; its answer holds all that was said, labels that were not asked included.
    raw: the text that the model wrote, without EOS; "" where the labels left no room for the text (see problems).
    parsed: what the prompt format could read in it.
    tokens_cut: prompt tokens that the end of the text lost to the limit.
    """

    example: AtomicExample
    raw: str
    parsed: Parsed
    tokens_cut: int = 0

    @property
    def strings(self) -> tuple[str, ...]:
        """Every span string of an extraction, once a label; () for a classification."""
        answer = self.example.answer
        return () if isinstance(answer, tuple) else tuple(text for spans in answer.values() for text in spans)

    @property
    def invented(self) -> tuple[str, ...]:
        """The span strings that do not occur in the text."""
        return tuple(string for string in self.strings if string not in self.example.text)


@dataclass(frozen=True)
class Answerer:
    """A model with all that is needed to ask it a question."""

    model: Decoder
    vocabulary: Vocabulary
    format: PromptFormat
    decode: DecodeConfig

    def answer(self, examples: Sequence[AtomicExample], bar: tqdm | None, strict: bool) -> list[Answered]:
        """Returns the answer to each question, in the order given. Questions with the same prompt are decoded once.

        strict: labels that leave no room for the text, or that were answered unasked, are not let through."""
        keys = [(example.kind, example.text, example.labels) for example in examples]
        prompts = list(dict(zip(keys, examples, strict=True)).values())
        encoded = self.vocabulary.encode_prompts(self.format, prompts, self.decode.max_prompt_tokens)
        if bar is not None:
            bar.total = (bar.total or 0) + len(prompts)
            bar.refresh()
        raw = [""] * len(prompts)
        for kind in ("classify", "extract"):  # apart, as the answers of one kind end at about the same time
            chosen = [(i, kept.ids) for i, kept in enumerate(encoded) if kept and prompts[i].kind == kind]
            limits = [self._answer_limit(prompts[i], len(ids)) for i, ids in chosen]
            for (i, _), text in zip(chosen, self._generate([ids for _, ids in chosen], limits, bar), strict=True):
                raw[i] = text
        by_key = {}
        for prompt, written, kept in zip(prompts, raw, encoded, strict=True):
            by_key[prompt.kind, prompt.text, prompt.labels] = self._read(prompt, written, kept, strict)
        return [
            replace(by_key[key], example=replace(example, answer=by_key[key].example.answer))
            for key, example in zip(keys, examples, strict=True)
        ]

    def _answer_limit(self, question: AtomicExample, num_prompt_tokens: int) -> int:
        """Tokens that are enough for any sensible answer, so that one that never ends does not hold up its batch.

        A choice repeats a few of its labels; spans take each label once and hardly more than the text once. Beam search
        scores what is cut off, so that its limit is the one that was asked for.
        """
        if self.decode.num_beams > 1:
            return self.decode.max_new_tokens
        if question.kind == "classify":
            enough = min(num_prompt_tokens, max(64, 2 * max(map(len, question.labels))))
        else:
            enough = num_prompt_tokens + 4 * len(question.labels) + 16
        return min(enough, self.decode.max_new_tokens)

    def _generate(self, prompts: list[list[int]], limits: list[int], bar: tqdm | None) -> list[str]:
        vocabulary, decode = self.vocabulary, self.decode
        decoder = generate
        if decode.num_beams > 1:
            decoder = functools.partial(
                beam_search, num_beams=decode.num_beams, repetition_penalty=decode.repetition_penalty
            )
        answers = decoder(
            self.model,
            prompts,
            max_new_tokens=limits,
            eos_id=vocabulary.eos_id,
            pad_id=vocabulary.pad_id,
            batch_size=decode.batch_size,
            progress=None if bar is None else _Advance(bar),
        )
        return vocabulary.decode_batch(answers)

    def _read(self, question: AtomicExample, raw: str, encoded: EncodedPrompt | None, strict: bool) -> Answered:
        if encoded is None and strict:  # raises: it names the labels' length
            self.vocabulary.encode_prompt(
                self.format, question.kind, question.text, question.labels, self.decode.max_prompt_tokens
            )
        parsed = self.format.parse(raw, question.kind, question.labels)
        if encoded is None:
            parsed = replace(parsed, problems=("the labels leave no room for the text",))
        answer = parsed.answer if strict else parsed.full_answer
        return Answered(replace(question, answer=answer), raw, parsed, encoded.tokens_cut if encoded else 0)


class _Advance:
    """Moves a bar on by what generate() has done since it last said so."""

    def __init__(self, bar: tqdm) -> None:
        self.bar, self.done = bar, 0

    def __call__(self, done: int, total: int) -> None:
        self.bar.update(done - self.done)
        self.done = done
