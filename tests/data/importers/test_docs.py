"""docs/data.md, "Your own data": its commands run, one after the other, and its records are records."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from seqgpt_jax.cli import build_parser, main
from seqgpt_jax.data.importers.registry import FORMATS
from seqgpt_jax.records import TASKS, record_from_dict
from tests.data.importers.samples import SAMPLES

REPO = Path(__file__).resolve().parents[3]
SECTION = (REPO / "docs/data.md").read_text("utf-8").split("\n## Your own data\n")[1].split("\n## ")[0]


def blocks(language: str) -> str:
    return "".join(re.findall(rf"^```{language}\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL))


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the commands name, with handmade content."""
    for sample, file, target in (
        ("labelstudio_spans", "project.json", "project.json"),
        ("doccano_utf16", "a.jsonl", "admin.jsonl"),
        ("conll_bio", "a.conll", "conll/train.txt"),
        ("conll_bio", "a.conll", "conll/dev.txt"),
        ("bio_json_cluener", "a.json", "people.json"),
        ("brat_events", "a/7.txt", "brat/7.txt"),
        ("brat_events", "a/7.ann", "brat/7.ann"),
    ):
        (tmp_path / target).parent.mkdir(exist_ok=True)
        (tmp_path / target).write_text(SAMPLES[sample].files[file], "utf-8")
    rows = "".join(f"number {i} is fine,good\n" for i in range(40))
    (tmp_path / "reviews.csv").write_text(f"review,sentiment\n{rows}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_run(inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [shlex.split(line, comments=True) for line in blocks("sh").splitlines()]
    for command in commands:
        assert command[0] == "seqgpt"
        assert main(command[1:]) == 0, capsys.readouterr().err
    assert {command[command.index("--from") + 1] for command in commands if "--from" in command} | {"labelstudio"} == {
        *FORMATS
    }


def test_records_are_records() -> None:
    records = [record_from_dict(json.loads(line)) for line in blocks("jsonl").splitlines()]
    assert {record.kind for record in records} == {"classification", "extraction", "relation", "event"}
    assert all(task in SECTION for task in TASKS)


def test_options_on_the_page_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["data", "convert", "--help"])
    known = set(re.findall(r"--\w+", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z_]+", SECTION)) <= known


@pytest.mark.parametrize("command", ["convert", "validate"])
def test_help_has_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["data", command, "--help"])
    example = " ".join(capsys.readouterr().out.split()).split("example: seqgpt ")[1]
    assert build_parser().parse_args(shlex.split(example)).run is not None
