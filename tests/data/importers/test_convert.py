"""`seqgpt data convert`: where the splits come from, what is left out, and that nothing is half-written."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.cli import main
from seqgpt_jax.data import convert as convert_module
from seqgpt_jax.data.convert import files_by_split
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import ClassificationRecord, ExtractionRecord, Record, Span, read_meta, read_records
from tests.data.importers.samples import SAMPLES, lines, region, tasks
from tests.data.importers.test_formats import convert

ADA = "Ada is in Rome"


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "split", "found"),
    [
        (["train.csv", "my-dev.csv", "TEST.csv", "README.md"], None, {"train", "validation", "test"}),
        (["a.valid.jsonl"], None, {"validation"}),
        (["latest.json", ".train.json"], None, {"train"}),
        (["data.json"], "test", {"test"}),
    ],
)
def test_splits_by_file_name(names: list[str], split: str | None, found: set[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert set(files_by_split(tmp_path, split)) == found


@pytest.mark.parametrize(
    ("names", "split", "words"),
    [
        (["train.csv", "train.json"], None, "train.csv and train.json are both train"),
        (
            ["a.csv", "b.csv"],
            None,
            "no file is named train, dev or test (it has a.csv, b.csv; give a file, and --split)",
        ),
        (["a.csv", "b.csv"], "test", "has 2 files, and --split test takes one"),
        ([], None, "it has nothing"),
    ],
)
def test_splits_that_cannot_be_told(names: list[str], split: str | None, words: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError) as caught:
        files_by_split(tmp_path, split)
    assert words in str(caught.value)


def test_no_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        files_by_split(tmp_path / "none")


def test_one_dataset_from_three_files(tmp_path: Path) -> None:
    """Labels are those of all files, in the order of their first use; a dev file of brat's is a folder."""
    for split, tag in (("train", "B-b"), ("dev", "B-a"), ("test", "B-b")):
        (tmp_path / f"{split}.txt").write_text(f"Ada {tag}\n\nBo O\n")
    done = convert(tmp_path, tmp_path / "out")
    assert done.counts == {"train": 2, "validation": 2, "test": 2}
    assert set(read_meta(tmp_path / "out").labels) == {"a", "b"}
    (record, _) = read_records(tmp_path / "out" / "validation.jsonl")
    assert isinstance(record, ExtractionRecord)
    assert record.id == "out-validation-0" and record.spans == (Span("a", 0, 3, "Ada"),)
    sample = SAMPLES["brat_spans"]
    for part in ("train", "test"):
        (tmp_path / "brat" / part).mkdir(parents=True)
        for name, content in sample.files.items():
            (tmp_path / "brat" / part / f"{part}-{Path(name).name}").write_bytes(content.encode())
    assert convert(tmp_path / "brat", tmp_path / "two").counts == {"train": 2, "test": 2}


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("Ada B-x\n")
    (tmp_path / "dev.txt").write_text("\n")
    with pytest.raises(UserError, match="dev.txt: holds no annotated text"):
        convert(tmp_path, tmp_path / "out", "conll")


