"""SeqGPT: choose labels for a text, or copy spans out of it, with a trained model.

    model = SeqGPT.from_pretrained("runs/quickstart")
    model.classify("my card was stolen", ["card fee", "lost card"]).label     -> "lost card"
    model.extract("Ada moved to Rome", ["person", "city"]).spans[0].text      -> "Ada"

Every task goes the same way: record -> questions (atomic.py) -> prompts -> answers -> record again -> result. Tasks in
stages (relations, events) ask their next questions once the earlier ones are answered, over all records at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

from tqdm import tqdm

from seqgpt_jax import hf
from seqgpt_jax import schema as schemas
from seqgpt_jax.answering import Answerer, DecodeConfig
from seqgpt_jax.asking import Answered, AnswerLoss, RecordPrediction, RecordQuestion, predict_by_asking, question_bar
from seqgpt_jax.atomic import AtomicExample
from seqgpt_jax.calibration import Calibration
from seqgpt_jax.compiled import keep_compiled
from seqgpt_jax.demonstrations import Demonstrations, pools_of
from seqgpt_jax.errors import UserError
from seqgpt_jax.findings import Reading
from seqgpt_jax.input_checks import Labels, as_parallel, as_texts
from seqgpt_jax.merging import merge
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.models.quantized import Weights, store_weights
from seqgpt_jax.prompt import get_format
from seqgpt_jax.records import DatasetMeta, Record
from seqgpt_jax.results import (
    Answer,
    Classification,
    Events,
    Extraction,
    Prediction,
    Relations,
    Result,
    Types,
)
from seqgpt_jax.schema import Ask, GivenSpan, Part, Request
from seqgpt_jax.vocabulary import Vocabulary
from seqgpt_jax.windows import Long, Planner, Window, within

_BLOCK = 2048  # labels asked at once, so that memory has a bound whatever the number of texts


class Options(TypedDict, total=False):
    """What every call takes.

    long: what becomes of a text that is too long for one prompt: "chunk" (default) reads it in windows and puts the
    findings together (windows.py), "truncate" reads its start alone, "error" raises. Results say what was done.
    abstain_below: leaves out labels and spans with a lower (calibrated) probability; "calibrated" takes the limits
    that `seqgpt calibrate` fitted. examples: solved examples to put before the text (demonstrations.py), at most
    max_examples (default 8) of them, the most alike to the text, as far as there is room. all_probabilities: of every
    label of a choice, not only of those that it took to find the best (default; faster). progress: a bar on stderr;
    default: once a call has taken three seconds.
    """

    long: Long
    abstain_below: float | Literal["calibrated"] | None
    examples: Sequence[Any]
    max_examples: int
    all_probabilities: bool
    progress: bool | None


R = TypeVar("R")


class SeqGPT:
    """A model with its tokenizer and prompt format. It gives the same answers every time.

    Every method takes one text and returns one result, or a list of texts and returns a list. Labels are a list, or
    {name: words that describe it}; results carry the names. All take `Options`. UserError, with the remedy, for a text
    or a label that cannot be asked.
    """

    def __init__(
        self,
        model: Decoder,
        vocabulary: Vocabulary,
        *,
        prompt_format: str = "seqgpt_v1",
        decode: DecodeConfig | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.answerer = Answerer(model, vocabulary, get_format(prompt_format), decode or DecodeConfig())
        self.calibration = calibration or Calibration()

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, weights: Weights = "float32", decode: DecodeConfig | None = None
    ) -> SeqGPT:
        """Loads a run directory (its export/), a Hugging Face directory or a hub id. UserError for anything else.

        weights: how matrices are kept in memory; "bfloat16" takes half of float32, "int8" a quarter.
        """
        keep_compiled()
        directory = model_directory(Path(path))
        model, vocabulary = hf.load_model(directory)
        return cls(store_weights(model, weights), vocabulary, decode=decode, calibration=Calibration.load(directory))

    # --- for anyone ---

    @overload
    def classify(
        self,
        text: str,
        labels: Labels,
        text_pair: str | None = None,
        target: str | None = None,
        multi_label: bool = False,
        *,
        task: Literal["SA", "ET"] | None = None,
        **options: Unpack[Options],
    ) -> Classification: ...

    @overload
    def classify(
        self,
        text: list[str],
        labels: Labels,
        text_pair: list[str] | None = None,
        target: list[str] | None = None,
        multi_label: bool = False,
        *,
        task: Literal["SA", "ET"] | None = None,
        **options: Unpack[Options],
    ) -> list[Classification]: ...

    def classify(
        self,
        text: str | list[str],
        labels: Labels,
        text_pair: str | list[str] | None = None,
        target: str | list[str] | None = None,
        multi_label: bool = False,
        *,
        task: Literal["SA", "ET"] | None = None,
        **options: Unpack[Options],
    ) -> Classification | list[Classification]:
        """Returns which of the labels holds for the text; with multi_label, which of them do, or none.

        text_pair: a second sentence, one a text. target: the words of the text that are asked about, one a text; task
        "SA" asks for the sentiment towards them, "ET" for their type.
        """
        texts = as_texts(text, "text")
        pairs, targets = as_parallel(text_pair, "text_pair", len(texts)), as_parallel(target, "target", len(texts))
        schemas.check_beside(text_pair, target, task)
        ask = schemas.classify(labels, multi_label, task)
        requests = [ask(*each) for each in zip(texts, pairs, targets, strict=True)]
        return _same_form(text, _all_of(Classification, self.ask(requests, **options)))

    @overload
    def extract(self, text: str, labels: Labels, **options: Unpack[Options]) -> Extraction: ...

    @overload
    def extract(self, text: list[str], labels: Labels, **options: Unpack[Options]) -> list[Extraction]: ...

    def extract(
        self, text: str | list[str], labels: Labels, **options: Unpack[Options]
    ) -> Extraction | list[Extraction]:
        """Returns the spans of each label in the text. A label is a type ("person") or a question ("Who moved?").

        Where a string stands several times in the text, `occurrences.locate` says which of its places are meant.
        """
        return _same_form(text, _all_of(Extraction, self._ask_each(text, schemas.extract(labels), options)))

    @overload
    def relations(
        self, text: str, entity_types: Labels, relation_types: Labels, **options: Unpack[Options]
    ) -> Relations: ...

    @overload
    def relations(
        self, text: list[str], entity_types: Labels, relation_types: Labels, **options: Unpack[Options]
    ) -> list[Relations]: ...

    def relations(
        self, text: str | list[str], entity_types: Labels, relation_types: Labels, **options: Unpack[Options]
    ) -> Relations | list[Relations]:
        """Returns the entities of the text, and which of the relations holds between which two of them.

        Entities are extracted first; then every ordered pair of them is asked about.
        """
        ask = schemas.relations(entity_types, relation_types)
        return _same_form(text, _all_of(Relations, self._ask_each(text, ask, options)))

    @overload
    def events(self, text: str, schema: Mapping[str, Labels], **options: Unpack[Options]) -> Events: ...

    @overload
    def events(self, text: list[str], schema: Mapping[str, Labels], **options: Unpack[Options]) -> list[Events]: ...

    def events(
        self, text: str | list[str], schema: Mapping[str, Labels], **options: Unpack[Options]
    ) -> Events | list[Events]:
        """Returns the events of the text with their triggers and arguments. schema: {event type: its roles}."""
        return _same_form(text, _all_of(Events, self._ask_each(text, schemas.events(schema), options)))

    @overload
    def answer(self, text: str, question: str, options: None = None, **others: Unpack[Options]) -> Answer: ...

    @overload
    def answer(
        self, text: list[str], question: str, options: None = None, **others: Unpack[Options]
    ) -> list[Answer]: ...

    @overload
    def answer(self, text: str, question: str, options: Labels, **others: Unpack[Options]) -> Classification: ...

    @overload
    def answer(
        self, text: list[str], question: str, options: Labels, **others: Unpack[Options]
    ) -> list[Classification]: ...

    def answer(
        self, text: str | list[str], question: str, options: Labels | None = None, **others: Unpack[Options]
    ) -> Answer | list[Answer] | Classification | list[Classification]:
        """Returns the words of the text that answer the question; with options, which of them does."""
        results = self._ask_each(text, schemas.answer(question, options), others)
        if options is None:
            return _same_form(text, _all_of(Answer, results))
        return _same_form(text, _all_of(Classification, results))

    @overload
    def type_entities(
        self,
        text: str,
        spans: Sequence[GivenSpan],
        types: Labels,
        multi_label: bool = True,
        **options: Unpack[Options],
    ) -> Types: ...

    @overload
    def type_entities(
        self,
        text: list[str],
        spans: Sequence[Sequence[GivenSpan]],
        types: Labels,
        multi_label: bool = True,
        **options: Unpack[Options],
    ) -> list[Types]: ...

    def type_entities(
        self,
        text: str | list[str],
        spans: Sequence[Any],
        types: Labels,
        multi_label: bool = True,
        **options: Unpack[Options],
    ) -> Types | list[Types]:
        """Returns the types of spans of the text, each given by its words, as (start, end), or as a Span.

        Of a list of texts, spans is a list for each.
        """
        texts = as_texts(text, "text")
        given = [spans] if isinstance(text, str) else list(spans)
        if len(given) != len(texts):
            raise UserError(f"{len(texts)} texts but {len(given)} lists of spans (give one a text)")
        parts = [schemas.type_spans(own, types, multi_label) for own in given]
        return _same_form(text, _all_of(Types, self.ask_parts(texts, parts, **options)))

    @overload
    def predict(self, text: str, schema: Mapping[str, Any], **options: Unpack[Options]) -> Prediction: ...

    @overload
    def predict(self, text: list[str], schema: Mapping[str, Any], **options: Unpack[Options]) -> list[Prediction]: ...

    def predict(
        self, text: str | list[str], schema: Mapping[str, Any], **options: Unpack[Options]
    ) -> Prediction | list[Prediction]:
        """Returns what each part of a schema (schema.py shows one) finds out about the text."""
        if "examples" in options:
            raise UserError("examples go into the parts of a schema ({name: {..., 'examples': [...]}})")
        texts, parts = as_texts(text, "text"), schemas.read_schema(schema)
        documents = [one for one in texts for _ in parts]
        results = iter(self.ask_parts(documents, [*parts.values()] * len(texts), **options))
        return _same_form(text, [Prediction(one, {name: next(results) for name in parts}) for one in texts])

    # --- the one way that all of these go ---

    def ask(
        self,
        requests: Sequence[Request],
        *,
        long: Long = "chunk",
        abstain_below: float | Literal["calibrated"] | None = None,
        examples: Sequence[Any] = (),
        max_examples: int = 8,
        all_probabilities: bool = False,
        progress: bool | None = None,
    ) -> list[Result]:
        """Returns a result for each request, in the order given; the texts are asked sorted by length."""
        reading = Reading(self.calibration, *_limits(self.calibration, abstain_below))
        answerer = self.answerer
        pools = pools_of(requests, examples, max_examples)
        limits = answerer.decode.max_prompt_tokens, answerer.decode.max_extract_labels
        planner = Planner(answerer.vocabulary, answerer.format, *limits, long, any(pools))
        plans = [planner.plan(request) for request in requests]
        pieces = sorted(
            ((i, window) for i, plan in enumerate(plans) for window in plan.windows),
            key=lambda piece: piece[1].end - piece[1].start,
        )
        # tempering a choice, and its mean over windows, are over all labels
        wanted = all_probabilities or len(pieces) > len(requests) or self.calibration.choice_temperature != 1
        found: list[dict[Window, Result]] = [{} for _ in requests]
        with question_bar(progress) as bar:
            for block in _blocks(pieces, requests):
                asked = [within(requests[i], window) for i, window in block]
                predictions = self._predict_asked(asked, [pools[i] for i, _ in block], bar, wanted)
                for (i, window), request, predicted in zip(block, asked, predictions, strict=True):
                    if long == "error" and any(answer.tokens_cut for answer in predicted.answered):
                        raise UserError("a question about a text is too long for the prompt (ask with long='chunk')")
                    document = requests[i].record.text
                    found[i][window] = reading.read(
                        request, predicted.record, predicted.answered, document, window.start
                    )
        results = []
        for request, plan, own in zip(requests, plans, found, strict=True):
            weights = [window.num_tokens for window in plan.windows]
            result = merge(request, [own[window] for window in plan.windows], weights)
            results.append(replace(result, tokens_cut=result.tokens_cut + plan.tokens_cut))
        return results

    def _ask_each(self, text: str | list[str], ask: Ask, options: Options) -> list[Result]:
        return self.ask([ask(one) for one in as_texts(text, "text")], **options)

    def ask_parts(self, texts: Sequence[str], parts: Sequence[Part], **options: Unpack[Options]) -> list[Result]:
        """Returns the result of parts[i] of a schema about texts[i]; all of them are asked together."""
        requests = [part.requests(text) for text, part in zip(texts, parts, strict=True)]
        results = iter(self.ask([request for own in requests for request in own], **options))
        return [part.combine(own, [next(results) for _ in own]) for part, own in zip(parts, requests, strict=True)]

    def _predict_asked(
        self, requests: Sequence[Request], pools: Sequence[Demonstrations | None], bar: tqdm, all_probabilities: bool
    ) -> list[RecordPrediction]:
        records, metas = [request.record for request in requests], [request.meta for request in requests]
        return self._predict(
            records,
            metas,
            "input",
            bar,
            strict=True,
            pools=pools,
            all_probabilities=all_probabilities,
        )

    # --- for evaluation ---

    def predict_records(
        self,
        records: Sequence[Record],
        metas: Sequence[DatasetMeta],
        split: str = "test",
        progress: bool = False,
        all_probabilities: bool = False,
    ) -> list[RecordPrediction]:
        """Returns what the model makes of each record (what gold they hold is not looked at); metas[i] is records[i]'s.

        Records of many datasets may be mixed: their questions are decoded together, sorted by length.
        all_probabilities: of every label of a choice, not only of those that it took to find the best.
        """
        with question_bar(progress) as bar:
            return self._predict(records, metas, split, bar, strict=False, all_probabilities=all_probabilities)

    def answer_questions(
        self, examples: Sequence[AtomicExample], progress: bool = False, constrained: bool = True
    ) -> list[Answered]:
        """Returns the answer to each question, in the order given.

        constrained=False: what the model writes when nothing keeps its answers well-formed.
        """
        answerer = self.answerer
        if not constrained:
            answerer = replace(answerer, decode=replace(answerer.decode, constrained=False))
        with question_bar(progress) as bar:
            return answerer.answer(examples, bar, strict=False)

    def answer_losses(self, examples: Sequence[AtomicExample], progress: bool = False) -> list[AnswerLoss | None]:
        """Returns what the model loses on each question's own answer; None where its text has no room."""
        with question_bar(progress) as bar:
            return self.answerer.losses(examples, bar)

    def _predict(
        self,
        records: Sequence[Record],
        metas: Sequence[DatasetMeta],
        split: str,
        bar: tqdm,
        strict: bool,
        pools: Sequence[Demonstrations | None] | None = None,
        all_probabilities: bool = False,
    ) -> list[RecordPrediction]:
        """pools: of each record, the examples to put before its questions."""

        def answer(questions: Sequence[RecordQuestion]) -> list[Answered]:
            return self.answerer.answer(
                [question.example for question in questions],
                bar,
                strict,
                multi_label=[question.several for question in questions],
                none_allowed=[question.none_allowed for question in questions],
                all_probabilities=all_probabilities,
                threshold=self.calibration.label_threshold,
                pools=None if pools is None else [pools[question.record] for question in questions],
            )

        return predict_by_asking(records, metas, split, answer, self.answerer.decode.max_extract_labels)


