"""Which labels are asked: nothing that holds is lost or asked twice, prompts stay short, and seeds decide the rest."""

from __future__ import annotations

import random
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.atomic import AtomicExample, Source
from seqgpt_jax.errors import UserError
from seqgpt_jax.negatives import AskConfig, evaluation_questions, near_equal_chunks, training_questions


def source(step: str, *query: str) -> Source:
    return Source("d", "train", "0", "NER", "en", step, query)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"l{index}" for index in range(count))


def extraction(num_labels: int, *held: int) -> AtomicExample:
    labels = names(num_labels)
    return AtomicExample("x y", "extract", labels, {labels[index]: ("x", "y") for index in held}, source("extract"))


def choice(num_labels: int, *held: int) -> AtomicExample:
    labels = names(num_labels)
    return AtomicExample("x", "classify", labels, tuple(labels[index] for index in held), source("classify"))


def pair(index: int, *answer: str) -> AtomicExample:
    return AtomicExample("x", "classify", ("r", "s"), answer, source("relation", "h", str(index)))


@given(num_labels=st.integers(0, 200), max_labels=st.integers(1, 30))
def test_chunks_are_those_of_numpy(num_labels: int, max_labels: int) -> None:
    labels = names(num_labels)
    chunks = list(near_equal_chunks(labels, max_labels))
    expected = np.array_split(np.array(labels), len(chunks)) if chunks else []
    assert [list(chunk) for chunk in chunks] == [list(part) for part in expected]
    assert all(len(chunk) <= max_labels for chunk in chunks)
    assert len(chunks) == -(-num_labels // max_labels)


def test_evaluation_asks_everything_in_order() -> None:
    assert [len(question.labels) for question in evaluation_questions([extraction(7, 0, 6)])] == [4, 3]
    first, second = evaluation_questions([extraction(7, 0, 6)])
    assert first.labels + second.labels == names(7)
    assert (first.answer, second.answer) == ({"l0": ("x", "y")}, {"l6": ("x", "y")})
    assert first.source == second.source and first.text == second.text
    long = choice(151, 3)
    assert evaluation_questions([long, pair(0)]) == [long, pair(0)]


settings = st.builds(
    AskConfig,
    max_extract_labels=st.integers(1, 8),
    max_classify_labels=st.integers(1, 30),
    negative_chunk_share=st.sampled_from([0.0, 0.2, 0.5, 0.9]),
    max_none_pairs=st.integers(0, 3),
)


@given(num_labels=st.integers(1, 60), data=st.data(), config=settings, seed=st.integers())
def test_spans_are_each_asked_once(num_labels: int, data: st.DataObject, config: AskConfig, seed: int) -> None:
    held = data.draw(st.sets(st.integers(0, num_labels - 1), max_size=8))
    example = extraction(num_labels, *held)
    questions = training_questions([example], config, random.Random(seed))
    asked = [label for question in questions for label in question.labels]
    assert len(set(asked)) == len(asked) and set(asked) <= set(example.labels)
    together = {label: question.answer[label] for question in questions for label in question.answer}  # type: ignore
    assert together == example.answer
    sizes = [len(question.labels) for question in questions]
    assert max(sizes) <= config.max_extract_labels and max(sizes) - min(sizes) <= 1
    num_negative = sum(not question.answer for question in questions)
    if held:
        assert num_negative <= config.negative_chunk_share * len(questions) + 1e-9
    else:
        assert num_negative == 1
    assert all(question.source == example.source and question.text == example.text for question in questions)


@given(num_labels=st.integers(1, 60), data=st.data(), config=settings, seed=st.integers())
def test_gold_labels_are_always_among_those_asked(
    num_labels: int, data: st.DataObject, config: AskConfig, seed: int
) -> None:
    held = data.draw(st.sets(st.integers(0, num_labels - 1), max_size=3))
    example = choice(num_labels, *held)
    (question,) = training_questions([example], config, random.Random(seed))
    assert set(question.answer) == set(example.answer)
    assert list(question.answer) == [label for label in question.labels if label in question.answer]
    assert len(question.labels) == min(num_labels, max(config.max_classify_labels, len(held)))
    assert len(set(question.labels)) == len(question.labels) and set(question.labels) <= set(example.labels)


@pytest.mark.parametrize(("num_holding", "num_none", "kept"), [(2, 10, 4), (2, 3, 3), (0, 10, 2), (0, 1, 1), (3, 0, 0)])
def test_pairs_without_a_relation(num_holding: int, num_none: int, kept: int) -> None:
    pairs = [pair(index, "r") for index in range(num_holding)] + [pair(99 - index) for index in range(num_none)]
    random.Random(1).shuffle(pairs)
    entities = AtomicExample("x", "extract", ("p",), {}, source("entities"))
    questions = training_questions([entities, *pairs], AskConfig(), random.Random(0))
    assert Counter(question.source.step for question in questions) == {"entities": 1, "relation": num_holding + kept}
    assert sum(question.answer == ("r",) for question in questions) == num_holding
    assert len({question.source.query for question in questions}) == len(questions)


def test_seeds() -> None:
    examples = [extraction(40, 1, 20), choice(77, 5), *(pair(index) for index in range(30))]
    one, again, other = (training_questions(examples, AskConfig(), random.Random(seed)) for seed in (5, 5, 6))
    assert one == again != other
    orders = {training_questions([choice(3, 0)], AskConfig(), random.Random(seed))[0].labels for seed in range(60)}
    assert len(orders) == 6


def test_every_negative_label_has_its_turn() -> None:
    rng = random.Random(0)
    counts = Counter[str]()
    for _ in range(2000):
        (question,) = training_questions([choice(100, 0)], AskConfig(), rng)
        counts.update(question.labels)
    assert counts["l0"] == 2000
    others = [counts[label] for label in names(100)[1:]]  # 19 places for 99 labels: 384 each, standard deviation 18
    assert min(others) > 300 and max(others) < 470


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_extract_labels", 0), ("max_classify_labels", 0), ("negative_chunk_share", 1.0), ("max_none_pairs", -1)],
)
def test_settings_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"AskConfig.{name} is {value}"):
        AskConfig(**{name: value})  # type: ignore[arg-type]


def test_fast_enough_for_the_cache() -> None:
    records = [[extraction(4, index % 4)] for index in range(5000)]
    rates = []
    for _ in range(5):  # the best of five, in processor time: the machine may be busy
        rng, start = random.Random(0), time.process_time()
        for record in records:
            training_questions(record, AskConfig(), rng)
        rates.append(len(records) / (time.process_time() - start))
    assert max(rates) > 20_000, f"{max(rates):,.0f} records/s"
