"""Questions to answers: prompts are made, decoded in batches of one kind, and what was written is read."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tqdm import tqdm

from seqgpt_jax.asking import NO_ROOM, Answered, AnswerLoss, expect_more, read_answer
from seqgpt_jax.atomic import NONE, Answer, AtomicExample, Kind, several_may_hold
from seqgpt_jax.decoding.beam import beam_search
from seqgpt_jax.decoding.constraints import TokenBytes
from seqgpt_jax.decoding.extraction import ExtractionPrompt, extract
from seqgpt_jax.decoding.generate import generate
from seqgpt_jax.decoding.likelihood import answer_losses
from seqgpt_jax.decoding.scoring import choose
from seqgpt_jax.demonstrations import Demonstrations
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.prompt import PromptFormat
from seqgpt_jax.vocabulary import EncodedPrompt, Vocabulary


@dataclass(frozen=True)
class DecodeConfig:
    """How answers are found, and their limits. UserError where beams are to be constrained.

    constrained: extractions copy spans of the text under the labels that were asked, choices are made by scoring these
    labels, whatever the model would rather write. Unconstrained, an answer is what the model writes by itself, and is
    read as far as it can be.
    """

    max_extract_labels: int = 6  # asked in one prompt
    max_prompt_tokens: int = 1024  # a longer prompt loses the end of its text
    max_new_tokens: int = 256  # a longer answer is cut off
    batch_size: int = 64  # prompts decoded at once, or beams
    constrained: bool = True
    length_normalisation: float = 0.0  # of the scores of a choice: divided by the number of tokens to this power
    num_beams: int = 1  # above 1: beam search (decoding/beam.py) instead of the greedy answer
    repetition_penalty: float = 1.0  # of beam search, on every token that the prompt or the answer has

    def __post_init__(self) -> None:
        if self.max_extract_labels < 1:
            raise UserError(f"max_extract_labels is {self.max_extract_labels} (it must be at least 1)")
        if self.num_beams > 1 and self.constrained:
            raise UserError(f"num_beams={self.num_beams} is for what is not constrained (add constrained=False)")
        if self.num_beams == 1 and self.repetition_penalty != 1:
            raise UserError("repetition_penalty is for beam search (set num_beams above 1)")

    def answer_limit(self, question: AtomicExample, num_prompt_tokens: int) -> int:
        """Tokens that are enough for any sensible answer, so that one that never ends does not hold up its batch.

        A choice repeats a few of its labels; spans take each label once and hardly more than the text once. Beam search
        scores what is cut off, so that its limit is the one that was asked for.
        """
        if self.num_beams > 1:
            return self.max_new_tokens
        if question.kind == "classify":
            enough = min(num_prompt_tokens, max(64, 2 * max(map(len, question.labels))))
        else:
            enough = num_prompt_tokens + 4 * len(question.labels) + 16
        return min(enough, self.max_new_tokens)


OFFICIAL = DecodeConfig(constrained=False, num_beams=4, repetition_penalty=2.0)
"""What SeqGPT's released inference.py does, by today's beam rule (decoding/beam.py says what was different).

