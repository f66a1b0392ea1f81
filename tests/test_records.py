"""Records: every broken input names its file, line and field; whatever is valid survives a round trip."""

from __future__ import annotations

import copy
import gzip
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.errors import RecordError, UserError
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
    check_record,
    read_meta,
    read_records,
    record_from_dict,
    record_to_dict,
    write_meta,
    write_records,
)

TEXT = "Ann met Bo in Rome"
ANN, BO, ROME = Span("person", 0, 3, "Ann"), Span("person", 8, 10, "Bo"), Span("place", 14, 18, "Rome")
RECORDS: list[Record] = [
    ClassificationRecord("0", "CLS", TEXT, ("a",)),
    ClassificationRecord("1", "MRC-MC", TEXT, ("a",), label_set=("a", "b"), question="who?"),
    ClassificationRecord("2", "NLI", TEXT, ("a",), text_pair="Bo met Ann"),
    ClassificationRecord("3", "ET", TEXT, (), target=Target("Ann", 0, 3)),
    ClassificationRecord("4", "SA", TEXT, ("a",), target=Target("the meeting")),
    ExtractionRecord("5", "NER", TEXT, (ANN, BO, ROME)),
    ExtractionRecord("6", "MRC-SE", TEXT, (replace(ROME, label="answer"),), question="where?", answers=("Rome",)),
    RelationRecord("7", "RE", TEXT, (ANN, BO), (Relation("met", 0, 1),)),
    EventRecord("8", "EE", TEXT, (Event("meet", Span("meet", 4, 7, "met"), (replace(ANN, label="who"),)),)),
]


def as_dict(index: int) -> dict[str, Any]:
    return copy.deepcopy(record_to_dict(RECORDS[index]))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.task)
def test_dict_round_trip(record: Record) -> None:
    assert record_from_dict(json.loads(json.dumps(record_to_dict(record)))) == record


def test_json_form() -> None:
    assert as_dict(3) == {
        "id": "3",
        "task": "ET",
        "kind": "classification",
        "text": TEXT,
        "labels": [],
        "label_set": None,
        "target": {"text": "Ann", "start": 0, "end": 3},
    }
    assert as_dict(8)["events"] == [
        {
            "type": "meet",
            "trigger": {"start": 4, "end": 7, "text": "met"},
            "arguments": [{"role": "who", "start": 0, "end": 3, "text": "Ann"}],
        }
    ]


BROKEN = [  # (record, path to a value, what to put there (... removes it), field named, words of the message)
    (0, ("id",), ..., "id", "missing"),
    (0, ("id",), 7, "id", "must be a string"),
    (0, ("text",), None, "text", "null"),
    (0, ("kind",), "regression", "kind", "unknown kind"),
    (0, ("task",), "POS", "task", "unknown task"),
    (0, ("labels",), ..., "labels", "missing"),
    (0, ("labels",), "a", "labels", "list of strings"),
    (0, ("labels",), ["a", 1], "labels[1]", "must be a string"),
    (0, ("labels",), ["a", "a"], "labels", "twice"),
    (1, ("labels",), ["c"], "labels", "not in label_set"),
    (1, ("label_set",), ["a", "a"], "label_set", "twice"),
    (1, ("text_pair",), "x", "question", "beside text_pair"),
    (2, ("text_pair",), 3, "text_pair", "must be a string"),
    (3, ("target",), "Ann", "target", "must be an object"),
    (3, ("target", "start"), 1, "target.start", 'is "nn", not "Ann"'),
    (3, ("target", "start"), None, "target.start", "must be an integer"),
    (5, ("spans",), None, "spans", "null"),
    (5, ("spans", 1), "Bo", "spans[1]", "must be an object"),
    (5, ("spans", 1, "start"), 7, "spans[1].start", "it occurs at 8"),
    (5, ("spans", 1, "text"), "Bob", "spans[1].start", "not in the text"),
    (5, ("spans", 0, "start"), -18, "spans[0].start", "from 0"),
    (5, ("spans", 0, "end"), 0, "spans[0].end", "not after start"),
    (5, ("spans", 2, "end"), 99, "spans[2].end", "18 code points"),  # Python's slice would forgive it
    (5, ("spans", 0, "end"), 3.0, "spans[0].end", "must be an integer"),
    (5, ("spans", 0, "start"), False, "spans[0].start", "must be an integer"),
    (5, ("spans", 0, "label"), ..., "spans[0].label", "missing"),
    (5, ("label_set",), ["place"], "spans", "not in label_set"),
    (6, ("question",), ..., "question", "needs its question"),
    (6, ("question",), "  ", "question", "needs its question"),
    (6, ("answers",), "Rome", "answers", "list of strings"),
    (7, ("relations", 0, "tail"), 2, "relations[0].tail", "there are 2 entities"),
    (7, ("relations", 0, "head"), -1, "relations[0].head", "is -1"),
    (7, ("relations", 0, "label"), ..., "relations[0].label", "missing"),
    (7, ("entities", 1, "end"), 11, "entities[1].start", 'is "Bo ", not "Bo"'),
    (8, ("events", 0, "type"), ..., "events[0].type", "missing"),
    (8, ("events", 0, "trigger"), ..., "events[0].trigger", "missing"),
    (8, ("events", 0, "trigger", "start"), 5, "events[0].trigger.start", "it occurs at 4"),
    (8, ("events", 0, "arguments", 0, "role"), ..., "events[0].arguments[0].role", "missing"),
    (8, ("events", 0, "arguments"), {}, "events[0].arguments", "list of objects"),
]


