"""hf:PATH: any causal language model that transformers can run, decoded greedily by torch.

A model with [GEN] in its vocabulary is asked as our own decoder asks it; so is one without, but for the [GEN]. A chat
model may be asked with its own chat template instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jinja2
import torch
import transformers
from tqdm import tqdm

from seqgpt_jax.answering import DecodeConfig
from seqgpt_jax.asking import NO_ROOM, Answered, RecordQuestion, read_answer
from seqgpt_jax.errors import UserError
from seqgpt_jax.predictor import model_directory
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.systems.chat_prompt import chat_messages, read_reply
from seqgpt_jax.systems.system import AskingSystem
from seqgpt_jax.vocabulary import Vocabulary

PromptKind = Literal["seqgpt", "chat"]


@dataclass(frozen=True)
class TransformersOptions:
    """prompt: "seqgpt", our own; "chat", the model's chat template. The limits of an answer are our own decoder's."""

    prompt: PromptKind = "seqgpt"
    batch_size: int = 32  # prompts decoded at once


class TransformersModel(AskingSystem):
    """limits: of prompts and answers. UserError for what cannot be loaded, and for a chat without a chat template."""

    def __init__(self, path: str, options: TransformersOptions, limits: DecodeConfig | None = None) -> None:
        limits = limits or DecodeConfig(constrained=False)
        self.path, self.options, self.limits = path, options, limits
        source = str(model_directory(Path(path))) if Path(path).exists() else path
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = "auto" if self._device.type == "cuda" else torch.float32
        try:
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source) if options.prompt == "chat" else None
        except Exception as error:  # of transformers, safetensors, the hub and its HTTP client
            problem = " ".join(str(error).split())[:300]
            raise UserError(
                f"hf:{path} cannot be loaded: {problem} (give a directory, or a hub id as org/name)"
            ) from error
        self._model: Any = model.to(self._device).eval()
        self.asker: _SeqGptAsker | _ChatAsker
        if tokenizer is None:
            self.asker = _SeqGptAsker(Vocabulary.from_pretrained(source), limits)
        else:
            self.asker = _ChatAsker(tokenizer, limits, self._model.generation_config.eos_token_id, path)
        # the model's own settings, such as sampling and penalties, are not to change a greedy answer
        self._model.generation_config = transformers.GenerationConfig(
            do_sample=False, num_beams=1, pad_token_id=self.asker.pad_id, eos_token_id=self.asker.eos_ids
        )

    def answer(self, questions: Sequence[RecordQuestion], bar: tqdm) -> list[Answered]:
        prompts = self.asker.encode(questions)
        answered: list[Answered | None] = [None] * len(questions)
        waiting = []
        for i, (question, prompt) in enumerate(zip(questions, prompts, strict=True)):
            if prompt is None:
                answered[i] = read_answer(SEQGPT_V1, question.example, "", problem=NO_ROOM)
                bar.update()
            else:
                waiting.append((question.example.kind, len(prompt.ids), i, prompt))
        waiting.sort(key=lambda each: each[:3])  # answers of one kind, and to prompts of one length, end together
        for start in range(0, len(waiting), self.options.batch_size):
            batch = waiting[start : start + self.options.batch_size]
            ends = [self.limits.answer_limit(questions[i].example, length) for _, length, i, _ in batch]
            answers = self._generate([prompt.ids for *_, prompt in batch], ends)
            for (*_, i, prompt), ids in zip(batch, answers, strict=True):
                said = read_answer(SEQGPT_V1, questions[i].example, self.asker.decode(ids))
                answered[i] = replace(said, tokens_cut=prompt.tokens_cut)
            bar.update(len(batch))
        return [each for each in answered if each is not None]

    def description(self) -> dict[str, Any]:
        settings = {
            "prompt": self.options.prompt,
            "format": SEQGPT_V1.name,
            "device": self._device.type,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "batch_size": self.options.batch_size,
            "max_prompt_tokens": self.limits.max_prompt_tokens,
            "max_new_tokens": self.limits.max_new_tokens,
        }
        return {"name": self.path, "kind": "hf", "settings": settings}

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[Sequence[int]], ends: Sequence[int]) -> list[list[int]]:
        """The greedy answers, each to its own end, with the token that ends it where there is one."""
        longest = max(map(len, prompts))
        tokens_BT = torch.full((len(prompts), longest), self.asker.pad_id)
        mask_BT = torch.zeros_like(tokens_BT)
        for row, prompt in enumerate(prompts):  # on the right, where the answer begins
            tokens_BT[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask_BT[row, longest - len(prompt) :] = 1
        written_BT = self._model.generate(
            input_ids=tokens_BT.to(self._device), attention_mask=mask_BT.to(self._device), max_new_tokens=max(ends)
        )
        answers = written_BT[:, longest:].tolist()
        return [self._until_end(ids[:end]) for ids, end in zip(answers, ends, strict=True)]

    def _until_end(self, ids: list[int]) -> list[int]:
        end = next((i for i, token in enumerate(ids) if token in self.asker.eos_ids), len(ids))
        return ids[: end + 1]


@dataclass(frozen=True, slots=True)
class _Prompt:
    ids: list[int]
    tokens_cut: int


class _SeqGptAsker:
    """Our own prompt and tokens."""

    def __init__(self, vocabulary: Vocabulary, limits: DecodeConfig) -> None:
        self._vocabulary, self._max_tokens = vocabulary, limits.max_prompt_tokens
        self.pad_id, self.eos_ids = vocabulary.pad_id, [vocabulary.eos_id]

    def encode(self, questions: Sequence[RecordQuestion]) -> list[_Prompt | None]:
        examples = [question.example for question in questions]
        encoded = self._vocabulary.encode_prompts(SEQGPT_V1, examples, self._max_tokens)
        end = -1 if self._vocabulary.gen_is_new else None  # the model has no [GEN]
        return [None if each is None else _Prompt(each.ids[:end], each.tokens_cut) for each in encoded]

    def decode(self, ids: Sequence[int]) -> str:
        return self._vocabulary.decode(ids)


class _ChatAsker:
    """The messages of chat_prompt.py in a model's own chat template."""

    def __init__(self, tokenizer: Any, limits: DecodeConfig, eos_ids: int | list[int] | None, path: str) -> None:
        if not tokenizer.chat_template:
            raise UserError(f"hf:{path} has no chat template (leave out --prompt chat)")
        self._tokenizer, self._max_tokens = tokenizer, limits.max_prompt_tokens
        ends = eos_ids if isinstance(eos_ids, list) else [eos_ids]
        self.eos_ids = [end for end in {*ends, tokenizer.eos_token_id} if end is not None]
        self.pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def encode(self, questions: Sequence[RecordQuestion]) -> list[_Prompt | None]:
        return [self._encode(question) for question in questions]

    def _encode(self, question: RecordQuestion) -> _Prompt | None:
        """The end of a text that is too long goes; what stands behind its tab, such as a question, stays."""
        first, tab, rest = question.example.text.partition("\t")
        ids = self._ids(question)
        whole = len(ids)
        while len(ids) > self._max_tokens and first:
            surplus = math.ceil(len(first) * (len(ids) - self._max_tokens) / len(ids))
            first = first[: len(first) - max(surplus, 1)]
            ids = self._ids(question._replace(example=replace(question.example, text=first + tab + rest)))
        return _Prompt(ids, whole - len(ids)) if first else None

    def _ids(self, question: RecordQuestion) -> list[int]:
        system, user = chat_messages(SEQGPT_V1, question)
        try:
            text = self._render([system, user])
        except jinja2.TemplateError:  # some templates refuse a system message
            text = self._render([{"role": "user", "content": f"{system['content']}\n\n{user['content']}"}])
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _render(self, messages: list[dict[str, str]]) -> str:
        return self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )

    def decode(self, ids: Sequence[int]) -> str:
        complete = bool(ids) and ids[-1] in self.eos_ids
        return read_reply(self._tokenizer.decode(ids, skip_special_tokens=True), complete)
