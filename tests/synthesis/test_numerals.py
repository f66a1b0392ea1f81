from __future__ import annotations

import calendar
import random
import re

import pytest

from seqgpt_jax.synthesis.numerals import BUILTIN_NAMES, count_in_class, make_builtin

MONTHS = [calendar.month_name[month] for month in range(1, 13)]


def samples(name: str, language: str, residue: int, count: int = 8000) -> set[str]:
    arguments = ["1", "2000"] if name == "number" else []
    builtin = make_builtin(name, arguments, language, residue)
    draw = random.Random(residue).random
    return {builtin.compose(draw) for _ in range(count)}


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", BUILTIN_NAMES)
def test_families_never_share_a_value_and_each_has_300(name: str, language: str) -> None:
    values = [samples(name, language, residue) for residue in range(3)]
    assert not values[0] & values[1] and not values[0] & values[2] and not values[1] & values[2]
    for residue in range(3):
        assert len(values[residue]) >= 300
        assert make_builtin(name, ["1", "2000"] if name == "number" else [], language, residue).num_values >= 300


@pytest.mark.parametrize("residue", range(3))
def test_the_number_in_a_value_has_the_class_of_the_family(residue: int) -> None:
    for value in samples("money", "en", residue) | samples("money", "zh", residue):
        whole = re.search(r"\d[\d,]*", value)
        assert whole and int(whole[0].replace(",", "")) % 3 == residue, value
    for value in samples("date", "zh", residue):
        month, day = (int(n) for n in re.search(r"(\d+)月(\d+)日", value).groups())
        assert (month + day) % 3 == residue and 1 <= month <= 12 and 1 <= day <= 31
    for value in samples("date", "en", residue):
        month = next(i for i, name in enumerate(MONTHS, start=1) if name in value)
        day = int(re.search(r"\b\d{1,2}\b", value)[0])
        assert (month + day) % 3 == residue, value


def test_times_are_spoken_as_they_should_be() -> None:
    english = set().union(*(samples("time", "en", residue, 20_000) for residue in range(3)))
    chinese = set().union(*(samples("time", "zh", residue, 20_000) for residue in range(3)))
    assert {"12 am", "12 pm", "7:30 pm", "19:30", "0:00"} <= english
    assert not {"0 am", "13 pm", "24:00"} & english
    assert {"凌晨0点", "中午12点", "下午1点", "晚上7点半", "早上8点5分", "19:30"} <= chinese


def test_chinese_percentages() -> None:
    values = set().union(*(samples("percent", "zh", residue, 20_000) for residue in range(3)))
    assert {"百分之五", "百分之十", "百分之十二", "百分之四十五", "百分之九十九", "45%", "12.5%"} <= values
    assert "100%" not in values


def test_count_in_class_agrees_with_counting() -> None:
    for low, high in ((0, 0), (1, 1), (2, 9), (5, 4), (10, 40)):
        for residue in range(3):
            assert count_in_class(low, high, residue) == sum(n % 3 == residue for n in range(low, high + 1))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("number", ["1"], "two whole numbers"),
        ("number", ["a", "b"], "two whole numbers"),
        ("number", ["1", "2"], "holds no number"),
        ("price", [], "neither a pool nor a builtin"),
        ("date", ["3"], "takes no arguments"),
    ],
)
def test_wrong_calls_say_what_is_wrong(name: str, arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_builtin(name, arguments, "en", 0)
