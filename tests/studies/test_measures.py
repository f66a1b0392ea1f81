"""The numbers of a study against ones worked out by hand, or another way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from seqgpt_jax.analysis.record_counts import RecordCounts
from seqgpt_jax.analysis.report_files import ReportedDataset
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import DatasetMeta
from seqgpt_jax.studies.measures import Draws, fit_log, interval
from seqgpt_jax.studies.report import keep_config, write_study_report
from tests.studies.toy import toy_config


def judged(
    name: str, language: str, task: str, counts: list[list[float]], baseline: float = 0.0, loss: float | None = None
) -> ReportedDataset:
    """loss: nats a token of each record, of which it has its number in the list."""
    ids = tuple(f"{name}-{i}" for i in range(len(counts)))
    kind = "extraction" if task in ("NER", "SF") else "classification"
    own, meta = RecordCounts(ids, np.array(counts, float)), DatasetMeta(name, task, language, ())
    lost = loss and RecordCounts(ids, np.array([[loss * i, i, i] for i in range(1, len(counts) + 1)], float))
    return ReportedDataset(meta, kind, "span_f1", own.headline, baseline, own, lost or None, None)


def evaluation(*datasets: ReportedDataset) -> dict[str, ReportedDataset]:
    return {dataset.meta.name: dataset for dataset in datasets}


EVALUATION = evaluation(
    judged("a", "en", "NER", [[1, 2, 3], [1, 1, 1]], 0.0),  # 2 * 2 / (3 + 4) = 4/7
    judged("b", "en", "NER", [[0, 0, 2]], 0.0),  # 0
    judged("c", "en", "SA", [[1, 1, 1], [0, 1, 1]], 0.5, loss=3.0),  # 1/2
    judged("d", "zh", "SA", [[1, 1, 1]], 1.0, loss=2.0),  # 1
)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("score", ((2 / 7 + 1 / 2) / 2 + 1) / 2),
        ("en", (2 / 7 + 1 / 2) / 2),
        ("zh", 1.0),
        ("NER", 2 / 7),
        ("SA", 0.75),
        ("zh/SA", 1.0),
        ("classification", 0.75),
        ("extraction", 2 / 7),
        ("loss", 2.5),
        ("loss/en", 3.0),
    ],
)
def test_measures_by_hand(measure: str, expected: float) -> None:
    draws = Draws({"cell": EVALUATION})
    scores = draws.scores("cell", measure)
    assert scores is not None and scores[0] == pytest.approx(expected)
    assert draws.scores("cell", "RE") is None and draws.scores("cell", "loss/NER") is None


def test_reference_is_the_mean_of_the_datasets_baselines() -> None:
    assert Draws({"cell": EVALUATION}).baseline("score") == pytest.approx(((0 + 0.5) / 2 + 1) / 2)
    assert Draws({"cell": EVALUATION}).baseline("loss") is None


def test_other_records_are_refused() -> None:
    other = evaluation(*EVALUATION.values())
    other["d"] = judged("d", "zh", "SA", [[1, 1, 1], [1, 1, 1]])
    with pytest.raises(UserError, match="second: judged on other records of d"):
        Draws({"first": EVALUATION, "second": other})
    with pytest.raises(UserError, match="judged on other records of d"):
        Draws({"first": EVALUATION, "second": {name: EVALUATION[name] for name in "abc"}})


def test_interval_of_an_accuracy_is_that_of_the_binomial() -> None:
    rng = np.random.default_rng(1)
    right = rng.random(400) < 0.7
    draws = Draws({"cell": evaluation(judged("a", "en", "SA", [[float(r), 1, 1] for r in right]))})
    scores = draws.scores("cell", "score")
    assert scores is not None
    found = interval(scores)
    error = np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert found.value == right.mean()
    assert (found.high - found.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)


def test_differences_are_paired_by_record_and_by_seed() -> None:
    """Two systems that differ in 8 of 200 records, whose seeds differ by much more than that: the difference shows."""
    rng = np.random.default_rng(2)
    evaluations = {}
    for seed, skill in enumerate((0.3, 0.7)):
        right = (rng.random(200) < skill).astype(float)
        better = right.copy()
        better[np.flatnonzero(right == 0)[:8]] = 1
        for name, values in (("base", right), ("cell", better)):
            evaluations[f"{name}{seed}"] = evaluation(judged("a", "en", "SA", [[v, 1, 1] for v in values]))
    draws = Draws(evaluations)
    base = [draws.scores(f"base{seed}", "score") for seed in (0, 1)]
    cell = [draws.scores(f"cell{seed}", "score") for seed in (0, 1)]
    paired = interval(draws.over_seeds([c - b for c, b in zip(cell, base, strict=True)]))  # type: ignore[operator]
    own = interval(draws.over_seeds(cell))  # type: ignore[arg-type]
    assert paired.value == pytest.approx(0.04) and paired.low > 0.01
    assert own.high - own.low > 0.3  # seeds are drawn too


def test_a_fit_that_is_exact() -> None:
    x = [4.0, 8.0, 16.0, 100.0]
    scores = [np.full(11, 0.1 + 0.03 * np.log(n)) for n in x]
    fit = fit_log(x, scores)
    assert (fit.a, fit.b, fit.r2) == pytest.approx((0.1, 0.03, 1.0))
    assert fit.a_doubling.value == pytest.approx(0.03 * np.log(2)) and fit.a_doubling.shows


def test_r2_is_the_squared_correlation() -> None:
    rng = np.random.default_rng(3)
    x, y = np.geomspace(4, 100, 6), rng.random(6)
    fit = fit_log(list(x), [np.array([value, value]) for value in y])
    assert fit.r2 == pytest.approx(np.corrcoef(np.log(x), y)[0, 1] ** 2)


# --- reports ---------------------------------------------------------------------------------------------------------


def write(folder: Path, cell: str, right: float, num: int = 100) -> None:
    counts = [[float(i < round(right * num)), 1, 1] for i in range(num)]
    dataset = {"name": "a", "language": "en", "task": "SA", "kind": "classification", "baseline": 0.5}
    ids = [str(i) for i in range(num)]
    rows = {"counts": {"ids": ids, "counts": counts}, "loss": {"ids": ids, "counts": [[2 - right, 1, 1]] * num}}
    shown = {"labels": ["good", "bad"], "headline": "accuracy", "score": right, "predictions": None}
    place = folder / "evaluations" / cell
    place.mkdir(parents=True)
    report = {"datasets": [dataset | rows | shown], "system": {}, "skipped": [], "unscored": {}}
    (place / "report.json").write_text(json.dumps(report))


def numbers_config() -> dict[str, object]:
    values = [{"name": str(n), "x": n, "gin": [f"data.window={n}"]} for n in (4, 8, 16)]
    return {
        **toy_config(), "seeds": [0, 1], "axes": [{"name": "datasets", "values": values}],
        "baseline": {"datasets": "4"}, "figure": {"kind": "lines", "fit": True},
    }  # fmt: skip


def test_report_of_what_is_finished(tmp_path: Path) -> None:
    for cell, right in {"4-seed0": 0.2, "4-seed1": 0.3, "8-seed0": 0.8, "8-seed1": 0.9, "16-seed0": 0.2}.items():
        write(tmp_path, cell, right)
    keep_config(tmp_path, "seqgpt study x.py --out y", numbers_config())
    results = write_study_report(tmp_path)
    text = (tmp_path / "study.md").read_text()
    assert text.startswith("# Toy\n\n    seqgpt study x.py --out y\n")
    assert "**1 of 6 cells are not finished.**" in text
    assert "| 8 | 2 of 2 | 0.850 [" in text and "+0.600 [" in text
    by_cell = {row.cell.name: row for row in results.rows["score"]}
    assert by_cell["4"].verdict == "baseline" and by_cell["4"].by_seed == (0.2, 0.3)
    assert by_cell["8"].verdict == "higher"
    assert by_cell["16"].verdict == "no signal" and by_cell["16"].difference is not None
    assert by_cell["16"].difference.value == 0  # over the seed that both have
    assert "The majority answer, or copying nothing, scores 0.500." in text
    assert json.loads((tmp_path / "study.json").read_text())["fits"][0]["points"] == 3
    assert (tmp_path / "figures/scores.png").stat().st_size > 5000


def test_contrast_along_the_axis_that_the_baseline_leaves_open(tmp_path: Path) -> None:
    for cell, right in {"nano-off": 0.2, "nano-on": 0.7, "mini-off": 0.5, "mini-on": 0.6}.items():
        for seed in (0, 1):
            write(tmp_path, f"{cell}-seed{seed}", right)
    config = {**toy_config(), "measures": ["score", "loss"]}
    keep_config(tmp_path, "seqgpt study x.py --out y", config)
    contrast, of_loss = write_study_report(tmp_path).contrasts
    assert of_loss.estimate.value == pytest.approx(-contrast.estimate.value)  # write() makes it 2 - score
    assert (tmp_path / "study.md").read_text().count("| better at nano |") == 2
    assert (contrast.compared, contrast.axis, contrast.first, contrast.last) == ("on", "size", "nano", "mini")
    assert contrast.estimate.value == pytest.approx((0.7 - 0.2) - (0.6 - 0.5)) and contrast.estimate.shows


def test_own_measure_compares_each_cell_on_its_task(tmp_path: Path) -> None:
    values = [{"name": "all"}, {"name": "no_sa", "measure": "SA", "gin": ["data.window=8"]}]
    config = {**toy_config(), "axes": [{"name": "tasks", "values": values}], "baseline": {"tasks": "all"}}
    config["measures"] = ["own"]
    for cell, right in {"all-seed0": 0.9, "no_sa-seed0": 0.4, "all-seed1": 0.9, "no_sa-seed1": 0.4}.items():
        write(tmp_path, cell, right)
    keep_config(tmp_path, "seqgpt study x.py --out y", config)
    (row,) = write_study_report(tmp_path).rows["own"]
    assert (row.measure, row.verdict) == ("SA", "lower")
    assert "| no_sa | 2 of 2 | SA | 0.400 [" in (tmp_path / "study.md").read_text()
    assert (tmp_path / "figures/own.png").exists()


def test_nothing_finished_still_gives_a_table(tmp_path: Path) -> None:
    keep_config(tmp_path, "seqgpt study x.py --out y", numbers_config())
    write_study_report(tmp_path)
    assert (tmp_path / "study.md").read_text().count("not finished |") == 3
    with pytest.raises(UserError, match="no study"):
        write_study_report(tmp_path / "other")


def test_a_broken_report_is_named(tmp_path: Path) -> None:
    write(tmp_path, "4-seed0", 0.5)
    (tmp_path / "evaluations/4-seed0/report.json").write_text('{"datasets": [{}]}')
    keep_config(tmp_path, "seqgpt study x.py --out y", numbers_config())
    with pytest.raises(UserError, match="4-seed0/report.json: not the report of an evaluation"):
        write_study_report(tmp_path)


def test_a_loss_has_its_own_figure_and_says_what_is_better(tmp_path: Path) -> None:
    for cell, right in {"4-seed0": 0.2, "8-seed0": 0.4, "16-seed0": 0.6}.items():
        write(tmp_path, cell, right)
    config = {**numbers_config(), "measures": ["score", "loss"]}
    keep_config(tmp_path, "seqgpt study x.py --out y", config)
    results = write_study_report(tmp_path)
    assert [row.verdict for row in results.rows["loss"]] == ["baseline", "lower", "lower"]
    assert [row.score.value for row in results.rows["loss"] if row.score] == pytest.approx([1.8, 1.6, 1.4])
    assert "## loss\n\nOf the gold answers, in nats a token: lower is better." in (tmp_path / "study.md").read_text()
    assert (tmp_path / "figures/loss.png").stat().st_size > 5000
