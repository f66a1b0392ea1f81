"""report.py: what report.json promises to programs, the tables, the figures."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from seqgpt_jax.analysis.record_counts import RecordCounts
from seqgpt_jax.averages import AnswerRates, DatasetEvaluation, Evaluation
from seqgpt_jax.errors import UserError
from seqgpt_jax.metrics import DatasetScore
from seqgpt_jax.pipeline import _model_card
from seqgpt_jax.report import read_losses, write_report
from seqgpt_jax.sections import section_to_dict, section_to_text
from seqgpt_jax.training.journal import StageResult
from seqgpt_jax.training.stage_data import DatasetCounts, StageData, write_stage_data

STAGES = (
    StageResult("synthetic", 300, 5.25, 0.81, 0.7, 1_020_000, 300.0, 3400.0, 500.0),
    StageResult("real", 200, 1.5, float("nan"), 0.8, 660_000, 200.0, 3300.0, 480.0),
)


def _dataset(name: str, task: str, language: str, score: float, baseline: float) -> DatasetEvaluation:
    if task in ("CLS", "SA"):
        kind, headline, names = "classification", "accuracy", ("accuracy", "micro_f1", "macro_f1")
    else:
        kind, names = "extraction", ("span_f1", "span_precision", "span_recall", "string_f1", "token_f1")
        headline = "token_f1" if task == "MRC-SE" else "span_f1"
    scores = [DatasetScore(headline, value, dict.fromkeys(names, value), 20) for value in (score, baseline)]
    counts = RecordCounts(tuple(map(str, range(20))), np.array([[score, 1, 1]] * 20))
    scored, free = AnswerRates(40, 0.0, 0.0, 0.0), AnswerRates(10, 0.1, 0.025, 0.05)
    return DatasetEvaluation(name, task, language, kind, "test", scores[0], scores[1], scored, free, 3, 30, counts)


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(
        "test",
        20,
        (
            _dataset("topics", "CLS", "en", 0.6, 0.25),
            _dataset("themes", "CLS", "en", 0.8, 0.35),
            _dataset("people", "NER", "en", 0.5, 0.0),
            _dataset("tones", "SA", "zh", 0.75, 0.5),
            _dataset("names", "NER", "zh", 0.3, 0.0),
            _dataset("answers", "MRC-SE", "zh", 0.9, 0.2),
        ),
        ("figer_gold",),
    )


def _write_losses(run_dir: Path) -> None:
    rows = [{"stage": "synthetic", "step": step, "loss": 5.0 / (1 + step / 20) + 0.4} for step in range(0, 300, 10)]
    rows += [{"stage": "real", "step": step, "loss": 2.0 / (1 + step / 40) + 0.3} for step in range(0, 200, 10)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def test_report_json_has_the_promised_shape(tmp_path: Path, evaluation: Evaluation) -> None:
    _write_losses(tmp_path)
    returned = write_report(tmp_path, STAGES, {"held_out": evaluation}, {"device": "cpu"})
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert report == returned
    assert report["device"] == "cpu"
    whole = json.loads((tmp_path / "eval" / "held_out.json").read_text("utf-8"))
    assert whole["datasets"][0]["counts"] == {"ids": [str(i) for i in range(20)], "counts": [[0.6, 1, 1]] * 20}
    by_record = ("counts", "predictions", "by_label", "by_length", "errors", "confusion", "labels")
    for dataset in whole["datasets"]:
        for field in by_record:
            del dataset[field]
    assert whole == report["held_out"]
    first = {"name": "synthetic", "steps": 300, "loss_first": 5.25, "loss_last": 0.81, "tokens_per_second": 3400.0}
    assert first.items() <= report["stages"][0].items()
    assert report["stages"][1]["loss_last"] is None
    section = report["held_out"]
    assert section["classification"] == {
        "accuracy": pytest.approx((0.6 + 0.8 + 0.75) / 3, abs=1e-6),
        "majority_baseline": pytest.approx((0.25 + 0.35 + 0.5) / 3, abs=1e-6),
        "parse_error_rate": 0.1,
        "unasked_rate": 0.025,
        "num_datasets": 3,
    }
    assert section["extraction"] == {
        "span_f1": pytest.approx((0.5 + 0.3 + 0.9) / 3, abs=1e-6),
        "copying_nothing": pytest.approx(0.2 / 3, abs=1e-6),
        "string_f1": pytest.approx((0.5 + 0.3 + 0.9) / 3, abs=1e-6),
        "parse_error_rate": 0.1,
        "unasked_rate": 0.025,
        "hallucination_rate": 0.05,
        "num_datasets": 3,
    }
    assert (section["score"], section["interval"]) == (pytest.approx((0.6 + 0.65) / 2), [0.625, 0.625])
    assert section["per_language"]["en"]["classification"]["accuracy"] == 0.7
    assert section["per_language"]["en"]["score"] == 0.6  # tasks: CLS 0.7, NER 0.5
    assert section["per_language"]["zh"]["per_task"]["NER"]["extraction"]["span_f1"] == 0.3
    assert list(section["per_task"]) == ["NER", "SA", "CLS", "MRC-SE"]  # records.TASKS' order
    assert section["per_task"]["CLS"].keys() == {"en"}
    assert section["per_task"]["NER"]["zh"]["score"] == 0.3
    assert section["per_task"]["MRC-SE"]["zh"]["headlines"] == ["token_f1"]
    assert (section["split"], section["limit"], section["num_datasets"], section["num_records"]) == ("test", 20, 6, 120)
    assert section["skipped"] == ["figer_gold"]
    first = section["datasets"][0]
    assert (first["name"], first["score"], first["baseline"], first["headline"]) == ("topics", 0.6, 0.25, "accuracy")
    assert first["metrics"]["macro_f1"] == 0.6
    assert first["tokens_cut"] == 30


def test_a_group_without_datasets_is_left_out() -> None:
    section = section_to_dict(Evaluation("test", None, (_dataset("people", "NER", "en", 0.5, 0.0),)))
    assert "classification" not in section
    assert list(section["per_language"]) == ["en"]
    assert "classification" not in section["per_language"]["en"]


def test_what_the_model_does_without_constraints_stands_beside_the_scores(evaluation: Evaluation) -> None:
    lines = section_to_text("held_out", evaluation).splitlines()
    free = "unconstrained: malformed answers 10.0%, labels not asked 2.5%"
    assert f"  classification, zh: accuracy 0.750 (majority 0.500; 1 datasets); {free}" in lines
    assert lines[-1].endswith(f"; {free}, strings not in the text 5.0%")
    first = section_to_dict(evaluation)["datasets"][0]
    assert first["rates"]["num_questions"] == 40
    assert first["unconstrained"] == {
        "num_questions": 10,
        "parse_error_rate": 0.1,
        "unasked_rate": 0.025,
        "hallucination_rate": 0.05,
    }


def test_the_terminal_table(evaluation: Evaluation) -> None:
    assert section_to_text("held_out", evaluation).splitlines()[:7] == [
        "held_out (test, 6 datasets, 1 without this split, at most 20 records a dataset)",
        "  task    metric         en        95%  baseline  datasets     zh        95%  baseline  datasets",
        "  NER     span_f1     0.500  0.50-0.50     0.000         1  0.300  0.30-0.30     0.000         1",
        "  SA      accuracy        -          -         -         -  0.750  0.75-0.75     0.500         1",
        "  CLS     accuracy    0.700  0.70-0.70     0.300         2      -          -         -         -",
        "  MRC-SE  token_f1        -          -         -         -  0.900  0.90-0.90     0.200         1",
        "  mean    over tasks  0.600  0.60-0.60     0.150         3  0.650  0.65-0.65     0.233         3",
    ]
    assert "classification, all: accuracy 0.717 (majority 0.367; 3 datasets)" in section_to_text("x", evaluation)


def test_report_md_and_figures(tmp_path: Path, evaluation: Evaluation) -> None:
    _write_losses(tmp_path)
    write_report(tmp_path, STAGES, {"held_in_validation": evaluation, "held_out": evaluation})
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "| synthetic | zero_shot | 300 | 5.250 | 0.810 | 3,400 |" in text
    assert "Not zero-shot" not in text
    rates = "10.0% / 0.0% | 2.5% / 0.0% | 5.0% / 0.0% | 3 of 40"
    assert f"| zh | MRC-SE | answers | token_f1 | 0.900 | 0.90-0.90 | 0.200 | 20 | {rates} |" in text
    named = {line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    drawn = {f"figures/{path.name}" for path in (tmp_path / "figures").iterdir()}
    assert named == drawn == {"figures/loss.png", "figures/held_in_validation.png", "figures/held_out.png"}
    for path in (tmp_path / "figures").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.glob(".*"))


def test_the_data_of_a_stage_is_shown(tmp_path: Path, evaluation: Evaluation) -> None:
    datasets = (
        DatasetCounts("films", "SA", "en", 1000, 50_000, 9_000, cut=7, dropped=0, leaked=3, surplus=80),
        DatasetCounts("names", "NER", "zh", 500, 20_000, 8_000, cut=5, dropped=2, leaked=0),
        DatasetCounts("plots", "CLS", "en", 100, 4_000, 500, cut=0, dropped=0, leaked=40),
    )
    write_stage_data(tmp_path, "real", StageData("held_in", "train", 2, datasets))
    report = write_report(tmp_path, STAGES, {"held_out": evaluation})
    assert "data" not in report["stages"][0]
    data = report["stages"][1]["data"]
    assert (data["examples"], data["tokens"], data["cut"], data["dropped"], data["leaked"]) == (1600, 74_000, 12, 2, 43)
    assert data["surplus"] == 80
    assert data["datasets"][0]["name"] == "films"
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "| real | held_in | 3 | 1,600 | 74,000 | 12 | 2 | 43 |" in text
    assert "- real, leaked: plots 40, films 3\n" in text


def test_a_run_without_losses_has_no_loss_figure(tmp_path: Path, evaluation: Evaluation) -> None:
    write_report(tmp_path, (), {"held_out": evaluation})
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["held_out.png"]
    assert "loss.png" not in (tmp_path / "report.md").read_text("utf-8")


def test_losses_are_read_by_stage(tmp_path: Path) -> None:
    assert read_losses(tmp_path) == {}
    rows = [("a", 1, 3.0), ("a", 2, None), ("b", 1, 1.5)]
    lines = [json.dumps({"stage": stage, "step": step, "loss": loss}) for stage, step, loss in rows]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*lines, '{"stage": "b", "st']), "utf-8")
    assert read_losses(tmp_path) == {"a": [(1, 3.0)], "b": [(1, 1.5)]}


def test_every_report_shows_few_shot_training(tmp_path: Path, evaluation: Evaluation) -> None:
    stages = (STAGES[0], dataclasses.replace(STAGES[1], protocol="few_shot"))
    assert write_report(tmp_path, STAGES, {})["protocol"] == "zero_shot"
    report = write_report(tmp_path, stages, {"held_out": evaluation})
    assert report["protocol"] == "few_shot"
    assert [stage["protocol"] for stage in report["stages"]] == ["zero_shot", "few_shot"]
    note = "Not zero-shot: held-out datasets were trained on (protocol few_shot in real)."
    text = (tmp_path / "report.md").read_text("utf-8")
    assert f"**{note}**" in text and "| real | few_shot | 200 |" in text
    assert _model_card(tmp_path).limits == (note,)


def test_a_section_cannot_take_the_place_of_the_stages(tmp_path: Path, evaluation: Evaluation) -> None:
    with pytest.raises(UserError, match="'stages'"):
        write_report(tmp_path, STAGES, {"stages": evaluation})
