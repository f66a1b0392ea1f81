"""`seqgpt predict`: what is read, what is written, and an interrupted output that is gone on with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax import cli_predict, predictor
from seqgpt_jax.cli import main
from seqgpt_jax.records import read_records
from tests.oracle import OracleDecoder, byte_vocabulary, finds, oracle_model

TEXTS = [f"Ada went to Rome {i}." for i in range(7)]


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OracleDecoder:
    """`--model MODEL` is an oracle; blocks are of 3 texts."""
    model, decoder = oracle_model(monkeypatch, byte_vocabulary(), finds({"who": ["Ada"], "where": ["Rome"]}))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(predictor.SeqGPT, "from_pretrained", lambda path: model)
    monkeypatch.setattr(cli_predict, "_BLOCK", 3)
    return decoder


def _run(*arguments: str) -> int:
    return main(["predict", "--model", "model", *arguments])


def _write_input(name: str = "in.jsonl") -> str:
    Path(name).write_text("".join(json.dumps({"text": text, "id": f"r{i}"}) + "\n" for i, text in enumerate(TEXTS)))
    return name


def _lines(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def test_results_of_a_file(decoder: OracleDecoder) -> None:
    assert _run("--extract", "who", "where", "--input", _write_input(), "--out", "out.jsonl") == 0
    lines = _lines("out.jsonl")
    assert [line["text"] for line in lines] == TEXTS
    assert lines[3] == {
        "text": TEXTS[3],
        "id": "r3",
        "spans": [
            {"label": "who", "start": 0, "end": 3, "text": "Ada"},
            {"label": "where", "start": 12, "end": 16, "text": "Rome"},
        ],
    }
    assert list(map(len, decoder.batches)) == [3, 3, 1]  # a block at a time


def test_records_read_back(decoder: OracleDecoder) -> None:
    assert _run("--extract", "who", "--input", _write_input(), "--out", "out.jsonl", "--format", "records") == 0
    records = list(read_records(Path("out.jsonl")))
    assert [(record.id, record.text) for record in records] == [(f"r{i}", text) for i, text in enumerate(TEXTS)]
    assert records[0].spans[0].text == "Ada"  # type: ignore[union-attr]


@pytest.mark.parametrize("cut", [0, 1, 40, 200, 400, -1])
def test_an_interrupted_output_is_gone_on_with(decoder: OracleDecoder, cut: int) -> None:
    arguments = ("--extract", "who", "--input", _write_input(), "--out", "out.jsonl")
    assert _run(*arguments) == 0
    whole = Path("out.jsonl").read_bytes()
    num_whole_lines = whole[:cut].count(b"\n")
    Path("out.jsonl").write_bytes(whole[:cut])
    decoder.batches.clear()
    assert _run(*arguments) == 0
    assert Path("out.jsonl").read_bytes() == whole
    assert sum(map(len, decoder.batches)) == len(TEXTS) - num_whole_lines
    decoder.batches.clear()
    with Path("out.jsonl").open("ab") as file:
        file.write(b'{"text": "torn')
    assert _run(*arguments) == 0  # nothing is left to do
    assert Path("out.jsonl").read_bytes() == whole
    assert decoder.batches == []


def test_a_run_that_breaks_leaves_whole_lines(
    decoder: OracleDecoder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--extract", "who", "--input", _write_input(), "--out", "out.jsonl")
    with Path("in.jsonl").open("a") as file:
        file.write('{"text": ""}\n')
    assert _run(*arguments) == 2
    assert "in.jsonl:8: text is empty" in capsys.readouterr().err
    assert [line["text"] for line in _lines("out.jsonl")] == TEXTS[:6]
    _write_input()
    assert _run(*arguments) == 0
    assert [line["text"] for line in _lines("out.jsonl")] == TEXTS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: ["--extract", "where"], "begun with another schema"),
        (lambda: ["--extract", "who", "--format", "records"], "begun with another format"),
        (lambda: Path("model/config.json").write_text("{ }") and ["--extract", "who"], "begun with another model"),
        (lambda: TEXTS.reverse() or (_write_input() and ["--extract", "who"]), "out.jsonl:1: it is not the answer to"),
        (lambda: Path("in.jsonl").write_text("\n") and ["--extract", "who"], "out.jsonl:1: the input has no such line"),
        (lambda: Path("out.jsonl.settings.json").unlink() or ["--extract", "who"], "not from an earlier run"),
    ],
)
def test_an_output_of_something_else_is_refused(
    decoder: OracleDecoder, capsys: pytest.CaptureFixture[str], change: Callable[[], list[str]], message: str
) -> None:
    assert _run("--extract", "who", "--input", _write_input(), "--out", "out.jsonl") == 0
    before = Path("out.jsonl").read_bytes()
    arguments = change()
    TEXTS.sort()
    assert _run(*arguments, "--input", "in.jsonl", "--out", "out.jsonl") == 2
    assert message in capsys.readouterr().err
    assert Path("out.jsonl").read_bytes() == before


def test_csv_with_line_breaks_and_a_field_of_its_own(
    decoder: OracleDecoder, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.csv").write_text('id,body\n7,"Ada, in\n""Rome"""\n8,Bob\n', "utf-8-sig")
    assert _run("--extract", "where", "--input", "in.csv", "--text_field", "body") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["id"], line["text"]) for line in lines] == [("7", 'Ada, in\n"Rome"'), ("8", "Bob")]
    assert lines[0]["spans"][0]["start"] == 9
    assert _run("--extract", "where", "--input", "in.csv") == 2
    assert "no column 'text' (it has: id, body" in capsys.readouterr().err


def test_standard_input(
    decoder: OracleDecoder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO('{"text": "Ada 北京"}\n'.encode())))
    assert _run("--extract", "who", "--input", "-") == 0
    assert json.loads(capsys.readouterr().out)["spans"][0]["text"] == "Ada"


def test_schemas_labels_and_examples_from_files(decoder: OracleDecoder, capsys: pytest.CaptureFixture[str]) -> None:
    schema = {"place": {"classify": ["Rome", "Oslo"]}, "names": {"extract": ["who"]}}
    Path("schema.json").write_text(json.dumps(schema))
    assert _run("--schema", "schema.json", "--", "Ada in Rome") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["place"]["labels"], found["names"]["spans"][0]["text"]) == (["Rome"], "Ada")
    Path("one.json").write_text(json.dumps({"relations": ["in"], "entities": ["who", "where"]}))
    assert _run("--schema", "one.json", "--format", "records", "--", "Ada in Rome") == 0
    assert json.loads(capsys.readouterr().out)["task"] == "RE"
    assert _run("--schema", "schema.json", "--format", "records", "--", "Ada in Rome") == 2
    Path("labels.txt").write_text("Oslo\nRome\n")
    Path("examples.jsonl").write_text('["Eve in Oslo", "Oslo"]\n')
    assert _run("--classify", "--labels", "labels.txt", "--examples", "examples.jsonl", "--", "Ada in Rome") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"text": "Ada in Rome", "labels": ["Rome"], "num_examples": 1}
    assert decoder.demonstrations[-1] == ["输入: Eve in Oslo\n分类: Oslo，Rome\n输出: Oslo\n"]
    assert _run("--classify", "a", "--labels", "labels.txt", "--", "Ada") == 2
    assert _run("--classify", "--", "Ada") == 2
