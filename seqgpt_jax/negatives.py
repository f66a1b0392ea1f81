"""Which labels are asked together: order, chunks, and negatives (labels and pairs that do not hold).

``decompose`` asks every label of a dataset at once. Extraction is asked in near-equal chunks of at most 6 labels, in
training and at prediction alike. A choice is never cut into chunks, since its labels exclude one another; of a long
label set, training asks the gold labels among a sample of the others:

    negatives of a choice        drawn at random from the label set, but near_share of them from the labels most alike
                                 to a gold one, and foreign_choice_share of them from other datasets
    negatives of an extraction   every label is in some chunk, but near_share of the places beside a gold label go to
                                 labels most alike to it; chunks without any span are kept up to negative_chunk_share
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from seqgpt_jax.atomic import AtomicExample
from seqgpt_jax.errors import UserError
from seqgpt_jax.label_similarity import alike_labels

NUM_NEAR = 10  # labels alike to a gold one that its negatives are drawn from


@dataclass(frozen=True)
class AskConfig:
    """How training asks; prediction uses only ``max_extract_labels``."""

    max_extract_labels: int = 6  # labels in one extraction prompt
    max_classify_labels: int = 20  # labels in one classification prompt: all gold ones and a sample of the others
    negative_chunk_share: float = 0.5  # of a question's chunks, at most this share has no span; none has any: 1 is kept
    max_none_pairs: int = 2  # pairs without a relation kept for each pair with one; a record without relations: as many
    near_share: float = 0.25  # of the negatives, for as many as there are: labels alike to a gold one in their letters
    foreign_choice_share: float = 0.1  # of the negatives of a choice with one answer: labels of other datasets
    foreign_extract_share: float = 0.0  # of the labels of an extraction: those of others, which may well hold unmarked
    max_answer_share: float = 0.5  # of a dataset's choices, at most this share (or 1 / answers) has the same answer

    def __post_init__(self) -> None:
        for name in ("max_extract_labels", "max_classify_labels"):
            if getattr(self, name) < 1:
                raise UserError(f"AskConfig.{name} is {getattr(self, name)} (it must be at least 1)")
        for name in ("negative_chunk_share", "foreign_extract_share"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"AskConfig.{name} is {getattr(self, name)} (it must be in [0, 1))")
        if self.max_none_pairs < 0:
            raise UserError(f"AskConfig.max_none_pairs is {self.max_none_pairs} (it must be at least 0)")
        for name in ("near_share", "foreign_choice_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"AskConfig.{name} is {getattr(self, name)} (it must be in [0, 1])")
        if self.near_share + self.foreign_choice_share > 1:
            raise UserError("AskConfig.near_share and foreign_choice_share are more than 1 together (lower one)")
        if not 0 < self.max_answer_share <= 1:
            raise UserError(f"AskConfig.max_answer_share is {self.max_answer_share} (it must be in (0, 1])")


@dataclass(frozen=True)
class LabelPool:
    """What a question may draw on beyond its own labels; every label as prompts write it.

    alike: each label of the dataset -> the others that are alike, the most alike first. foreign: labels of other
    datasets, of which none is alike to one of the dataset's own.
    """

    alike: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()

    def alike_of(self, labels: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        return self.alike if self.holds(labels) else alike_labels(labels)

    def holds(self, labels: Sequence[str]) -> bool:
        return all(label in self.alike for label in labels)


NO_POOL = LabelPool()


def training_questions(
    examples: Sequence[AtomicExample], config: AskConfig, rng: random.Random, pool: LabelPool = NO_POOL
) -> list[AtomicExample]:
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
            questions.append(_sample_choice(example, config, rng, pool))
        else:
            questions += _sample_chunks(example, config, rng, pool)
    return questions


def _is_none_pair(example: AtomicExample) -> bool:
    return example.source.step == "relation" and not example.answer


def _sample_choice(example: AtomicExample, config: AskConfig, rng: random.Random, pool: LabelPool) -> AtomicExample:
    labels, gold = list(example.labels), example.answer
    num_negatives = max(config.max_classify_labels - len(gold), 0)
    if len(labels) > config.max_classify_labels:
        others = [label for label in labels if label not in gold]
        foreign: list[str] = []
        if pool.foreign and len(gold) == 1 and pool.holds(labels):
            foreign = _draw(pool.foreign, _rounded(num_negatives * config.foreign_choice_share, rng), rng)
        near: list[str] = []
        if num_near := _rounded(num_negatives * config.near_share, rng):
            alike = pool.alike_of(example.labels)
            near = _draw(_nearest(gold, alike, {*others}), min(num_near, num_negatives - len(foreign)), rng)
            others = [label for label in others if label not in near]
        labels = [*gold, *near, *foreign, *rng.sample(others, num_negatives - len(near) - len(foreign))]
    rng.shuffle(labels)
    return ask_only(example, tuple(labels))


def _sample_chunks(
    example: AtomicExample, config: AskConfig, rng: random.Random, pool: LabelPool
) -> list[AtomicExample]:
    labels = list(example.labels)
    if config.foreign_extract_share and pool.foreign and pool.holds(labels):
        num_foreign = len(labels) * config.foreign_extract_share / (1 - config.foreign_extract_share)
        labels += _draw(pool.foreign, _rounded(num_foreign, rng), rng)
    rng.shuffle(labels)
    sizes = [len(chunk) for chunk in near_equal_chunks(labels, config.max_extract_labels)]
    if len(sizes) > 1 and example.answer and config.near_share:
        _move_near(labels, sizes, example, config.near_share, rng, pool)
    chunks = [ask_only(example, chunk) for chunk in near_equal_chunks(labels, config.max_extract_labels)]
    negative = [index for index, chunk in enumerate(chunks) if not chunk.answer]
    num_positive = len(chunks) - len(negative)
    share = config.negative_chunk_share
    kept = int(num_positive * share / (1 - share) + 1e-9) if num_positive else 1
    dropped = set(rng.sample(negative, max(len(negative) - kept, 0)))
    return [chunk for index, chunk in enumerate(chunks) if index not in dropped]


def _move_near(
    labels: list[str], sizes: Sequence[int], example: AtomicExample, share: float, rng: random.Random, pool: LabelPool
) -> None:
    """Swaps negatives, so that a share of those in a gold label's chunk are alike to it."""
    gold = example.answer
    alike = pool.alike_of(example.labels)
    free = {
        label for label in example.labels if label not in gold
    }  # negatives that have no reason to be where they are
    places = {label: place for place, label in enumerate(labels)}
    start = 0
    for size in sizes:
        chunk = range(start, start + size)
        start += size
        held = [labels[place] for place in chunk if labels[place] in gold]
        near = _nearest(held, alike, free) if held else []
        if not near:
            continue
        rng.shuffle(near)
        for place in chunk:
            if near and labels[place] in free and rng.random() < share:
                label = near.pop()
                labels[places[label]], labels[place] = labels[place], label
                places[labels[places[label]]], places[label] = places[label], place
                free.discard(label)


