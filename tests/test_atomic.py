"""Atomic tasks: every row of the design's table, written out by hand, both ways; the read-back rule; real data."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from seqgpt_jax.atomic import (
    ask_next,
    check_labels,
    decompose,
    normalise_label,
    recompose,
)
from seqgpt_jax.errors import UserError
from seqgpt_jax.occurrences import normalise_text
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    Event,
    EventRecord,
    ExtractionRecord,
    Relation,
    RelationRecord,
    Span,
    Target,
)
from tests.perfect_model import predict


def meta(task: str, *labels: str, language: str = "en", **more: object) -> DatasetMeta:
    return DatasetMeta("d", task, language, labels, **more)  # type: ignore[arg-type]


def span(text: str, label: str, string: str, nth: int = 0) -> Span:
    start = -1
    for _ in range(nth + 1):
        start = text.index(string, start + 1)
    return Span(label, start, start + len(string), string)


# --- normalisation ---------------------------------------------------------------------------------------------------


def test_labels_that_cannot_be_asked() -> None:
    assert normalise_label(" 同意，\t完全\n ") == "同意, 完全"
    assert check_labels(["a", "b  c", "无，"]) == ("a", "b c", "无,")
    for labels, words in (
        (["a", " "], "empty"),
        (["a", ""], "empty"),
        (["None"], "empty answer"),
        ([" None\n"], "empty answer"),
        (["a，b", "c", "a,b"], "both written 'a,b'"),
        (["a  b", "a b"], "both written 'a b'"),
        (["a", "a"], "both written 'a'"),
    ):
        with pytest.raises(UserError, match=words):
            check_labels(labels)


# --- the table, row by row -------------------------------------------------------------------------------------------

EN, ZH = "Bo likes tea.", "小明喜欢茶。"
CHOICES = [  # (language, record, text of the atomic example)
    ("en", ClassificationRecord("0", "CLS", "two\nlines  ", ("b",)), "two lines"),
    ("en", ClassificationRecord("0", "ID", EN, ("b", "a")), EN),
    ("zh", ClassificationRecord("0", "SA", ZH, ()), ZH),
    ("en", ClassificationRecord("0", "NLI", "x\t1 ", ("a",), text_pair="y\n2 "), "x 1\ty 2"),
    ("zh", ClassificationRecord("0", "NLI", ZH, ("a",), text_pair="对"), ZH + "\t对"),
    ("en", ClassificationRecord("0", "MRC-MC", EN, ("c",), ("c", "d"), question="What?"), EN + "\tWhat?"),
    ("en", ClassificationRecord("0", "MRC-MC", EN, ("c",), ("c", "d")), EN),
    ("en", ClassificationRecord("0", "MRC-MC", EN, ("c",), ("c", "d"), question=""), EN),
    (
        "en",
        ClassificationRecord("0", "ET", EN, ("a",), target=Target("Bo", 0, 2)),
        "what is the type of Bo in Bo likes tea?",
    ),
    (
        "zh",
        ClassificationRecord("0", "ET", ZH, ("a",), target=Target("小明", 0, 2)),
        "小明喜欢茶。中小明的类型是什么？",
    ),
    (
        "en",
        ClassificationRecord("0", "SA", "Tea?\n", ("a",), target=Target("Tea", 0, 3)),
        "what is the sentiment towards Tea in Tea?",
    ),
    (
        "en",
        ClassificationRecord("0", "SA", "Tea..", ("a",), target=Target("x\ny ")),
        "what is the sentiment towards x y in Tea.?",
    ),
    (
        "en",
        ClassificationRecord("0", "SA", "茶。", ("a",), target=Target("茶")),
        "what is the sentiment towards 茶 in 茶?",
    ),
    (
        "en",
        ClassificationRecord("0", "SA", "Tea!", ("a",), target=Target("Tea")),
        "what is the sentiment towards Tea in Tea!?",
    ),
    ("zh", ClassificationRecord("0", "SA", ZH, ("a",), target=Target("茶")), "小明喜欢茶。对茶的情感是什么？"),
    ("en", ClassificationRecord("0", "CLS", EN, ("a",), target=Target("tea")), EN + "\ttea"),
    (
        "en",
        ClassificationRecord("0", "SA", "{text}", ("a",), target=Target("{head}")),
        "what is the sentiment towards {head} in {text}?",
    ),
]


@pytest.mark.parametrize(("language", "record", "text"), CHOICES)
def test_choices(language: str, record: ClassificationRecord, text: str) -> None:
    dataset = meta(record.task, "a", "b", language=language)
    (example,) = decompose(record, dataset)
    asked = record.label_set or ("a", "b")
    assert (example.kind, example.text, example.labels) == ("classify", text, asked)
    assert example.answer == tuple(label for label in asked if label in record.labels)
    (question,) = ask_next(replace(record, labels=()), dataset, [])
    assert question == replace(example, answer=(), source=replace(example.source, split="test"))
    assert ask_next(record, dataset, [example]) == []
    predicted = recompose(replace(record, labels=("a",)), dataset, [example])
    assert isinstance(predicted, ClassificationRecord)
    assert sorted(predicted.labels) == sorted(record.labels)
    assert replace(predicted, labels=record.labels) == record


def test_source() -> None:
    (example,) = decompose(ExtractionRecord("r7", "SF", "x", ()), meta("SF", "a", language="zh"), "validation")
    source = example.source
    assert (source.dataset, source.split, source.record_id) == ("d", "validation", "r7")
    assert (source.task, source.language, source.step, source.query) == ("SF", "zh", "extract", ())


def test_an_option_none_is_the_empty_answer() -> None:
    record = ClassificationRecord("0", "MRC-MC", "x", ("None ",), ("one", "two", "None "))
    (example,) = decompose(record, meta("MRC-MC"))
    assert (example.labels, example.answer) == (("one", "two"), ())
    assert recompose(record, meta("MRC-MC"), [example]) == record
    answered = replace(example, answer=("two",))
    assert recompose(record, meta("MRC-MC"), [answered]) == replace(record, labels=("two",))
    with pytest.raises(UserError, match=r"dataset d, record 0.*empty answer"):
        decompose(replace(record, labels=(), label_set=None), meta("MRC-MC", "one", "None"))


PARIS = "Paris Hilton stayed at\tthe Paris Hilton in Paris \n"


def test_extraction() -> None:
    record = ExtractionRecord(
        "0",
        "NER",
        PARIS,
        (
            span(PARIS, "city", "Paris", 2),
            span(PARIS, "hotel", "the Paris Hilton"),
            span(PARIS, "person", "Paris Hilton"),
        ),
    )
    dataset = meta("NER", "person", "hotel", "city", "date")
    (example,) = decompose(record, dataset)
    assert example.text == "Paris Hilton stayed at the Paris Hilton in Paris"
    assert example.answer == {"person": ("Paris Hilton",), "hotel": ("the Paris Hilton",), "city": ("Paris",)}
    predicted = recompose(replace(record, spans=()), dataset, [example])
    assert isinstance(predicted, ExtractionRecord)  # nothing that lies inside what another label answers
    assert {(s.label, s.start) for s in predicted.spans} == {("person", 0), ("hotel", 23), ("city", 43)}
    assert all(PARIS[s.start : s.end] == s.text for s in predicted.spans)


def test_spans_in_text_order_longer_first_each_once() -> None:
    text = "New York and York and New York City"
    spans = [
        span(text, "place", "York", 1),
        span(text, "place", "New York City"),
        span(text, "place", "New"),
        span(text, "place", "New York"),
        span(text, "place", "New York", 1),
    ]
    (example,) = decompose(ExtractionRecord("0", "NER", text, tuple(spans)), meta("NER", "place"))
    assert example.answer == {"place": ("New York", "New", "York", "New York City")}


def test_spans_that_the_format_cannot_say() -> None:
    text = "None of  them "
    spans = (span(text, "x", "None"), span(text, "x", " of "), span(text, "y", "None"), Span("z", 8, 14, " them "))
    (example,) = decompose(ExtractionRecord("0", "NER", text, spans), meta("NER", "x", "y", "z"))
    assert example.answer == {"x": ("of",), "z": ("them",)}


def test_span_reading() -> None:
    text = "It opened in 1932."
    record = ExtractionRecord("0", "MRC-SE", text, (span(text, "answer", "1932"),), question="When，and by\nwhom? ")
    dataset = meta("MRC-SE", "answer")
    (example,) = decompose(record, dataset)
    assert (example.kind, example.text, example.labels) == ("extract", text, ("When,and by whom?",))
    assert example.answer == {"When,and by whom?": ("1932",)}
    assert recompose(replace(record, spans=()), dataset, [example]) == record
    unanswerable = replace(record, spans=())
    assert decompose(unanswerable, dataset)[0].answer == {}
    assert recompose(record, dataset, decompose(unanswerable, dataset)) == unanswerable


CURIE = "Marie Curie was born in\nWarsaw, and Marie Curie died in Passy?"
CURIE_RECORD = RelationRecord(
    "0",
    "RE",
    CURIE,
    (span(CURIE, "place", "Warsaw"), span(CURIE, "person", "Marie Curie"), span(CURIE, "place", "Passy")),
    (Relation("born in", 1, 0), Relation("died in", 1, 2)),
)


def test_relations() -> None:
    dataset = meta("RE", "born in", "died in", entity_labels=("person", "place"))
    examples = decompose(CURIE_RECORD, dataset)
    assert [example.source.step for example in examples] == ["entities"] + ["relation"] * 6
    assert examples[0].text == normalise_text(CURIE) and examples[0].labels == ("person", "place")
    assert examples[0].answer == {"person": ("Marie Curie",), "place": ("Warsaw", "Passy")}
    asked = {example.source.query: example for example in examples[1:]}
    assert list(asked)[:3] == [("Marie Curie", "Warsaw"), ("Marie Curie", "Passy"), ("Warsaw", "Marie Curie")]
    first = asked["Marie Curie", "Warsaw"]
    question = f"what is the relation between Marie Curie and Warsaw in {normalise_text(CURIE)[:-1]}?"
    assert (first.kind, first.text, first.labels, first.answer) == ("classify", question, dataset.labels, ("born in",))
    assert asked["Warsaw", "Marie Curie"].answer == ()

    only = replace(dataset, pair_types=frozenset({("person", "place")}))
    assert [e.source.query[1] for e in decompose(CURIE_RECORD, only)[1:]] == ["Warsaw", "Passy"]
    for each in (dataset, only):
        predicted, answered = predict(CURIE_RECORD, each, examples)
        assert isinstance(predicted, RelationRecord)
        assert len(answered) == len(decompose(CURIE_RECORD, each))
        triples = [(r.label, predicted.entities[r.head], predicted.entities[r.tail]) for r in predicted.relations]
        curie = span(CURIE, "person", "Marie Curie")  # the first of its occurrences
        assert [(label, head) for label, head, tail in triples] == [("born in", curie), ("died in", curie)]
        assert [tail.text for _, _, tail in triples] == ["Warsaw", "Passy"]


def test_relations_in_chinese() -> None:
    text = "居里夫人出生于华沙。"
    record = RelationRecord("0", "RE", text, (span(text, "人", "居里夫人"), span(text, "地", "华沙")), ())
    examples = decompose(record, meta("RE", "出生地", language="zh", entity_labels=("人", "地")))
    assert [example.text for example in examples[1:]] == [
        "居里夫人出生于华沙。居里夫人和华沙的关系是什么？",
        "居里夫人出生于华沙。华沙和居里夫人的关系是什么？",
    ]


def test_a_mention_under_two_types_and_an_invented_one() -> None:
    text = "Ford hired Ann"
    record = RelationRecord("0", "RE", text, (), ())
    dataset = meta("RE", "employs", entity_labels=("person", "firm"), pair_types=frozenset({("firm", "person")}))
    (entities,) = ask_next(record, dataset, [])
    entities = replace(entities, answer={"person": ("Ford", "Ann", "Zoe"), "firm": ("Ford",)})
    questions = ask_next(record, dataset, [entities])
    assert [question.source.query for question in questions] == [("Ford", "Ann")]
    assert ask_next(record, dataset, [entities, *questions]) == []
    predicted = recompose(record, dataset, [entities, replace(questions[0], answer=("employs",))])
    assert isinstance(predicted, RelationRecord)
    assert Span("person", -1, -1, "Zoe") in predicted.entities and not predicted.entities[-1].in_text
    (relation,) = predicted.relations
    assert (predicted.entities[relation.head].text, predicted.entities[relation.tail].text) == ("Ford", "Ann")


def test_mentions_inside_a_longer_one() -> None:
    text = "androgen receptor binds androgens"
    dataset = meta("RE", "part of", entity_labels=("protein",))
    record = RelationRecord("0", "RE", text, (), ())
    (entities,) = ask_next(record, dataset, [])
    entities = replace(entities, answer={"protein": ("androgen receptor", "androgen", "receptor")})
    questions = {question.source.query: question for question in ask_next(record, dataset, [entities])}
    said = replace(questions["receptor", "androgen receptor"], answer=("part of",))
    predicted = recompose(record, dataset, [entities, said])
    assert isinstance(predicted, RelationRecord)
    assert [(entity.text, entity.start) for entity in predicted.entities] == [
        ("androgen receptor", 0),
        ("androgen", 0),  # elsewhere it is a part of a word
        ("receptor", 9),
    ]
    assert predicted.relations == (Relation("part of", 2, 0),)


def test_relation_answers_without_mentions() -> None:
    dataset = meta("RE", "x", entity_labels=("p",))
    (entities,) = ask_next(CURIE_RECORD, dataset, [])
    assert ask_next(CURIE_RECORD, dataset, [entities]) == []
    assert recompose(CURIE_RECORD, dataset, [entities]) == replace(CURIE_RECORD, entities=(), relations=())
    with pytest.raises(UserError, match="no labels to ask"):
        ask_next(CURIE_RECORD, meta("RE", "x"), [])


ATTACK = "Rebels attacked Oslo on Friday; soldiers attacked rebels in Bergen."
ATTACK_RECORD = EventRecord(
    "0",
    "EE",
    ATTACK,
    (
        Event(
            "attack",
            span(ATTACK, "attack", "attacked"),
            (span(ATTACK, "attacker", "Rebels"), span(ATTACK, "place", "Oslo"), span(ATTACK, "time", "Friday")),
        ),
        Event(
            "attack",
            span(ATTACK, "attack", "attacked", 1),
            (span(ATTACK, "attacker", "soldiers"), span(ATTACK, "victim", "rebels"), span(ATTACK, "place", "Bergen")),
        ),
    ),
)
EVENTS = meta(
    "EE", "attack", "meet", event_schema={"attack": ("attacker", "victim", "place", "time"), "meet": ("who",)}
)


def test_events() -> None:
    triggers, kind, arguments = decompose(ATTACK_RECORD, EVENTS)
    assert triggers.labels == ("attack event", "meet event")
    assert triggers.answer == {"attack event": ("attacked",)}
    assert kind.text == f"what is the event type of attacked in {ATTACK[:-1]}?"
    assert (kind.kind, kind.labels, kind.answer) == ("classify", ("attack", "meet"), ("attack",))
    assert arguments.labels == tuple(f"{role} of attack event" for role in ("attacker", "victim", "place", "time"))
    assert arguments.text == ATTACK
    assert arguments.answer == {
        "attacker of attack event": ("Rebels", "soldiers"),
        "victim of attack event": ("rebels",),
        "place of attack event": ("Oslo", "Bergen"),
        "time of attack event": ("Friday",),
    }
    predicted, answered = predict(ATTACK_RECORD, EVENTS, [triggers, kind, arguments])
    assert predicted == ATTACK_RECORD  # each argument at the trigger nearest to it
    assert [example.source.step for example in answered] == ["trigger", "argument"]


def test_events_mean_the_occurrences_that_are_nearest_to_one_another() -> None:
    text = "The attack shocked Oslo. Ann, who lives in Oslo, says that in the attack Ann saw Bob."
    second = span(text, "attack", "attack", 1)
    arguments = (span(text, "witness", "Ann", 1), span(text, "victim", "Bob"))
    dataset = meta("EE", "attack", roles=("victim", "place", "witness"))
    record = EventRecord("0", "EE", text, (Event("attack", second, arguments),))
    predicted, _ = predict(record, dataset, decompose(record, dataset))
    assert predicted == record  # no argument is nearest to the first attack, so it is no event

    bare = EventRecord("0", "EE", text, (Event("attack", second),))
    predicted, _ = predict(bare, dataset, decompose(bare, dataset))
    assert isinstance(predicted, EventRecord)  # nothing says which of them it is
    assert predicted.events == (Event("attack", span(text, "attack", "attack")), Event("attack", second))

    text = "Ann met Bob on Monday, and Ann met Eve on Monday."
    record = EventRecord(
        "0",
        "EE",
        text,
        tuple(
            Event(
                "meet",
                span(text, "meet", "met", nth),
                (span(text, "who", "Ann", nth), span(text, "who", other), span(text, "when", "Monday", nth)),
            )
            for nth, other in enumerate(("Bob", "Eve"))
        ),
    )
    dataset = meta("EE", "meet", roles=("who", "when"))
    assert predict(record, dataset, decompose(record, dataset))[0] == record


def test_events_in_chinese_with_shared_roles() -> None:
    text = "今日贵州茅台涨停"
    trigger = span(text, "涨停", "涨停")
    record = EventRecord("0", "EE", text, (Event("涨停", trigger, (span(text, "时间", "今日"),)),))
    dataset = meta("EE", "涨停", "跌停", language="zh", roles=("时间", "股票"))
    triggers, kind, arguments = decompose(record, dataset)
    assert triggers.labels == ("涨停事件", "跌停事件")
    assert kind.text == "今日贵州茅台涨停中涨停的事件类型是什么？"
    assert arguments.labels == ("事件涨停的时间", "事件涨停的股票")
    assert predict(record, dataset, [triggers, kind, arguments])[0] == record


def test_event_type_decides_when_a_trigger_came_under_several() -> None:
    dataset = replace(EVENTS, labels=("attack", "meet", "move"), event_schema=None, roles=())
    record = EventRecord("0", "EE", ATTACK, ())
    (triggers,) = ask_next(record, dataset, [])
    triggers = replace(triggers, answer={"attack event": ("attacked",), "move event": ("attacked", "on")})
    (question,) = ask_next(record, dataset, [triggers])
    assert (question.source.step, question.source.query) == ("event_type", ("attacked",))
    assert (question.labels, question.answer) == (("attack", "move"), ())
    decided = replace(question, answer=("attack",))
    assert ask_next(record, dataset, [triggers, decided]) == []  # there are no roles to ask
    predicted = recompose(record, dataset, [triggers, decided])
    assert isinstance(predicted, EventRecord)
    assert Counter((event.type, event.trigger.text) for event in predicted.events) == {
        ("attack", "attacked"): 2,
        ("move", "on"): 1,
    }


def test_no_events_no_more_questions() -> None:
    record = replace(ATTACK_RECORD, events=())
    (triggers,) = decompose(record, EVENTS)
    assert triggers.answer == {} and ask_next(record, EVENTS, [triggers]) == []
    invented = replace(triggers, answer={"meet event": ("met",)})
    assert ask_next(record, EVENTS, [invented]) == []
    predicted = recompose(record, EVENTS, [invented])
    assert predicted == replace(record, events=(Event("meet", Span("meet", -1, -1, "met")),))


def test_descriptions_stand_in_for_names() -> None:
    dataset = meta("NER", "PER", "LOC", descriptions={"PER": "a person, by name"})
    record = ExtractionRecord("0", "NER", "Ann in Rome", (Span("PER", 0, 3, "Ann"), Span("LOC", 7, 11, "Rome")))
    (example,) = decompose(record, dataset)
    assert example.labels == ("a person, by name", "LOC")
    assert example.answer == {"a person, by name": ("Ann",), "LOC": ("Rome",)}
    assert recompose(replace(record, spans=()), dataset, [example]) == record
    events = replace(EVENTS, descriptions={"attack": "armed attack", "place": "where"})
    _, kind, arguments = decompose(ATTACK_RECORD, events)
    assert kind.answer == ("armed attack",)
    assert arguments.labels[2] == "where of armed attack event"
    assert predict(ATTACK_RECORD, events, decompose(ATTACK_RECORD, events))[0] == ATTACK_RECORD
    with pytest.raises(UserError, match="both written 'LOC'"):
        decompose(record, replace(dataset, descriptions={"PER": "LOC"}))


def test_answers_without_a_place_of_their_own() -> None:
    record = ExtractionRecord("0", "NER", "New York party", ())
    (question,) = ask_next(record, meta("NER", "x"), [])
    predicted = recompose(
        record, meta("NER", "x"), [replace(question, answer={"x": ("New York", "York", "art", "Oslo")})]
    )
    assert isinstance(predicted, ExtractionRecord)  # what is inside New York, or inside a word, stands nowhere else
    assert predicted.spans == (
        Span("x", 0, 8, "New York"),
        Span("x", 4, 8, "York"),
        Span("x", 10, 13, "art"),
        Span("x", -1, -1, "Oslo"),
    )


def test_what_was_not_asked_stays() -> None:
    record = ExtractionRecord("0", "NER", "Ann in Rome", ())
    dataset = meta("NER", "PER")
    (question,) = ask_next(record, dataset, [])
    said = replace(question, answer={"PER": ("Anna",), "LOC": ("Rome",)})
    predicted = recompose(record, dataset, [said])
    assert isinstance(predicted, ExtractionRecord)
    assert set(predicted.spans) == {Span("LOC", 7, 11, "Rome"), Span("PER", -1, -1, "Anna")}
    choice = ClassificationRecord("0", "CLS", "x", ())
    (question,) = ask_next(choice, meta("CLS", "a"), [])
    predicted = recompose(choice, meta("CLS", "a"), [replace(question, answer=("a", "odd"))])
    assert predicted == replace(choice, labels=("a", "odd"))


def test_gold_labels_that_the_dataset_does_not_have() -> None:
    for record, dataset in (
        (ClassificationRecord("7", "CLS", "x", ("b",)), meta("CLS", "a")),
        (ExtractionRecord("7", "NER", "x", (Span("b", 0, 1, "x"),)), meta("NER", "a")),
        (replace(ATTACK_RECORD, id="7"), replace(EVENTS, labels=("b",))),
    ):
        with pytest.raises(UserError, match=r"dataset d, record 7: gold label '(b|attack)'"):
            decompose(record, dataset)
