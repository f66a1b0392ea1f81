"""gazetteer: a dictionary of the strings that each label name had in held-in data; it copies them where they stand.

Of the strings known under the labels of a question, those that begin first in the text are copied, the longest first,
where they cut no Latin word. A label that held-in data does not have takes the strings of the one whose name is most
alike. Choices, and the questions of span reading, are answered with None.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from seqgpt_jax.asking import Answered, RecordQuestion, read_answer
from seqgpt_jax.atomic import Answer, AtomicExample
from seqgpt_jax.occurrences import borders
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.systems.system import AskingSystem
from seqgpt_jax.systems.training_data import SeenLabels, TrainingOptions, training_examples

_TASKS = ("NER", "SF", "SA", "RE", "EE")  # whose labels are names; in MRC-SE they are questions


class Gazetteer(AskingSystem):
    """Reads its training data when it is made. UserError for a mixture that is none, or is held out."""

    def __init__(self, options: TrainingOptions, progress: bool = False) -> None:
        self.options = options
        counts: dict[str, dict[str, Counter[str]]] = {}  # language -> label -> string
        for example in training_examples(options, _TASKS, choices=False, progress=progress):
            by_label = counts.setdefault(example.source.language, {})
            assert not isinstance(example.answer, tuple)
            for label, strings in example.answer.items():
                by_label.setdefault(label, Counter()).update(strings)
        self._languages = {language: _Strings(by_label) for language, by_label in counts.items()}

    def answer(self, questions: Sequence[RecordQuestion], bar: tqdm) -> list[Answered]:
        answers = []
        for question in questions:
            answers.append(_answered(question.example, self._say(question.example)))
            bar.update()
        return answers

    def _say(self, question: AtomicExample) -> Answer:
        if question.source.step == "event_type":  # between types that a trigger was found under: they stay
            return question.labels
        if question.kind == "classify":
            return ()
        strings = self._languages.get(question.source.language)
        if strings is None or question.source.task not in _TASKS:
            return {}
        known = strings.of(question.labels)
        found: dict[str, list[str]] = {}
        for string in _longest_matches(question.text, known.labels, known.longest):
            found.setdefault(known.labels[string], []).append(string)
        return {label: tuple(dict.fromkeys(own)) for label, own in found.items()}

    def description(self) -> dict[str, Any]:
        sizes = {language: strings.size for language, strings in self._languages.items()}
        return {"name": "gazetteer", "kind": "gazetteer", "settings": asdict(self.options), "strings": sizes}


@dataclass(frozen=True, slots=True)
class _Known:
    """The strings of a question: each with the label that it is copied for. longest: in characters."""

    labels: Mapping[str, str]
    longest: int


class _Strings:
    """The dictionary of one language."""

    def __init__(self, by_label: Mapping[str, Counter[str]]) -> None:
        self._by_label, self._seen = by_label, SeenLabels(by_label)
        self._known: dict[tuple[str, ...], _Known] = {}
        self.size = sum(map(len, by_label.values()))

    def of(self, asked: tuple[str, ...]) -> _Known:
        """A string known under several of the labels goes to the one that it was seen under most often."""
        if asked not in self._known:
            best: dict[str, tuple[int, str]] = {}
            for label, seen in zip(asked, self._seen.find(asked), strict=True):
                for string, number in (self._by_label[seen] if seen else {}).items():
                    if string not in best or number > best[string][0]:
                        best[string] = (number, label)
            labels = {string: label for string, (_, label) in best.items()}
            self._known[asked] = _Known(labels, max(map(len, labels), default=0))
        return self._known[asked]


def _longest_matches(text: str, strings: Mapping[str, str], longest: int) -> Iterator[str]:
    """The strings in the text, from left to right, without overlap."""
    places = borders(text)
    i = 0
    while i < len(places):
        start = places[i]
        for end in range(bisect_right(places, start + longest) - 1, i, -1):
            if text[start : places[end]] in strings:
                yield text[start : places[end]]
                i = end
                break
        else:
            i += 1


def _answered(question: AtomicExample, answer: Answer) -> Answered:
    """As our own models write it."""
    example = AtomicExample(question.text, question.kind, question.labels, answer, question.source)
    return read_answer(SEQGPT_V1, question, SEQGPT_V1.render_answer(example))
