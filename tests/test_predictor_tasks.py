"""Every kind of call, from what a user gives to the result: an oracle answers what the prompts ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqgpt_jax.answering import Answerer
from seqgpt_jax.calibration import Calibration
from seqgpt_jax.errors import UserError
from seqgpt_jax.occurrences import normalise_text
from seqgpt_jax.predictor import SeqGPT
from seqgpt_jax.records import Span
from tests.oracle import byte_vocabulary, finds, oracle_model, write_spans


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    return partial(oracle_model, monkeypatch, byte_vocabulary())


def test_relations_are_asked_of_every_ordered_pair(ask: Any) -> None:
    def oracle(kind: str, text: str, labels: tuple[str, ...]) -> str:
        if kind == "抽取":
            return write_spans(labels, person=["Ada Park"], firm=["Acme"])
        holds = text == "what is the relation between Ada Park and Acme in 😀 Ada Park works for Acme?"
        return ("works for" if holds else "None") + "\n"

    model, decoder = ask(oracle)
    text = "😀 Ada Park works for Acme."
    found = model.relations(text, ["person", "firm"], {"employer": "works for"})
    (relation,) = found.relations
    assert (relation.label, relation.head.text, relation.tail.text) == ("employer", "Ada Park", "Acme")
    assert [text[e.start : e.end] for e in found.entities] == ["Ada Park", "Acme"]
    assert sum(len(batch) for batch in decoder.batches) == 3
    assert model.relations([text, text], ["person", "firm"], {"employer": "works for"}) == [found, found]


def test_events_have_triggers_and_arguments(ask: Any) -> None:
    def oracle(kind: str, text: str, labels: tuple[str, ...]) -> str:
        found = {"buy event": ["bought"], "the buyer of buy event": ["Ada"], "goods of buy event": ["a boat"]}
        return write_spans(labels, **found)

    model, _ = ask(oracle)
    found = model.events("Ada bought a boat.", {"buy": {"buyer": "the buyer", "goods": None}, "rain": []})
    assert found.to_dict()["events"] == [
        {
            "type": "buy",
            "trigger": {"start": 4, "end": 10, "text": "bought"},
            "arguments": [
                {"role": "buyer", "start": 0, "end": 3, "text": "Ada"},
                {"role": "goods", "start": 11, "end": 17, "text": "a boat"},
            ],
        }
    ]


def test_answers_are_copied_or_chosen(ask: Any) -> None:
    model, decoder = ask(lambda kind, text, labels: "Rome\n" if kind == "分类" else f"{labels[0]}: Rome\tAda\n")
    text = "Ada lives in Rome, and Rome is old."
    found = model.answer(text, "Where, in which\ncity？")
    assert (found.text, found.start, found.end) == ("Ada", 0, 3)  # no probabilities: in text order
    assert [(span.start, span.text) for span in found.spans] == [(0, "Ada"), (13, "Rome")]  # the first place alone
    assert decoder.batches[0] == [f"输入: {text}\n抽取: Where, in which city？\n输出: "]
    chosen = model.answer([text], "Where?", options=["Rome", "Oslo"])[0]
    assert chosen.label == "Rome"
    assert decoder.batches[1] == [f"输入: {text}\tWhere?\n分类: Rome，Oslo\n输出: "]


def test_types_of_spans_given_in_any_form(ask: Any) -> None:
    def oracle(kind: str, text: str, labels: tuple[str, ...]) -> str:
        return "city，capital\n" if "type of Rome" in text else "None\n"

    model, decoder = ask(oracle)
    text = "Ada left Rome."
    forms: list[Any] = ["Rome", (9, 13), Span("x", 9, 13, "Rome"), "Ada"]
    found = model.type_entities(text, forms, {"city": None, "seat": "capital"})
    assert [(s.start, s.end, s.types) for s in found.spans] == [(9, 13, ("city", "seat"))] * 3 + [(0, 3, ())]
    assert len(decoder.batches[0]) == 2  # the same question is decoded once
    assert model.type_entities([text, text], [[], ["Rome"]], ["city"])[0].spans == ()
    assert model.type_entities(text, ["Rome"], ["city", "capital"], multi_label=False).spans[0].types == ("city",)


SCHEMA = {
    "mood": {"classify": {"glad": "works", "sad": "weeps"}},
    "topics": {"classify": ["Acme", "Rome"], "multi_label": True},
    "towards": {"classify": ["Acme"], "target": "Ada Park", "task": "SA"},
    "names": {"extract": {"person": None, "firm": "a firm"}},
    "facts": {"relations": ["works for"], "entities": ["person", "firm"]},
    "happened": {"events": {"work": ["who"]}},
    "where": {"answer": "Where?"},
    "which": {"answer": "Where?", "options": ["Rome", "Acme"]},
    "kinds": {"types": ["Acme"], "spans": ["Ada Park"]},
}


def test_a_schema_mixes_them_all(ask: Any) -> None:
    known = {"person": ["Ada Park"], "a firm": ["Acme"], "work event": ["works"], "Where?": ["Acme"]}
    model, _ = ask(finds(known))
    text = "Ada Park works for Acme."
    found = model.predict(text, SCHEMA)
    assert list(found) == list(SCHEMA)
    one_by_one = {
        "mood": model.classify(text, {"glad": "works", "sad": "weeps"}),
        "topics": model.classify(text, ["Acme", "Rome"], multi_label=True),
        "towards": model.classify(text, ["Acme"], target="Ada Park", task="SA"),
        "names": model.extract(text, {"person": None, "firm": "a firm"}),
        "facts": model.relations(text, ["person", "firm"], ["works for"]),
        "happened": model.events(text, {"work": ["who"]}),
        "where": model.answer(text, "Where?"),
        "which": model.answer(text, "Where?", options=["Rome", "Acme"]),
        "kinds": model.type_entities(text, ["Ada Park"], ["Acme"]),
    }
    assert dict(found) == one_by_one
    assert found["mood"].to_dict() == {"labels": ["glad"]}
    assert [span.label for span in found["names"].spans] == ["person", "firm"]  # type: ignore[attr-defined]
    assert [one["mood"] for one in model.predict([text, text], SCHEMA)] == [found["mood"]] * 2


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({}, "give {name"),
        (["classify"], "give {name"),
        ({"a": ["x"]}, "part 'a' is .* exactly one of classify, extract"),
        ({"a": {"extract": ["x"], "classify": ["y"]}}, "exactly one of"),
        ({"a": {"extract": ["x"], "options": ["y"]}}, "'options' does not go with 'extract'"),
        ({"a": {"extract": []}}, "part 'a': labels is empty"),
        ({"a": {"relations": ["x"]}}, "part 'a': entity_types is empty"),
        ({"a": {"answer": 3}}, "part 'a': question is empty or no string"),
        ({"a": {"types": ["x"], "spans": "Ada"}}, "give a list of strings or of"),
        ({"a": {"classify": ["x"], "target": "a", "text_pair": "b"}}, "both text_pair and target"),
        ({"a": {"events": ["x"]}}, "give {event type"),
    ],
)
def test_schemas_that_are_none(ask: Any, schema: Any, message: str) -> None:
    model, _ = ask(lambda kind, text, labels: "x\n")
    with pytest.raises(UserError, match=message):
        model.predict("Ada", schema)


def test_one_label_alone_unless_several_may_hold(ask: Any) -> None:
    model, _ = ask(lambda kind, text, labels: "x，y\n")
    assert model.classify("Ada", ["x", "y"]).labels == ("x",)
    assert model.classify("Ada", ["x", "y"], multi_label=True).labels == ("x", "y")


# --- probabilities ---------------------------------------------------------------------------------------------------


@pytest.fixture
def with_probabilities(ask: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SeqGPT]:
    """Answers as `finds` says, with these probabilities; calibration squares the odds."""

    def build(known: dict[str, Sequence[str]], probabilities: dict[tuple[str, ...], float]) -> SeqGPT:
        model, _ = ask(finds(known))
        plain = Answerer.answer

        def answer(self: Answerer, *arguments: Any, **named: Any) -> list[Any]:
            return [
                replace(each, probabilities={k: p for k, p in probabilities.items() if k[0] in each.example.labels})
                for each in plain(self, *arguments, **named)
            ]

        monkeypatch.setattr(Answerer, "answer", answer)
        model.calibration = Calibration(choice_temperature=0.5, label_temperature=0.5, span_temperature=0.5)
        return model

    return build


def test_probabilities_are_calibrated_and_under_the_users_names(with_probabilities: Any) -> None:
    model = with_probabilities({"a person": ["Ada", "Eve"]}, {("a person", "Ada"): 0.75, ("Ada",): 0.6, ("Eve",): 0.3})
    (span,) = model.extract("Ada\tsang", {"who": "a person"}).spans
    assert (span.label, span.probability) == ("who", pytest.approx(9 / 10))  # odds 3 -> 9
    found = model.classify("Ada sang", {"y": "Eve", "x": "Ada"})
    assert list(found.probabilities) == ["x", "y"]
    assert (found.label, found.probability) == ("x", pytest.approx(0.36 / 0.45))
    several = model.classify("Ada sang", ["Eve", "Ada"], multi_label=True)
    assert several.probabilities == pytest.approx({"Ada": 9 / 13, "Eve": 9 / 58})  # odds 1.5 -> 2.25, 3/7 -> 9/49


def test_what_is_less_sure_than_asked_is_left_out(with_probabilities: Any) -> None:
    model = with_probabilities(
        {"who": ["Ada", "Eve"], "where": ["Rome"]},
        {("who", "Ada"): 0.75, ("who", "Eve"): 0.5, ("where", "Rome"): 0.75, ("Ada",): 0.6, ("Eve",): 0.4}
        | {("near",): 0.75},
    )
    text = "Ada and Eve near Rome"
    assert [span.text for span in model.extract(text, ["who"], abstain_below=0.85).spans] == ["Ada"]
    assert [span.text for span in model.extract(text, ["who"], abstain_below=0.5).spans] == ["Ada", "Eve"]
    assert model.classify(text, ["Ada", "Eve"], abstain_below=0.7).label is None
    assert model.classify(text, ["Ada", "Eve"], abstain_below=0.6).label == "Ada"
    found = model.relations(text, ["who", "where"], ["near"], abstain_below=0.85)
    assert [(r.head.text, r.tail.text, r.probability) for r in found.relations] == [
        ("Ada", "Rome", pytest.approx(0.9)),
        ("Rome", "Ada", pytest.approx(0.9)),
    ]
    with pytest.raises(UserError, match="seqgpt calibrate"):
        model.extract(text, ["who"], abstain_below="calibrated")
    model.calibration = Calibration(span_abstain_below=0.6)
    assert [span.text for span in model.extract(text, ["who"], abstain_below="calibrated").spans] == ["Ada"]
    with pytest.raises(UserError, match=r"0\.\.1"):
        model.extract(text, ["who"], abstain_below=7)


def test_abstaining_without_probabilities_is_an_error(ask: Any) -> None:
    model, _ = ask(finds({"who": ["Ada"]}))
    with pytest.raises(UserError, match="free generation gives none"):
        model.extract("Ada", ["who"], abstain_below=0.5)


# --- offsets ---------------------------------------------------------------------------------------------------------

FAMILY = "👨\u200d👩\u200d👧"  # one glyph, five code points


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        ("😀😀 Ada", {"x": ["Ada"]}, [(3, "Ada")]),
        (f"{FAMILY}Ada{FAMILY}", {"x": ["Ada", FAMILY]}, [(0, FAMILY), (5, "Ada"), (8, FAMILY)]),
        ("cafe\u0301 Ada", {"x": ["cafe\u0301"], "y": ["Ada"]}, [(0, "cafe\u0301"), (6, "Ada")]),
        ("Ａｄａ １２３", {"x": ["Ａｄａ", "１２３"]}, [(0, "Ａｄａ"), (4, "１２３")]),
        ("one\r\nAda\r\nPark\r\n", {"x": ["Ada  Park"]}, [(5, "Ada\r\nPark")]),
        ("New York, York", {"x": ["New York"], "y": ["York"]}, [(0, "New York"), (10, "York")]),
        ("New York", {"x": ["New York"], "y": ["York"]}, [(0, "New York"), (4, "York")]),
        ("Ada, Ada; Adam", {"x": ["Ada"]}, [(0, "Ada"), (5, "Ada")]),
        ("北京北京大学", {"x": ["北京"], "y": ["北京大学"]}, [(0, "北京"), (2, "北京大学")]),
    ],
)
def test_offsets_are_code_points_of_the_text(
    ask: Any, text: str, known: dict[str, list[str]], expected: list[tuple[int, str]]
) -> None:
    model, _ = ask(finds(known))
    spans = model.extract(text, list(known)).spans
    assert [(span.start, span.text) for span in spans] == expected
    assert all(text[span.start : span.end] == span.text for span in spans)


CHARACTERS = st.one_of(
    st.sampled_from("aé \t\r\n\u0301\u200d👩😀Ａ北，。.\u2028\x00\x85ﬁ"), st.characters(exclude_categories=["Cs"])
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(CHARACTERS, min_size=1, max_size=40), places=st.tuples(st.integers(0, 39), st.integers(1, 8)))
def test_any_piece_of_any_text_is_found_where_it_stands(ask: Any, text: str, places: tuple[int, int]) -> None:
    start = places[0] % len(text)
    asked = " ".join(normalise_text(text)[start : start + places[1]].split("\t")).strip()
    if not text.strip() or not asked or asked == "None":
        return
    model, _ = ask(lambda kind, text, labels: f"x: {asked}\n")
    spans = model.extract(text, ["x"]).spans
    assert spans
    assert all(text[span.start : span.end] == span.text for span in spans)
    assert {normalise_text(span.text + "|")[:-1] for span in spans} == {asked}
