"""`seqgpt data convert`: what each bad input is told, where the splits come from, and that nothing is half-written."""

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
from tests.data.importers.samples import EMOJI, SAMPLES, lines, region, tasks
from tests.data.importers.test_formats import convert

ADA = "Ada is in Rome"


def labelled(*results: Any, text: str = ADA) -> str:
    return tasks({"id": 5, "data": {"text": text}, "annotations": [{"result": list(results)}]})


CHOICE = {"type": "choices", "from_name": "tone", "value": {"choices": ["good"]}}

BAD = {  # name -> (format, file name, content, options, the part of the message behind the folder)
    "conll: no tag": ("conll", "a.txt", "Ada B-PER\nPark\n", {}, 'a.txt:2: "Park" has 1 columns, and 2 are needed'),
    "conll: odd tag": ("conll", "a.txt", "Ada B-PER\nPark PER\n", {}, "a.txt:2: field 'column 2': the tag of \"Park\""),
    "conll: column": ("conll", "a.txt", "Ada B-PER\n", {"tag_column": 3}, 'a.txt:1: "Ada B-PER" has 2 columns, and 3'),
    "conll: not UTF-8": ("conll", "a.txt", b"Ada O\n\xff O\n", {}, "a.txt:2: not UTF-8 text"),
    "conll: empty": ("conll", "a.txt", "\n", {}, "a.txt: holds no annotated text"),
    "conll: option": ("conll", "a.txt", "Ada O\n", {"offsets": "utf16"}, "--offsets says nothing to format conll"),
    "conll: nothing": ("conll", "a.txt", "Ada O\n", {}, "nothing is annotated in any text, so the task cannot be told"),
    "bio: numbers": (
        "bio-json",
        "a.jsonl",
        lines({"tokens": ["Ada"], "tags": [1]}),
        {},
        "a.jsonl:1: field 'tags': holds numbers",
    ),
    "bio: lengths": (
        "bio-json",
        "a.jsonl",
        lines({"tokens": ["Ada"], "tags": []}),
        {},
        "a.jsonl:1: field 'tags': has 0 tags for 1 tokens",
    ),
    "bio: wrong string": (
        "bio-json",
        "a.jsonl",
        lines({"text": ADA, "spans": [{"start": 1, "end": 4, "label": "x", "text": "Ada"}]}),
        {},
        'a.jsonl:1: field \'spans[0].start\': 1..4 is "da ", not "Ada" (it occurs at 0)',
    ),
    "bio: cluener": (
        "bio-json",
        "a.jsonl",
        lines({"text": ADA, "label": {"x": {"Ada": [[0, 3]]}}}),
        {},
        "a.jsonl:1: field 'label.x.start': 0..4 is \"Ada \"",
    ),
    "bio: none": (
        "bio-json",
        "a.jsonl",
        lines({"text": ADA}),
        {},
        "a.jsonl:1: no annotation that is known (write tokens",
    ),
    "doccano: not JSON": ("doccano", "a.jsonl", lines({"text": ADA, "label": []}) + "{", {}, "a.jsonl:2: not JSON"),
    "doccano: no label": ("doccano", "a.jsonl", lines({"text": ADA}), {}, "a.jsonl:1: field 'label': is missing"),
    "doccano: text": (
        "doccano",
        "a.jsonl",
        lines({"text": 3, "label": []}),
        {},
        "a.jsonl:1: field 'text': is 3 (it must be a string)",
    ),
    "doccano: triple": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": [[0, "x"]]}),
        {},
        "a.jsonl:1: field 'label[0]': is [0, \"x\"]",
    ),
    "doccano: beyond": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": [[0, 15, "x"]]}),
        {},
        "a.jsonl:1: field 'label[0].start': 0..15 is no span of a text of 14",
    ),
    "doccano: which": (
        "doccano",
        "a.jsonl",
        lines({"text": EMOJI, "label": [[3, 6, "x"]]}),
        {},
        'a.jsonl:1: field \'label[0].start\': 3..6 is "Ada" in utf16 and "da " in code_points, and the file does not '
        "say which it counts (give --offsets utf16 or code_points)",
    ),
    "doccano: cut": (
        "doccano",
        "a.jsonl",
        lines({"text": EMOJI, "label": [[0, 1, "x"]]}),
        {"offsets": "utf16"},
        "a.jsonl:1: field 'label[0].start': 0..1 cuts a character in two",
    ),
    "doccano: id": (
        "doccano",
        "a.jsonl",
        lines(
            {
                "text": ADA,
                "entities": [{"id": 1, "label": "x", "start_offset": 0, "end_offset": 3}],
                "relations": [{"from_id": 1, "to_id": 2, "type": "r"}],
            }
        ),
        {},
        "a.jsonl:1: field 'relations[0].to_id': is 2, and no entity has this id",
    ),
    "doccano: both": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": [[0, 3, "x"]]}, {"text": ADA, "label": ["x"]}),
        {},
        "a.jsonl:2, NER at ",
    ),
    "doccano: same id": (
        "doccano",
        "a.jsonl",
        lines({"id": 1, "text": ADA, "label": ["x"]}, {"id": 1, "text": ADA, "label": ["x"]}),
        {},
        "a.jsonl:2: field 'id': \"1\" stands at ",
    ),
    "doccano: task": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": [[0, 3, "x"]]}),
        {"task": "CLS"},
        "no label for task CLS occurs",
    ),
    "doccano: label": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": ["x"]}, {"text": ADA, "label": ["y"]}),
        {"labels": ("x",)},
        "a.jsonl:2: field 'labels': \"y\" is not in the dataset's labels",
    ),
    "doccano: None": (
        "doccano",
        "a.jsonl",
        lines({"text": ADA, "label": ["None"]}),
        {},
        "label 'None' cannot be asked",
    ),
    "doccano: language": (
        "doccano",
        "a.jsonl",
        lines({"text": "Это русский текст", "label": ["x"]}),
        {},
        "the texts look neither English nor Chinese (give --language en or --language zh)",
    ),
    "studio: not JSON": ("labelstudio", "a.json", "[{]", {}, "a.json: not JSON"),
    "studio: no list": ("labelstudio", "a.json", '{"id": 1}', {}, "a.json: must be a list of objects"),
    "studio: no object": ("labelstudio", "a.json", "[1]", {}, "a.json: field '[0]': is 1"),
    "studio: no text": (
        "labelstudio",
        "a.json",
        tasks({"id": 5, "data": {"a": "x", "b": "y"}, "annotations": [{"result": []}]}),
        {},
        'a.json: field \'task 5: data.text\': is missing, and ["a", "b"] are strings (name the text with',
    ),
    "studio: string": (
        "labelstudio",
        "a.json",
        labelled(region("r", 1, 4, "Ada", "x")),
        {},
        'a.json: field \'task 5: annotations[0].result[0].value.start\': 1..4 is "da ", not "Ada"',
    ),
    "studio: no start": (
        "labelstudio",
        "a.json",
        labelled({"type": "labels", "value": {"end": 3, "labels": ["x"]}}),
        {},
        "a.json: field 'task 5: annotations[0].result[0].value.start': is missing",
    ),
    "studio: relation": (
        "labelstudio",
        "a.json",
        labelled({"type": "relation", "from_id": "q", "to_id": "q", "labels": ["x"]}),
        {},
        "a.json: field 'task 5: annotations[0].result[0].from_id': is \"q\", and no labelled region has this id",
    ),
    "studio: two choices": (
        "labelstudio",
        "a.json",
        labelled(CHOICE, {**CHOICE, "from_name": "topic"}),
        {},
        'there are choices of ["tone", "topic"] (name those that you want with --label_column)',
    ),
    "studio: unlabelled": (
        "labelstudio",
        "a.json",
        tasks({"id": 1, "data": {"text": "x y"}}),
        {},
        "a.json: holds no annotated",
    ),
    "csv: columns": ("csv", "a.csv", "text,label\na,b\nc\n", {}, "a.csv:3: 1 columns, where the first line has 2"),
    "csv: quotes": ("csv", "a.csv", 'text,label\n"a" b,c\n', {}, "a.csv:2: no row of a table: ',' expected after '\"'"),
    "csv: open quote": (
        "csv",
        "a.csv",
        'text,label\nx,y\n"a,c\nd,e\n',
        {},
        "a.csv:3: no row of a table: unexpected end",
    ),
    "csv: no label": ("csv", "a.csv", "text,label\na,\n", {}, "a.csv:2: field 'label': is empty (write a label; give"),
    "csv: no text": ("csv", "a.csv", "text,label\n ,b\n", {}, "a.csv:2: field 'text': is empty"),
    "csv: no header": ("csv", "a.csv", "a one,b\nc,d\n", {}, "a.csv: the first line names no text and label column"),
    "csv: name": (
        "csv",
        "a.csv",
        "text,label\na,b\n",
        {"label_column": "c"},
        "a.csv: no column 'c' for the label (there are: text, label)",
    ),
    "csv: number": (
        "csv",
        "a.csv",
        "text,label\na,b\n",
        {"label_column": "3"},
        "a.csv: no column 3 for the label (there are 2, counted",
    ),
    "brat: no text": ("brat", "a/1.ann", "T1\tx 0 3\tAda\n", {}, "1.txt: no such file"),
    "brat: no id": ("brat", "a/1.ann", "Q1\tx 0 3\tAda\n", {}, "1.ann:1: field 'id': is \"Q1\""),
    "brat: place": (
        "brat",
        "a/1.ann",
        "T1\tx 0\tAda\n",
        {},
        "1.ann:1: field 'T1': is \"x 0\" (a span is TYPE START END",
    ),
    "brat: twice": (
        "brat",
        "a/1.ann",
        "T1\tx 0 3\tAda\nT1\tx 0 3\tAda\n",
        {},
        "1.ann:2: field 'T1': stands here twice",
    ),
    "brat: string": (
        "brat",
        "a/1.ann",
        "T1\tx 1 4\tAda\n",
        {},
        '1.ann:1: field \'T1 start\': 1..4 is "da ", not "Ada" (it occurs at 0)',
    ),
    "brat: ends": ("brat", "a/1.ann", "T1\tx 0 3\tAda\nR1\tr Arg1:T1\n", {}, "1.ann:2: field 'R1': has 1 ends"),
    "brat: end": (
        "brat",
        "a/1.ann",
        "T1\tx 0 3\tAda\nR1\tr Arg1:T1 Arg2:T2\n",
        {},
        "1.ann:2: field 'R1': names \"T2\", which is no span",
    ),
    "brat: trigger": ("brat", "a/1.ann", "E1\tx:T1\n", {}, "1.ann:1: field 'E1': names \"T1\" as its trigger"),
    "brat: empty": ("brat", "a/1.ann", "R1\t\n", {}, "1.ann:1: field 'R1': has 0 ends"),
    "brat: pieces": (
        "brat",
        "a/1.ann",
        "T1\tx 0 3;10 14\tAda Rome\n",
        {},
        "1.ann:1: field 'T1': is in 2 pieces with other text between them, which a record cannot hold (--disc",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str, tmp_path: Path) -> None:
    format_name, file, content, options, words = BAD[name]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if format_name == "brat":
        if name != "brat: no text":
            path.with_suffix(".txt").write_text(ADA)
        path = path.parent
    with pytest.raises(UserError) as caught:
        convert(path, tmp_path / "out", format_name, **options)
    message = str(caught.value)
    assert words in message and "\n" not in message
    assert {each.name for each in tmp_path.iterdir()} == {Path(file).parts[0]}


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
