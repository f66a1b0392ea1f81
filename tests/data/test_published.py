"""Converters of published datasets, each on an example by hand with the record it must give."""

from __future__ import annotations

from typing import Any

import pytest

from seqgpt_jax.data.published import Converter
from seqgpt_jax.data.tagging import span_labels, tagged_text
from seqgpt_jax.data.tfds_sources import ROWS, TfdsDataset
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import check_record, record_to_dict

CONVERTERS: dict[str, Converter] = {row.name: row.convert for row in ROWS}
NAMES = {row.name: row for row in ROWS}


def classification(text: str, label: str, **others: Any) -> dict[str, Any]:
    return {"kind": "classification", "text": text, "labels": [label], "label_set": None, **others}


def options(text: str, right: int, choices: list[str], **others: Any) -> dict[str, Any]:
    return classification(text, choices[right], label_set=choices, **others)


def span(label: str, start: int, text: str) -> dict[str, Any]:
    return {"label": label, "start": start, "end": start + len(text), "text": text}


def extraction(text: str, spans: list[dict[str, Any]], **others: Any) -> dict[str, Any]:
    return {"kind": "extraction", "text": text, "spans": spans, "label_set": None, **others}


TEXT = "Ada Park was born in Norford in 1815."
FOUR = ["a cat", "a dog", "a fox", "an owl"]
CASES: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    ("glue/cola", {"sentence": "They drank.", "label": 1, "idx": 7}, [classification("They drank.", "acceptable")]),
    ("glue/sst2", {"sentence": "dull", "label": 0}, [classification("dull", "negative")]),
    ("glue/mrpc", {"sentence1": "a", "sentence2": "b", "label": 0},
     [classification("a", "not_equivalent", text_pair="b")]),
    ("glue/qqp", {"question1": "a?", "question2": "b?", "label": 1},
     [classification("a?", "duplicate", text_pair="b?")]),
    ("glue/qnli", {"question": "a?", "sentence": "b", "label": 1},
     [classification("a?", "not_entailment", text_pair="b")]),
    ("glue/mnli", {"premise": "a", "hypothesis": "b", "label": 2},
     [classification("a", "contradiction", text_pair="b")]),
    ("glue/mnli", {"premise": "a", "hypothesis": "b", "label": -1}, []),
    ("super_glue/cb", {"premise": "a", "hypothesis": "b", "label": 1},
     [classification("a", "contradiction", text_pair="b")]),
    ("super_glue/boolq", {"passage": TEXT, "question": "was she born", "label": 1},
     [classification(TEXT, "True", question="was she born")]),
    ("super_glue/copa",
     {"premise": "It rained.", "choice1": "We got wet.", "choice2": "We ate.", "question": "effect", "label": 0},
     [options("It rained.", 0, ["We got wet.", "We ate."], question="What is the effect?")]),
    ("super_glue/multirc", {"paragraph": TEXT, "question": "Where?", "answer": "Norford", "label": 1},
     [classification(TEXT, "True", question="Where? Norford")]),
    ("super_glue/wic", {"word": "bank", "sentence1": "a bank", "sentence2": "the bank", "start1": 2, "label": 0},
     [classification("bank: a bank", "False", text_pair="the bank")]),
    ("super_glue/wsc.fixed", {"text": "Ada saw Bea. She left.", "span1_text": "Bea", "span2_text": "She", "label": 1},
     [classification("Ada saw Bea. She left.", "True", text_pair='"She" stands for "Bea"')]),
    ("ag_news_subset", {"title": "Rates rise", "description": "Banks say so.", "label": 2},
     [classification("Rates rise\nBanks say so.", "Business")]),
    ("trec", {"text": "Who?", "label-coarse": 3, "label-fine": 4}, [classification("Who?", "HUM")]),
    ("scicite", {"string": "as in [1]", "label": 1}, [classification("as in [1]", "background")]),
    ("civil_comments/CivilComments",
     {"text": "x", "toxicity": 0.6, "severe_toxicity": 0.1, "obscene": 0.5, "threat": 0.0, "insult": 0.49,
      "identity_attack": 0.0, "sexual_explicit": 1.0},
     [{**classification("x", ""), "labels": ["toxicity", "obscene", "sexual_explicit"]}]),
    ("goemotions", {"comment_text": "x", **dict.fromkeys(NAMES["goemotions"].labels, False), "joy": True, "love": True},
     [{**classification("x", ""), "labels": ["joy", "love"]}]),
    ("imdb_reviews/plain_text", {"text": "x", "label": 1}, [classification("x", "pos")]),
    ("sentiment140", {"text": "x", "polarity": 4}, [classification("x", "positive")]),
    ("sentiment140", {"text": "x", "polarity": 2}, [classification("x", "neutral")]),
    ("bool_q", {"passage": "p", "question": "q", "answer": False}, [classification("p", "False", question="q")]),
    ("xnli/zh",
     {"premise": {"en": "a", "zh": "甲"}, "label": 0,
      "hypothesis": {"language": ["en", "zh"], "translation": ["b", "乙"]}},
     [classification("甲", "entailment", text_pair="乙")]),
    ("xnli/zh", {"premise": {"en": "a"}, "label": 0, "hypothesis": {"language": ["en"], "translation": ["b"]}}, []),
    ("conll2003/conll2003", {"tokens": ["EU", "rejects", "German", "call"], "ner": [3, 0, 7, 0]},
     [extraction("EU rejects German call", [span("ORG", 0, "EU"), span("MISC", 11, "German")])]),
    ("wikiann/zh", {"tokens": ["王", "明", "在", "北", "京"], "tags": [1, 2, 0, 5, 6]},
     [extraction("王明在北京", [span("PER", 0, "王明"), span("LOC", 3, "北京")])]),
    ("squad/v1.1",
     {"id": "5733", "context": TEXT, "question": "Where?",
      "answers": {"text": ["Norford", "in Norford", "Norford"], "answer_start": [21, 18, 21]}},
     [extraction(TEXT, [span("answer", 21, "Norford")], question="Where?", answers=["Norford", "in Norford"])]),
    ("squad/v1.1",  # the offset counts something else: the answer is looked for
     {"context": TEXT, "question": "When?", "answers": {"text": ["1815"], "answer_start": [30]}},
     [extraction(TEXT, [span("answer", 32, "1815")], question="When?", answers=["1815"])]),
    ("squad/v1.1", {"context": TEXT, "question": "Who?", "answers": {"text": ["Bea"], "answer_start": [0]}}, []),
    ("squad/v2.0", {"context": TEXT, "question": "Why?", "answers": {"text": [], "answer_start": []}},
     [extraction(TEXT, [], question="Why?", answers=[])]),
    ("xquad/zh",
     {"context": "王明生于北京。", "question": "哪里？", "answers": {"text": ["北京"], "answer_start": [4]}},
     [extraction("王明生于北京。", [span("答案", 4, "北京")], question="哪里？", answers=["北京"])]),
    ("race/high",
     {"article": TEXT, "questions": ["Who?", "Which?", "What?"], "answers": ["B", "D", "A"],
      "options": [FOUR, FOUR, ["the same", "the same", "x", "y"]]},
     [options(TEXT, 1, FOUR, question="Who?"), options(TEXT, 3, FOUR, question="Which?")]),
    ("cosmos_qa", {"context": TEXT, "question": "Who?", **{f"answer{i}": FOUR[i] for i in range(4)}, "label": 2},
     [options(TEXT, 2, FOUR, question="Who?")]),
    ("hellaswag", {"context": "It is", "endings": FOUR, "label": 3}, [options("It is", 3, FOUR)]),
    ("hellaswag", {"context": "It is", "endings": FOUR, "label": -1}, []),
    ("piqa", {"goal": "To keep mice away, get", "sol1": "a cat", "sol2": "a dog", "label": 0},
     [options("To keep mice away, get", 0, ["a cat", "a dog"])]),
    ("winogrande", {"sentence": "The _ barked.", "option1": "cat", "option2": "dog", "label": 1},
     [options("The _ barked.", 1, ["cat", "dog"])]),
    ("openbookqa",
     {"question": {"stem": "What meows?", "choice_A": "a cat", "choice_B": "a dog", "choice_C": "a fox",
                   "choice_D": "an owl"}, "answerKey": 0},
     [options("What meows?", 0, FOUR)]),
    ("qasc", {"question": "What meows?", "choices": {"label": ["A", "B", "C", "D"], "text": FOUR}, "answerKey": "A"},
     [options("What meows?", 0, FOUR)]),
    ("qasc", {"question": "What meows?", "choices": {"label": ["A", "B", "C", "D"], "text": FOUR}, "answerKey": ""},
     []),
    ("ai2_arc/ARC-Easy", {"question": "What hoots?", "choices": {"label": [0, 1, 2, 3], "text": FOUR}, "answerKey": 3},
     [options("What hoots?", 3, FOUR)]),
    ("mctaco", {"sentence": "He ate.", "question": "How long?", "answer": "a year", "label": 0},
     [classification("He ate.", "no", question="How long? a year")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "example", "expected"), CASES)
