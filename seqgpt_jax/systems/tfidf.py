"""tfidf: character n-grams, weighted by TF-IDF, and a linear model of the labels that held-in data has.

The labels of a question are looked up among those of held-in choices (the same name, else the most alike), and a
linear SVM of the texts that had them decides between these. Where fewer than two are found, and where the options are
a record's own (MRC-MC), it chooses the label whose own words are most alike to the text. It always chooses exactly one
label, and answers every extraction with None.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC
from tqdm import tqdm

from seqgpt_jax.asking import Answered, RecordQuestion, read_answer
from seqgpt_jax.atomic import Answer
from seqgpt_jax.errors import UserError
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.systems.system import AskingSystem
from seqgpt_jax.systems.training_data import SeenLabels, TrainingOptions, training_examples

_TASKS = ("CLS", "SA", "ID", "NLI", "ET")  # whose labels are the dataset's
_N_GRAMS = {"en": ("char_wb", (2, 4)), "zh": ("char", (1, 3))}
_NUM_FEATURES = 200_000  # the most frequent n-grams


class Tfidf(AskingSystem):
    """Reads its training data when it is made. UserError for a mixture that is none, is held out, or has no choices."""

    def __init__(self, options: TrainingOptions, progress: bool = False) -> None:
        self.options = options
        texts: dict[str, list[str]] = {}
        labels: dict[str, list[str]] = {}
        for example in training_examples(options, _TASKS, choices=True, progress=progress):
            for label in example.answer:  # a text with several labels stands for each of them
                texts.setdefault(example.source.language, []).append(example.text)
                labels.setdefault(example.source.language, []).append(label)
        if not texts:
            raise UserError(f"mixture '{options.train_mixture}' has no choices to learn from (take a larger one)")
        self._languages = {each: _Chooser(each, texts[each], labels[each]) for each in texts}

    def answer(self, questions: Sequence[RecordQuestion], bar: tqdm) -> list[Answered]:
        together: dict[tuple[str, bool, tuple[str, ...]], list[int]] = {}
        for i, question in enumerate(questions):
            example = question.example
            if example.kind == "classify":
                learned = example.source.task in _TASKS
                together.setdefault((example.source.language, learned, example.labels), []).append(i)
        chosen: dict[int, str] = {}
        for (language, learned, labels), places in together.items():
            if chooser := self._languages.get(language):
                texts = [questions[i].example.text for i in places]
                chosen |= zip(places, chooser.choose(texts, labels, learned), strict=True)
        bar.update(len(questions))
        answers = []
        for i, question in enumerate(questions):
            nothing: Answer = () if question.example.kind == "classify" else {}
            example = replace(question.example, answer=(chosen[i],) if i in chosen else nothing)
            answers.append(read_answer(SEQGPT_V1, question.example, SEQGPT_V1.render_answer(example)))
        return answers

    def description(self) -> dict[str, Any]:
        sizes = {language: chooser.num_labels for language, chooser in self._languages.items()}
        return {"name": "tfidf", "kind": "tfidf", "settings": asdict(self.options), "labels": sizes}


class _Chooser:
    """The choices of one language: texts[i] had labels[i]."""

    def __init__(self, language: str, texts: Sequence[str], labels: Sequence[str]) -> None:
        analyzer, n_grams = _N_GRAMS[language]
        self._vectorizer = TfidfVectorizer(
            analyzer=analyzer, ngram_range=n_grams, max_features=_NUM_FEATURES, sublinear_tf=True, dtype=np.float32
        )
        self._vectors = self._vectorizer.fit_transform(texts)
        self._labels = np.array(labels)
        self._seen = SeenLabels(dict.fromkeys(labels))
        self.num_labels = len(set(labels))

    def choose(self, texts: Sequence[str], labels: tuple[str, ...], learned: bool) -> list[str]:
        """Returns one of the labels for each text. learned: whether the labels may be those of held-in data."""
        vectors = self._vectorizer.transform(texts)
        asked: dict[str, str] = {}  # label of held-in data -> the first that is asked for it
        for label, seen in zip(labels, self._seen.find(labels) if learned else (), strict=False):
            if seen:
                asked.setdefault(seen, label)
        if len(asked) < 2:
            alike = (vectors @ self._vectorizer.transform(labels).T).toarray()
            return [labels[best] for best in alike.argmax(axis=1)]
        rows = np.isin(self._labels, list(asked)).nonzero()[0]
        model = LinearSVC(class_weight="balanced", random_state=0)
        model.fit(self._vectors[rows], self._labels[rows])
        return [asked[str(seen)] for seen in model.predict(vectors)]
