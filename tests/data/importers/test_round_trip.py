"""records -> doccano, Label Studio or brat -> records gives the same records: emoji, combining marks, nested spans."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgpt_jax.data.convert import Description, from_records, to_records
from seqgpt_jax.data.importers.documents import ReadOptions
from seqgpt_jax.errors import UserError
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
    Target,
    read_meta,
    read_records,
    write_meta,
    write_records,
)

LABELS = ("person", "公司", "bus station", "a_b", "a b", "年龄2", "age2", "年龄")
PIECES = ["a", "Ada", " ", "  ", "é", "e\u0301", "人", "公司", "😀", "👨\u200d🚒", "🇩🇪", "\\n", '"', "|", ";", "\ufeff"]
PIECES += ["\n", "\r\n", "\t", "\u2028"]
TEXTS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("x".join)
IDS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)


@st.composite
def spans_of(draw: st.DrawFn, text: str, labels: tuple[str, ...] = LABELS) -> tuple[Span, ...]:
    """Any spans, nested, crossing, side by side and equal ones too, in any order; no line break at either end."""
    ends = list(range(len(text) + 1))
    found = []
    for _ in range(draw(st.integers(0, 4))):
        start, end = sorted(draw(st.lists(st.sampled_from(ends), min_size=2, max_size=2, unique=True)))
        inner = text[start:end].strip("\n\r\u2028\t")
        if inner:
            start += text[start:end].index(inner)
            found.append(Span(draw(st.sampled_from(labels)), start, start + len(inner), inner))
    return tuple(found)


@st.composite
def extractions(draw: st.DrawFn) -> Record:
    text = draw(TEXTS)
    return ExtractionRecord(draw(IDS), "NER", text, draw(spans_of(text)))


@st.composite
def relations(draw: st.DrawFn) -> Record:
    text = draw(TEXTS)
    entities = draw(spans_of(text))
    ends = st.integers(0, len(entities) - 1) if entities else st.nothing()
    found = draw(st.lists(st.builds(Relation, st.sampled_from(LABELS), ends, ends), max_size=3)) if entities else []
    return RelationRecord(draw(IDS), "RE", text, entities, tuple(found))


@st.composite
def events(draw: st.DrawFn) -> Record:
    text = draw(TEXTS)
    triggers = draw(spans_of(text))
    found = [Event(trigger.label, trigger, draw(spans_of(text, ("who", "who2", "谁")))) for trigger in triggers]
    return EventRecord(draw(IDS), "EE", text, tuple(found))


@st.composite
def classifications(draw: st.DrawFn) -> Record:
    labels = draw(st.lists(st.sampled_from(LABELS), max_size=3, unique=True))
    more: dict[str, Any] = draw(
        st.sampled_from(
            [
                {},
                {"text_pair": "the 😀 other"},
                {"question": "which?", "label_set": LABELS},
                {"target": Target("Ada")},
                {"target": Target("x", 0, 1)},
            ]
        )
    )
    text = "x" + draw(TEXTS)
    return ClassificationRecord(draw(IDS), "CLS", text, tuple(labels), **more)


def there_and_back(format_name: str, records: list[Record], folder: Path, task: str, **options: Any) -> list[Record]:
    roles = dict.fromkeys(LABELS, ("who", "who2", "谁")) if task == "EE" else None
    meta = DatasetMeta("d", task, "en", LABELS, entity_labels=LABELS if task == "RE" else (), event_schema=roles)
    write_records(folder / "d" / "test.jsonl", records)
    write_meta(folder / "d", meta)
    from_records(folder / "d", folder / "out", format_name, ReadOptions(**options))
    described = Description(name="d", task=task, language="en", labels=LABELS)
    done = to_records(folder / "out", folder / "back", None, described, ReadOptions(**options))
    assert not done.notes.counts
    return list(read_records(folder / "back" / "test.jsonl", read_meta(folder / "back")))


def check(format_name: str, task: str, records: list[Record], **options: Any) -> None:
    distinct = list({record.id.casefold(): record for record in records}.values())
    with tempfile.TemporaryDirectory() as folder:
        back = there_and_back(format_name, distinct, Path(folder), task, **options)
    assert sorted(back, key=lambda record: record.id) == sorted(distinct, key=lambda record: record.id)


def same_after(format_name: str, task: str, make: Callable[[], st.SearchStrategy[Record]], **options: Any) -> None:
    @settings(max_examples=40)
    @given(st.lists(make(), min_size=1, max_size=3))
    def run(records: list[Record]) -> None:
        check(format_name, task, records, **options)

    run()


@pytest.mark.parametrize("unit", ["utf16", "code_points"])
def test_doccano_spans(unit: str) -> None:
    same_after("doccano", "NER", extractions, offsets=unit)


def test_doccano_relations() -> None:
    same_after("doccano", "RE", relations, offsets="utf16")


def test_doccano_classes() -> None:
    same_after("doccano", "CLS", classifications)


def test_labelstudio_spans() -> None:
    same_after("labelstudio", "NER", extractions, offsets="code_points")


def test_labelstudio_relations() -> None:
    same_after("labelstudio", "RE", relations, offsets="code_points")


def test_labelstudio_classes() -> None:
    same_after("labelstudio", "CLS", classifications)


def for_brat(make: Callable[[], st.SearchStrategy[Record]]) -> Callable[[], st.SearchStrategy[Record]]:
    """Its files cannot begin with a byte order mark; the writer refuses that."""
    return lambda: make().filter(lambda record: not record.text.startswith("\ufeff"))


def test_brat_spans() -> None:
    same_after("brat", "NER", for_brat(extractions), offsets="code_points")


def test_brat_relations() -> None:
    same_after("brat", "RE", for_brat(relations), offsets="code_points")


def test_brat_events() -> None:
    same_after("brat", "EE", for_brat(events), offsets="code_points")


@pytest.mark.parametrize(
    ("format_name", "record", "words"),
    [
        ("doccano", EventRecord("0", "EE", "a", ()), "record 0: doccano has no events (convert to brat)"),
        ("labelstudio", EventRecord("0", "EE", "a", ()), "record 0: Label Studio has no events (convert to brat)"),
        ("brat", ClassificationRecord("0", "CLS", "a", ()), "record 0: brat has no place for labels of whole texts"),
        ("brat", ExtractionRecord("0", "MRC-SE", "a", (), None, "who?"), "record 0: brat has no place for question"),
        ("brat", ExtractionRecord("0", "NER", "\ufeffa", ()), "begins with a byte order mark"),
        ("brat", ExtractionRecord("0", "NER", "a\nb", (Span("person", 0, 2, "a\n"),)), "ends with a line break"),
        ("brat", ExtractionRecord("人" * 90, "NER", "a", ()), "its id is too long for a file name (shorten it)"),
        ("conll", ExtractionRecord("0", "NER", "a", ()), "format conll can be read, not written"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(format_name: str, record: Record, words: str, tmp_path: Path) -> None:
    write_records(tmp_path / "d" / "test.jsonl", [record])
    write_meta(tmp_path / "d", DatasetMeta("d", record.task, "en", LABELS))
    with pytest.raises(UserError) as caught:
        from_records(tmp_path / "d", tmp_path / "out", format_name)
    assert words in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_label_that_brat_cannot_hold(tmp_path: Path) -> None:
    write_records(tmp_path / "d" / "test.jsonl", [ExtractionRecord("0", "NER", "a", ())])
    write_meta(tmp_path / "d", DatasetMeta("d", "NER", "en", ("a|b",)))
    with pytest.raises(UserError, match="label 'a|b' cannot be written for brat"):
        from_records(tmp_path / "d", tmp_path / "out", "brat")


def test_what_is_written_is_what_the_tools_read(tmp_path: Path) -> None:
    """The bytes, against each tool's own documentation."""
    text = "😀 New\nYork City"
    place, mood = Span("bus station", 2, 10, "New\nYork"), Span("mood", 0, 1, "😀")
    write_records(tmp_path / "d" / "test.jsonl", [ExtractionRecord("a/1", "NER", text, (place, mood))])
    write_meta(tmp_path / "d", DatasetMeta("d", "NER", "en", ("mood", "bus station")))
    for name in ("doccano", "labelstudio", "brat"):
        from_records(tmp_path / "d", tmp_path / name, name)
    doccano = json.loads((tmp_path / "doccano/test.jsonl").read_text())
    assert doccano == {"id": "a/1", "text": text, "label": [[3, 11, "bus station"], [0, 2, "mood"]]}
    (task,) = json.loads((tmp_path / "labelstudio/test.json").read_text())
    assert task["data"] == {"text": text, "record_id": "a/1"}
    (annotation,) = task["annotations"]
    assert annotation["result"][0] == {
        "id": "r0",
        "from_name": "label",
        "to_name": "text",
        "type": "labels",
        "value": {"start": 2, "end": 10, "text": "New\nYork", "labels": ["bus station"]},
    }
    assert '<Label value="bus station"/>' in (tmp_path / "labelstudio/labeling_config.xml").read_text()
    assert (tmp_path / "brat/test/a%2F1.txt").read_text() == text
    assert (tmp_path / "brat/test/a%2F1.ann").read_text() == "T1\tbus_station 2 5;6 10\tNew York\nT2\tmood 0 1\t😀\n"
    assert "bus_station | bus station\n" in (tmp_path / "brat/visual.conf").read_text()
    assert (tmp_path / "brat/annotation.conf").read_text().startswith("[entities]\nmood\nbus_station\n")


@pytest.mark.parametrize(
    ("folder", "formats"),
    [
        ("en/broad_twitter_corpus", ("doccano", "labelstudio", "brat")),  # emoji
        ("zh/finre", ("doccano", "labelstudio", "brat")),
        ("zh/fewfc", ("brat",)),
        ("zh/c3", ("doccano", "labelstudio")),
    ],
)
def test_real_records(folder: str, formats: tuple[str, ...], data_dir: Path, tmp_path: Path) -> None:
    meta = read_meta(data_dir / folder)
    records = list(islice(read_records(data_dir / folder / "test.jsonl.gz", meta), 60))
    write_records(tmp_path / "d/test.jsonl", records)
    write_meta(tmp_path / "d", replace(meta, splits={}, license="", domain=""))
    for name in formats:
        unit = ReadOptions(offsets="utf16" if name == "doccano" else "code_points")
        from_records(tmp_path / "d", tmp_path / name, name, unit)
        described = Description(meta.name, meta.task, meta.language, meta.labels)
        to_records(tmp_path / name, tmp_path / f"{name}_back", None, described, unit)
        back = list(read_records(tmp_path / f"{name}_back/test.jsonl"))
        assert sorted(back, key=lambda record: record.id) == sorted(records, key=lambda record: record.id)
