"""results.py and highlighting.py: what a user reads, in Python, JSON and HTML."""

from __future__ import annotations

import html
import json
import re
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax import highlighting
from seqgpt_jax.records import (
    ClassificationRecord,
    EventRecord,
    ExtractionRecord,
    Record,
    RelationRecord,
    record_from_dict,
    record_to_dict,
)
from seqgpt_jax.results import (
    Answer,
    Classification,
    Events,
    Extraction,
    FoundEvent,
    FoundRelation,
    FoundSpan,
    Prediction,
    Relations,
    Result,
    TypedSpan,
    Types,
    to_record,
)

TEXT = "Ada met Bob"
ADA, BOB = FoundSpan("person", 0, 3, "Ada", 0.9), FoundSpan("person", 8, 11, "Bob")
MET = FoundEvent("meet", FoundSpan("meet", 4, 7, "met", 0.75), (FoundSpan("who", 0, 3, "Ada", 0.5),))


def test_dictionaries_and_reprs() -> None:
    ada = {"label": "person", "start": 0, "end": 3, "text": "Ada", "probability": 0.9}
    bob = {"label": "person", "start": 8, "end": 11, "text": "Bob"}
    cases: list[tuple[Result, dict[str, object], str]] = [
        (
            Classification(("b",), {"b": 0.75, "a": 0.25}, document=TEXT),
            {"labels": ["b"], "probabilities": {"b": 0.75, "a": 0.25}},
            "Classification(b 0.75)",
        ),
        (Classification((), tokens_cut=3), {"labels": [], "tokens_cut": 3}, "Classification(nothing; 3 tokens cut)"),
        (
            Extraction((ADA, BOB), document=TEXT, num_windows=2, num_examples=1),
            {"spans": [ada, bob], "num_windows": 2, "num_examples": 1},
            "Extraction(person 'Ada' 0:3 0.90, person 'Bob' 8:11; 2 windows)",
        ),
        (
            Answer("Who?", (ADA, BOB)),
            {
                "answer": {"start": 0, "end": 3, "text": "Ada", "probability": 0.9},
                "others": [{"start": 8, "end": 11, "text": "Bob"}],
            },
            "Answer('Ada' 0:3 0.90, 'Bob' 8:11)",
        ),
        (Answer("Who?", ()), {"answer": {"text": None, "start": None, "end": None}}, "Answer(nothing)"),
        (
            Relations((ADA, BOB), (FoundRelation("knows", BOB, ADA, 0.5),)),
            {
                "entities": [ada, bob],
                "relations": [{"label": "knows", "head": bob, "tail": ada, "probability": 0.5}],
            },
            "Relations('Bob' -knows-> 'Ada' 0.50)",
        ),
        (
            Events((MET,)),
            {
                "events": [
                    {
                        "type": "meet",
                        "trigger": {"start": 4, "end": 7, "text": "met", "probability": 0.75},
                        "arguments": [{"role": "who", "start": 0, "end": 3, "text": "Ada", "probability": 0.5}],
                    }
                ]
            },
            "Events(meet 'met' 0.75(who='Ada'))",
        ),
        (
            Types((TypedSpan(0, 3, "Ada", ("woman", "pilot"), {"woman": 0.5}), TypedSpan(8, 11, "Bob", ()))),
            {
                "spans": [
                    {"start": 0, "end": 3, "text": "Ada", "types": ["woman", "pilot"], "probabilities": {"woman": 0.5}},
                    {"start": 8, "end": 11, "text": "Bob", "types": []},
                ]
            },
            "Types('Ada' 0:3 woman 0.50/pilot, 'Bob' 8:11 no type)",
        ),
    ]  # fmt: skip
    for result, fields, shown in cases:
        assert result.to_dict() == fields
        assert json.loads(result.to_json()) == fields
        assert repr(result) == shown


def test_best_label_and_best_answer() -> None:
    found = Classification(("a", "b"), {"b": 0.6, "a": 0.3})
    assert (found.label, found.probability) == ("b", 0.6)
    assert Classification(("a", "b")).label == "a"
    assert (Classification(()).label, Classification(()).probability) == (None, None)
    answer = Answer("Who?", (ADA, BOB))
    assert (answer.text, answer.start, answer.end, answer.probability) == ("Ada", 0, 3, 0.9)
    assert Answer("Who?", ()).text is None