@pytest.mark.parametrize(("index", "path", "value", "field", "words"), BROKEN)
def test_broken_field_is_named(index: int, path: tuple[Any, ...], value: Any, field: str, words: str) -> None:
    fields: Any = as_dict(index)
    inner = fields
    for step in path[:-1]:
        inner = inner[step]
    if value is ...:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    with pytest.raises(RecordError) as caught:
        record_from_dict(fields, file="data/x.jsonl", line=12)
    assert caught.value.field == field
    message = str(caught.value)
    assert message.startswith(f"data/x.jsonl:12: field '{field}': ") and words in message and "\n" not in message


META = DatasetMeta("d", "NER", "en", ("person", "place"))


@pytest.mark.parametrize(
    ("record", "meta", "field", "words"),
    [
        (RECORDS[5], META, None, None),
        (RECORDS[5], replace(META, task="SF"), "task", "dataset's task is SF"),
        (RECORDS[5], replace(META, labels=("person",)), "spans", '"place" is not in'),
        (RECORDS[0], replace(META, task="CLS"), "labels", '"a" is not in'),
        (RECORDS[1], replace(META, task="MRC-MC", labels=()), None, None),
        (RECORDS[7], replace(META, task="RE", labels=("met",)), None, None),
        (RECORDS[7], replace(META, task="RE", labels=("saw",)), "relations", '"met" is not in'),
        (RECORDS[7], replace(META, task="RE", labels=("met",), entity_labels=("dog",)), "entities", '"person"'),
        (RECORDS[8], replace(META, task="EE", labels=("meet",), roles=("who",)), None, None),
        (RECORDS[8], replace(META, task="EE", labels=("meet",), roles=("when",)), "events", "roles of"),
        (RECORDS[8], replace(META, task="EE", labels=("meet",), event_schema={"meet": ()}), "events", "roles of"),
        (RECORDS[8], replace(META, task="EE", labels=("talk",), roles=("who",)), "events", '"meet" is not in'),
    ],
)
def test_record_against_its_dataset(record: Record, meta: DatasetMeta, field: str | None, words: str | None) -> None:
    if field is None:
        check_record(record, meta)
        return
    with pytest.raises(RecordError) as caught:
        check_record(record, meta, file="f", line=3)
    assert caught.value.field == field and caught.value.line == 3 and str(words) in str(caught.value)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.jsonl", "train.jsonl.gz"])
def test_file_round_trip(tmp_path: Path, name: str) -> None:
    odd = ClassificationRecord("9", "CLS", "line\u2028break \u0085 \x1c 人物 \U0001f600", ("a",))
    path = tmp_path / "new" / name
    assert write_records(path, [*RECORDS, odd]) == len(RECORDS) + 1
    assert list(read_records(path)) == [*RECORDS, odd]
    assert [file.name for file in path.parent.iterdir()] == [name]
    assert path.read_bytes()[:2] == (b"\x1f\x8b" if name.endswith(".gz") else b'{"')
    before = path.read_bytes()
    write_records(path, [*RECORDS, odd])
    assert path.read_bytes() == before


