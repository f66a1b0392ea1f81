"""Long texts: windows that leave nothing out, and results put together as merging.py declares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.errors import UserError
from seqgpt_jax.merging import merge
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, EventRecord, ExtractionRecord, RelationRecord
from seqgpt_jax.results import (
    Answer,
    Classification,
    Events,
    Extraction,
    FoundEvent,
    FoundRelation,
    FoundSpan,
    Relations,
)
from seqgpt_jax.schema import Request
from seqgpt_jax.windows import MIN_WINDOW, cut
from tests.oracle import PROMPT, byte_vocabulary, finds, oracle_model


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    return partial(oracle_model, monkeypatch, byte_vocabulary())


def _by_character(text: str, room: int) -> list[str]:
    """The windows where a token is a character."""
    return [text[w.start : w.end] for w in cut(text, np.arange(len(text)), room)]


# --- where texts are cut ---------------------------------------------------------------------------------------------


def test_windows_begin_with_the_end_of_the_one_before() -> None:
    sentences = [f"Sentence {i}. " for i in range(10)]  # 12 tokens each; 98 + 2 in a window, 12 of them twice
    assert _by_character("".join(sentences), 100) == ["".join(sentences[:8]), "".join(sentences[7:])]


def test_sentences_end_in_both_languages() -> None:
    text = "他说：“好。”然后走了！" * 3 + "It cost 3.14. “Really?” Yes.\r\n\r\nNew line"
    assert _by_character(text, 22) == [  # 20 characters; no sentence is short enough to be read twice
        "他说：“好。”然后走了！他说：“好。”",
        "然后走了！他说：“好。”然后走了！",
        "It cost 3.14. ",
        "“Really?” Yes.\r\n\r\n",
        "New line",
    ]


def test_a_sentence_without_an_end_is_cut_before_words_or_else_anywhere() -> None:
    windows = _by_character("word " * 60, 50)
    assert all(window.startswith(("word", " ")) and window.rstrip().endswith("word") for window in windows)
    assert max(map(len, windows)) <= 48
    assert max(map(len, _by_character("字" * 300, 50))) <= 48


@given(
    text=st.text(st.sampled_from("ab字。. \n😀\u0301"), min_size=1, max_size=400).filter(str.strip),
    room=st.integers(MIN_WINDOW, 60),
)
def test_windows_cover_the_text_and_fit(text: str, room: int) -> None:
    vocabulary = byte_vocabulary()
    starts = vocabulary.token_starts(text)
    if len(starts) <= room:
        return
    windows = cut(text, starts, room)
    covered = {place for window in windows for place in range(window.start, window.end)}
    assert all(text[place].isspace() for place in {*range(len(text))} - covered)
    for window, following in pairwise(windows):
        assert window.start < following.start and window.end < following.end
    for window in windows:
        assert window.num_tokens <= room - 2
        assert len(vocabulary.encode(text[window.start : window.end])) <= room


# --- through the model -----------------------------------------------------------------------------------------------


def test_a_long_text_is_read_in_windows(ask: Any) -> None:
    text = "".join(f"Sentence {i} is about nothing. " for i in range(40)) + "Then Ada\tPark came. " + "The end. " * 20
    model, decoder = ask(finds({"who": ["Ada Park"], "what": ["Sentence 3", "end"]}), max_prompt_tokens=300)
    found = model.extract(text, ["who", "what"])
    assert found.num_windows == sum(map(len, decoder.batches)) > 4
    assert found.tokens_cut == 0
    assert [s.text for s in found.spans if s.label == "who"] == ["Ada\tPark"]
    assert all(text[s.start : s.end] == s.text for s in found.spans)
    assert [s.start for s in found.spans if s.text == "end"] == [
        i for i in range(len(text)) if text[i : i + 3] == "end"
    ]
    assert found.to_dict()["num_windows"] == found.num_windows
    for batch in decoder.batches:
        assert all(len(byte_vocabulary().encode(prompt)) + 1 <= 300 for prompt in batch)


def test_the_other_ways_with_a_long_text(ask: Any) -> None:
    text = "Ada. " * 200 + "Eve."
    model, decoder = ask(finds({"who": ["Ada", "Eve"]}), max_prompt_tokens=200)
    with pytest.raises(UserError, match=r"a text has \d+ tokens, and \d+ of 200 are left for it"):
        model.extract(["short", text], ["who"], long="error")
    assert decoder.batches == []
    found = model.extract(text, ["who"], long="truncate")
    (prompt,) = decoder.batches[0]
    kept = PROMPT.fullmatch(prompt)["text"]  # type: ignore[index]
    assert text.startswith(kept)
    vocabulary = byte_vocabulary()
    assert found.tokens_cut == pytest.approx(len(vocabulary.encode(text)) - len(vocabulary.encode(kept)), abs=2)
    assert 190 < len(vocabulary.encode(prompt)) + 1 <= 200
    assert {s.text for s in found.spans} == {"Ada"}
    assert model.extract("Ada", ["who"], long="error").spans[0].text == "Ada"


def test_every_task_in_windows(ask: Any) -> None:
    filler = "Nothing happens here at all. " * 15
    text = filler + "Ada works for Acme. " + filler
    known = {"who": ["Ada"], "firm": ["Acme"], "job event": ["works"], "boss of job event": ["Acme"], "Who?": ["Ada"]}
    model, _ = ask(finds(known), max_prompt_tokens=300)
    place = text.index("Ada")
    relations = model.relations(text, ["who", "firm"], ["works for"])
    assert {(r.head.start, r.tail.text) for r in relations.relations} == {(place, "Acme"), (place + 14, "Ada")}
    (event,) = model.events(text, {"job": ["boss"]}).events
    assert (event.trigger.start, [a.start for a in event.arguments]) == (place + 4, [place + 14])
    assert model.answer(text, "Who?").start == place
    assert model.classify(text, ["Acme", "Zoo"], multi_label=True).labels == ("Acme",)
    assert model.classify(text, ["Zoo", "Nothing"]).labels == ("Nothing",)
    targeted = model.classify(text, ["Acme", "Zoo"], target="Ada")  # only the window with the target is asked
    assert (targeted.label, targeted.num_windows) == ("Acme", 1)
    typed = model.type_entities(text, [(place, place + 3)], ["Acme", "Zoo"])
    assert (typed.spans[0].types, typed.num_windows) == (("Acme",), 1)


def test_labels_that_leave_no_room_for_a_window(ask: Any) -> None:
    model, _ = ask(finds({}), max_prompt_tokens=40)
    with pytest.raises(UserError, match=r"2 labels take \d\d tokens and leave \d+ of 40 for a text of \d+"):
        model.extract("Ada. " * 100, ["who", "where"])


def test_a_megabyte_of_text(ask: Any) -> None:
    text = "".join(f"Ada went to Rome {i}. 她回家了。\r\n" for i in range(25_000))
    assert len(text.encode()) > 1_000_000
    model, decoder = ask(finds({"who": ["Ada"], "where": ["Rome"]}))
    found = model.extract(text, ["who", "where"])
    assert len(found.spans) == 50_000
    assert all(text[s.start : s.end] == s.text for s in found.spans)
    assert found.num_windows == sum(map(len, decoder.batches)) > 1000


# --- how results are put together ------------------------------------------------------------------------------------


def _request(record: Any, multi_label: bool = False) -> Request:
    return Request(record, DatasetMeta("input", record.task, "en", ("a", "b", "c"), multi_label=multi_label))


CHOICE = ClassificationRecord("0", "CLS", "t", (), ("a", "b", "c"))


def test_one_label_by_the_mean_weighted_by_tokens() -> None:
    first, second = Classification(("a",), {"a": 0.6, "b": 0.4}), Classification(("b",), {"b": 0.9, "a": 0.1})
    merged = merge(_request(CHOICE), [first, second], [300, 100])
    assert merged == Classification(("b",), {"b": pytest.approx(0.525), "a": pytest.approx(0.475)}, num_windows=2)
    merged = merge(_request(CHOICE), [first, second], [900, 100])
    assert isinstance(merged, Classification) and merged.label == "a"


def test_one_label_without_probabilities_by_tokens() -> None:
    windows = [Classification(("a",)), Classification(("b",)), Classification(())]
    assert merge(_request(CHOICE), windows, [100, 120, 90]) == Classification(("b",), num_windows=3)
    assert merge(_request(CHOICE), windows, [100, 120, 130]) == Classification((), num_windows=3)


def test_several_labels_hold_where_they_hold_anywhere() -> None:
    windows = [Classification(("b",), {"b": 0.7, "a": 0.2}), Classification(("a",), {"a": 0.9, "b": 0.1})]
    expected = Classification(("a", "b"), {"a": 0.9, "b": 0.7}, num_windows=2)
    assert merge(_request(CHOICE, multi_label=True), windows, [1, 1]) == expected


def _span(label: str, start: int, end: int, probability: float | None = None) -> FoundSpan:
    return FoundSpan(label, start, end, "x" * (end - start), probability)


def test_spans_of_windows_are_resolved_as_declared() -> None:
    record = ExtractionRecord("0", "NER", "t", ())
    first = [_span("a", 0, 9, 0.5), _span("a", 4, 9, 0.6), _span("a", 20, 30, 0.4), _span("b", 40, 42)]
    second = [_span("a", 20, 30, 0.8), _span("a", 24, 30, 0.7), _span("b", 22, 26, 0.1), _span("b", 40, 45)]
    merged = merge(_request(record), [Extraction(tuple(first)), Extraction(tuple(second))], [1, 1])
    assert isinstance(merged, Extraction)
    assert merged.spans == (
        _span("a", 0, 9, 0.5), _span("a", 4, 9, 0.6),  # nested, both of one window
        _span("a", 20, 30, 0.8),  # of both windows: the higher probability
        _span("b", 22, 26, 0.1),  # another label
        _span("a", 24, 30, 0.7),  # the second window has found both
        _span("b", 40, 45),  # of two windows: the longer, as neither has a probability
    )  # fmt: skip
    lost = merge(_request(record), [Extraction((_span("a", 0, 5, 0.9),)), Extraction((_span("a", 2, 9, 0.8),))], [1, 1])
    assert isinstance(lost, Extraction) and lost.spans == (_span("a", 0, 5, 0.9),)


def test_relations_events_and_answers_of_windows() -> None:
    a, b, cut_off = _span("a", 0, 5, 0.9), _span("b", 8, 9), _span("a", 2, 7, 0.3)
    relation = FoundRelation("r", a, b, 0.4)
    first, second = Relations((a, b), (relation,)), Relations((cut_off, b), (FoundRelation("r", cut_off, b),))
    merged = merge(_request(RelationRecord("0", "RE", "t", (), ())), [first, second], [1, 1])
    assert merged == Relations((a, b), (relation,), num_windows=2)

    events = [Events((FoundEvent("a", a, (b,)),)), Events((FoundEvent("a", a, (_span("c", 9, 10),)),))]
    merged = merge(_request(EventRecord("0", "EE", "t", ())), [*events], [1, 1])
    assert merged == Events((FoundEvent("a", a, (b, _span("c", 9, 10))),), num_windows=2)

    answers = [Answer("q", (_span("a", 0, 1, 0.2),)), Answer("q", (_span("a", 5, 6, 0.7),), tokens_cut=4)]
    merged = merge(_request(ExtractionRecord("0", "MRC-SE", "t", (), None, "q")), [*answers], [1, 1])
    assert merged == Answer("q", (_span("a", 5, 6, 0.7), _span("a", 0, 1, 0.2)), num_windows=2, tokens_cut=4)