def test_results_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Extraction(()).spans = (ADA,)  # type: ignore[misc]


def test_a_prediction_is_a_mapping() -> None:
    found = Prediction(TEXT, {"names": Extraction((ADA,), document=TEXT), "mood": Classification(("good",))})
    assert list(found) == ["names", "mood"]
    assert found["mood"].to_dict() == {"labels": ["good"]}
    assert found.to_dict()["names"] == {"spans": [ADA.to_dict()]}
    assert json.loads(found.to_json()) == found.to_dict()
    assert "names" in found._repr_html_()
    assert repr(found) == "Prediction(names=Extraction(person 'Ada' 0:3 0.90), mood=Classification(good))"


@pytest.mark.parametrize(
    ("record", "result"),
    [
        (ClassificationRecord("7", "CLS", TEXT, (), ("a", "b")), Classification(("b",))),
        (ExtractionRecord("7", "NER", TEXT, (), ("person",)), Extraction((ADA, BOB))),
        (ExtractionRecord("7", "MRC-SE", TEXT, (), None, "Who?"), Answer("Who?", (BOB,))),
        (RelationRecord("7", "RE", TEXT, (), ()), Relations((ADA, BOB), (FoundRelation("knows", BOB, ADA),))),
        (EventRecord("7", "EE", TEXT, ()), Events((MET,))),
    ],
)
def test_records_hold_the_same_and_read_back(record: Record, result: Result) -> None:
    filled = to_record(record, result)
    fields = json.loads(json.dumps(record_to_dict(filled)))
    assert record_from_dict(fields) == filled
    assert filled != record
    if isinstance(result, Relations):
        assert fields["relations"] == [{"label": "knows", "head": 1, "tail": 0}]


# --- HTML ------------------------------------------------------------------------------------------------------------


def _text_of(markup: str) -> str:
    """What is left of the page without labels and tags."""
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<sub.*?</sub>", "", markup)))


SPANS = st.lists(st.tuples(st.integers(0, 11), st.integers(1, 11), st.sampled_from(["a", "<b>", "&"])), max_size=6)


@given(places=SPANS)
def test_text_and_spans_survive_whatever_nests_or_overlaps(places: list[tuple[int, int, str]]) -> None:
    text = 'x<b>&"y\n 😀'
    spans = [
        FoundSpan(label, start, min(start + length, len(text)), "", 0.5)
        for start, length, label in places
        if start < len(text)
    ]
    markup = highlighting.render(text, spans)
    assert _text_of(markup) == text
    assert markup.count("<sub") == len(spans)
    tags = re.findall(r"<(/?)(\w+)", markup)
    stack: list[str] = []
    for closing, name in tags:
        if closing:
            assert stack.pop() == name
        else:
            stack.append(name)
            assert stack in (["div"], ["div", "mark"], ["div", "sub"])  # flat: no mark within a mark
    assert not stack
    marked = re.findall(r"<mark[^>]*>(.*?)</mark>", markup, re.DOTALL)
    covered = {place for span in spans for place in range(span.start, span.end)}
    assert "".join(map(html.unescape, marked)) == "".join(text[place] for place in sorted(covered))


def test_html_of_every_result_is_escaped() -> None:
    nasty = "<script>alert(1)</script>"
    span = FoundSpan(nasty, 0, len(nasty), nasty)
    for result in (
        Classification((nasty,), document=nasty),
        Extraction((span,), document=nasty),
        Answer(nasty, (span,), document=nasty),
        Relations((span,), (FoundRelation(nasty, span, span),), document=nasty),
        Events((FoundEvent(nasty, span, (span,)),), document=nasty),
        Types((TypedSpan(0, 3, nasty, (nasty,)),), document=nasty),
        Prediction(nasty, {nasty: Extraction((span,), document=nasty)}),
    ):
        markup = result._repr_html_()
        assert "<script" not in markup
        assert "&lt;script&gt;" in markup