def _limits(
    calibration: Calibration, abstain_below: float | Literal["calibrated"] | None
) -> tuple[float | None, float | None]:
    """Of choices and of spans."""
    if abstain_below == "calibrated":
        limits = calibration.choice_abstain_below, calibration.span_abstain_below
        if limits == (None, None):
            raise UserError(
                "abstain_below='calibrated' without fitted limits (run `seqgpt calibrate`, or give a number)"
            )
        return limits
    if abstain_below is not None and not (isinstance(abstain_below, int | float) and 0 <= abstain_below <= 1):
        raise UserError(f"abstain_below is {abstain_below!r} (it must be in 0..1, or 'calibrated')")
    return abstain_below, abstain_below


def _blocks(pieces: Sequence[tuple[int, Window]], requests: Sequence[Request]) -> Iterator[list[tuple[int, Window]]]:
    """The windows in blocks that ask about _BLOCK labels, one window at least."""
    block: list[tuple[int, Window]] = []
    num_asked = 0
    for i, window in pieces:
        num_labels = 1 if requests[i].record.kind == "classification" else len(requests[i].meta.labels)
        if block and num_asked + num_labels > _BLOCK:
            yield block
            block, num_asked = [], 0
        block.append((i, window))
        num_asked += num_labels
    if block:
        yield block


def _all_of(kind: type[R], results: Iterable[object]) -> list[R]:
    found = list(results)
    assert all(isinstance(result, kind) for result in found)
    return found  # type: ignore[return-value]


def _same_form(text: str | list[str], results: list[R]) -> Any:
    return results[0] if isinstance(text, str) else results


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
