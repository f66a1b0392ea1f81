"""SeqGPT: choose labels for a text, or copy spans out of it, with a trained model.

    model = SeqGPT.from_pretrained("runs/quickstart")
    model.classify("my card was stolen", ["card fee", "lost card"]).labels    -> ("lost card",)
    model.extract("Ada moved to Rome", ["person", "city"]).spans              -> (Span("person", 0, 3, "Ada"), ...)

Every task goes the same way: record -> questions (atomic.py) -> prompts -> answers -> record again. Tasks in stages
(relations, events) ask their next questions once the earlier ones are answered, over all records at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from tqdm import tqdm

from seqgpt_jax import hf
from seqgpt_jax.answering import Answered, Answerer, DecodeConfig
from seqgpt_jax.atomic import AtomicExample, ask_next, check_labels, recompose
from seqgpt_jax.compiled import keep_compiled
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.models.quantized import Weights, store_weights
from seqgpt_jax.negatives import evaluation_questions
from seqgpt_jax.prompt import get_format
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    ExtractionRecord,
    Record,
    Span,
    Target,
)
from seqgpt_jax.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Classification:
    """The chosen labels in the order asked; empty where none holds."""

    labels: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"labels": list(self.labels)}


@dataclass(frozen=True, slots=True)
class Extraction:
    """Spans in text order: `text[span.start:span.end] == span.text` in the text that was given."""

    spans: tuple[Span, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"spans": [{"label": s.label, "start": s.start, "end": s.end, "text": s.text} for s in self.spans]}


@dataclass(frozen=True, slots=True)
class RecordPrediction:
    """The record as predicted (a span that is not in the text has start = -1), and the answers behind it."""

    record: Record
    answered: tuple[Answered, ...]


class SeqGPT:
    """A model with its tokenizer and prompt format. Answers are greedy, hence the same every time."""

    def __init__(
        self,
        model: Decoder,
        vocabulary: Vocabulary,
        *,
        prompt_format: str = "seqgpt_v1",
        decode: DecodeConfig | None = None,
    ) -> None:
        self.answerer = Answerer(model, vocabulary, get_format(prompt_format), decode or DecodeConfig())

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, weights: Weights = "float32", decode: DecodeConfig | None = None
    ) -> SeqGPT:
        """Loads a run directory (its export/), a Hugging Face directory or a hub id. UserError for anything else.

        weights: how matrices are kept in memory; "bfloat16" takes half of float32, "int8" a quarter.
        """
        keep_compiled()
        model, vocabulary = hf.load_model(model_directory(Path(path)))
        return cls(store_weights(model, weights), vocabulary, decode=decode)

    # --- for anyone ---

    @overload
    def classify(
        self,
        text: str,
        labels: Sequence[str],
        text_pair: str | None = None,
        target: str | None = None,
        *,
        task: Literal["SA", "ET"] | None = None,
    ) -> Classification: ...

    @overload
    def classify(
        self,
        text: list[str],
        labels: Sequence[str],
        text_pair: list[str] | None = None,
        target: list[str] | None = None,
        *,
        task: Literal["SA", "ET"] | None = None,
    ) -> list[Classification]: ...

    def classify(
        self,
        text: str | list[str],
        labels: Sequence[str],
        text_pair: str | list[str] | None = None,
        target: str | list[str] | None = None,
        *,
        task: Literal["SA", "ET"] | None = None,
    ) -> Classification | list[Classification]:
        """Returns which of the labels hold for the text, or a list of that for a list of texts.

        text_pair: a second sentence, or a question about the text, one a text. target: the words of the text that are
        asked about, one a text; task "SA" asks for the sentiment towards them, "ET" for their type.
        UserError for an empty text, or labels that are empty, equal, or too many for the prompt.
        """
        texts = _as_texts(text, "text")
        pairs, targets = _parallel(text_pair, "text_pair", texts), _parallel(target, "target", texts)
        if text_pair is not None and target is not None:
            raise UserError("both text_pair and target were given (give one of them)")
        if task is not None and (task not in ("SA", "ET") or target is None):
            raise UserError(f"task={task!r} does not fit (it is 'SA' or 'ET', and only beside a target)")
        options = _as_labels(labels)
        kind = task or ("NLI" if text_pair is not None else "CLS")
        records = [
            ClassificationRecord(
                id=str(index),
                task=kind,
                text=one,
                labels=(),
                label_set=options,
                text_pair=pair,
                target=None if about is None else Target(about),
            )
            for index, (one, pair, about) in enumerate(zip(texts, pairs, targets, strict=True))
        ]
        answers = []
        for record in self._predict_for_user(records, kind, options):
            assert isinstance(record, ClassificationRecord)
            answers.append(Classification(record.labels))
        return answers[0] if isinstance(text, str) else answers

    @overload
    def extract(self, text: str, labels: Sequence[str]) -> Extraction: ...

    @overload
    def extract(self, text: list[str], labels: Sequence[str]) -> list[Extraction]: ...

    def extract(self, text: str | list[str], labels: Sequence[str]) -> Extraction | list[Extraction]:
        """Returns the spans of each label in the text, or a list of that for a list of texts.

        A label is a type ("person") or a question about the text ("Who moved?").
        UserError for an empty text, or labels that are empty, equal, or too long for the prompt.
        """
        texts, options = _as_texts(text, "text"), _as_labels(labels)
        records = [ExtractionRecord(str(index), "NER", one, (), options) for index, one in enumerate(texts)]
        answers = []
        for record in self._predict_for_user(records, "NER", options):
            assert isinstance(record, ExtractionRecord)
            found = (span for span in record.spans if span.in_text)
            answers.append(Extraction(tuple(sorted(found, key=lambda span: (span.start, -span.end)))))
        return answers[0] if isinstance(text, str) else answers

    def _predict_for_user(self, records: Sequence[Record], task: str, labels: tuple[str, ...]) -> list[Record]:
        metas = [DatasetMeta("input", task, _language_of(record.text), labels) for record in records]
        predictions = self._predict(records, metas, split="input", bar=None, strict=True)
        return [prediction.record for prediction in predictions]

    # --- for evaluation ---

    def predict_records(
        self, records: Sequence[Record], metas: Sequence[DatasetMeta], split: str = "test", progress: bool = False
    ) -> list[RecordPrediction]:
        """Returns what the model makes of each record (what gold they hold is not looked at); metas[i] is records[i]'s.

        Records of many datasets may be mixed: their questions are decoded together, sorted by length.
        """
        with tqdm(desc="questions", unit="q", disable=not progress, leave=False) as bar:
            return self._predict(records, metas, split, bar, strict=False)

    def answer_questions(self, examples: Sequence[AtomicExample], progress: bool = False) -> list[Answered]:
        """Returns the answer to each question, in the order given."""
        with tqdm(desc="questions", unit="q", disable=not progress, leave=False) as bar:
            return self.answerer.answer(examples, bar, strict=False)

    def _predict(
        self, records: Sequence[Record], metas: Sequence[DatasetMeta], split: str, bar: tqdm | None, strict: bool
    ) -> list[RecordPrediction]:
        answered: list[list[Answered]] = [[] for _ in records]
        unfinished = list(range(len(records)))
        while unfinished:
            questions: list[tuple[int, AtomicExample]] = []
            for i in unfinished:
                known = [answer.example for answer in answered[i]]
                for question in evaluation_questions(ask_next(records[i], metas[i], known, split)):
                    questions.append((i, question))
            unfinished = list(dict.fromkeys(i for i, _ in questions))
            answers = self.answerer.answer([question for _, question in questions], bar, strict)
            for (i, _), answer in zip(questions, answers, strict=True):
                answered[i].append(answer)
        return [
            RecordPrediction(recompose(record, meta, [answer.example for answer in given]), tuple(given))
            for record, meta, given in zip(records, metas, answered, strict=True)
        ]


# --- where a model lies ----------------------------------------------------------------------------------------------


def model_directory(path: Path) -> Path:
    """Returns the Hugging Face directory that `path` is or holds, or where a hub id lies after its download."""
    for directory in (path / "export", path):
        if (directory / "config.json").is_file():
            return directory
    if (path / "checkpoints").is_dir():
        raise UserError(
            f"{path} holds checkpoints but no exported model (run `seqgpt export --run {path} --out {path / 'export'}`)"
        )
    if path.is_dir():
        raise UserError(
            f"{path} is not a model: it has neither export/ nor config.json "
            "(give a run directory or a Hugging Face directory)"
        )
    return hf.local_directory(path)


# --- what a user gives -----------------------------------------------------------------------------------------------

_HAN = re.compile(r"[\u3400-\u9fff]")


def _language_of(text: str) -> str:
    """Which wording a question about a target takes: Chinese where the text has any Han character."""
    return "zh" if _HAN.search(text) else "en"


def _as_texts(text: str | list[str], name: str) -> list[str]:
    texts = [text] if isinstance(text, str) else list(text)
    for index, one in enumerate(texts):
        if not isinstance(one, str) or not one.strip():
            where = "" if isinstance(text, str) else f" {index}"
            raise UserError(f"{name}{where} is empty or no string: {one!r} (give it some words)")
    return texts


def _as_labels(labels: Sequence[str]) -> tuple[str, ...]:
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"labels is {labels!r} (give a list of strings)")
    if not labels:
        raise UserError("labels is empty (give at least one label)")
    check_labels(labels)
    return tuple(labels)


def _parallel(given: str | list[str] | None, name: str, texts: Sequence[str]) -> Sequence[str | None]:
    if given is None:
        return [None] * len(texts)
    values = _as_texts(given, name)
    if len(values) != len(texts):
        raise UserError(f"{len(texts)} texts but {len(values)} of {name} (give one a text)")
    return values
