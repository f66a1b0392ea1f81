"""Kinds of errors by hand, and that every item of any record falls in exactly one."""

from __future__ import annotations

import pytest

from seqgpt_jax.analysis.error_kinds import ERROR_KINDS, count_errors, judge_items
from seqgpt_jax.metrics import headline_items
from seqgpt_jax.predictions import GivenAnswer, PredictedRecord
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    Relation,
    RelationRecord,
    Span,
)
from tests.analysis.random_records import KINDS, make_pairs

NER = DatasetMeta("people", "NER", "en", ("person", "city", "band"))
TEXT = "Ada met Bob Ray in Rome with the Rolling Stones"
ADA, BOB, BOB_RAY = (0, 3, "Ada"), (8, 11, "Bob"), (8, 15, "Bob Ray")
ROME, STONES = (19, 23, "Rome"), (33, 47, "Rolling Stones")


def _names(*spans: Span) -> ExtractionRecord:
    return ExtractionRecord("0", "NER", TEXT, spans)


def _answer(*labels: str, problem: str | None = None) -> GivenAnswer:
    return GivenAnswer("extract", (), "extract", TEXT, labels, "?", (problem,) if problem else ())


def _kinds(gold: Record, predicted: Record, meta: DatasetMeta, *answers: GivenAnswer) -> list[tuple[str, str, str]]:
    (judged,) = judge_items([PredictedRecord(gold, predicted, answers)], meta)
    sides = [(each.gold and each.gold.shown, each.predicted and each.predicted.shown) for each in judged]
    return [(each.kind, gold or "", said or "") for each, (gold, said) in zip(judged, sides, strict=True)]


def test_spans_by_hand() -> None:
    gold = _names(Span("person", *ADA), Span("person", *BOB_RAY), Span("city", *ROME), Span("band", *STONES))
    predicted = _names(Span("person", *ADA), Span("person", *BOB), Span("person", *ROME), Span("city", -1, -1, "Paris"))
    assert _kinds(gold, predicted, NER) == [
        ("right", "person 'Ada' 0:3", "person 'Ada' 0:3"),
        ("wrong_type", "city 'Rome' 19:23", "person 'Rome' 19:23"),
        ("boundary", "person 'Bob Ray' 8:15", "person 'Bob' 8:11"),
        ("missed", "band 'Rolling Stones' 33:47", ""),
        ("invented", "", "city 'Paris' (not in the text)"),
    ]


def test_the_largest_overlap_is_paired_and_another_label_at_another_place_is_no_pair() -> None:
    gold = _names(Span("person", *BOB_RAY))
    predicted = _names(Span("person", 12, 15, "Ray"), Span("person", 8, 14, "Bob Ra"), Span("city", *BOB))
    assert _kinds(gold, predicted, NER) == [
        ("boundary", "person 'Bob Ray' 8:15", "person 'Bob Ra' 8:14"),
        ("invented", "", "city 'Bob' 8:11"),
        ("invented", "", "person 'Ray' 12:15"),
    ]


def test_what_an_answer_that_cannot_be_read_lost_is_not_missed() -> None:
    gold = _names(Span("person", *ADA), Span("city", *ROME), Span("band", *STONES))
    fine, broken = _answer("person", "city"), _answer("band", problem="no label")
    assert [kind for kind, _, _ in _kinds(gold, _names(), NER, fine, broken)] == ["missed", "missed", "unparsed"]
    assert [kind for kind, _, _ in _kinds(gold, _names(), NER, fine)] == ["missed"] * 3
    # a system that gave no answer at all
    nothing = _answer("person", "city", "band", problem="no answer: timed out")
    assert [kind for kind, _, _ in _kinds(gold, _names(), NER, nothing)] == ["unparsed"] * 3


def test_choices_by_hand() -> None:
    meta = DatasetMeta("topics", "ET", "en", ("a", "b", "c"))

    def record(*labels: str) -> ClassificationRecord:
        return ClassificationRecord("0", "ET", "text", labels)

    assert _kinds(record("a", "b"), record("b", "c"), meta) == [("right", "b", "b"), ("wrong_type", "a", "c")]
    assert _kinds(record("a", "b"), record("b"), meta) == [("right", "b", "b"), ("missed", "a", "")]
    # a label that was not asked is an invention, not another type
    broken = GivenAnswer("classify", (), "classify", "text", ("a", "b", "c"), "x", ("not a label",), ("x",))
    assert _kinds(record("a"), record("x"), meta, broken) == [("unparsed", "a", ""), ("invented", "", "x")]


