"""`seqgpt data validate` names every fault with its file and line, not the first alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.cli import main
from seqgpt_jax.data.validate import Validation

META = {"name": "toy", "task": "NER", "language": "en", "labels": ["city"], "splits": {"train": 2, "test": 1}}
TEXT = "Ada went to Rome"


def record(id: str, **changes: Any) -> dict[str, Any]:
    spans = [{"label": "city", "start": 12, "end": 16, "text": "Rome"}]
    return {"id": id, "task": "NER", "kind": "extraction", "text": f"{TEXT} {id}", "spans": spans, **changes}


def write(folder: Path, meta: dict[str, Any] | str | None, **splits: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if meta is not None:
        (folder / "meta.json").write_text(meta if isinstance(meta, str) else json.dumps(meta), "utf-8")
    for split, lines in splits.items():
        text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        (folder / f"{split}.jsonl").write_text(text, "utf-8")
    return folder


def found(folder: Path) -> list[str]:
    """Findings without the folder in front."""
    return [str(finding).replace(f"{folder}/", "") for finding in Validation(folder)]


def test_a_good_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "toy", META, train=[record("a"), record("b")], test=[record("c")])
    assert found(folder) == []
    validation = Validation(folder)
    assert not list(validation) and validation.summary() == f"{folder}: 1 dataset, 3 records: 0 faults, 0 warnings"


def test_every_fault_of_every_line(tmp_path: Path) -> None:
    wrong = {"label": "city", "start": 11, "end": 15, "text": "Rome"}
    other = {"label": "person", "start": 0, "end": 3, "text": "Ada"}
    town = {**other, "label": "town"}
    folder = write(
        tmp_path / "toy",
        {**META, "splits": {"train": 8, "test": 2, "validation": 3}},
        train=[
            record("a", spans=[wrong, {**wrong, "end": 99}, "x"]),
            "{",
            record("b"),
            record("c", spans=[other, town, other]),
            record("b"),
            record("d", kind="tagging"),
            record("e", task="SF"),
        ],
        test=[],
    )
    assert found(folder) == [
        "fault: test.jsonl: the split is empty (write records, or remove the file)",
        "fault: meta.json: field 'splits.test': is 2, but test.jsonl has 0 (write 0)",
        'fault: train.jsonl:1: field \'spans[0].start\': text[11:15] is " Rom", not "Rome" (it occurs at 12)',
        "fault: train.jsonl:1: field 'spans[1].end': is 99, but the text has 18 code points",
        "fault: train.jsonl:1: field 'spans[2]': is \"x\" (it must be an object)",
        "fault: train.jsonl:2: not JSON: Expecting property name enclosed in double quotes: line 2 column 1 (char 2) "
        "(one record a line)",
        "fault: train.jsonl:4: field 'spans': \"person\" is not in the dataset's labels "
        '(the dataset\'s labels: ["city"])',
        "fault: train.jsonl:4: field 'spans': \"town\" is not in the dataset's labels "
        '(the dataset\'s labels: ["city"])',
        "fault: train.jsonl:5: field 'id': \"b\" stands at train.jsonl:3 too "
        "(give each record of a dataset an id of its own)",
        "fault: train.jsonl:6: field 'kind': unknown kind \"tagging\" "
        "(one of classification, extraction, relation, event)",
        "fault: train.jsonl:7: field 'task': is SF, but the dataset's task is NER",
        "fault: meta.json: field 'splits.train': is 8, but train.jsonl has 7 (write 7)",
        "fault: meta.json: field 'splits.validation': is 3, but there is no validation.jsonl (write it, or 0)",
    ]


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ("{", "fault: meta.json: not JSON: Expecting property name"),
        ({**META, "task": "POS"}, "fault: meta.json: field 'task': unknown task \"POS\""),
        ({**META, "labels": ["city", "None"]}, "fault: meta.json: field 'labels': label 'None' cannot be asked"),
        (
            {**META, "labels": ["city", "a，b", "a,b"]},
            "fault: meta.json: field 'labels': labels 'a，b' and 'a,b' are both",
        ),
        (
            {**META, "descriptions": {"city": " "}},
            "fault: meta.json: field 'labels': label ' ' cannot be asked: it is empty",
        ),
        ({**META, "entity_labels": ["None"]}, "fault: meta.json: field 'entity_labels': label 'None' cannot be asked"),
        ({**META, "event_schema": {"e": ["None"]}}, "fault: meta.json: field 'event_schema.e': label 'None' cannot"),
    ],
)
def test_faults_of_meta_json(meta: Any, words: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "toy", meta, train=[record("a"), record("b")], test=[record("c")])
    faults = [each for each in found(folder) if each.startswith("fault")]
    assert len(faults) == 1 and faults[0].startswith(words)


def test_a_records_own_labels(tmp_path: Path) -> None:
    """An option None is the format's empty answer, and no fault; two options that a prompt writes alike are."""
    fields = {"task": "CLS", "kind": "classification", "labels": [], "label_set": ["a", "None"]}
    lines = [{"id": str(i), "text": f"text {i}", **fields} for i in range(3)]
    lines[1] = {**lines[1], "label_set": ["a b", "a  b"]}
    lines[2] = {**lines[2], "label_set": []}
    folder = write(tmp_path / "toy", {**META, "task": "CLS", "labels": [], "splits": {}}, train=lines)
    first, second = found(folder)
    assert first.startswith("fault: train.jsonl:2: dataset toy, record 1: labels 'a b' and 'a  b' are both written")
    assert second.startswith("fault: train.jsonl:3: dataset toy, record 2: there are no labels to ask")


