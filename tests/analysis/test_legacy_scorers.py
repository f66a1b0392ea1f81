"""legacy_scorers.py against numbers computed by hand, each where it counts otherwise than metrics.py."""

from __future__ import annotations

import pytest
from sklearn.metrics import f1_score

from seqgpt_jax.analysis.legacy_scorers import LEGACY_SCORERS
from seqgpt_jax.metrics import score_dataset
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

#        0123456789012345678901234567890
TEXT = "Ada met Bob in Rome. Ada left."
ADA, ADA_AGAIN = Span("person", 0, 3, "Ada"), Span("person", 21, 24, "Ada")
BOB, ROME = Span("person", 8, 11, "Bob"), Span("place", 15, 19, "Rome")
EVE = Span("person", -1, -1, "Eve")  # not in the text
NER = DatasetMeta("toy", "NER", "en", ("person", "place"))
RE = DatasetMeta("toy", "RE", "en", ("knows", "lives in"), entity_labels=("person", "place"))
EE = DatasetMeta("toy", "EE", "en", ("meet", "leave"), event_schema={"meet": ("who", "whom"), "leave": ("who",)})


def _entities(*spans: Span, text: str = TEXT) -> list[Record]:
    return [ExtractionRecord("0", "NER", text, spans)]


def _related(entities: tuple[Span, ...], *relations: Relation) -> list[Record]:
    return [RelationRecord("0", "RE", TEXT, entities, relations)]


def _happened(*events: Event) -> list[Record]:
    return [EventRecord("0", "EE", TEXT, events)]


def _f1(true_positives: int, num_predicted: int, num_gold: int) -> object:
    return pytest.approx(2 * true_positives / (num_predicted + num_gold))


GOLD_ENTITIES = _entities(ADA, ADA_AGAIN, BOB, ROME)
# Ada once of twice, Bob as a place, Eve, who is not in the text, Rome written small, and a label that was not asked.
SAID_ENTITIES = _entities(
    ADA, Span("place", 8, 11, "Bob"), EVE, Span("place", -1, -1, "rome"), Span("city", 15, 19, "Rome")
)


def test_ours_for_comparison() -> None:
    score = score_dataset(GOLD_ENTITIES, SAID_ENTITIES, NER)
    assert score.metrics["span_f1"] == _f1(1, 5, 4)
    assert score.metrics["string_f1"] == _f1(1, 5, 3)


# --- InstructUIE -----------------------------------------------------------------------------------------------------


def test_instructuie_entities_are_a_set_of_strings_in_lower_case() -> None:
    found = LEGACY_SCORERS["instructuie"](GOLD_ENTITIES, SAID_ENTITIES, NER)
    # gold: person:ada, person:bob, place:rome; said: person:ada, place:bob, person:eve, place:rome, city:rome
    assert found["f1"] == _f1(2, 5, 3)
    assert (found["precision"], found["recall"]) == (pytest.approx(2 / 5), pytest.approx(2 / 3))


def test_instructuie_counts_nothing_as_right_where_there_is_nothing() -> None:
    gold, said = _entities() + _entities(ADA, BOB), _entities() + _entities(ADA)
    assert score_dataset(gold, said, NER).headline == _f1(1, 1, 2)
    assert LEGACY_SCORERS["instructuie"](gold, said, NER)["f1"] == _f1(2, 2, 3)  # 'none' is one more on each side


def test_instructuie_writes_strings_alike() -> None:
    gold = _entities(Span("location", 0, 10, "New-York ,  {N.Y.}"), text="x" * 10)
    said = _entities(Span("Located", -1, -1, "new - york, n.y.."), text="x" * 10)
    assert LEGACY_SCORERS["instructuie"](gold, said, NER)["f1"] == 1.0


