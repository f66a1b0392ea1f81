"""The two sides of decode_speed.py: the same records through our predictor, and through transformers' `generate`.

The libraries under test are imported where a side needs them: no process holds the memory of another's.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

from seqgpt_jax.atomic import AtomicExample, ask_next, decompose, recompose
from seqgpt_jax.data.datasets import sample_records
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.metrics import empty_predictions, score_dataset
from seqgpt_jax.negatives import evaluation_questions
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, ExtractionRecord, Record, Span
from seqgpt_jax.vocabulary import Vocabulary

# What the script of the released weights asks of `generate`.
NUM_BEAMS, MAX_NEW_TOKENS, MAX_PROMPT_TOKENS = 4, 256, 1024


@dataclass(frozen=True)
class Cell:
    """One measurement of one side."""

    side: str  # ours or theirs
    source: str  # a dataset, or a made-up record (see `read_work`)
    batch: int  # records handed over at once
    records: int
    model: str  # a directory, or a name of models/presets.py with random weights
    forced: bool  # every answer is made to be the gold answer


@dataclass(frozen=True)
class Work:
    """The records of a cell."""

    records: tuple[Record, ...]
    meta: DatasetMeta

    def batches(self, size: int) -> list[list[Record]]:
        """Without gold."""
        bare = iter(empty_predictions(self.records))
        return [batch for _ in self.records if (batch := list(islice(bare, size)))]

    def questions(self) -> list[AtomicExample]:
        """With their gold answers."""
        return [q for record in self.records for q in evaluation_questions(decompose(record, self.meta, "test"))]


def read_work(source: str, num_records: int) -> Work:
    """The records of a dataset's test split, the same for every model.

    "classify 50 40 DATASET", "extract 50 40 DATASET": a made-up record over and over, of 50 labels and 40 words, both
    taken from the dataset's texts.
    """
    if source.startswith(("classify ", "extract ")):
        kind, num_labels, num_words, name = source.split(" ", 3)
        words = " ".join(record.text for record in resolve_mixture(name)[0].records("test", 100)).split()
        return _made_up(kind, int(num_labels), int(num_words), words, num_records)
    dataset = resolve_mixture(source)[0]
    return Work(tuple(sample_records(dataset, "test", num_records)), dataset.meta)


def _made_up(kind: str, num_labels: int, num_words: int, words: Sequence[str], num_records: int) -> Work:
    text = " ".join(words[i % len(words)] for i in range(num_words))
    pairs = dict.fromkeys(f"{one} {other}" for one, other in pairwise(words))
    labels = tuple(islice(pairs, num_labels))
    assert len(labels) == num_labels, "the text has too few words for so many labels"
    record: Record
    if kind == "classify":
        record = ClassificationRecord("0", "CLS", text, labels[num_labels // 2 :][:1], labels)
    else:
        end = len(" ".join(text.split(" ")[:2]))
        record = ExtractionRecord("0", "NER", text, (Span(labels[0], 0, end, text[:end]),), labels)
    meta = DatasetMeta("made_up", record.task, "en", labels)
    return Work(tuple(replace(record, id=str(i)) for i in range(num_records)), meta)


def run_cell(cell: Cell, model_dir: str) -> dict[str, Any]:
    """Reads the model, goes through all records once (ours, which compiles) or one batch (theirs), then times all."""
    work = read_work(cell.source, cell.records)
    gold = work.questions() if cell.forced else []
    begin = time.perf_counter()
    side = (_Ours if cell.side == "ours" else _Theirs)(model_dir, work.meta, gold)
    load_s = time.perf_counter() - begin
    batches = work.batches(cell.batch)
    begin = time.perf_counter()
    for batch in batches if cell.side == "ours" else batches[:1]:
        side.predict(batch)
    warmup_s = time.perf_counter() - begin
    side.counts = dict.fromkeys(side.counts, 0)
    side.wrong_answers = 0
    predicted: list[Record] = []
    calls = []
    cpu = time.process_time()
    for batch in batches:
        begin = time.perf_counter()
        predicted += side.predict(batch)
        calls.append(time.perf_counter() - begin)
    cpu = time.process_time() - cpu
    score = score_dataset(work.records, predicted, work.meta)
    return {
        "calls_s": calls,
        "cores_busy": cpu / sum(calls),
        "load_s": load_s,
        "warmup_s": warmup_s,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "score": score.headline,
        "metric": score.headline_name,
        "wrong_answers": side.wrong_answers,
        **side.counts,
    }


def _gold_answers(gold: Sequence[AtomicExample]) -> dict[tuple[str, tuple[str, ...]], str]:
    return {(question.text, question.labels): SEQGPT_V1.render_answer(question) for question in gold}


class _Ours:
    """The public predictor. Its two decoders are watched: what they count, and with `gold` what they are to say."""

    def __init__(self, model_dir: str, meta: DatasetMeta, gold: Sequence[AtomicExample]) -> None:
        from seqgpt_jax import answering
        from seqgpt_jax.host_memory import keep_freed_memory
        from seqgpt_jax.predictor import SeqGPT

        keep_freed_memory()  # as the command does
        self.meta, self.gold = meta, _gold_answers(gold)
        self.predictor = SeqGPT.from_pretrained(model_dir)
        vocabulary = self.predictor.answerer.vocabulary
        encoded = vocabulary.encode_prompts(SEQGPT_V1, gold, MAX_PROMPT_TOKENS)
        answers = vocabulary.encode_batch([SEQGPT_V1.render_answer(question) for question in gold])
        self.wanted = {tuple(prompt.ids): ids for prompt, ids in zip(encoded, answers, strict=True) if prompt}
        self.counts = {"passes": 0, "tokens": 0}
        self.wrong_answers = 0
        answering.extract = self._watched(answering.extract, place_of_prompts=1)
        answering.choose = self._watched(answering.choose, place_of_prompts=3)

    def _watched(self, decode: Callable[..., Any], place_of_prompts: int) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            prompts = arguments[place_of_prompts]
            if self.wanted:
                named["wanted"] = [self.wanted[tuple(prompt.ids)] for prompt in prompts]
            answers = decode(*arguments, **named)
            if prompts:
                assert len(prompts) <= self.predictor.answerer.decode.batch_size, "passes of one batch are counted"
                self.counts["passes"] += max(answer.num_passes for answer in answers)
                self.counts["tokens"] += sum(answer.num_tokens for answer in answers)
            if decode.__name__ == "extract":
                texts = {tuple(prompt.ids[: prompt.num_text_ids]) for prompt in prompts}
                if len(texts) < len(prompts):  # they are read once, in a pass of their own
                    self.counts["passes"] += 1
                    self.counts["tokens"] += sum(map(len, texts))
            return answers

        return watched

    def predict(self, records: Sequence[Record]) -> list[Record]:
        predictions = self.predictor.predict_records(records, [self.meta] * len(records))
        for answered in (answer for prediction in predictions for answer in prediction.answered):
            if self.gold:
                self.wrong_answers += answered.raw != self.gold[answered.example.text, answered.example.labels]
        return [prediction.record for prediction in predictions]


class _Theirs:
    """transformers' generate as the script of the released weights calls it, with our tokenizer, prompt and parser.

    A batch of records is one call for each chunk of labels, prompts padded on the left.
    """

    def __init__(self, model_dir: str, meta: DatasetMeta, gold: Sequence[AtomicExample]) -> None:
        import torch
        import transformers

        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
        self.meta, self.gold = meta, _gold_answers(gold)
        self.vocabulary = Vocabulary.from_pretrained(model_dir)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
        self.model.register_forward_pre_hook(self._count, with_kwargs=True)
        self.counts = {"passes": 0, "tokens": 0}
        self.wrong_answers = 0

    def _count(self, model: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        self.counts["passes"] += 1
        self.counts["tokens"] += named["input_ids"].numel()

    def predict(self, records: Sequence[Record]) -> list[Record]:
        asked = [evaluation_questions(ask_next(record, self.meta, ())) for record in records]
        answered: list[list[AtomicExample]] = [[] for _ in records]
        for number in range(max(map(len, asked))):
            rows = [row for row, questions in enumerate(asked) if number < len(questions)]
            for row, answer in zip(rows, self._answer([asked[row][number] for row in rows]), strict=True):
                answered[row].append(answer)
        return [recompose(record, self.meta, given) for record, given in zip(records, answered, strict=True)]

    def _answer(self, questions: Sequence[AtomicExample]) -> list[AtomicExample]:
        import torch
        from transformers import LogitsProcessorList

        vocabulary = self.vocabulary
        encoded = vocabulary.encode_prompts(SEQGPT_V1, questions, MAX_PROMPT_TOKENS)
        prompts = [each.ids for each in encoded if each is not None]
        assert len(prompts) == len(questions), "the labels leave room for the text"
        width = max(map(len, prompts))
        padding = [width - len(ids) for ids in prompts]
        expected = [self.gold[each.text, each.labels] for each in questions] if self.gold else []
        with torch.inference_mode():
            rows = self.model.generate(
                input_ids=torch.tensor(
                    [[vocabulary.pad_id] * num + ids for num, ids in zip(padding, prompts, strict=True)]
                ),
                attention_mask=torch.tensor([[0] * num + [1] * (width - num) for num in padding]),
                num_beams=NUM_BEAMS,
                do_sample=False,
                max_new_tokens=MAX_NEW_TOKENS,
                logits_processor=LogitsProcessorList(
                    [_forced(vocabulary.encode_answers(expected), width)] if expected else []
                ),
            )
        written = vocabulary.decode_batch(rows[:, width:].tolist())
        if expected:
            self.wrong_answers += sum(one != other for one, other in zip(written, expected, strict=True))
        return [
            replace(question, answer=SEQGPT_V1.parse(raw, question.kind, question.labels).full_answer)
            for question, raw in zip(questions, written, strict=True)
        ]


def _forced(answers: Sequence[Sequence[int]], width: int) -> Callable[[Any, Any], Any]:
    """A logits processor that leaves each prompt's beams its answer alone, EOS included, and EOS again behind it.

    The first beam begins at 0 and the others at -1e9, as the search has it, so all four stay alive and say the same.
    """

    def force(input_ids: Any, scores: Any) -> Any:
        place = input_ids.shape[1] - width
        only = scores.new_full(scores.shape, float("-inf"))
        for row in range(len(only)):
            answer = answers[row // NUM_BEAMS]
            only[row, answer[min(place, len(answer) - 1)]] = 0.0
        return only

    return force
