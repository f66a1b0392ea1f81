"""Solved examples before the text: which are chosen, how they are written, and what there is room for."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from seqgpt_jax.demonstrations import BM25, terms
from seqgpt_jax.errors import UserError
from tests.oracle import byte_vocabulary, finds, oracle_model


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    return partial(oracle_model, monkeypatch, byte_vocabulary())


def test_terms_are_words_and_pairs_of_han_characters() -> None:
    assert terms("Ada's 北京大学, 好 ok2") == ["ada", "s", "北京", "京大", "大学", "好", "ok2"]


def test_scores_by_hand() -> None:
    """Texts of 2, 1 and 3 terms: mean 2. "cat" is in two of three, "dog" in one."""
    index = BM25(["the cat", "dog", "cat cat sat"])
    cat, dog = math.log(1 + 1.5 / 2.5), math.log(1 + 2.5 / 1.5)
    of_first = cat * 1 * 2.5 / (1 + 1.5)
    of_second = dog * 1 * 2.5 / (1 + 1.5 * (0.25 + 0.75 / 2))
    of_third = cat * 2 * 2.5 / (2 + 1.5 * (0.25 + 0.75 * 3 / 2))
    assert index.scores("Cat, dog and cat!") == pytest.approx([of_first, of_second, of_third])
    assert index.ranked("cat dog") == [1, 2, 0]
    assert index.ranked("nothing of these") == [0, 1, 2]


EXAMPLES = [("Eve sang.", {"who": ["Eve"]}), ("It rained in Oslo.", {"where": ["Oslo"]}), ("It snowed.", {})]


def test_each_is_a_whole_prompt_with_answer_and_eos(ask: Any) -> None:
    model, decoder = ask(finds({"who": ["Ada"]}))
    found = model.extract("Ada sang in Oslo.", ["who", "where"], examples=EXAMPLES)
    assert [(s.label, s.text, s.start) for s in found.spans] == [("who", "Ada", 0)]
    assert found.num_examples == found.to_dict()["num_examples"] == 3
    assert decoder.demonstrations == [  # the most alike last
        [
            "输入: It snowed.\n抽取: who，where\n输出: who: None\nwhere: None\n",
            "输入: Eve sang.\n抽取: who，where\n输出: who: Eve\nwhere: None\n",
            "输入: It rained in Oslo.\n抽取: who，where\n输出: who: None\nwhere: Oslo\n",
        ]
    ]
    assert model.extract("Ada", ["who"]).num_examples is None


def test_chunks_of_labels_are_shown_their_own_labels(ask: Any) -> None:
    model, decoder = ask(finds({}))
    model.extract("Ada", [f"l{i}" for i in range(7)], examples=[("Eve", {"l5": ["Eve"]})])
    assert sorted(block for blocks in decoder.demonstrations for block in blocks) == [
        "输入: Eve\n抽取: l0，l1，l2，l3\n输出: l0: None\nl1: None\nl2: None\nl3: None\n",
        "输入: Eve\n抽取: l4，l5，l6\n输出: l4: None\nl5: Eve\nl6: None\n",
    ]


def test_every_task_takes_them(ask: Any) -> None:
    def shown(call: Callable[[Any], object]) -> list[str]:
        known = {"who": ["Ada", "Bob"], "meet event": ["met"]}
        model, decoder = ask(finds(known))
        call(model)
        return sorted({block for blocks in decoder.demonstrations for block in blocks})

    text = "Ada met Bob."
    one = shown(lambda m: m.classify(text, ["x", "y"], examples=[("Eve", "y")]))
    assert one == ["输入: Eve\n分类: x，y\n输出: y\n"]
    labels, examples = {"x": "ex", "y": "why"}, [("Eve", ["y", "x"])]
    several = shown(lambda m: m.classify(text, labels, multi_label=True, examples=examples))
    assert several == ["输入: Eve\n分类: ex，why\n输出: ex，why\n"]
    pair = shown(lambda m: m.classify(text, ["x"], text_pair="It is.", examples=[("Eve", "It was.", [])]))
    assert pair == ["输入: Eve\tIt was.\n分类: x\n输出: None\n"]
    gold = {"entities": {"who": ["Eve", "Al"]}, "relations": [("Al", "knows", "Eve")]}
    assert shown(lambda m: m.relations(text, ["who"], ["knows"], examples=[("Eve met Al.", gold)])) == [
        "输入: Eve met Al.\n抽取: who\n输出: who: Eve\tAl\n",
        "输入: what is the relation between Al and Eve in Eve met Al?\n分类: knows\n输出: knows\n",
    ]
    event = [{"type": "meet", "trigger": "saw", "arguments": {"guest": ["Al"]}}]
    assert shown(lambda m: m.events(text, {"meet": ["guest"]}, examples=[("Eve saw Al.", event)])) == [
        "输入: Eve saw Al.\n抽取: guest of meet event\n输出: guest of meet event: Al\n",
        "输入: Eve saw Al.\n抽取: meet event\n输出: meet event: saw\n",
    ]
    assert shown(lambda m: m.answer(text, "Who met?", examples=[("Eve saw.", "Eve"), ("So.", None)])) == [
        "输入: Eve saw.\n抽取: Who met?\n输出: Who met?: Eve\n",
        "输入: So.\n抽取: Who met?\n输出: Who met?: None\n",
    ]
    assert shown(lambda m: m.type_entities(text, ["Ada"], ["x"], examples=[("Eve saw.", "Eve", ["x"])])) == [
        "输入: what is the type of Eve in Eve saw?\n分类: x\n输出: x\n"
    ]
    schema = {"a": {"classify": ["x"], "examples": [("Eve", "x")]}, "b": {"classify": ["z"]}}
    assert shown(lambda m: m.predict(text, schema)) == ["输入: Eve\n分类: x\n输出: x\n"]


def test_results_are_examples(ask: Any) -> None:
    known = {"who": ["Ada", "Bob"], "boss": ["Ada"], "met event": ["met"], "guest of met event": ["Bob"]}
    model, decoder = ask(finds(known))
    text = "Ada met Bob."
    for call in (
        partial(model.classify, text, ["met", "left"]),
        partial(model.extract, text, ["who", "boss"]),
        partial(model.relations, text, ["who"], ["met"]),
        partial(model.events, text, {"met": ["guest"]}),
        partial(model.answer, text, "who"),
    ):
        before = call()
        decoder.demonstrations.clear()
        again = call(examples=[(text, before.to_dict())])
        assert again.num_examples == 1
        assert [block for blocks in decoder.demonstrations for block in blocks]
        assert {**again.to_dict(), "num_examples": None} == {**before.to_dict(), "num_examples": None}


def test_no_more_than_there_is_room_for(ask: Any) -> None:
    model, decoder = ask(finds({"who": ["Ada"]}), max_prompt_tokens=150)
    many = [(f"Number {i} sang.", {"who": [f"Number {i}"]}) for i in range(30)]
    found = model.extract("Ada sang number 7.", ["who"], examples=many)
    vocabulary = byte_vocabulary()
    assert 0 < found.num_examples < 8
    assert "Number 7 " in decoder.demonstrations[0][-1]
    sizes = [len(vocabulary.encode(block)) + 2 for block in decoder.demonstrations[0]]  # [GEN], EOS
    assert sum(sizes) + len(vocabulary.encode(decoder.batches[0][0])) + 1 <= 150
    assert len(model.extract("Ada", ["who"], examples=many, max_examples=2).to_dict()) == 2
    assert model.extract("Ada", ["who"], examples=many, max_examples=2).num_examples == 2
    long = model.extract("Ada sang. " * 60, ["who"], examples=many)  # windows leave room
    assert long.num_windows > 2 and long.num_examples > 0
    assert model.extract("Ada sang nothing. " * 6, ["who"], examples=many).num_examples == 0  # and that is said


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ("Ada", "give a list of"),
        ([("Ada", {"who": ["Eve"]})], r"examples\[0\]: 'Eve' is not in the text"),
        ([("Ada", {}), ("", {})], r"examples\[1\]: text is empty"),
        ([("Ada", {"what": ["Ada"]})], r"examples\[0\]: .*'what' is not among the labels"),
        (["Ada sang"], r"examples\[0\] is 'Ada sang' \(give \(text, answer\)"),
        ([("Ada",)], r"examples\[0\] is"),
        ([("Ada", 3)], r"examples\[0\] is"),
    ],
)
def test_examples_that_are_none(ask: Any, examples: Any, message: str) -> None:
    model, _ = ask(finds({}))
    with pytest.raises(UserError, match=message):
        model.extract("Ada", ["who"], examples=examples)