def test_instructuie_triples_and_events() -> None:
    gold = _related((ADA, BOB, ROME), Relation("knows", 0, 1), Relation("lives in", 1, 2))
    said = _related((Span("place", -1, -1, "ADA"), BOB), Relation("Knows", 0, 1), Relation("knows", 1, 0))
    assert score_dataset(gold, said, RE).headline == 0.0
    assert LEGACY_SCORERS["instructuie"](gold, said, RE)["f1"] == _f1(1, 2, 2)
    nothing = _related((ADA,))
    assert LEGACY_SCORERS["instructuie"](nothing, nothing, RE)["f1"] == 0.0  # RE has no 'none' that counts

    met, left = Span("meet", 4, 7, "met"), Span("leave", 25, 29, "left")
    meeting = Event("meet", met, (Span("who", 0, 3, "Ada"), Span("whom", 8, 11, "Bob")))
    leaving = Event("leave", left, (Span("who", 21, 24, "Ada"),))
    events = _happened(meeting, leaving)
    # arguments of both events: ada:who (once, though both have it), bob:whom; the event types play no part
    swapped = _happened(Event("leave", met, (Span("who", 0, 3, "Ada"),)), leaving)
    found = LEGACY_SCORERS["instructuie"](events, swapped, EE)
    assert found == {"EET accuracy": 0.0, "EEA f1": _f1(1, 1, 2), "EEA precision": 1.0, "EEA recall": 0.5}
    assert score_dataset(events, swapped, EE).headline == _f1(1, 2, 3)
    assert LEGACY_SCORERS["instructuie"](events, _happened(leaving, meeting), EE)["EET accuracy"] == 0.0  # the order
    assert LEGACY_SCORERS["instructuie"](events, events, EE)["EET accuracy"] == 1.0


# --- GoLLIE ----------------------------------------------------------------------------------------------------------


