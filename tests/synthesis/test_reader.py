from __future__ import annotations

from pathlib import Path

import pytest

from seqgpt_jax.errors import UserError
from seqgpt_jax.synthesis.content import Slot, Trigger, is_kind
from seqgpt_jax.synthesis.reader import load_family, read_family

from .conftest import EN_DOMAIN, EN_POOLS, write_content


def test_kinds_are_named_by_the_last_words() -> None:
    assert is_kind("city", "departure city", "en") and is_kind("城市", "出发城市", "zh")
    assert not is_kind("city", "city", "en") and not is_kind("city", "velocity", "en")
    assert not is_kind("departure city", "city", "en") and not is_kind("flight", "flight number", "en")


def test_a_domain_as_it_is_written(tiny_content: Path) -> None:
    content, faults = read_family("en", "synthetic", tiny_content)
    assert not faults and not content.unused_pools
    (domain,) = content.domains
    assert (domain.slug, domain.name) == ("ferry", "ferry travel")
    assert list(domain.types) == ["ferry company", "port", "captain", "travel date", "fare"]
    assert domain.topics == ("route launch", "rescue", "price rise")
    assert domain.intent_names == ("book ferry", "ask price", "contact captain")
    assert domain.relation_names == ("sails to", "was near")
    assert domain.event_schema == {"opening": ("operator", "place", "time"), "rescue": ("hero", "place")}
    assert domain.utterance_types == ("ferry company", "port", "captain", "travel date", "fare")
    launch = domain.facts[0]
    assert launch.templates[0].pieces == (
        Slot("ferry company"), " ", Trigger("opened"), " a route to ", Slot("port"), " on ", Slot("travel date"), ".",
    )  # fmt: skip
    assert launch.questions[1][1].slots == (Slot("ferry company"),)
    assert domain.facts[2].event is None


@pytest.mark.parametrize(
    ("old", "new", "table", "problem"),
    [
        ('name = "ferry travel"', "", "file", "'name' is missing"),
        ('name = "ferry travel"', 'name = "ferry travel"\nnames = 1', "file", "unknown key 'names'"),
        ('name = "ferry travel"', "name = ", "file", "is not TOML"),
        ('"fare" = ["{money}"]', '"fare" = ["{monye}"]', "[types] fare", "{monye}"),
        ('"fare" = ["{money}"]', '"fare" = []', "[types] fare", "non-empty strings"),
        ('"fare" = ["{money}"]', '"fare" = ["{money}"]\n"a, b" = ["x"]', "[types] a, b", "may not contain"),
        ('"fare" = ["{money}"]', '"fare" = ["{money}"]\n"None" = ["x"]', "[types] None", "may not be None"),
        ('"fare" = ["{money}"]', '"fare" = ["{money}"]\n"Port" = ["x"]', "[types]", "differ by case alone"),
        ("on {travel date}.", "on {date}.", "[[facts]] 1", "not a type of the domain"),
        ("on {travel date}.", "soon.", "[[facts]] 1", "other slots"),
        ("on {travel date}.", "on {travel date}, {port}.", "[[facts]] 1", "occurs twice"),
        ("on {travel date}.", "on {travel date#7x}.", "[[facts]] 1", "a second value is written"),
        ("on {travel date}.", "on {travel date}s.", "[[facts]] 1", "touches a slot"),
        ("on {travel date}.", "on  {travel date}.", "[[facts]] 1", "twice in a row"),
        ("on {travel date}.", "on {travel date}}.", "[[facts]] 1", "unbalanced bracket"),
        ("[opened] a", "opened a", "[[facts]] 1", "a [trigger] and an event need each other"),
        ("[opened] a", "[opened] [a]", "[[facts]] 1", "one [trigger] at most"),
        ("[opened] a", "[opened ] a", "[[facts]] 1", "one [trigger] at most"),
        ('["sails to", "ferry company", "port"]', '["sails to", "port"]', "[[facts]] 1", "must be [label, head"),
        ('["sails to", "ferry company", "port"]', '["sails to", "port", "port"]', "[[facts]] 1", "are one slot"),
        ('["sails to", "ferry company", "port"]', '["sails to", "port", "fare"]', "[[facts]] 1", "not a slot"),
        ('"time" = "travel date" } }', '"time" = "fare" } }', "[[facts]] 1", "role 'time'"),
        ('"fare" = ["What does', '"port" = ["What does', "[[facts]] 3", "not a slot of the texts"),
        ('"Who sells the ticket?"', '"Who: sells?"', "[[facts]] 3", "a colon"),
        ('"Who sells the ticket?"', '"Who is {ferry company}?"', "[[facts]] 3", "other slots of the fact only"),
        (', "I need {captain} now"', "", "[[utterances]] 3", "needs 3"),
        ('"I need {captain} now"', '"help"', "[[utterances]] 3", "needs a slot"),
        (', "shop"]', "]", "[opinions]", "at least 8"),
        ('"We found the {aspect} usual near {port}."', '"Usual {aspect}."', "[opinions] neutral", "another slot"),
    ],
)
def test_every_fault_names_file_and_table(tmp_path: Path, old: str, new: str, table: str, problem: str) -> None:
    assert old in EN_DOMAIN
    root = write_content(tmp_path, domain=EN_DOMAIN.replace(old, new, 1))
    content, faults = read_family("en", "mini_real", root)
    assert content.domains == ()
    assert any(table in fault.table and problem in fault.problem for fault in faults), [str(f) for f in faults]
    assert {fault.file for fault in faults} == {"en/mini_real/ferry.toml"}
    with pytest.raises(UserError, match=r"^generator content: en/mini_real/ferry.toml.*lists every fault$"):
        load_family("en", "mini_real", root)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('date = ["x"]', "has the name of a builtin"),
        ('loop = ["{loop}"]', "refers to itself"),
        ('twice = ["x", "x"]', "occur twice: x"),
        ("empty = []", "non-empty strings"),
    ],
)
def test_faults_of_pools(tmp_path: Path, line: str, problem: str) -> None:
    root = write_content(tmp_path, pools=EN_POOLS + line)
    _, faults = read_family("en", "synthetic", root)
    assert any(problem in fault.problem and fault.file == "en/synthetic/_pools.toml" for fault in faults)


def test_an_empty_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"_pools\.toml: file: is missing"):
        load_family("zh", "synthetic", tmp_path)


def test_pools_that_nothing_uses_are_named(tmp_path: Path) -> None:
    root = write_content(tmp_path, pools=EN_POOLS + 'spare = ["x"]')
    content, faults = read_family("en", "synthetic", root)
    assert content.unused_pools == ("spare",) and not faults