Two things differ: it runs in float16 on a GPU, and cuts the beginning of a prompt that is too long, not the end of its
text.
"""


@dataclass(frozen=True)
class Answerer:
    """A model with all that is needed to ask it a question."""

    model: Decoder
    vocabulary: Vocabulary
    format: PromptFormat
    decode: DecodeConfig

    @functools.cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes(self.vocabulary.token_bytes())

    def answer(
        self,
        examples: Sequence[AtomicExample],
        bar: tqdm | None,
        strict: bool,
        *,
        multi_label: Sequence[bool] | None = None,
        none_allowed: Sequence[bool] | None = None,
        all_probabilities: bool = False,
        threshold: float = 0.5,
        pools: Sequence[Demonstrations | None] | None = None,
    ) -> list[Answered]:
        """Returns the answer to each question, in the order given. Questions with the same prompt are decoded once.

        strict: labels that leave no room for the text, or that were answered unasked, are not let through.
        multi_label: whether several labels of a choice may hold, or none (atomic.several_may_hold, if not given).
        none_allowed: whether none may where only one may (nowhere, if not given).
        all_probabilities: of every label of a choice, not only of those that it took to find the best.
        threshold: the probability that a label must have where several may hold.
        pools: the examples that each question chooses its demonstrations from.
        """
        several = [several_may_hold(example.source) for example in examples] if multi_label is None else multi_label
        none = [False] * len(examples) if none_allowed is None else none_allowed
        own = [None] * len(examples) if pools is None else pools
        keys = [
            _Key(each.kind, each.text, each.labels, multi, none_too, id(pool))
            for each, multi, none_too, pool in zip(examples, several, none, own, strict=True)
        ]
        distinct = dict(zip(keys, examples, strict=True))
        prompts = list(distinct.values())
        encoded = self.vocabulary.encode_prompts(self.format, prompts, self.decode.max_prompt_tokens)
        shown = self._demonstrate(prompts, encoded, list(dict(zip(keys, own, strict=True)).values()))
        expect_more(bar, len(prompts))
        said = [_Said("")] * len(prompts)
        for kind in ("classify", "extract"):  # apart, as the answers of one kind end at about the same time
            asked = [
                (i, key, kept)
                for i, (key, kept) in enumerate(zip(distinct, encoded, strict=True))
                if kept and key.kind == kind
            ]
            questions, kept_prompts = [prompts[i] for i, _, _ in asked], [kept for _, _, kept in asked]
            if not self.decode.constrained:
                answers = self._write(questions, kept_prompts, bar)
            elif kind == "extract":
                answers = self._copy(questions, kept_prompts, bar)
            else:
                answers = self._choose([key for _, key, _ in asked], kept_prompts, bar, all_probabilities, threshold)
            for (i, _, _), answer in zip(asked, answers, strict=True):
                said[i] = answer
        by_key = {}
        for key, prompt, answer, kept, number in zip(distinct, prompts, said, encoded, shown, strict=True):
            by_key[key] = replace(self._read(prompt, answer, kept, strict), num_examples=number)
        return [
            replace(by_key[key], example=replace(example, answer=by_key[key].example.answer))
            for key, example in zip(keys, examples, strict=True)
        ]

    def losses(self, examples: Sequence[AtomicExample], bar: tqdm | None) -> list[AnswerLoss | None]:
        """Returns what the model loses on each question's own answer; None where there is no room for its text."""
        encoded = self.vocabulary.encode_prompts(self.format, examples, self.decode.max_prompt_tokens)
        answers = self.vocabulary.encode_answers([self.format.render_answer(example) for example in examples])
        asked = [i for i, prompt in enumerate(encoded) if prompt is not None]
        expect_more(bar, len(asked))
        found = answer_losses(
            self.model,
            [prompt.ids for prompt in encoded if prompt is not None],
            [answers[i] for i in asked],
            pad_id=self.vocabulary.pad_id,
            batch_size=self.decode.batch_size,
            progress=None if bar is None else _Advance(bar),
        )
        by_place = {i: AnswerLoss(nats, len(answers[i])) for i, nats in zip(asked, found, strict=True)}
        return [by_place.get(i) for i in range(len(examples))]

    def _demonstrate(
        self,
        prompts: Sequence[AtomicExample],
        encoded: list[EncodedPrompt | None],
        pools: Sequence[Demonstrations | None],
    ) -> list[int | None]:
        """Puts before each prompt what its pool has for it and what room is left for; returns how many that were."""
        shown: list[int | None] = []
        for i, (prompt, kept, pool) in enumerate(zip(prompts, encoded, pools, strict=True)):
            if pool is None or kept is None:
                shown.append(None)
                continue
            solved = pool.before(prompt)
            asked = self.vocabulary.encode_prompts(self.format, solved)
            answers = self.vocabulary.encode_answers([self.format.render_answer(each) for each in solved])
            before: list[int] = []
            number = 0
            for block, answer in zip(asked, answers, strict=True):
                assert block is not None
                if len(block.ids) + len(answer) + len(before) + len(kept.ids) <= self.decode.max_prompt_tokens:
                    before = [*block.ids, *answer, *before]
                    number += 1
            encoded[i] = replace(kept, ids=[*before, *kept.ids], num_text_ids=len(before) + kept.num_text_ids)
            shown.append(number)
        return shown

    def _choose(
        self,
        questions: Sequence[_Key],
        prompts: Sequence[EncodedPrompt],
        bar: tqdm | None,
        all_probabilities: bool,
        threshold: float,
    ) -> list[_Said]:
        """Constrained classification. What is said is what the model would have written for the choice."""
        choices = choose(
            self.model,
            self.vocabulary,
            self.format,
            prompts,
            [question.labels for question in questions],
            multi_label=[question.multi_label for question in questions],
            none_allowed=[question.none_allowed for question in questions],
            all_probabilities=all_probabilities,
            threshold=threshold,
            length_normalisation=self.decode.length_normalisation,
            batch_size=self.decode.batch_size,
            progress=None if bar is None else _Advance(bar),
        )
        return [
            _Said(
                self.format.write_choice(choice.labels),
                by_label={(label,): p for label, p in choice.probabilities.items()},
            )
            for choice in choices
        ]

    def _copy(
        self, questions: Sequence[AtomicExample], prompts: Sequence[EncodedPrompt], bar: tqdm | None
    ) -> list[_Said]:
        """Constrained extraction."""
        vocabulary, written = self.vocabulary, [self.format.line_starts(question.labels) for question in questions]
        distinct = list(dict.fromkeys(start for starts in written for start in starts))
        ids = dict(zip(distinct, vocabulary.encode_batch(distinct), strict=True))
        answers = extract(
            self.model,
            [
                ExtractionPrompt(
                    prompt.ids,
                    prompt.num_text_ids,
                    prompt.text_kept,
                    [ids[start] for start in starts],
                    self.decode.answer_limit(question, len(prompt.ids)),
                )
                for question, prompt, starts in zip(questions, prompts, written, strict=True)
            ],
            self._token_bytes,
            pad_id=vocabulary.pad_id,
            batch_size=self.decode.batch_size,
            progress=None if bar is None else _Advance(bar),
        )
        return [
            _Said(raw, answer.probabilities)
            for raw, answer in zip(vocabulary.decode_batch([a.tokens for a in answers]), answers, strict=True)
        ]

    def _write(
        self, questions: Sequence[AtomicExample], prompts: Sequence[EncodedPrompt], bar: tqdm | None
    ) -> list[_Said]:
        """What the model writes by itself."""
        vocabulary, ids = self.vocabulary, [prompt.ids for prompt in prompts]
        decoder = generate
        if self.decode.num_beams > 1:
            decoder = functools.partial(
                beam_search, num_beams=self.decode.num_beams, repetition_penalty=self.decode.repetition_penalty
            )
        answers = decoder(
            self.model,
            ids,
            max_new_tokens=[self.decode.answer_limit(q, len(prompt)) for q, prompt in zip(questions, ids, strict=True)],
            eos_id=vocabulary.eos_id,
            pad_id=vocabulary.pad_id,
            batch_size=self.decode.batch_size,
            progress=None if bar is None else _Advance(bar),
        )
        return [_Said(raw) for raw in vocabulary.decode_batch(answers)]

    def _read(self, question: AtomicExample, said: _Said, encoded: EncodedPrompt | None, strict: bool) -> Answered:
        if encoded is None and strict:  # raises: it names the labels' length
            self.vocabulary.encode_prompt(
                self.format, question.kind, question.text, question.labels, self.decode.max_prompt_tokens
            )
        problem = None if encoded else NO_ROOM
        answered = read_answer(self.format, question, said.raw, strict=strict, problem=problem)
        probabilities = said.by_label or _by_string(question.labels, answered.example.answer, said.probabilities)
        return replace(answered, tokens_cut=encoded.tokens_cut if encoded else 0, probabilities=probabilities)


class _Key(NamedTuple):
    """What makes two questions the same."""

    kind: Kind
    text: str
    labels: tuple[str, ...]
    multi_label: bool
    none_allowed: bool
    pool: int  # id() of the examples that its demonstrations are chosen from


class _Said(NamedTuple):
    """An answer as it was decoded, and the probability of each span in it, `None` among them, or of labels."""

    raw: str
    probabilities: tuple[float, ...] = ()
    by_label: Mapping[tuple[str, ...], float] = {}


def _by_string(
    labels: Sequence[str], answer: Answer, probabilities: Sequence[float]
) -> Mapping[tuple[str, ...], float]:
    """The probabilities of an extraction, which stand in the order of its labels and their strings."""
    if isinstance(answer, tuple) or not probabilities:
        return {}
    said = [(label, string) for label in labels for string in answer.get(label, (NONE,))]
    found = dict(zip(said, probabilities, strict=True))
    return {key: value for key, value in found.items() if key[1] != NONE}


class _Advance:
    """Moves a bar on by what generate() has done since it last said so."""

    def __init__(self, bar: tqdm) -> None:
        self.bar, self.done = bar, 0

    def __call__(self, done: int, total: int) -> None:
        self.bar.update(done - self.done)
        self.done = done