def test_split_by_shares(tmp_path: Path) -> None:
    """About the shares asked, each record once, and a text that occurs twice in one split only."""
    texts = [f"number {i % 900}" for i in range(1000)]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"{text},x\n" for text in texts))
    convert(tmp_path / "a.csv", tmp_path / "out", split_by=(0.8, 0.1, 0.1))
    records = {s: list(read_records(tmp_path / "out" / f"{s}.jsonl")) for s in ("train", "validation", "test")}
    assert sorted(record.text for each in records.values() for record in each) == sorted(texts)
    assert len({record.id for each in records.values() for record in each}) == 1000
    assert 740 < len(records["train"]) < 860 and 60 < len(records["test"]) < 140
    seen = [{record.text for record in each} for each in records.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    (tmp_path / "b").mkdir()
    for name in ("train.csv", "test.csv"):
        (tmp_path / "b" / name).write_text("text,label\na b,x\n")
    with pytest.raises(UserError, match="has test, train already .leave --split_by out."):
        convert(tmp_path / "b", tmp_path / "out2", split_by=(0.8, 0.1, 0.1))


# --- what is left out, and what is half-done -------------------------------------------------------------------------


def notes_of(sample: str, tmp_path: Path, **arguments: Any) -> dict[str, int]:
    return convert(SAMPLES[sample].write(tmp_path), tmp_path / "out", **arguments).notes.counts


@pytest.mark.parametrize(
    ("sample", "arguments", "notes"),
    [
        ("conll_bilou", {}, {}),
        ("doccano_intent", {"task": "ID"}, {"span left out (task ID)": 1}),
        ("doccano_intent", {"task": "NER"}, {"text label left out (task NER)": 1}),
        ("doccano_relations", {"task": "NER"}, {"relation left out (task NER)": 1}),
        (
            "labelstudio_spans",
            {},
            {"further annotation of a task left out": 1, "task without an annotation left out": 1},
        ),
        ("csv", {}, {'column "rest" left out': 1}),
        ("brat_spans", {}, {"attribute left out": 1, "note left out": 1}),
        ("brat_relations", {}, {"group of equals left out": 1}),
        ("brat_events", {"task": "NER"}, {"event left out (task NER)": 1}),
    ],
)
def test_what_is_left_out_is_counted(
    sample: str, arguments: dict[str, Any], notes: dict[str, int], tmp_path: Path
) -> None:
    assert notes_of(sample, tmp_path, **arguments) == notes


def test_discontinuous_spans_as_their_pieces(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.txt").write_text(ADA)
    (tmp_path / "a/1.ann").write_text("T1\tx 0 3;10 14\tAda Rome\nT2\ty 4 6\tis\nR1\tr Arg1:T2 Arg2:T1\n")
    done = convert(tmp_path / "a", tmp_path / "out", discontinuous="pieces", task="NER")
    (record,) = read_records(tmp_path / "out/train.jsonl")
    assert isinstance(record, ExtractionRecord)
    assert [(span.label, span.text) for span in record.spans] == [("x", "Ada"), ("y", "is"), ("x", "Rome")]
    assert done.notes.counts["discontinuous span taken as its pieces"] == 1


def test_bad_tags_are_read_as_conlleval_does_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ada E-x\nBo M-x\nin O\n")
    done = convert(tmp_path / "a.txt", tmp_path / "out")
    (record,) = read_records(tmp_path / "out/train.jsonl")
    assert isinstance(record, ExtractionRecord)
    assert [(span.start, span.end) for span in record.spans] == [(0, 3), (4, 6)]
    assert set(done.notes.counts) == {f"span that begins with {prefix}-, taken as if with B-" for prefix in "EM"}


def test_sentiment_of_spans_is_extraction_in_every_record(tmp_path: Path) -> None:
    """Also in a text in which nothing is marked, of which a file does not say what might have been."""
    results = [[region("r", 0, 3, "Ada", "good")], []]
    objects = [{"id": i, "data": {"text": ADA}, "annotations": [{"result": each}]} for i, each in enumerate(results)]
    (tmp_path / "a.json").write_text(tasks(*objects))
    convert(tmp_path / "a.json", tmp_path / "out", task="SA")
    records = list(read_records(tmp_path / "out/train.jsonl", read_meta(tmp_path / "out")))
    assert records == [
        ExtractionRecord("0", "SA", ADA, (Span("good", 0, 3, "Ada"),)),
        ExtractionRecord("1", "SA", ADA, ()),
    ]


def test_ground_truth_comes_before_what_is_newer(tmp_path: Path) -> None:
    """And a string beside the offsets may be as Label Studio shows it: a line break as a backslash and n."""
    true = {"created_at": "2024-01-01", "ground_truth": True, "result": [region("r", 0, 8, "New\\nYork", "place")]}
    newer = {"created_at": "2024-02-01", "result": [region("r", 0, 3, "New", "place")]}
    (tmp_path / "a.json").write_text(tasks({"id": 1, "data": {"text": "New\nYork"}, "annotations": [true, newer]}))
    convert(tmp_path / "a.json", tmp_path / "out")
    (record,) = read_records(tmp_path / "out/train.jsonl")
    assert record == ExtractionRecord("1", "NER", "New\nYork", (Span("place", 0, 8, "New\nYork"),))


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for arguments in ((SAMPLES["csv"].write(tmp_path), tmp_path / "out"), (tmp_path / "none", tmp_path / "out")):
        with pytest.raises(UserError, match="exists already"):
            convert(*arguments)
    assert not list((tmp_path / "out").iterdir())


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, records: Any) -> int:
        path.write_text("{")
        next(iter(records))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(convert_module, "write_records", full)
    with pytest.raises(UserError, match="out: cannot be written: No space left on device .nothing is left of it"):
        convert(SAMPLES["csv"].write(tmp_path), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


# --- the command -----------------------------------------------------------------------------------------------------


def run(*arguments: Any) -> int:
    return main(["data", "convert", *map(str, arguments)])


def test_command_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = SAMPLES["labelstudio_spans"].write(tmp_path)
    assert run(source, tmp_path / "mine") == 0
    captured = capsys.readouterr()
    assert captured.out == f"labelstudio: 1 train; mine (RE, en, 1 label); wrote {tmp_path / 'mine'}\n"
    assert "note: 1 × task without an annotation left out (first: " in captured.err and "task 8" in captured.err
    for name in ("doccano", "labelstudio", "brat"):
        assert run("--to", name, tmp_path / "mine", tmp_path / name) == 0
        assert run("--from", name, tmp_path / name, tmp_path / f"{name}_back", "--name", "mine") == 0
        assert (tmp_path / f"{name}_back/train.jsonl").read_bytes() == (tmp_path / "mine/train.jsonl").read_bytes()
        assert read_meta(tmp_path / f"{name}_back") == read_meta(tmp_path / "mine")


def test_command_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "a.tsv"
    table.write_text("yes no\tAda ran.\tWho ran?\n")
    asked = ("--text_column", 2, "--label_column", 1, "--question_column", 3, "--separator", " ")
    described = ("--task", "CLS", "--name", "n", "--language", "zh", "--labels", "no", "maybe", "yes")
    assert run("--from", "csv", table, tmp_path / "out", *asked, *described, "--split", "test") == 0
    (record,) = read_records(tmp_path / "out/test.jsonl")
    expected: Record = ClassificationRecord("n-test-0", "CLS", "Ada ran.", ("yes", "no"), question="Who ran?")
    assert record == expected
    meta = read_meta(tmp_path / "out")
    assert (meta.name, meta.language, meta.labels) == ("n", "zh", ("no", "maybe", "yes"))
    assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "xml"], "unknown format 'xml' (one of conll, bio-json, doccano, labelstudio, csv, brat)"),
        (["--from", "csv", "--to", "brat"], "--from and --to are both of other tools"),
        (["--from", "records"], "records are to be made of records"),
        (["--to", "brat"], "no meta.json, so not a dataset folder"),
        (["--to", "brat", "--task", "NER"], "--task is said of records that are made"),
        (["--to", "xml"], "unknown format 'xml'"),
        (["--tag_column", "2"], "--tag_column says nothing to format csv (of these options it takes --label_column"),
    ],
)
def test_command_refuses(arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments, SAMPLES["csv"].write(tmp_path), tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("seqgpt: error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["0.8,0.2", "a,b,c", "1,1,-1", "0,0,0", "inf,1,1"])
def test_shares_that_are_none(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(SAMPLES["csv"].write(tmp_path), tmp_path / "out", "--split_by", text)
    assert "is not three shares such as 0.8,0.1,0.1" in capsys.readouterr().err


def test_gzip_and_json_lines(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines({"text": ADA, "label": ["x"]}).encode()))
    assert convert(tmp_path / "a.jsonl.gz", tmp_path / "out").format == "doccano"
    assert json.loads((tmp_path / "out/meta.json").read_text())["splits"] == {"train": 1}
