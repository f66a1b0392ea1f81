"""The labels that the questions of a dataset draw negatives from: its own, alike ones, those of others. No TensorFlow.

A negative must not hold. Of a dataset's own labels, its annotators have said that. A label of another dataset may hold
without anybody having said so: `location` in a text whose diseases alone are marked, `not offensive` of a news item.
So foreign labels are asked with care (`foreign_labels`), and of extractions only on demand.
"""

from __future__ import annotations

from collections.abc import Iterable

from seqgpt_jax.atomic import NONE, normalise_label
from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.label_similarity import ALIKE, alike_labels, folded, similarity
from seqgpt_jax.negatives import AskConfig, LabelPool
from seqgpt_jax.records import ClassificationRecord, DatasetMeta

INVENTORY = 10  # labels: a set of as many names topics or intents, not degrees, polarity, or yes and no
_CHOICE_TASKS = ("CLS", "ID", "ET")
_EXTRACTION_TASKS = ("NER", "SF")
_PEEKED = 200  # records that show whether several labels may hold


def label_pool(meta: DatasetMeta, foreign: tuple[str, ...] = ()) -> LabelPool:
    """The pool of a dataset with these foreign labels."""
    return LabelPool(alike_labels(_written_labels(meta)), foreign)


def foreign_labels(dataset: Dataset, mixture: Iterable[Dataset], config: AskConfig) -> tuple[str, ...]:
    """Labels of a mixture's other datasets that may be asked as negatives of this one's records, as prompts write them.

    They are those of datasets of the same task and language, none alike to a label of the dataset itself. Extractions:
    where config.foreign_extract_share is above 0. Choices: for label sets that are asked in part, where every record
    has one label, which excludes the others; from sets of at least INVENTORY labels of which the same is true.
    """
    meta, choice = dataset.declared, dataset.declared.task in _CHOICE_TASKS
    if choice:
        if not config.foreign_choice_share or len(meta.labels) <= config.max_classify_labels:
            return ()
    elif meta.task not in _EXTRACTION_TASKS or not config.foreign_extract_share:
        return ()
    others = [
        other
        for other in mixture
        if (other.declared.task, other.declared.language) == (meta.task, meta.language)
        and other.declared.name != meta.name
        and (not choice or (len(other.declared.labels) >= INVENTORY and _has_one_label_each(other)))
    ]
    if not others or not meta.labels or (choice and not _has_one_label_each(dataset)):
        return ()
    labels: dict[str, str] = {}
    for other in sorted(others, key=lambda each: each.declared.name):
        for label in _written_labels(other.declared):
            labels.setdefault(folded(label), label)
    labels = {words: label for words, label in labels.items() if words and label != NONE}
    nearest = similarity(list(labels.values()), _written_labels(meta)).max(axis=1)
    return tuple(label for label, cosine in zip(labels.values(), nearest, strict=True) if cosine < ALIKE)


def _has_one_label_each(dataset: Dataset) -> bool:
    if "train" not in dataset.splits:
        return False
    records = dataset.records("train", _PEEKED)
    return all(isinstance(record, ClassificationRecord) and len(record.labels) == 1 for record in records)


def _written_labels(meta: DatasetMeta) -> tuple[str, ...]:
    return tuple(dict.fromkeys(normalise_label(meta.descriptions.get(label, label)) for label in meta.labels))
