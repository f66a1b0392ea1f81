"""Records asked about, round by round: the one way that whatever answers questions goes, be it a model or not.

    records -> the questions of all of them -> answers -> the questions that these lead to -> ... -> predicted records

Tasks in stages (relations, events) ask their next questions once the earlier ones are answered, over all records at
once. No jax: baselines need none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from tqdm import tqdm

from seqgpt_jax.atomic import Answer, AtomicExample, ask_next, none_options, recompose, several_may_hold
from seqgpt_jax.negatives import evaluation_questions
from seqgpt_jax.prompt import Parsed, PromptFormat
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, Record

NO_ANSWER = "no answer: "  # begins the problem of a question that was never answered; the reason follows
NO_ROOM = "the labels leave no room for the text"  # the problem of a prompt that is too long for any of it
_BAR_DELAY = 3.0  # seconds after which a bar that was not asked for shows up


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with its answer.

    example: the question; its answer holds all that was said, labels that were not asked included.
    raw: the text that the model wrote, without EOS; "" where there is none (see problems).
    parsed: what the prompt format could read in it.
    tokens_cut: prompt tokens that the end of the text lost to the limit.
    probabilities: by the model, uncalibrated: of (label,) for each label of a choice whose score is known, of
    (label, string) for what was extracted; empty where unconstrained.
    num_examples: demonstrations that stood before the text; None where there are none to choose from.
    """

    example: AtomicExample
    raw: str
    parsed: Parsed
    tokens_cut: int = 0
    probabilities: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    num_examples: int | None = None

    @property
    def strings(self) -> tuple[str, ...]:
        """Every span string of an extraction, once a label; () for a classification."""
        answer = self.example.answer
        return () if isinstance(answer, tuple) else tuple(text for spans in answer.values() for text in spans)

    @property
    def invented(self) -> tuple[str, ...]:
        """The span strings that do not occur in the text."""
        return tuple(string for string in self.strings if string not in self.example.text)

    @property
    def unanswered(self) -> bool:
        """Whether there never was an answer, good or bad."""
        return any(problem.startswith(NO_ANSWER) for problem in self.parsed.problems)


@dataclass(frozen=True, slots=True)
class RecordPrediction:
    """The record as predicted (a span that is not in the text has start = -1), and the answers behind it."""

    record: Record
    answered: tuple[Answered, ...]


class AnswerLoss(NamedTuple):
    """-log of the probability of a gold answer, summed over its tokens, EOS included."""

    nats: float
    num_tokens: int


class RecordQuestion(NamedTuple):
    """A question about records[record].

    several: more than one label of a choice may hold, or none. none_allowed: where only one may, none may too.
    """

    record: int
    example: AtomicExample
    several: bool
    none_allowed: bool


def predict_by_asking(
    records: Sequence[Record],
    metas: Sequence[DatasetMeta],
    split: str,
    answer: Callable[[Sequence[RecordQuestion]], Sequence[Answered]],
    max_extract_labels: int = 6,
) -> list[RecordPrediction]:
    """Returns each record (what gold it holds is not looked at) as the answers fill it in; metas[i] is records[i]'s.

    answer: called once a round with the questions of all records, returns their answers in the same order.
    max_extract_labels: of one question.
    """
    answered: list[list[Answered]] = [[] for _ in records]
    unfinished = list(range(len(records)))
    while unfinished:
        questions: list[RecordQuestion] = []
        for i in unfinished:
            asked = ask_next(records[i], metas[i], [each.example for each in answered[i]], split)
            for example in evaluation_questions(asked, max_extract_labels):
                several = several_may_hold(example.source, metas[i])
                questions.append(RecordQuestion(i, example, several, bool(none_options(records[i]))))
        unfinished = list(dict.fromkeys(question.record for question in questions))
        if questions:
            for question, given in zip(questions, answer(questions), strict=True):
                answered[question.record].append(given)
    return [
        RecordPrediction(_recompose(record, meta, given), tuple(given))
        for record, meta, given in zip(records, metas, answered, strict=True)
    ]


def _recompose(record: Record, meta: DatasetMeta, answered: Sequence[Answered]) -> Record:
    predicted = recompose(record, meta, [each.example for each in answered])
    if isinstance(predicted, ClassificationRecord) and any(each.unanswered for each in answered):
        return replace(predicted, labels=())  # not even the option that means none was chosen
    return predicted


def read_answer(
    format: PromptFormat, question: AtomicExample, raw: str, *, strict: bool = False, problem: str | None = None
) -> Answered:
    """Returns the question with what `raw` says. strict: without labels that were not asked.

    problem: takes the place of those that are found in reading.
    """
    parsed = format.parse(raw, question.kind, question.labels)
    if problem is not None:
        parsed = replace(parsed, problems=(problem,))
    return Answered(replace(question, answer=parsed.answer if strict else parsed.full_answer), raw, parsed)


def without_answer(question: AtomicExample, reason: str) -> Answered:
    """Returns the question as one that was never answered: it says nothing, and its problem says why."""
    nothing: Answer = () if question.kind == "classify" else {}
    return Answered(replace(question, answer=nothing), "", Parsed(nothing, (NO_ANSWER + reason,)))


def question_bar(progress: bool | None) -> tqdm:
    """A bar of questions on stderr. None: one that shows up once it has run for a while."""
    delay = _BAR_DELAY if progress is None else 0.0
    return tqdm(desc="questions", unit="q", disable=progress is False, delay=delay, leave=False)


def expect_more(bar: tqdm | None, number: int) -> None:
    """Tells the bar of so many questions that are to come."""
    if bar is not None and not bar.disable:
        bar.total = (bar.total or 0) + number
        if not bar.delay:  # refreshing would show a bar that is to wait
            bar.refresh()
