"""seqgpt_v1: golden bytes, parse(render(x)) == x for whatever may be asked, and what a crooked answer still says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgpt_jax.atomic import NONE, AtomicExample, Kind, Source, normalise_label
from seqgpt_jax.errors import UserError
from seqgpt_jax.occurrences import normalise_text
from seqgpt_jax.prompt import GEN, SEQGPT_V1, get_format

SOURCE = Source("d", "train", "0", "NER", "en", "extract")


def make(text: str, kind: Kind, labels: list[str], answer: list[str] | dict[str, list[str]]) -> AtomicExample:
    given = tuple(answer) if isinstance(answer, list) else {label: tuple(spans) for label, spans in answer.items()}
    return AtomicExample(text, kind, tuple(labels), given, SOURCE)


# Written by hand, so that the bytes are tested on a machine without the golden file too.
GOLDEN = [
    (
        make("Book a table for two", "classify", ["BookTable", "PlayMusic"], ["BookTable"]),
        "输入: Book a table for two\n分类: BookTable，PlayMusic\n输出: [GEN]",
        "BookTable\n",
    ),
    (
        make("张三在北京见了李四", "extract", ["地点", "人物", "时间"], {"人物": ["张三", "李四"], "地点": ["北京"]}),
        "输入: 张三在北京见了李四\n抽取: 地点，人物，时间\n输出: [GEN]",
        "地点: 北京\n人物: 张三\t李四\n时间: None\n",
    ),
    (
        make("It rains.\tThe sun shines.", "classify", ["entailment", "neutral"], []),
        "输入: It rains.\tThe sun shines.\n分类: entailment，neutral\n输出: [GEN]",
        "None\n",
    ),
    (
        make("x", "classify", ["a，b", "c", "d"], ["d", "a，b"]),
        "输入: x\n分类: a,b，c，d\n输出: [GEN]",
        "a,b，d\n",
    ),
    (
        make("open: 9:00", "extract", ["time: opening", "time"], {"time": ["9:00", "9:00"]}),
        "输入: open: 9:00\n抽取: time: opening，time\n输出: [GEN]",
        "time: opening: None\ntime: 9:00\n",
    ),
]


@pytest.mark.parametrize(("example", "prompt", "target"), GOLDEN)
def test_golden_bytes(example: AtomicExample, prompt: str, target: str) -> None:
    assert SEQGPT_V1.render_prompt(example).encode() == prompt.encode()
    assert SEQGPT_V1.render_answer(example).encode() == target.encode()
    first, second = SEQGPT_V1.prompt_pieces(example.kind, example.text, example.labels)
    assert first + second + GEN == prompt
    assert first == "输入: " + example.text


def test_golden_file(golden_file: Path) -> None:
    lines = [json.loads(line) for line in golden_file.read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 16
    for line in lines:
        example = make(line["text"], line["kind"], line["labels"], line["answer"])
        assert SEQGPT_V1.render_prompt(example) == line["prompt"]
        assert SEQGPT_V1.render_answer(example) == line["target"]
        parsed = SEQGPT_V1.parse(line["target"], line["kind"], line["labels"])
        assert parsed.problems == () and parsed.unasked == ()
        if line["kind"] == "extract":
            assert parsed.answer == example.answer
        else:
            assert parsed.answer == tuple(label for label in line["labels"] if label in line["answer"])


# --- parse(render(x)) == x -------------------------------------------------------------------------------------------

NASTY = "aAbN 0:：,，;、.\t\n\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029\u00a0\u3000\u200b人物éNone"
texts = st.text(max_size=60) | st.text(NASTY, max_size=60)
raw_labels = (
    st.text(min_size=1, max_size=12)
    | st.text(NASTY, min_size=1, max_size=12)
    | st.sampled_from(
        ["a", "a:", "a: b", "a: b:", "a,b", "a, b", "b", "a：b", "None of these", "is None", "None: a", " a b "]
    )
)


def allowed(labels: list[str]) -> bool:
    written = [normalise_label(label) for label in labels]
    return len(set(written)) == len(written) and not {"", NONE}.intersection(written)


label_lists = st.lists(raw_labels, min_size=1, max_size=6).filter(allowed)


@given(text=texts, labels=label_lists, data=st.data())
@settings(max_examples=400)
def test_choice_round_trip(text: str, labels: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.sampled_from(labels)))
    example = make(normalise_text(text), "classify", labels, [label for label in labels if label in chosen])
    parsed = SEQGPT_V1.parse(SEQGPT_V1.render_answer(example), "classify", labels)
    assert (parsed.answer, parsed.problems, parsed.unasked) == (example.answer, (), ())


@given(text=texts, labels=label_lists, data=st.data())
@settings(max_examples=400)
def test_spans_round_trip(text: str, labels: list[str], data: st.DataObject) -> None:
    text = normalise_text(text)
    places = st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))
    answer = {}
    for label in labels:
        drawn = data.draw(st.lists(places, max_size=4))
        spans = dict.fromkeys(text[min(place) : max(place)].strip() for place in drawn)
        if kept := [span for span in spans if span not in ("", NONE)]:
            answer[label] = kept
    example = make(text, "extract", labels, answer)
    rendered = SEQGPT_V1.render_answer(example)
    parsed = SEQGPT_V1.parse(rendered, "extract", labels)
    assert (parsed.answer, parsed.problems, parsed.unasked) == (example.answer, (), ())
    assert rendered.count("\n") == len(labels)


@given(text=texts, labels=label_lists, kind=st.sampled_from(["classify", "extract"]))
def test_prompt_has_three_lines(text: str, labels: list[str], kind: Kind) -> None:
    lines = SEQGPT_V1.render_prompt(make(normalise_text(text), kind, labels, [])).split("\n")
    assert len(lines) == 3
    assert len(lines[1].split("，")) == len(labels)


def test_labels_that_hold_one_another_are_read_by_position() -> None:
    labels = ["a", "a: b", "a: b: c"]
    text = "a: b: c b: c: x"
    example = make(text, "extract", labels, {"a": ["b: c: x"], "a: b": ["c: x"], "a: b: c": ["x"]})
    parsed = SEQGPT_V1.parse(SEQGPT_V1.render_answer(example), "extract", labels)
    assert parsed.answer == example.answer and not parsed.problems


# --- crooked answers -------------------------------------------------------------------------------------------------

crooked = (
    st.text(max_size=80)
    | st.text(NASTY, max_size=80)
    | st.lists(st.sampled_from(["a", "b", "None", ":", "：", " ", "\t", "\n", "，", ",", "x", "No"])).map("".join)
)


@given(answer=crooked, labels=st.lists(raw_labels, max_size=5), kind=st.sampled_from(["classify", "extract"]))
@settings(max_examples=600)
def test_parser_never_raises(answer: str, labels: list[str], kind: Kind) -> None:
    parsed = SEQGPT_V1.parse(answer, kind, labels)
    if isinstance(parsed.answer, tuple):
        assert kind == "classify" and set(parsed.answer) <= set(labels)
    else:
        assert kind == "extract" and set(parsed.answer) <= set(labels)
        for spans in [*parsed.answer.values(), *parsed.unasked_spans.values()]:
            assert spans and len(set(spans)) == len(spans)
            assert all(span == span.strip() and span not in ("", NONE) for span in spans)
    if labels and allowed(labels) and not parsed.problems:  # "no problems" means: these are the bytes of the answer
        assert SEQGPT_V1.render_answer(AtomicExample("", kind, tuple(labels), parsed.answer, SOURCE)) == answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("LOC: Rome\n", {"LOC": ("Rome",)}),  # a label missing
        ("PER: Ann\nLOC: Rome\n", {"LOC": ("Rome",), "PER": ("Ann",)}),  # out of order
        ("LOC: Rome\nPER: Ann\nLOC: Oslo\tRome\n", {"LOC": ("Rome", "Oslo"), "PER": ("Ann",)}),  # repeated
        ("LOC：Rome\nPER：Ann\n", {"LOC": ("Rome",), "PER": ("Ann",)}),  # full-width colons
        ("LOC:Rome\nPER :Ann\n", {"LOC": ("Rome",), "PER": ("Ann",)}),  # spaces
        ("LOC: Rome\nPER: Ann\tBo", {"LOC": ("Rome",), "PER": ("Ann", "Bo")}),  # the last line cut off in a span
        ("LOC: Rome\nPER: No", {"LOC": ("Rome",)}),  # in None
        ("LOC: Rome\nPE", {"LOC": ("Rome",)}),  # in a label
        ("\nLOC: Rome\n\nPER: None\n\n", {"LOC": ("Rome",)}),  # empty lines
        ("LOC: Rome\t\tRome\t None\nPER: None\n", {"LOC": ("Rome",)}),  # empty and repeated spans
        ("Rome\nPER: Ann\n", {"PER": ("Ann",)}),  # bare, but two labels were asked
        ("", {}),
    ],
)
def test_crooked_extraction(answer: str, expected: dict[str, tuple[str, ...]]) -> None:
    parsed = SEQGPT_V1.parse(answer, "extract", ["LOC", "PER"])
    assert parsed.answer == expected
    assert parsed.problems and not parsed.unasked


def test_one_line_cut_off_does_not_touch_the_line_before() -> None:
    assert SEQGPT_V1.parse("LOC: No\nPE", "extract", ["LOC", "PER"]).answer == {"LOC": ("No",)}


def test_longest_known_label_wins_out_of_position() -> None:
    parsed = SEQGPT_V1.parse("a: b: x\n", "extract", ["a", "a: b"])
    assert parsed.answer == {"a: b": ("x",)}


def test_bare_answer_to_one_label() -> None:
    for answer in ("in 1932\tat 9:30\n", "in 1932\tat 9:30"):
        parsed = SEQGPT_V1.parse(answer, "extract", ["when?"])
        assert parsed.answer == {"when?": ("in 1932", "at 9:30")}
        assert parsed.problems and not parsed.unasked
    assert SEQGPT_V1.parse("None", "extract", ["when?"]).answer == {}
    assert SEQGPT_V1.parse("No", "extract", ["when?"]).answer == {"when?": ("No",)}


def test_unasked_labels_are_reported_with_their_spans() -> None:
    parsed = SEQGPT_V1.parse("LOC: Rome\nORG: UN\tEU\nPER: None\n", "extract", ["LOC", "PER"])
    assert parsed.answer == {"LOC": ("Rome",)}
    assert parsed.unasked == ("ORG",)
    assert parsed.full_answer == {"LOC": ("Rome",), "ORG": ("UN", "EU")}
    parsed = SEQGPT_V1.parse("good，odd\n", "classify", ["good", "bad"])
    assert parsed.answer == ("good",) and parsed.unasked == ("odd",)
    assert parsed.full_answer == ("good", "odd")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("b，a\n", ("a", "b")),
        ("a，a\n", ("a",)),
        ("a，b", ("a", "b")),  # not read as the label "a,b"
        ("a,b\n", ("a,b",)),
        ("b,a\n", ("a", "b")),
        ("b, a,b\n", ("b", "a,b")),
        ("b、c d;a\n", ("a", "b", "c d")),
        (" b \n", ("b",)),
        ("a\nb\n", ("a", "b")),
        ("None，b\n", ("b",)),
        ("b，c", ("b",)),  # cut off in a label
        ("None", ()),
        ("", ()),
    ],
)
def test_crooked_choice(answer: str, expected: tuple[str, ...]) -> None:
    parsed = SEQGPT_V1.parse(answer, "classify", ["a", "b", "a,b", "c d"])
    assert parsed.answer == expected
    assert not parsed.unasked
    assert bool(parsed.problems) == (answer != "a,b\n")


def test_full_width_comma_maps_back_to_the_label_given() -> None:
    for answer in ("同意,完全\n", "同意，完全\n"):
        assert SEQGPT_V1.parse(answer, "classify", ["同意，完全", "反对"]).answer == ("同意，完全",)


def test_formats_by_name() -> None:
    assert get_format("seqgpt_v1") is SEQGPT_V1
    with pytest.raises(UserError, match="seqgpt_v1"):
        get_format("seqgpt_v9")
