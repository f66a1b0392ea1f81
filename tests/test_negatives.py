"""Which labels are asked: nothing that holds is lost or asked twice, prompts stay short, and seeds decide the rest."""

from __future__ import annotations

import math
import random
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.atomic import AtomicExample, Source, check_labels
from seqgpt_jax.errors import UserError
from seqgpt_jax.negatives import (
    NO_POOL,
    AskConfig,
    LabelPool,
    evaluation_questions,
    near_equal_chunks,
    training_questions,
)


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
    near_share=st.sampled_from([0.0, 0.3, 0.7]),
    foreign_choice_share=st.sampled_from([0.0, 0.3]),
    foreign_extract_share=st.sampled_from([0.0, 0.3]),
)
FOREIGN = tuple(f"f{index}" for index in range(7))


def pool_of(num_labels: int, num_alike: int, foreign: tuple[str, ...] = FOREIGN) -> LabelPool:
    """Each label is alike to the `num_alike` labels that follow it, in a circle."""
    labels = names(num_labels)
    num_alike = min(num_alike, num_labels - 1)
    alike = {label: tuple((labels * 2)[i + 1 : i + 1 + num_alike]) for i, label in enumerate(labels)}
    return LabelPool(alike, foreign)


pools = st.sampled_from([None, 0, 1, 3, 12])


@given(num_labels=st.integers(1, 60), data=st.data(), config=settings, seed=st.integers(), num_alike=pools)
def test_spans_are_each_asked_once(
    num_labels: int, data: st.DataObject, config: AskConfig, seed: int, num_alike: int | None
) -> None:
    held = data.draw(st.sets(st.integers(0, num_labels - 1), max_size=8))
    example = extraction(num_labels, *held)
    pool = NO_POOL if num_alike is None else pool_of(num_labels, num_alike)
    questions = training_questions([example], config, random.Random(seed), pool)
    asked = [label for question in questions for label in question.labels]
    foreign = set(FOREIGN) if config.foreign_extract_share and pool.foreign else set()
    assert len(set(asked)) == len(asked) and set(asked) <= set(example.labels) | foreign
    assert check_labels(asked) == tuple(asked)
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


@given(num_labels=st.integers(1, 60), data=st.data(), config=settings, seed=st.integers(), num_alike=pools)
def test_gold_labels_are_always_among_those_asked(
    num_labels: int, data: st.DataObject, config: AskConfig, seed: int, num_alike: int | None
) -> None:
    held = data.draw(st.sets(st.integers(0, num_labels - 1), max_size=3))
    example = choice(num_labels, *held)
    pool = NO_POOL if num_alike is None else pool_of(num_labels, num_alike)
    (question,) = training_questions([example], config, random.Random(seed), pool)
    assert set(question.answer) == set(example.answer)
    assert list(question.answer) == [label for label in question.labels if label in question.answer]
    assert len(question.labels) == min(num_labels, max(config.max_classify_labels, len(held)))
    assert check_labels(question.labels) == question.labels
    others = set(question.labels) - set(example.labels)
    sampled, single = num_labels > config.max_classify_labels, len(held) == 1
    assert not others or (others <= set(pool.foreign) and sampled and single and config.foreign_choice_share)


def shares(
    config: AskConfig, pool: LabelPool, example: AtomicExample, repeats: int = 6000
) -> tuple[float, float, float]:
    """Means over many questions: labels alike to l0 in its chunk, foreign labels in it, foreign ones in all chunks."""
    alike, counts, rng = set(pool.alike["l0"]), np.zeros(3), random.Random(0)
    for _ in range(repeats):
        questions = training_questions([example], config, rng, pool)
        (own,) = (set(question.labels) for question in questions if "l0" in question.labels)
        everything = [label for question in questions for label in question.labels]
        counts += len(own & alike), len(own & set(FOREIGN)), len(set(everything) & set(FOREIGN)) / len(everything)
    near, foreign, foreign_share = (counts / repeats).tolist()
    return near, foreign, foreign_share


