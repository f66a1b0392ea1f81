"""The command's contract with its user: help with an example, one clear line and exit code 2 for bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqgpt_jax.cli import build_parser, main

REPO = Path(__file__).resolve().parent.parent
QUICKSTART = str(REPO / "gin/recipes/quickstart.gin")
COMMANDS = (
    "train",
    "eval",
    "compare",
    "explain",
    "calibrate",
    "predict",
    "export",
    "import",
    "trim",
    "generate",
    "doctor",
    "plan",
    "study",
    "fewshot",
)

META = {"name": "toy", "task": "NER", "language": "en", "labels": ["city", "person"], "splits": {"test": 1}}
RECORD = {"id": "toy-0", "task": "NER", "kind": "extraction", "text": "Ada went to Rome", "label_set": None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset folder with one good record."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps(META))
    write_record(folder, {"label": "city", "start": 12, "end": 16, "text": "Rome"})
    return folder


def write_record(folder: Path, span: dict[str, object]) -> None:
    (folder / "test.jsonl").write_text(json.dumps({**RECORD, "spans": [span]}) + "\n")


def error_of(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line that the command prints for bad input."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("seqgpt:")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_parses(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([command, "--help"])
    assert stop.value.code == 0
    help_text = " ".join(capsys.readouterr().out.split())
    example = help_text.split("example: seqgpt ")[1]
    import shlex

    options = build_parser().parse_args(shlex.split(example))
    assert options.run is not None


def test_folder_without_meta_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "meta.json").unlink()
    line = error_of(capsys, ["eval", "--model", "nowhere", "--data", str(folder)])
    assert "meta.json" in line
    assert str(folder) in line


def test_record_with_a_wrong_offset(folder: Path, capsys: pytest.CaptureFixture[str], model_dir: Path) -> None:
    write_record(folder, {"label": "city", "start": 11, "end": 15, "text": "Rome"})
    line = error_of(capsys, ["eval", "--model", str(model_dir), "--data", str(folder)])
    assert f"{folder / 'test.jsonl'}:1" in line
    assert "span" in line


def test_good_folder_is_scored(folder: Path, capsys: pytest.CaptureFixture[str], model_dir: Path) -> None:
    out = folder.parent / "scores"
    scored = ["eval", "--model", str(model_dir), "--data", str(folder), "--scorer", "gollie"]
    assert main([*scored, "--out", str(out)]) == 0
    report = json.loads((out / "report.json").read_text())
    assert (report["num_records"], report["system"]["name"]) == (1, str(model_dir))
    assert "NER" in (said := capsys.readouterr().out) and "en/toy  spans/f1-score" in said
    gollie = json.loads((out / "gollie.json").read_text())["datasets"]["en/toy"]
    assert gollie.keys() == {"spans/f1-score", "spans/precision", "spans/recall"}
    assert "toy" in (out / "report.html").read_text()
    assert "add --out" in error_of(capsys, scored)
    assert main(["explain", str(out / "report.json"), "toy"]) == 0
    assert "of 1 in" in (explained := capsys.readouterr().out) and "as the report says" in explained
    line = error_of(capsys, ["eval", "--model", str(model_dir), "--data", str(folder), "--out", "scores.json"])
    assert "name a folder" in line


def test_unknown_mixture(capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, ["eval", "--model", "nowhere", "--mixture", "mini_heldout"])
    assert "mini_heldout" in line
    assert "mini_held_out" in line


def test_mixture_of_generate_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "records.jsonl"
    line = error_of(capsys, ["generate", "--mixture", "syntetic", "--num", "3", "--out", str(out)])
    assert "synthetic" in line
    assert not out.exists()


def test_gin_binding_that_matches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = tmp_path / "run"
    line = error_of(capsys, ["train", QUICKSTART, "--run_dir", str(run_dir), "--gin", "optimizer.learning_rat=0.1"])
    assert "learning_rat" in line
    assert "learning_rate" in line
    assert not run_dir.exists()


def test_recipe_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "quickstart" in error_of(capsys, ["train", "gin/recipes/quikstart.gin"])


def test_model_path_that_is_not_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, ["predict", "--model", str(tmp_path), "some text", "--classify", "a", "b"])
    assert str(tmp_path) in line


def test_two_labels_that_become_equal(capsys: pytest.CaptureFixture[str], model_dir: Path) -> None:
    line = error_of(capsys, ["predict", "--model", str(model_dir), "some text", "--classify", "a，b", "a,b"])
    assert "a，b" in line
    assert "a,b" in line


@pytest.mark.parametrize("content", ["not json\n", "[1]\n", '{"txt": "x"}\n', '{"text": 3}\n'])
def test_input_line_without_text(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], model_dir: Path
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "fine"}\n' + content)
    line = error_of(capsys, ["predict", "--model", str(model_dir), "--extract", "city", "--input", str(file)])
    assert f"{file}:2" in line


def test_no_text_at_all(capsys: pytest.CaptureFixture[str], model_dir: Path) -> None:
    assert "TEXT" in error_of(capsys, ["predict", "--model", str(model_dir), "--extract", "city"])


def test_export_of_what_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert str(tmp_path) in error_of(capsys, ["export", "--run", str(tmp_path), "--out", str(out)])
    assert not out.exists()


def test_import_writes_a_model_of_the_type_and_size_asked(model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["import", "--from", str(model_dir), "--out", str(out), "--dtype", "bfloat16"]
    assert main([*arguments, "--max_shard_size", "20KB"]) == 0
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert len(list(out.glob("model-*.safetensors"))) > 1


def test_import_of_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = error_of(capsys, ["import", "--from", str(tmp_path / "absent"), "--out", str(tmp_path / "out")])
    assert "absent" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", ["5", "5PB", "0GB", "GB", "1.5GB"])
def test_sizes_that_are_none(size: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "--from", "a", "--out", str(tmp_path / "out"), "--max_shard_size", size])
    assert "500MB" in capsys.readouterr().err


def test_predict_writes_a_line_a_text(capsys: pytest.CaptureFixture[str], model_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "Ada went to Rome"}\n{"text": "北京下雨了"}\n')
    assert main(["predict", "--model", str(model_dir), "--extract", "city", "--input", str(file)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["Ada went to Rome", "北京下雨了"]
    assert all(isinstance(line["spans"], list) for line in lines)
    assert main(["predict", "--model", str(model_dir), "--classify", "a", "b", "--", "one text", "another"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [set(line) for line in lines] == [{"text", "labels", "probabilities"}] * 2


def test_generate_writes_records_that_read_back(tmp_path: Path) -> None:
    from seqgpt_jax.records import read_records

    out = tmp_path / "records.jsonl.gz"
    assert main(["generate", "--mixture", "mini_real_zh", "--num", "33", "--out", str(out)]) == 0
    records = list(read_records(out))
    assert len(records) == 33
    assert len({record.task for record in records}) == 11


def test_doctor_finds_this_machine_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor"])
    printed = capsys.readouterr().out
    assert "training step: loss of a tiny model went from" in printed
    errors = [line for line in printed.splitlines() if line.startswith("error")]
    assert code == (2 if errors else 0)


@pytest.mark.parametrize(
    "arguments", [["train", QUICKSTART, "--run_dir"], ["finetune", "data", "--model", "model", "--out"]]
)
def test_results_in_a_bucket_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([*arguments, "gs://bucket/run"])
    assert stop.value.code == 2
    assert "'gs://bucket/run' is no path (results need a file system" in capsys.readouterr().err
