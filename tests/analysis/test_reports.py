"""The report of an evaluation: what is written, what `compare` makes of two, and what `explain` finds behind one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.analysis.bootstrap import interval, resample
from seqgpt_jax.analysis.compare import Verdicts, compare, comparison_to_dict, comparison_to_text
from seqgpt_jax.analysis.explain import explain
from seqgpt_jax.analysis.report_files import read_evaluation
from seqgpt_jax.cli import main
from seqgpt_jax.errors import UserError
from seqgpt_jax.evaluation import Predictor, evaluate
from seqgpt_jax.metrics import score_dataset
from seqgpt_jax.predictions import read_predictions
from seqgpt_jax.records import ClassificationRecord, DatasetMeta
from seqgpt_jax.report import write_evaluation
from tests.toy_evaluation import CarelessPredictor, GoldPredictor, ToyDataset, toy_datasets


def _write(folder: Path, predictor: Predictor, datasets: list[ToyDataset], **options: Any) -> Path:
    evaluation = evaluate(
        predictor, datasets, predictions_dir=folder / "predictions", progress=False, name=folder.name, **options
    )
    write_evaluation(folder, "toys", evaluation)
    return folder / "report.json"


@pytest.fixture(scope="module")
def gold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = toy_datasets()
    return _write(tmp_path_factory.mktemp("a") / "gold", GoldPredictor(datasets), datasets)


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = toy_datasets()
    return _write(tmp_path_factory.mktemp("b") / "careless", CarelessPredictor(datasets), datasets)


def _changed(report: Path, to: Path, change: Any) -> Path:
    fields = json.loads(report.read_text("utf-8"))
    change(fields, {each["name"]: each for each in fields["datasets"]})
    to.write_text(json.dumps(fields), "utf-8")
    return to


# --- what is written -------------------------------------------------------------------------------------------------


def test_the_folder_of_an_evaluation(careless: Path) -> None:
    folder = careless.parent
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    predictions = {f"predictions/{d.meta.language}-{d.meta.name}-test.jsonl" for d in toy_datasets()}
    assert names == {"report.json", "report.md", "ids.json", "figures/toys.png"} | predictions
    report = json.loads(careless.read_text("utf-8"))
    assert (report["system"]["name"], report["seed"], report["limit"]) == ("careless", 0, None)
    assert report["system"]["seconds"] >= 0
    people = next(each for each in report["datasets"] if each["name"] == "people")
    assert people["counts"] == {"ids": ["0", "1"], "counts": [[2, 3, 2], [0, 1, 0]]}
    assert (people["score"], people["predictions"]) == (0.666667, "predictions/en-people-test.jsonl")
    assert people["interval"] == [0.0, 0.8]  # both records, or one of them twice: 4/6, 2*4/(2*3+2*2), 0
    assert people["by_label"] == [
        {"label": "who", "precision": 0.5, "recall": 1.0, "f1": 0.666667, "support": 2, "predicted": 4}
    ]
    assert people["by_length"] == [{"at_least": 0, "below": 100, "num_records": 2, "score": 0.666667}]
    invented = {"gold": None, "predicted": "who 'Nowhere' (not in the text)"}
    assert people["errors"]["invented"] == {
        "count": 2, "ids": ["0", "1"], "examples": [{"id": "0", **invented}, {"id": "1", **invented}]
    }  # fmt: skip
    topics = next(each for each in report["datasets"] if each["name"] == "topics")
    assert topics["confusion"] == {
        "labels": ["yes", "no"], "counts": [[0, 1, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0]]
    }  # fmt: skip
    assert people["confusion"] is None
    ids = json.loads((folder / "ids.json").read_text("utf-8"))
    assert ids["ids"]["en/people"] == ["0", "1"] and ids["seed"] == 0
    text = (folder / "report.md").read_text("utf-8")
    assert "| en | NER | people | 0 | 0 | 0 | 2 | 0 |" in text
    assert "- invented, people 0: predicted `who 'Nowhere' (not in the text)`" in text


def test_predictions_are_read_as_they_were(careless: Path) -> None:
    """Scored again from the file, a dataset has every metric that the report says."""
    for dataset in read_evaluation(careless).datasets.values():
        assert dataset.predictions is not None
        records = read_predictions(dataset.predictions)
        meta = next(toy.meta for toy in toy_datasets() if toy.meta.name == dataset.meta.name)
        score = score_dataset([each.gold for each in records], [each.predicted for each in records], meta)
        assert score.headline == dataset.counts.headline == pytest.approx(dataset.score, abs=1e-6)
    nowhere = read_predictions(careless.parent / "predictions" / "en-people-test.jsonl")[0]
    assert (nowhere.answers[0].problems, nowhere.answers[0].tokens_cut) == (("broken",), 5)


# --- compare ---------------------------------------------------------------------------------------------------------


def test_two_systems_side_by_side(gold: Path, careless: Path) -> None:
    comparison = compare([read_evaluation(careless), read_evaluation(gold)])
    assert comparison.systems == ("careless", "gold") and not comparison.notes
    rows = {(row.language, row.task): row for row in comparison.rows}
    assert list(rows) == [
        ("en", "NER"), ("en", "CLS"), ("en", "EE"), ("en", ""), ("zh", "NER"), ("zh", "SA"), ("zh", ""), ("", "")
    ]  # fmt: skip
    classes = rows["en", "CLS"]
    assert [score.value for score in classes.scores] == [0.5, 1.0]
    assert classes.differences[0].value == 0.5
    assert (classes.num_datasets, classes.num_records) == (2, 8)
    # `no` is right on 3 of 4 topics, on 1 of 4 tones: resamples of topics may hold none of the wrong one
    assert classes.verdicts == (Verdicts(wins=1, ties=1, losses=0),)
    topics = next(row for row in comparison.datasets if row.dataset == "topics")
    a, b = (read_evaluation(path).datasets["topics"].counts for path in (careless, gold))
    expected = interval(resample(b, "topics") - resample(a, "topics"))
    found = topics.differences[0]
    assert (found.low, found.high) == expected and expected[0] == 0
    assert rows["en", ""].scores[0].value == pytest.approx((0.5 + 1 + 4 / 6) / 3)
    text = comparison_to_text(comparison)
    assert text.splitlines()[:2] == ["A = careless", "B = gold"]
    (line,) = [line for line in text.splitlines() if line.startswith("en        CLS")]
    assert line.split()[2:4] == ["2", "0.500"] and line.endswith("1-1-0")
    assert json.loads(json.dumps(comparison_to_dict(comparison)))["datasets"][0]["dataset"] == "people"
    back = compare([read_evaluation(gold), read_evaluation(careless)]).rows[1]
    assert back.verdicts == (Verdicts(wins=0, ties=1, losses=1),)


def test_a_system_against_itself_ties_everywhere(careless: Path) -> None:
    same = read_evaluation(careless.parent)  # the folder will do
    comparison = compare([same, same, same])
    assert comparison.systems == (str(careless),) * 3
    for row in (*comparison.rows, *comparison.datasets):
        assert row.verdicts == (Verdicts(0, row.num_datasets, 0),) * 2
        assert all(each.value == 0 and (each.low, each.high) == (0, 0) for each in row.differences)


def test_what_cannot_be_compared_is_counted_and_said(gold: Path, careless: Path, tmp_path: Path) -> None:
    def change(fields: dict[str, Any], datasets: dict[str, Any]) -> None:
        datasets["topics"]["counts"] = {"ids": ["3", "9", "1"], "counts": [[1, 1, 1], [1, 1, 1], [0, 1, 1]]}
        datasets["tones"]["counts"]["ids"] = ["10", "11", "12", "13"]
        datasets["moods"]["headline"] = "micro_f1"
        datasets["people"]["counts"]["counts"][0][2] = 7
        fields["datasets"] = [each for each in fields["datasets"] if each["name"] not in ("meetings", "leute")]
        fields["unscored"]["meetings"] = "no gold"

    other = _changed(gold, tmp_path / "other.json", change)
    comparison = compare([read_evaluation(careless), read_evaluation(other)])
    assert [row.dataset for row in comparison.datasets] == ["people", "topics"]
    remedy = "(evaluate with the same --limit and --seed)"
    assert comparison.notes == (
        f"topics is compared on 2 records that all have; not shared: 2 of careless, 1 of gold {remedy}",
        f"tones is left out, as no record is in all; not shared: 4 of careless, 4 of gold {remedy}",
        "moods is left out: its headline is accuracy in one report and micro_f1 in another",
        "people: the gold of some records is not the same in all reports (another version of the data?)",
        "meetings is left out: it has no score in gold (no gold)",
        "leute is left out: it has no score in gold (not in its report)",
    )
    topics = comparison.datasets[1]
    assert topics.num_records == 2
    assert [score.value for score in topics.scores] == [1.0, 0.5]  # records 1 and 3, in A's order
    assert "note: moods is left out" in comparison_to_text(comparison)

    def no_dataset(fields: dict[str, Any], datasets: dict[str, Any]) -> None:
        fields["datasets"] = []

    with pytest.raises(UserError, match="nothing to compare; topics is left out"):
        compare([read_evaluation(careless), read_evaluation(_changed(gold, tmp_path / "none.json", no_dataset))])


@pytest.mark.parametrize("content", ["no json", "[]", '{"datasets": [{}]}', '{"datasets": [], "skipped": []}'])
def test_what_is_no_report_is_refused(content: str, tmp_path: Path, gold: Path, capsys: Any) -> None:
    (tmp_path / "x.json").write_text(content)
    assert main(["compare", str(gold), str(tmp_path / "x.json")]) == 2
    assert "x.json: not the report of an evaluation" in capsys.readouterr().err
    assert main(["compare", str(gold)]) == 2
    assert main(["compare", str(gold), str(tmp_path / "y.json")]) == 2
    assert "y.json: no such file" in capsys.readouterr().err


# --- explain ---------------------------------------------------------------------------------------------------------


def test_a_number_is_traced_to_its_records(careless: Path) -> None:
    lines = list(explain(read_evaluation(careless), "people"))
    assert lines[:6] == [
        "0: 2 right of 3 predicted and 2 gold",
        "  text       'Ada met Bob'",
        "  right      gold who 'Ada' 0:3 | predicted who 'Ada' 0:3",
        "  right      gold who 'Bob' 8:11 | predicted who 'Bob' 8:11",
        "  invented   gold nothing | predicted who 'Nowhere' (not in the text)",
        "  answer     extract: '?'  ! broken",
    ]
    assert lines[-2].startswith("2 of 2 such records shown, of 2 in ")
    assert lines[-1] == "span_f1 0.666667 = 2 x 2 / (4 + 2), as the report says"
    topics = list(explain(read_evaluation(careless), "topics", kind="wrong_type", label="yes"))
    assert topics[0] == "0: accuracy 0.000"
    assert topics[2] == "  wrong type gold yes | predicted no"
    assert topics[-2].startswith("1 of 1 such records shown, of 4 in ")
    assert list(explain(read_evaluation(careless), "tones", limit=1))[-2].startswith("1 of 4 such records")


def test_a_report_that_does_not_agree_is_said_to(careless: Path, tmp_path: Path) -> None:
    def change(fields: dict[str, Any], datasets: dict[str, Any]) -> None:
        datasets["people"]["score"] = 0.7
        datasets["people"]["counts"] = {"ids": ["0", "7", "8"], "counts": [[2, 3, 2], [0, 1, 0], [1, 1, 1]]}
        for each in fields["datasets"]:
            each["predictions"] = str(careless.parent / each["predictions"])

    report = read_evaluation(_changed(careless, tmp_path / "report.json", change))
    assert list(explain(report, "people"))[-1] == (
        "span_f1 0.666667 = 2 x 2 / (4 + 2); the report DOES NOT AGREE: 2 of its 3 records are not among the "
        "predictions; 1 predictions are of records that it does not count; it says 0.700000; its own counts give "
        "0.750000"
    )
    assert list(explain(report, "topics"))[-1].endswith("as the report says")


def test_bad_input_of_explain(careless: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["explain", str(careless), "peopel"]) == 2
    assert "did you mean people" in capsys.readouterr().err

    def change(fields: dict[str, Any], datasets: dict[str, Any]) -> None:
        datasets["topics"]["predictions"] = None
        datasets["tones"]["predictions"] = "tones.jsonl"
        datasets["people"]["predictions"] = "people.jsonl"
        fields["unscored"]["silent"] = "no gold"

    report = str(_changed(careless, tmp_path / "report.json", change))
    (tmp_path / "people.jsonl").write_text('\n{"gold": {"id": "0"}}\n', "utf-8")
    for name, why in (
        ("topics", "has no predictions of 'topics'"),
        ("tones", "tones.jsonl: no such file of predictions"),
        ("people", "people.jsonl:2"),
        ("silent", "no gold"),
    ):
        assert main(["explain", report, name]) == 2
        assert why in capsys.readouterr().err
    assert main(["explain", str(careless), "people", "--errors", "invented", "--limit", "1"]) == 0
    assert "1 of 2 such records" in capsys.readouterr().out


def test_a_label_that_is_written_in_another_way_is_found(tmp_path: Path) -> None:
    """NFC: as the metrics compare."""
    records = [ClassificationRecord("0", "CLS", "text", ("caf\u00e9",))]
    data = [ToyDataset(DatasetMeta("places", "CLS", "en", ("caf\u00e9", "bar")), records)]
    report = read_evaluation(_write(tmp_path / "r", GoldPredictor(data), data))
    assert next(iter(explain(report, "places", label="cafe\u0301"))) == "0: accuracy 1.000"
