"""What baselines learn from: the training questions of held-in datasets, with their gold answers.

Held-out datasets are refused, and what an evaluation split holds too (data/leaks.py) is left out, as it is when our own
models are trained.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from seqgpt_jax.atomic import AtomicExample, decompose
from seqgpt_jax.data.datasets import sample_records
from seqgpt_jax.data.leaks import ensure_leaks
from seqgpt_jax.data.mixtures import training_datasets
from seqgpt_jax.label_similarity import ALIKE, folded, similarity
from seqgpt_jax.records import ClassificationRecord


@dataclass(frozen=True)
class TrainingOptions:
    """What a baseline is trained on: at most train_limit records of each dataset, always the same ones."""

    train_mixture: str = "held_in"
    train_limit: int = 1000


def training_examples(
    options: TrainingOptions, tasks: Collection[str], choices: bool, progress: bool
) -> Iterator[AtomicExample]:
    """Yields the questions about records of these tasks, in order: those of choices, or else those of spans.

    UserError for a mixture that is none, or is held out.
    """
    from seqgpt_jax.recipe import DataSettings  # loads jax

    present = training_datasets(options.train_mixture, "train", None)
    leaked = {
        each.dataset: each.record_ids
        for each in ensure_leaks(present, None, DataSettings().cache_path(), progress=progress)
    }
    for dataset in present:
        if dataset.declared.task not in tasks:
            continue
        left_out = leaked.get(dataset.declared.name, frozenset())
        for record in sample_records(dataset, "train", options.train_limit):
            if isinstance(record, ClassificationRecord) == choices and record.id not in left_out:
                for example in decompose(record, dataset.record_meta(record)):
                    if choices == (example.kind == "classify"):
                        yield example


class SeenLabels:
    """Label names of the training data, in which the names that a question asks are looked up."""

    def __init__(self, labels: Iterable[str]) -> None:
        by_folded: dict[str, str] = {}
        for label in labels:
            by_folded.setdefault(folded(label), label)
        self._by_folded, self._labels = by_folded, tuple(by_folded.values())
        self._found: dict[tuple[str, ...], tuple[str | None, ...]] = {}

    def find(self, asked: tuple[str, ...]) -> tuple[str | None, ...]:
        """For each asked label the one of that name (case and punctuation do not count), else the most alike.

        None stands where no label is ALIKE (label_similarity.py).
        """
        if asked not in self._found:
            self._found[asked] = tuple(self._find(asked)) if self._labels else (None,) * len(asked)
        return self._found[asked]

    def _find(self, asked: tuple[str, ...]) -> Iterator[str | None]:
        for label, alike in zip(asked, similarity(asked, self._labels), strict=True):
            same, nearest = self._by_folded.get(folded(label)), int(alike.argmax())
            yield same or (self._labels[nearest] if alike[nearest] >= ALIKE else None)