def _nearest(gold: Iterable[str], alike: Mapping[str, tuple[str, ...]], allowed: Collection[str]) -> list[str]:
    """The allowed labels among the NUM_NEAR most alike to each gold one."""
    near: dict[str, None] = {}
    for label in gold:
        found = [other for other in alike[label] if other in allowed]
        near.update(dict.fromkeys(found[:NUM_NEAR]))
    return list(near)


def _draw(labels: Sequence[str], number: int, rng: random.Random) -> list[str]:
    """That many of the labels, or all where there are fewer."""
    return rng.sample(labels, min(number, len(labels)))


def _rounded(number: float, rng: random.Random) -> int:
    """Up or down, so that the mean is the number itself."""
    return int(number + rng.random())


def evaluation_questions(examples: Iterable[AtomicExample], max_extract_labels: int = 6) -> list[AtomicExample]:
    """Returns what prediction asks: every label, in the given order; extraction in near-equal chunks."""
    questions: list[AtomicExample] = []
    for example in examples:
        if example.kind == "classify":
            questions.append(example)
        else:
            questions += [ask_only(example, chunk) for chunk in near_equal_chunks(example.labels, max_extract_labels)]
    return questions


def near_equal_chunks(labels: Sequence[str], max_labels: int) -> Iterator[tuple[str, ...]]:
    """Yields as few chunks of at most ``max_labels`` as hold the labels, cut as ``numpy.array_split``: 7 -> 4 + 3."""
    num_chunks = -(-len(labels) // max_labels)
    start = 0
    for index in range(num_chunks):
        end = start + len(labels) // num_chunks + (index < len(labels) % num_chunks)
        yield tuple(labels[start:end])
        start = end


def ask_only(example: AtomicExample, labels: tuple[str, ...]) -> AtomicExample:
    """The example with these labels alone, in this order."""
    given = example.answer
    if isinstance(given, tuple):
        answer = tuple(label for label in labels if label in given)
        return AtomicExample(example.text, example.kind, labels, answer, example.source)
    spans = {label: given[label] for label in labels if label in given}
    return AtomicExample(example.text, example.kind, labels, spans, example.source)