def test_a_file_that_breaks_off(tmp_path: Path) -> None:
    """What was read before is still checked; the count, which cannot be known, is not complained of."""
    folder = write(tmp_path / "toy", META, test=[record("c")])
    lines = [record("a", task="SF"), *(record(str(i)) for i in range(300))]
    whole = gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode())
    (folder / "train.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    faults = found(folder)
    assert faults[0] == "fault: train.jsonl.gz:1: field 'task': is SF, but the dataset's task is NER"
    assert faults[1].startswith("fault: train.jsonl.gz: cannot be read: Compressed file ended before")
    assert len(faults) == 2


def test_what_is_only_odd(tmp_path: Path) -> None:
    meta = {**META, "labels": ["city", "person"], "splits": {}}
    twice = [record("c", text=f"{TEXT} b"), record("d", text=f"{TEXT} a ")]
    folder = write(tmp_path / "toy", meta, train=[record("a"), record("b")], test=twice, dev=[record("e")])
    assert found(folder) == [
        "warning: dev.jsonl: nothing reads a split 'dev' (a split is one of train, validation, test)",
        "warning: meta.json: field 'labels': 1 never used: [\"person\"]",
        f"warning: {folder}: 2 records of train stand in test too, the first at test.jsonl:2 and train.jsonl:1",
    ]
    questions = [record(f"q{i}", task="MRC-SE", text=TEXT, question=f"where {i}?") for i in range(2)]
    folder = write(tmp_path / "mrc", {**META, "task": "MRC-SE", "splits": {}}, train=questions[:1], test=questions[1:])
    assert found(folder) == []  # one passage, two questions


def test_folders_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "toy", {**META, "splits": {}})
    assert "no records (write train.jsonl" in found(folder)[0]
    write(folder, None, train=[record("a")])
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(b""))
    assert "two files for split 'train'" in found(folder)[0]
    assert main(["data", "validate", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_command_on_a_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "en/one", {**META, "splits": {}}, train=[record("a")])
    write(tmp_path / "en/two", {**META, "name": "two", "labels": ["city", "x"], "splits": {}}, train=[record("a")])
    assert main(["data", "validate", str(tmp_path)]) == 0  # a warning is no fault; ids need differ in a dataset alone
    assert capsys.readouterr().out.endswith(f"{tmp_path}: 2 datasets, 2 records: 0 faults, 1 warning\n")
    write(tmp_path / "zh/one", {**META, "splits": {}}, train=["[]"])
    assert main(["data", "validate", str(tmp_path)]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert f"fault: {tmp_path}/zh/one/train.jsonl:1: a record must be an object, found []" in lines
    assert any(line.startswith(f"fault: {tmp_path}/zh/one/meta.json: field 'name'") for line in lines)
    assert lines[-1] == f"{tmp_path}: 3 datasets, 3 records: 2 faults, 2 warnings"


def test_real_datasets_have_no_fault(data_dir: Path) -> None:
    for name in ("en/wnut17", "en/litbank_events", "zh/finre", "zh/cmmlu", "zh/drcd", "en/figer_gold"):
        validation = Validation(data_dir / name)
        assert not [finding for finding in validation if not finding.warning]
        assert validation.records > 0