def test_writing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Any:
        yield RECORDS[0]
        raise KeyError

    with pytest.raises(KeyError):
        write_records(tmp_path / "x.jsonl", broken())
    assert not list(tmp_path.iterdir())


GOOD_LINE = json.dumps(record_to_dict(RECORDS[0])).encode()


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        (GOOD_LINE + b"\n" + b'{"id": "1"', 2, "not JSON"),
        (GOOD_LINE + b"\n\n[1]\n", 3, "must be an object"),
        (b"\xff\xfe\n", 1, "not UTF-8"),
        (b'{"id": "\\ud800"}\n', 1, "not UTF-8"),
        (b"[" * 100_000, 1, "not JSON"),
        (GOOD_LINE.replace(b"CLS", b"XYZ"), 1, "unknown task"),
    ],
)
def test_broken_line_is_named(tmp_path: Path, content: bytes, line: int, words: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        list(read_records(path))
    assert (caught.value.file, caught.value.line) == (path, line)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_labels_are_checked_while_reading(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    write_records(path, [RECORDS[5], replace(RECORDS[5], id="6")])
    assert len(list(read_records(path, META))) == 2
    with pytest.raises(RecordError, match=r"train.jsonl:1: field 'spans'"):
        list(read_records(path, replace(META, labels=("place",))))


def test_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD_LINE + b"\r\n\n  \n" + GOOD_LINE)
    assert list(read_records(path)) == [RECORDS[0]] * 2


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        list(read_records(tmp_path / "none.jsonl"))
    whole = gzip.compress(GOOD_LINE * 1000)
    for name, content in (("not.jsonl.gz", GOOD_LINE), ("cut.jsonl.gz", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecordError, match=f"{name}: cannot be read"):
            list(read_records(tmp_path / name))


# --- meta.json -------------------------------------------------------------------------------------------------------


def test_meta_round_trip(tmp_path: Path) -> None:
    full = DatasetMeta(
        name="d",
        task="RE",
        language="zh",
        labels=("x",),
        domain="news",
        license="CC0",
        entity_labels=("p", "q"),
        event_schema={"x": ("a", "b")},
        roles=("a", "b"),
        splits={"train": 3},
        pair_types=frozenset({("p", "q"), ("q", "p")}),
        descriptions={"x": "an x"},
    )
    for meta in (full, META, replace(META, pair_types=frozenset(), event_schema={})):
        write_meta(tmp_path / meta.name, meta)
        assert read_meta(tmp_path / meta.name) == meta


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"task": "POS"}, "task"),
        ({"task": ...}, "task"),
        ({"language": "fr"}, "language"),
        ({"name": ...}, "name"),
        ({"labels": ...}, "labels"),
        ({"labels": ["a", "a"]}, "labels"),
        ({"labels": {"a": 1}}, "labels"),
        ({"splits": {"train": "many"}}, "splits.train"),
        ({"event_schema": {"x": "role"}}, "event_schema.x"),
        ({"pair_types": [["a"]]}, "pair_types[0]"),
        ({"descriptions": {"a": None}}, "descriptions.a"),
    ],
)
def test_broken_meta(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    values = {"name": "d", "task": "CLS", "language": "en", "labels": ["a"], **change}
    kept = {name: value for name, value in values.items() if value is not ...}
    (tmp_path / "meta.json").write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(RecordError) as caught:
        read_meta(tmp_path)
    assert caught.value.field == field and str(tmp_path / "meta.json") in str(caught.value)


def test_no_meta(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no meta\.json, so not a dataset folder \(write"):
        read_meta(tmp_path)
    with pytest.raises(UserError, match="no meta"):
        read_meta(tmp_path / "absent")
    (tmp_path / "meta.json").write_text("{", encoding="utf-8")
    with pytest.raises(RecordError, match="not JSON"):
        read_meta(tmp_path)


# --- real data -------------------------------------------------------------------------------------------------------


def test_every_real_dataset(data_dir: Path) -> None:
    folders = sorted(path.parent for path in data_dir.glob("*/*/meta.json"))
    assert len(folders) == 137
    for folder in folders:
        meta = read_meta(folder)
        assert (meta.name, meta.language) == (folder.name, folder.parent.name)
        for path in sorted(folder.glob("*.jsonl.gz")):
            records = list(islice(read_records(path, meta), 100))
            with gzip.open(path) as lines:
                assert [record_to_dict(record) for record in records] == [
                    json.loads(line) for line in islice(lines, 100)
                ]