def test_triples_overlap_where_both_ends_do() -> None:
    meta = DatasetMeta("pairs", "RE", "en", ("met", "left"))
    ends = (Span("p", *ADA), Span("p", *BOB_RAY), Span("p", *BOB), Span("c", *ROME))

    def record(*relations: tuple[str, int, int]) -> RelationRecord:
        return RelationRecord("0", "RE", TEXT, ends, tuple(Relation(*each) for each in relations))

    assert _kinds(record(("met", 0, 1)), record(("met", 0, 2)), meta) == [
        ("boundary", "'Ada' 0:3 -met-> 'Bob Ray' 8:15", "'Ada' 0:3 -met-> 'Bob' 8:11")
    ]
    assert [kind for kind, _, _ in _kinds(record(("met", 0, 1)), record(("left", 0, 1)), meta)] == ["wrong_type"]
    assert [kind for kind, _, _ in _kinds(record(("met", 0, 1)), record(("met", 3, 2)), meta)] == ["missed", "invented"]


def test_the_label_of_an_argument_is_event_type_and_role() -> None:
    meta = DatasetMeta("meetings", "EE", "en", ("meet", "part"), roles=("who", "where"))

    def record(type_: str, role: str, place: tuple[int, int, str]) -> EventRecord:
        event = Event(type_, Span(type_, 4, 7, "met"), (Span(role, *place),))
        return EventRecord("0", "EE", TEXT, (event,))

    gold = record("meet", "who", BOB_RAY)
    assert _kinds(gold, record("meet", "where", BOB_RAY), meta)[0][0] == "wrong_type"
    assert _kinds(gold, record("part", "who", BOB_RAY), meta)[0][0] == "wrong_type"
    assert _kinds(gold, record("meet", "who", BOB), meta)[0][0] == "boundary"


def test_span_reading_has_one_answer() -> None:
    meta = DatasetMeta("questions", "MRC-SE", "en", ("answer",))

    def record(*spans: tuple[int, int, str], accepted: tuple[str, ...] | None = None) -> ExtractionRecord:
        return ExtractionRecord("0", "MRC-SE", TEXT, tuple(Span("answer", *s) for s in spans), None, "Who?", accepted)

    gold = record(BOB_RAY, accepted=("Bob Ray", "Ray"))
    assert [kind for kind, _, _ in _kinds(gold, record((12, 15, "Ray")), meta)] == ["right"]
    assert [kind for kind, _, _ in _kinds(gold, record(BOB), meta)] == ["boundary"]
    assert _kinds(gold, record(ROME), meta) == [("missed", "'Bob Ray' | 'Ray'", ""), ("invented", "", "'Rome'")]
    assert _kinds(record(), record(ROME), meta) == [("invented", "", "'Rome'")]
    assert _kinds(record(), record(), meta) == []


@pytest.mark.parametrize("meta", [meta for meta, name in KINDS if name != "token_f1"], ids=lambda meta: meta.name)
def test_every_item_falls_in_exactly_one_kind(meta: DatasetMeta) -> None:
    gold, predicted = make_pairs(meta, 60, 0)
    records = [PredictedRecord(g, p, ()) for g, p in zip(gold, predicted, strict=True)]
    seen = set()
    for record, judged in zip(records, judge_items(records, meta), strict=True):
        sides = [[each for each in judged if each.gold], [each for each in judged if each.predicted]]
        wanted, given = headline_items(record.gold), headline_items(record.predicted)
        assert [len(side) for side in sides] == [len(wanted), len(given)]
        assert sum(each.kind == "right" for each in judged) == len(wanted & given)
        for each in judged:
            has = (each.gold is not None, each.predicted is not None)
            assert has == {"missed": (True, False), "invented": (False, True)}.get(each.kind, (True, True))
            seen.add(each.kind)
    counted = count_errors(records, meta)
    assert list(counted) == list(ERROR_KINDS)
    assert {kind for kind in counted if counted[kind].count} | {"right"} == seen >= {"right", "wrong_type"}
    for each in counted.values():
        ids = [example.id for example in each.examples]
        assert len(ids) == len(set(ids)) <= min(each.count, 5)
