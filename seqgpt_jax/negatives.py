"""Which labels are asked together: order, chunks, and negatives (labels and pairs that do not hold).

``decompose`` asks every label of a dataset at once. Extraction is asked in near-equal chunks of at most 6 labels, in
training and at prediction alike. A choice is never cut into chunks, since its labels exclude one another; of a long
label set, training asks the gold labels among a sample of the others.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from seqgpt_jax.atomic import AtomicExample
from seqgpt_jax.errors import UserError


@dataclass(frozen=True)
class AskConfig:
    """How training asks; prediction uses only ``max_extract_labels``."""

    max_extract_labels: int = 6  # labels in one extraction prompt
    max_classify_labels: int = 20  # labels in one classification prompt: all gold ones and a sample of the others
    negative_chunk_share: float = 0.5  # of a question's chunks, at most this share has no span; none has any: 1 is kept
    max_none_pairs: int = 2  # pairs without a relation kept for each pair with one; a record without relations: as many

    def __post_init__(self) -> None:
        for name in ("max_extract_labels", "max_classify_labels"):
            if getattr(self, name) < 1:
                raise UserError(f"AskConfig.{name} is {getattr(self, name)} (it must be at least 1)")
        if not 0 <= self.negative_chunk_share < 1:
            raise UserError(f"AskConfig.negative_chunk_share is {self.negative_chunk_share} (it must be in [0, 1))")
        if self.max_none_pairs < 0:
            raise UserError(f"AskConfig.max_none_pairs is {self.max_none_pairs} (it must be at least 0)")


def training_questions(examples: Sequence[AtomicExample], config: AskConfig, rng: random.Random) -> list[AtomicExample]:
    """Returns what training asks about one record, from all its atomic examples: shuffled, sampled and chunked.

    Every gold label and every pair that holds is asked exactly once. The same ``rng`` state gives the same questions.
    """
    none_pairs = [index for index, example in enumerate(examples) if _is_none_pair(example)]
    if none_pairs:
        num_holding = sum(example.source.step == "relation" for example in examples) - len(none_pairs)
        kept = config.max_none_pairs * max(num_holding, 1)
        dropped = set(rng.sample(none_pairs, max(len(none_pairs) - kept, 0)))
        examples = [example for index, example in enumerate(examples) if index not in dropped]
    questions: list[AtomicExample] = []
    for example in examples:
        if example.kind == "classify":
            questions.append(_sample_choice(example, config.max_classify_labels, rng))
        else:
            questions += _sample_chunks(example, config, rng)
    return questions


def _is_none_pair(example: AtomicExample) -> bool:
    return example.source.step == "relation" and not example.answer


def _sample_choice(example: AtomicExample, max_labels: int, rng: random.Random) -> AtomicExample:
    labels = list(example.labels)
    if len(labels) > max_labels:
        others = [label for label in labels if label not in example.answer]
        labels = [*example.answer, *rng.sample(others, max(max_labels - len(example.answer), 0))]
    rng.shuffle(labels)
    return _ask(example, tuple(labels))


def _sample_chunks(example: AtomicExample, config: AskConfig, rng: random.Random) -> list[AtomicExample]:
    labels = list(example.labels)
    rng.shuffle(labels)
    chunks = [_ask(example, chunk) for chunk in near_equal_chunks(labels, config.max_extract_labels)]
    negative = [index for index, chunk in enumerate(chunks) if not chunk.answer]
    num_positive = len(chunks) - len(negative)
    share = config.negative_chunk_share
    kept = int(num_positive * share / (1 - share) + 1e-9) if num_positive else 1
    dropped = set(rng.sample(negative, max(len(negative) - kept, 0)))
    return [chunk for index, chunk in enumerate(chunks) if index not in dropped]


def evaluation_questions(examples: Iterable[AtomicExample], max_extract_labels: int = 6) -> list[AtomicExample]:
    """Returns what prediction asks: every label, in the given order; extraction in near-equal chunks."""
    questions: list[AtomicExample] = []
    for example in examples:
        if example.kind == "classify":
            questions.append(example)
        else:
            questions += [_ask(example, chunk) for chunk in near_equal_chunks(example.labels, max_extract_labels)]
    return questions


def near_equal_chunks(labels: Sequence[str], max_labels: int) -> Iterator[tuple[str, ...]]:
    """Yields as few chunks of at most ``max_labels`` as hold the labels, cut as ``numpy.array_split``: 7 -> 4 + 3."""
    num_chunks = -(-len(labels) // max_labels)
    start = 0
    for index in range(num_chunks):
        end = start + len(labels) // num_chunks + (index < len(labels) % num_chunks)
        yield tuple(labels[start:end])
        start = end


def _ask(example: AtomicExample, labels: tuple[str, ...]) -> AtomicExample:
    """The example with these labels alone, in this order."""
    given = example.answer
    if isinstance(given, tuple):
        answer = tuple(label for label in labels if label in given)
        return AtomicExample(example.text, example.kind, labels, answer, example.source)
    spans = {label: given[label] for label in labels if label in given}
    return AtomicExample(example.text, example.kind, labels, spans, example.source)