def test_gollie_drops_what_cannot_be_and_counts_multisets() -> None:
    found = LEGACY_SCORERS["gollie"](GOLD_ENTITIES, SAID_ENTITIES, NER)
    # Eve is not in the text, city was not asked. gold: ada, ada, bob, rome; said: ada, (place) bob, rome
    assert found["spans/f1-score"] == _f1(2, 3, 4)
    assert (found["spans/precision"], found["spans/recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 4))


def test_gollie_takes_a_string_no_more_often_than_the_text_has_it() -> None:
    gold, said = _entities(ROME), _entities(Span("person", 15, 19, "Rome"), ROME)
    assert LEGACY_SCORERS["gollie"](gold, said, NER)["spans/f1-score"] == 0.0  # the first label for Rome is kept
    assert LEGACY_SCORERS["gollie"](gold, _entities(ROME, ROME), NER)["spans/f1-score"] == 1.0
    twice = _entities(ADA, ADA_AGAIN)
    assert LEGACY_SCORERS["gollie"](twice, _entities(ADA), NER)["spans/f1-score"] == _f1(1, 1, 2)


def test_gollie_relations_and_events() -> None:
    gold = _related((ADA, BOB, ROME), Relation("knows", 0, 1), Relation("lives in", 1, 2))
    said = _related(
        (ADA, BOB, EVE, Span("person", -1, -1, "ada")),
        Relation("knows", 0, 1),  # right
        Relation("knows", 0, 2),  # Eve is not in the text: dropped
        Relation("hates", 0, 1),  # not asked: dropped
        Relation("knows", 3, 1),  # in the text but for its case, so kept; compared with its case, so wrong
    )
    assert LEGACY_SCORERS["gollie"](gold, said, RE)["relations/f1-score"] == _f1(1, 2, 2)

    met, left = Span("meet", 4, 7, "met"), Span("leave", 25, 29, "left")
    who, whom = Span("who", 0, 3, "Ada"), Span("whom", 8, 11, "Bob")
    events = _happened(Event("meet", met, (who, whom)), Event("leave", left, (who,)))
    answer = _happened(
        Event("meet", Span("meet", -1, -1, "MET"), (who, Span("whom", -1, -1, "Eve"), Span("whom", 15, 19, "Rome"))),
        Event("meet", Span("meet", 4, 7, "met"), (who, whom)),  # 'met' occurs once: dropped with its arguments
        Event("meet", left, (who,)),  # the wrong type: its argument is wrong too
    )
    found = LEGACY_SCORERS["gollie"](events, answer, EE)
    assert found["events/f1-score"] == _f1(1, 2, 2)
    assert found["arguments/f1-score"] == _f1(1, 3, 3)  # said: Ada and Rome of meet (Eve is dropped), Ada of left


# --- GNER ------------------------------------------------------------------------------------------------------------


def test_gner_reads_entities_off_words() -> None:
    found = LEGACY_SCORERS["gner"](GOLD_ENTITIES, SAID_ENTITIES, NER)
    # gold: ada, bob, rome (Ada once); said: ada, (place) bob: Eve, rome and the city stand at no word with their label
    assert found["f1"] == _f1(1, 2, 3)
    text = "The U.S. team of Ada Lovelace won"
    gold = _entities(Span("place", 0, 8, "The U.S."), Span("person", 17, 29, "Ada Lovelace"), text=text)
    said = _entities(
        Span("place", 4, 7, "U.S"),  # without article and marks it is the same
        Span("person", 17, 23, "Ada Lo"),  # in the middle of a word: takes the whole word
        Span("place", 21, 29, "Lovelace"),  # its word is taken
        text=text,
    )
    assert score_dataset(gold, said, NER).headline == 0.0
    assert LEGACY_SCORERS["gner"](gold, said, NER)["f1"] == 1.0


def test_gner_takes_chinese_characters_as_words() -> None:
    text = "我在北京大学读书"
    gold, said = (
        _entities(Span("place", 2, 4, "北京"), text=text),
        _entities(Span("place", 2, 6, "北京大学"), text=text),
    )
    assert LEGACY_SCORERS["gner"](gold, said, NER)["f1"] == 0.0
    assert LEGACY_SCORERS["gner"](gold, gold, NER)["f1"] == 1.0
    assert LEGACY_SCORERS["gner"](_entities(), _entities(), NER)["f1"] == 0.0


# --- UIE -------------------------------------------------------------------------------------------------------------


def test_uie_entities_by_string_and_by_place() -> None:
    found = LEGACY_SCORERS["uie"](GOLD_ENTITIES, SAID_ENTITIES, NER)
    # city was not asked. strings: Ada, (place) Bob, Eve, rome of Ada, Ada, Bob, Rome; places: Ada and (place) Bob
    assert found["string-ent-F1"] == found["spot-F1"] == _f1(1, 4, 4)
    assert found["offset-ent-F1"] == _f1(1, 2, 4)
    assert (found["offset-ent-P"], found["offset-ent-R"]) == (0.5, 0.25)
    again = LEGACY_SCORERS["uie"](_entities(ADA, ADA_AGAIN), _entities(ADA, ADA_AGAIN, ADA), NER)
    assert again["string-ent-F1"] == _f1(2, 3, 2)


def test_uie_relations_strict_and_boundary() -> None:
    gold = _related((ADA, BOB, ROME), Relation("knows", 0, 1), Relation("lives in", 1, 2))
    said = _related(
        (Span("place", 0, 3, "Ada"), BOB, ROME, ADA_AGAIN, EVE),
        Relation("knows", 0, 1),  # Ada as a place: right but for the type
        Relation("lives in", 1, 2),  # right
        Relation("knows", 3, 1),  # the other Ada: right by its string
        Relation("knows", 4, 1),  # Eve: no place
    )
    found = LEGACY_SCORERS["uie"](gold, said, RE)
    assert found["string-rel-strict-F1"] == _f1(2, 4, 2)
    assert found["string-rel-boundary-F1"] == _f1(2, 4, 2)  # Ada knows Bob is said twice, and right once
    assert found["offset-rel-strict-F1"] == _f1(1, 3, 2)
    assert found["offset-rel-boundary-F1"] == _f1(2, 3, 2)
    assert found["string-ent-F1"] == _f1(3, 5, 3)  # Bob, Rome, (person) Ada
    assert found["asoc-F1"] == _f1(2, 4, 2)  # (person, lives in, Rome), (person, knows, Bob); the latter twice
    assert score_dataset(gold, said, RE).headline == _f1(2, 3, 2)
    typed = _related((Span("place", 0, 3, "Ada"), BOB), Relation("knows", 0, 1))
    found = LEGACY_SCORERS["uie"](gold, typed, RE)
    assert (found["string-rel-strict-F1"], found["string-rel-boundary-F1"]) == (0.0, _f1(1, 1, 2))


def test_uie_events_pool_roles_over_triggers() -> None:
    met, left = Span("meet", 4, 7, "met"), Span("leave", 25, 29, "left")
    who, whom = Span("who", 0, 3, "Ada"), Span("whom", 8, 11, "Bob")
    gold = _happened(Event("meet", met, (who, whom)), Event("leave", left, (ADA_AGAIN,)))
    said = _happened(
        Event("meet", Span("meet", -1, -1, "meeting"), (who,)),  # no place, so by places neither is its argument
        Event("meet", met, (whom, Span("reason", 15, 19, "Rome"))),  # a role that was not asked
        Event("sleep", left, (who,)),  # a type that was not asked
    )
    found = LEGACY_SCORERS["uie"](gold, said, EE)
    assert found["string-evt-trigger-F1"] == found["spot-F1"] == _f1(1, 2, 2)
    assert found["offset-evt-trigger-F1"] == _f1(1, 1, 2)
    assert found["string-evt-role-F1"] == found["asoc-F1"] == _f1(2, 2, 2)  # ADA_AGAIN's label is no role: not asked
    assert found["offset-evt-role-F1"] == _f1(1, 1, 2)


# --- CrossFit --------------------------------------------------------------------------------------------------------


def _classified(*labels: str) -> list[Record]:
    return [ClassificationRecord(str(i), "CLS", "text", (label,) if label else ()) for i, label in enumerate(labels)]


def test_crossfit_classification() -> None:
    meta = DatasetMeta("toy", "CLS", "en", ("good", "bad"))
    gold, said = ("good", "good", "bad", "bad"), ("good", "Good", "bad", "")
    found = LEGACY_SCORERS["crossfit"](_classified(*gold), _classified(*said), meta)
    assert found["ACC"] == 0.75
    # good 2 * 1 / (2 + 1), bad 2 * 1 / (2 + 1), and two classes that are never right: 'Good' and ''
    assert found["Classification-F1"] == pytest.approx((2 / 3 + 2 / 3 + 0 + 0) / 4)
    assert found["Classification-F1"] == pytest.approx(f1_score(gold, said, average="macro"))
    ours = score_dataset(_classified(*gold), _classified(*said), meta).metrics
    assert (ours["accuracy"], ours["macro_f1"]) == (0.5, pytest.approx(2 / 3))


def test_crossfit_reading() -> None:
    meta = DatasetMeta("toy", "MRC-SE", "en", ("answer",))
    gold: list[Record] = [
        ExtractionRecord("0", "MRC-SE", TEXT, (BOB,), None, "Whom?", ("The Bob", "Bob in Rome")),
        ExtractionRecord("1", "MRC-SE", TEXT, (), None, "Why?"),
    ]
    said: list[Record] = [
        ExtractionRecord("0", "MRC-SE", TEXT, (Span("Whom?", 8, 14, "Bob in"),), None, "Whom?"),
        ExtractionRecord("1", "MRC-SE", TEXT, (), None, "Why?"),
    ]
    found = LEGACY_SCORERS["crossfit"](gold, said, meta)
    assert found == {"EM": 0.5, "QA-F1": pytest.approx((4 / 5 + 0) / 2)}  # 'bob in' of 'bob in rome'; nothing gives 0
    assert score_dataset(gold, said, meta).headline == pytest.approx((4 / 5 + 1) / 2)


# --- every scorer ----------------------------------------------------------------------------------------------------


def test_a_kind_without_a_measure_gives_nothing() -> None:
    several = [ClassificationRecord("0", "ID", "text", ("a", "b"))]
    reading = [ExtractionRecord("0", "MRC-SE", TEXT, (BOB,), None, "Whom?")]
    measured = {
        "entities": {"instructuie", "gollie", "gner", "uie"},
        "relations": {"instructuie", "gollie", "uie"},
        "events": {"instructuie", "gollie", "uie"},
        "one label": {"crossfit"},
        "several labels": set(),
        "reading": {"crossfit"},
    }
    records: dict[str, tuple[list[Record], DatasetMeta]] = {
        "entities": (GOLD_ENTITIES, NER),
        "relations": (_related((ADA, BOB), Relation("knows", 0, 1)), RE),
        "events": (_happened(Event("meet", Span("meet", 4, 7, "met"), (Span("who", 0, 3, "Ada"),))), EE),
        "one label": (_classified("a"), DatasetMeta("toy", "CLS", "en", ("a", "b"))),
        "several labels": (list(several), DatasetMeta("toy", "ID", "en", ("a", "b"))),
        "reading": (list(reading), DatasetMeta("toy", "MRC-SE", "en", ("answer",))),
    }
    for name, (gold, meta) in records.items():
        found = {scorer: score(gold, gold, meta) for scorer, score in LEGACY_SCORERS.items()}
        assert {scorer for scorer, metrics in found.items() if metrics} == measured[name], name
        assert {value for metrics in found.values() for value in metrics.values()} <= {1.0}, name
