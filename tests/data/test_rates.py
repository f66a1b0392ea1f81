"""Rates by hand, and against SeqIO's own (tests/tasks/test_seqio.py)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.data.rates import mixing_rates, task_weights
from seqgpt_jax.errors import UserError

TASKS = ("ner", "duee_trigger", "duee_event_type", "duee_argument", "fewrel_entities", "fewrel_relation")


def test_rates_are_sizes_under_a_cap() -> None:
    sizes = {"a": 900, "b": 100, "c": 1}
    assert mixing_rates(sizes) == {"a": 900.0, "b": 100.0, "c": 1.0}
    assert mixing_rates(sizes, cap=400) == {"a": 400.0, "b": 100.0, "c": 1.0}
    assert mixing_rates(sizes, cap=400, temperature=2.0) == {"a": 20.0, "b": 10.0, "c": 1.0}
    assert mixing_rates(sizes, cap=400, temperature=2.0, weights={"b": 3}) == {"a": 20.0, "b": 30.0, "c": 1.0}


@given(st.dictionaries(st.text("abc", min_size=1), st.integers(1, 10**6), min_size=2), st.floats(1.0, 50.0))
def test_a_temperature_moves_rates_together_and_keeps_their_order(sizes: dict[str, int], temperature: float) -> None:
    plain, soft = mixing_rates(sizes), mixing_rates(sizes, temperature=temperature)
    first, second = list(sizes)[:2]
    assert math.log(soft[first] / soft[second]) * temperature == pytest.approx(
        math.log(plain[first] / plain[second]), abs=1e-6
    )


def test_a_weight_is_a_tasks_or_its_datasets() -> None:
    assert task_weights(TASKS, {}) == dict.fromkeys(TASKS, 1.0)
    found = task_weights(TASKS, {"duee": 2.0, "duee_argument": 0.5, "ner": 4.0})
    assert found == {
        "ner": 4.0, "duee_trigger": 2.0, "duee_event_type": 2.0, "duee_argument": 0.5,
        "fewrel_entities": 1.0, "fewrel_relation": 1.0,
    }  # fmt: skip


def test_a_dataset_that_ends_like_a_step_is_no_part_of_another() -> None:
    assert task_weights(["duee_text", "ner_text"], {"duee": 2.0}) == {"duee_text": 2.0, "ner_text": 1.0}
    assert task_weights(["news", "news_relation"], {"news": 2.0}) == {"news": 2.0, "news_relation": 1.0}


def test_names_are_taken_as_they_stand_in_meta_json() -> None:
    assert task_weights(["mrc_se"], {"mrc-se": 2.0}) == {"mrc_se": 2.0}


@pytest.mark.parametrize(("name", "close"), [("due", "duee"), ("duee_arguments", "duee_argument"), ("few", "fewrel")])
def test_a_weight_that_names_nothing_is_refused(name: str, close: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}' is no dataset or task .*\b{close}\b"):
        task_weights(TASKS, {name: 2.0})