def test_an_example_gives_its_records(name: str, example: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    dataset = TfdsDataset(NAMES[name])
    found = CONVERTERS[name](example, "x", dataset.declared)
    for record in found:
        check_record(record, dataset.declared)
    ids = [f"x-{i}" for i in range(len(found))] if name.startswith("race") else ["x"] * len(found)
    assert [record.id for record in found] == ids
    assert [record_to_dict(record) for record in found] == [
        {**fields, "id": id, "task": dataset.declared.task} for fields, id in zip(expected, ids, strict=True)
    ]


def test_every_converter_has_an_example() -> None:
    """labelled, flagged ... are made anew for each row, so they are told apart by the function that they run."""
    covered = {CONVERTERS[name].__code__ for name, _, _ in CASES}
    assert not [name for name, convert in CONVERTERS.items() if convert.__code__ not in covered]


# --- tags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-X I-X O B-Y", [("X", "a b"), ("Y", "d")]),
        ("I-X I-X B-X I-X", [("X", "a b"), ("X", "c d")]),  # IOB1: B- only between two of one label
        ("B-X I-Y I-Y O", [("X", "a"), ("Y", "b c")]),
        ("S-X B-X E-X I-X", [("X", "a"), ("X", "b c"), ("X", "d")]),
        ("O O O O", []),
        ("B-X-1 I-X-1 B-X-1 O", [("X-1", "a b"), ("X-1", "c")]),
    ],
)
def test_stretches_of_tags(tags: str, expected: list[tuple[str, str]]) -> None:
    text, spans = tagged_text(["a", "b", "c", "d"], tags.split(), "en")
    assert text == "a b c d"
    assert [(span.label, span.text) for span in spans] == expected
    assert all(text[span.start : span.end] == span.text for span in spans)


def test_wrong_tags_are_user_errors() -> None:
    with pytest.raises(UserError, match="1 tags for 2 tokens"):
        tagged_text(["a", "b"], ["O"], "en")
    with pytest.raises(UserError, match="tag of 'b' is 'X-1'"):
        tagged_text(["a", "b"], ["O", "X-1"], "en")


def test_span_labels() -> None:
    assert span_labels(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]) == ("PER", "LOC")
