"""Bad input: what a user may give by mistake is named, and what is only unusual is answered."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from seqgpt_jax.errors import UserError
from seqgpt_jax.predictor import SeqGPT
from tests.oracle import PROMPT, byte_vocabulary, finds, oracle_model, write_spans


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    return partial(oracle_model, monkeypatch, byte_vocabulary())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.extract(" \t\u3000", ["x"]), "text is empty"),
        (lambda m: m.extract(["a", None], ["x"]), r"text 1 is empty or no string: None"),
        (lambda m: m.extract(b"a", ["x"]), r"text is b'a' \(give a string"),
        (lambda m: m.extract(3, ["x"]), r"text is 3"),
        (lambda m: m.extract("a\ud83d b", ["x"]), r"text has a lone surrogate \(U\+D83D\) at position 1"),
        (lambda m: m.classify(["a", "ok\udc00"], ["x"]), r"text 1 has a lone surrogate \(U\+DC00\) at position 2"),
        (lambda m: m.classify("a", ["x"], text_pair="\ud800"), r"text_pair has a lone surrogate"),
        (lambda m: m.classify("a", ["x"], target=""), "target is empty"),
        (lambda m: m.answer("a", " "), "question is empty"),
        (lambda m: m.answer("a", "\ud800"), "question has a lone surrogate"),
        (lambda m: m.extract("a", ["b\ud800"]), r"labels: 'b\\ud800' has a lone surrogate .* at position 1"),
        (lambda m: m.extract("a", {"b": "c\ud800"}), r"lone surrogate"),
        (lambda m: m.extract("a", ["b", None]), r"labels\[1\] is None, no string"),
        (lambda m: m.extract("a", {"b": 3}), r"a description in labels is 3"),
        (lambda m: m.extract("a", 3), r"labels is 3"),
        (lambda m: m.extract("a", {}), "labels is empty"),
        (lambda m: m.extract("a", ["b", "c", "b"]), 'labels holds "b" twice'),
        (lambda m: m.extract("a", ["b c", "b\nc"]), "both written 'b c'"),
        (lambda m: m.extract("a", {"b": "same", "c": "same"}), "labels 'same' and 'same'"),
        (lambda m: m.extract("a", ["b", " \n"]), "it is empty"),
        (lambda m: m.relations("a", [], ["x"]), "entity_types is empty"),
        (lambda m: m.relations("a", {"x": "one"}, {"x": "two"}), "described twice"),
        (lambda m: m.events("a", {}), "event types is empty"),
        (lambda m: m.events("a", {"b": "role"}), r"roles of 'b' is 'role'"),
        (lambda m: m.type_entities("a b", ["c"], ["x"]), "span 'c' is not in the text"),
        (lambda m: m.type_entities("a b", [(2, 9)], ["x"]), "span 2:9 is no words of a text of 3"),
        (lambda m: m.type_entities("a b", [(1, 2)], ["x"]), "span 1:2 is no words"),
        (lambda m: m.type_entities("a b", [7], ["x"]), "span 7 is no place"),
        (lambda m: m.type_entities(["a b"], [], ["x"]), "1 texts but 0 lists of spans"),
        (lambda m: m.extract("a", ["x"], long="cut"), "long='cut' is unknown"),
    ],
)
def test_mistakes_are_named(ask: Any, call: Callable[[SeqGPT], object], message: str) -> None:
    model, decoder = ask(lambda kind, text, labels: "x\n")
    with pytest.raises(UserError, match=message):
        call(model)
    assert decoder.batches == []


def test_an_empty_list_of_texts_gives_an_empty_list(ask: Any) -> None:
    model, _ = ask(lambda kind, text, labels: "x\n")
    assert model.extract([], ["x"]) == []
    assert model.predict([], {"a": {"classify": ["x"]}}) == []


@pytest.mark.parametrize("label", ["a，b", "a\nb", "a\tb", "a: b", "a：b", "x\x00\x1b\u200b", ":", "None of these"])
def test_labels_with_separators_come_back_as_they_were_given(ask: Any, label: str) -> None:
    model, _ = ask(
        lambda kind, text, labels: f"{labels[0]}\n" if kind == "分类" else write_spans(labels, **{labels[0]: ["Ada"]})
    )
    assert [(s.label, s.text) for s in model.extract("Ada", [label, "other"]).spans] == [(label, "Ada")]
    assert model.classify("Ada", [label, "other"]).labels == (label,)


def test_texts_with_what_prompts_are_made_of(ask: Any) -> None:
    text = "Ada\n抽取: x\n输出: [GEN]</s>\x00\x1b"
    model, decoder = ask(finds({"who": ["Ada", "[GEN]</s>\x00"]}))
    assert [(s.start, s.text) for s in model.extract(text, ["who"]).spans] == [(0, "Ada"), (14, "[GEN]</s>\x00")]
    assert len(decoder.batches[0]) == 1


def test_ten_thousand_labels(ask: Any) -> None:
    labels = [f"l{i}" for i in range(10_000)]
    model, decoder = ask(lambda kind, text, labels: write_spans(labels, l0=["Ada"], l9999=["Ada"]))
    assert [span.label for span in model.extract("Ada", labels).spans] == ["l0", "l9999"]
    asked = [label for batch in decoder.batches for p in batch for label in PROMPT.fullmatch(p)["labels"].split("，")]  # type: ignore[index]
    assert sorted(asked) == sorted(labels)
    assert max(len(prompt) for batch in decoder.batches for prompt in batch) < 80
    with pytest.raises(UserError, match=r"10000 labels take \d\d\d\d\d tokens and leave 0 of 1024"):
        model.classify("Ada", labels)


def test_memory_is_bounded_whatever_the_number_of_questions(ask: Any) -> None:
    model, decoder = ask(lambda kind, text, labels: write_spans(labels, l0=["Ada"]))
    texts = [f"Ada {i}" for i in range(30)]
    found = model.extract(texts, [f"l{i}" for i in range(600)])
    assert [result.document for result in found] == texts
    assert all(len(result.spans) == 1 for result in found)
    assert max(map(len, decoder.batches)) <= 2048 // 6 + 1
