"""Converters: an example of a published dataset, as plain Python values, to the records that it holds.

    {"sentence": "Ada left.", "label": 1}  --labelled("sentence")-->  [ClassificationRecord(text="Ada left.", ...)]

A converter takes the example, the id of its first record and the dataset's description. It gives no record where an
example has no gold answer (a label of -1, as unlabelled splits have) or cannot be asked (options that are equal).
tfds_sources.py names one for each of its datasets; hub.py chooses by the features that a dataset has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from seqgpt_jax.atomic import check_labels
from seqgpt_jax.data.tagging import tagged_text
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, ExtractionRecord, Record, Span

Example: TypeAlias = Mapping[str, Any]
Converter: TypeAlias = Callable[[Example, str, DatasetMeta], list[Record]]


def labelled(
    text: str,
    text_pair: str | None = None,
    question: str | None = None,
    label: str = "label",
    codes: Sequence[Any] | None = None,
) -> Converter:
    """Fields with a text, perhaps a second one or a question about it, and the number of its label.

    text may name several fields: "title+description" joins what they hold with a line break. codes: where the label is
    a value and no number, codes[i] stands for label i of the dataset.
    """

    def convert(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
        value = example[label]
        number = value if codes is None else codes.index(value) if value in codes else -1
        if number is None or not 0 <= int(number) < len(meta.labels):
            return []
        return [
            ClassificationRecord(
                id,
                meta.task,
                "\n".join(example[name] for name in text.split("+")),
                (meta.labels[int(number)],),
                text_pair=None if text_pair is None else example[text_pair],
                question=None if question is None else example[question],
            )
        ]

    return convert


def flagged(text: str, threshold: float = 0.5) -> Converter:
    """A field of its own for each label of the dataset, true or a share of votes; any number of them may hold."""

    def convert(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
        chosen = tuple(label for label in meta.labels if float(example[label]) >= threshold)
        return [ClassificationRecord(id, meta.task, example[text], chosen)]

    return convert


def word_in_two_sentences(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
    """WiC: whether a word means the same in both sentences; the word stands before the first."""
    text = f"{example['word']}: {example['sentence1']}"
    fields = {"text": text, "text_pair": example["sentence2"], "label": example["label"]}
    return labelled("text", "text_pair")(fields, id, meta)


def pronoun(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
    """WSC: whether the pronoun (span2) stands for the noun phrase (span1)."""
    claim = f'"{example["span2_text"]}" stands for "{example["span1_text"]}"'
    fields = {"text": example["text"], "text_pair": claim, "label": example["label"]}
    return labelled("text", "text_pair")(fields, id, meta)


def answer_check(text: str) -> Converter:
    """Whether an answer to a question about the text is right: question and answer are asked in one line."""

    def convert(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
        question = f"{example['question']} {example['answer']}"
        fields = {"text": example[text], "question": question, "label": example["label"]}
        return labelled("text", question="question")(fields, id, meta)

    return convert


def translated(language: str) -> Converter:
    """XNLI: {"premise": {language: text}, "hypothesis": {"language": [...], "translation": [...]}, "label"}."""

    def convert(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
        hypotheses = dict(zip(example["hypothesis"]["language"], example["hypothesis"]["translation"], strict=True))
        premise, hypothesis = example["premise"].get(language), hypotheses.get(language)
        if not premise or not hypothesis:
            return []
        fields = {"text": premise, "text_pair": hypothesis, "label": example["label"]}
        return labelled("text", "text_pair")(fields, id, meta)

    return convert


# --- multiple choice -------------------------------------------------------------------------------------------------


def choice(text: str, options: Sequence[str], label: str = "label", question: str | None = None) -> Converter:
    """One field an option, and the number of the right one."""

    def convert(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
        asked = None if question is None else example[question]
        return _choice(id, meta, example[text], [example[name] for name in options], int(example[label]), asked)

    return convert


def cause_or_effect(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
    """COPA: two sentences, one of them the cause or the effect (field "question") of the premise."""
    options = [example["choice1"], example["choice2"]]
    asked = f"What is the {example['question']}?"
    return _choice(id, meta, example["premise"], options, int(example["label"]), asked)


def endings(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
    """HellaSwag: how the context goes on."""
    return _choice(id, meta, example["context"], example["endings"], int(example["label"]))


def science_question(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
    """ARC, QASC: {"question", "choices": {"label": [...], "text": [...]}, "answerKey"}, or a list of such choices."""
    choices = example["choices"]
    keys, options = choices["label"], choices["text"]
    number = list(keys).index(example["answerKey"]) if example["answerKey"] in keys else -1
    return _choice(id, meta, example["question"], options, number)


def open_book(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
    """OpenBookQA: {"question": {"stem", "choice_A" .. "choice_D"}, "answerKey": number}."""
    question = example["question"]
    options = [question[f"choice_{letter}"] for letter in "ABCD"]
    return _choice(id, meta, question["stem"], options, int(example["answerKey"]))


def passage_questions(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
    """RACE: an article with several questions, each with its options and the letter of the right one."""
    records: list[Record] = []
    rows = zip(example["questions"], example["options"], example["answers"], strict=True)
    for i, (question, options, letter) in enumerate(rows):
        number = "ABCDEFGH".find(letter) if len(letter) == 1 else -1
        records += _choice(f"{id}-{i}", meta, example["article"], options, number, question)
    return records


def _choice(
    id: str, meta: DatasetMeta, text: str, options: Sequence[str], number: int, question: str | None = None
) -> list[Record]:
    try:
        check_labels(options)
    except UserError:  # two options are written alike, or one is empty
        return []
    if not 0 <= number < len(options):
        return []
    return [ClassificationRecord(id, meta.task, text, (options[number],), tuple(options), question=question)]


# --- spans -----------------------------------------------------------------------------------------------------------


def span_reading(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
    """SQuAD: {"context", "question", "answers": {"text": [...], "answer_start": [...]}}; no answer: unanswerable.

    The first answer is the span; all are accepted. One that is not where it is said to be is looked for; a question
    whose answers are nowhere in the text gives no record.
    """
    text, found = example["context"], example["answers"]
    places = []
    for string, start in zip(found["text"], found["answer_start"], strict=True):
        start = start if text[start : start + len(string)] == string else text.find(string)
        if start >= 0 and string.strip():
            places.append((start, string))
    if (found["text"] and not places) or not example["question"].strip():
        return []
    spans = tuple(Span(meta.labels[0], start, start + len(string), string) for start, string in places[:1])
    answers = tuple(dict.fromkeys(string for _, string in places))
    return [ExtractionRecord(id, meta.task, text, spans, question=example["question"], answers=answers)]


def tagged(tokens: str, tags: str, names: Sequence[str]) -> Converter:
    """Tokens, and for each the number of its tag in names."""

    def convert(example: Example, id: str, meta: DatasetMeta) -> list[Record]:
        text, spans = tagged_text(example[tokens], [names[int(tag)] for tag in example[tags]], meta.language)
        return [ExtractionRecord(id, meta.task, text, spans)] if text.strip() else []

    return convert