def test_the_shares_of_a_choice() -> None:
    """19 places: 20% of them (3.8) foreign; 30% (5.7) of the 8 alike; at random, the rest of the 8 among 98 others."""
    pool, example = pool_of(99, 8), choice(99, 0)
    config = AskConfig(near_share=0.3, foreign_choice_share=0.2)
    near, foreign, _ = shares(config, pool, example)
    assert foreign == pytest.approx(3.8, abs=0.05)
    assert near == pytest.approx(5.7 + 9.5 * (8 - 5.7) / (98 - 5.7), abs=0.05)
    near, foreign, _ = shares(AskConfig(near_share=0, foreign_choice_share=0), pool, example)
    assert (near, foreign) == (pytest.approx(19 * 8 / 98, abs=0.06), 0)
    no_more = AskConfig(near_share=0.5, foreign_choice_share=0.5)  # 9.5 of 8 alike, 9.5 of 7 foreign: all of them
    near, foreign, _ = shares(no_more, pool, example, 50)
    assert (near, foreign) == (8, 7)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.8])
def test_the_shares_of_an_extraction(share: float) -> None:
    """Beside one gold label, 5 places: each is given to one of the 10 alike with that probability, else left to chance.

    Of the 23 others, the places that are left hold what is left of both: (5 - k) of 23 - k, of which 10 - k are alike.
    """
    binomial = [math.comb(5, k) * share**k * (1 - share) ** (5 - k) for k in range(6)]
    expected = sum(p * (k + (5 - k) * (10 - k) / (23 - k)) for k, p in enumerate(binomial))
    near, foreign, _ = shares(AskConfig(near_share=share), pool_of(24, 10), extraction(24, 0))
    assert (near, foreign) == (pytest.approx(expected, abs=0.06), 0)


def test_gold_labels_share_the_labels_that_are_alike_to_both() -> None:
    """10 labels are alike to both gold ones; where these are in two of three chunks, their 10 places hold them all."""
    example, alike = extraction(18, 0, 1), names(18)[2:12]
    pool = LabelPool({label: alike if label in ("l0", "l1") else () for label in example.labels})
    num_apart = 0
    for seed in range(40):
        config = AskConfig(near_share=1.0, foreign_choice_share=0)
        positive = [q for q in training_questions([example], config, random.Random(seed), pool) if q.answer]
        if len(positive) == 2:
            num_apart += 1
            assert set(alike) < {label for question in positive for label in question.labels}
    assert num_apart > 10


def test_foreign_labels_of_an_extraction() -> None:
    config = AskConfig(foreign_extract_share=0.2, negative_chunk_share=0.99)  # 5 own: 1.25 of them foreign, on average
    _, _, share = shares(config, pool_of(5, 0), extraction(5, 0))
    assert share == pytest.approx((0.75 * 1 / 6 + 0.25 * 2 / 7), abs=0.005)
    assert shares(config, pool_of(5, 0, ()), extraction(5, 0), 20)[2] == 0


def test_alike_labels_are_found_where_no_pool_is_given() -> None:
    labels = ("set alarm", "alarm off", *(f"{chr(ord('a') + i)}" for i in range(20)))
    example = AtomicExample("x", "classify", labels, ("set alarm",), source("classify"))
    rng, config = random.Random(0), AskConfig(max_classify_labels=3, near_share=1.0, foreign_choice_share=0)
    questions = [training_questions([example], config, rng)[0] for _ in range(50)]
    assert all("alarm off" in question.labels for question in questions)


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
    [
        ("max_extract_labels", 0),
        ("max_classify_labels", 0),
        ("negative_chunk_share", 1.0),
        ("max_none_pairs", -1),
        ("near_share", 1.5),
        ("foreign_choice_share", -0.1),
        ("foreign_extract_share", 1.0),
        ("max_answer_share", 0.0),
    ],
)
def test_settings_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"AskConfig.{name} is {value}"):
        AskConfig(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="more than 1 together"):
        AskConfig(near_share=0.6, foreign_choice_share=0.5)


@pytest.mark.parametrize("pool", [NO_POOL, pool_of(151, 10)])
def test_fast_enough_for_the_cache(pool: LabelPool) -> None:
    records = [[extraction(22, i % 22, (i + 5) % 22)] if i % 2 else [choice(151, i % 151)] for i in range(2000)]
    rates = []
    for _ in range(5):  # the best of five, in processor time: the machine may be busy
        rng, start = random.Random(0), time.process_time()
        for record in records:
            training_questions(record, AskConfig(), rng, pool)
        rates.append(len(records) / (time.process_time() - start))
    print(f"{max(rates):,.0f} records/s")
    assert max(rates) > 10_000, f"{max(rates):,.0f} records/s"
