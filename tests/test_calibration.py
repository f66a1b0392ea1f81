"""calibration.py and calibration_fit.py: numbers by hand, scikit-learn, and temperatures that are found again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score, log_loss

from seqgpt_jax.answering import Answered
from seqgpt_jax.atomic import AtomicExample, decompose
from seqgpt_jax.calibration import Calibration
from seqgpt_jax.calibration_fit import (
    Judged,
    calibrate,
    describe,
    fit,
    fit_choice_temperature,
    fit_temperature,
    fit_threshold,
    limit_for_precision,
    reliability,
)
from seqgpt_jax.data.mixtures import find_folder_datasets
from seqgpt_jax.errors import UserError
from seqgpt_jax.predictor import RecordPrediction
from seqgpt_jax.prompt import Parsed
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, ExtractionRecord, Record, Span
from tests.tiny_data import write_data

# --- the calibration -------------------------------------------------------------------------------------------------


def test_probabilities_by_hand() -> None:
    calibration = Calibration(choice_temperature=2.0, label_temperature=0.5, span_temperature=2.0)
    # square roots of 0.64, 0.36 and 0 are 0.8, 0.6 and 0, of a sum of 1.4
    assert calibration.choice({"a": 0.64, "b": 0.36, "c": 0.0}) == pytest.approx(
        {"a": 0.8 / 1.4, "b": 0.6 / 1.4, "c": 0}
    )
    # odds of 0.8 are 4: their square root is 2, their square 16
    assert calibration.span(0.8) == pytest.approx(2 / 3)
    assert calibration.label(0.8) == pytest.approx(16 / 17)
    assert calibration.span(0.2) == pytest.approx(1 / 3)
    assert (calibration.span(0.0), calibration.span(1.0)) == (0.0, 1.0)


def test_nothing_changes_without_a_calibration() -> None:
    assert Calibration().choice({"a": 0.6, "b": 0.1}) == {"a": 0.6, "b": 0.1}
    assert (Calibration().span(0.3), Calibration().label(0.7), Calibration().label_threshold) == (0.3, 0.7, 0.5)
    assert Calibration(choice_temperature=3.0).choice({}) == {}


def test_extreme_probabilities_stay_in_range() -> None:
    sharp, flat = Calibration(span_temperature=0.05, choice_temperature=0.05), Calibration(span_temperature=20.0)
    for p in (1e-300, 1e-9, 1 - 1e-12):
        assert 0 <= sharp.span(p) <= 1
        assert 0 < flat.span(p) < 1
    assert sharp.choice({"a": 1e-300, "b": 1e-200}) == {"a": 0.0, "b": 1.0}


def test_it_is_kept_beside_the_model(tmp_path: Path) -> None:
    assert Calibration.load(tmp_path) == Calibration()
    calibration = Calibration(choice_temperature=1.5, span_abstain_below=0.75)
    calibration.save(tmp_path)
    assert Calibration.load(tmp_path) == calibration
    assert json.loads((tmp_path / "calibration.json").read_text())["choice_temperature"] == 1.5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "calibration.json: no JSON"),
        ("[1]", "calibration.json: no JSON object"),
        ('{"heat": 1}', "calibration.json: unknown field 'heat'"),
        ('{"span_temperature": 0}', "calibration.json: calibration.span_temperature is 0.0 .it must be above 0"),
        ('{"span_temperature": "a"}', "calibration.json: calibration.span_temperature is 'a' .it must be a number"),
        ('{"label_threshold": 1.5}', "calibration.json: calibration.label_threshold is 1.5 .it must lie in 0..1"),
    ],
)
def test_a_file_that_is_no_calibration(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(UserError, match=problem):
        Calibration.load(tmp_path)


# --- fitting ---------------------------------------------------------------------------------------------------------


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_the_temperature_of_choices_is_found_again(temperature: float) -> None:
    """Labels are drawn by softmax(scores); the model says softmax(scores * T), so that T undoes it."""
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 2, (20_000, 5))
    right = (rng.random((len(scores), 1)) > _softmax(scores).cumsum(axis=1)[:, :-1]).sum(axis=1)
    said = _softmax(scores * temperature)
    choices = [(row.tolist(), int(place)) for row, place in zip(said, right, strict=True)]
    found = fit_choice_temperature(choices)
    assert found == pytest.approx(temperature, rel=0.03)

    def loss(tried: float) -> float:
        return log_loss(right, _softmax(np.log(said) / tried), labels=range(5))

    assert loss(found) < min(loss(found * 1.005), loss(found / 1.005))
    assert fit(Judged(choices=choices)).choice_temperature == found


def test_choices_of_different_numbers_of_labels() -> None:
    """Half of the questions have two labels; padding must not weigh."""
    rng = np.random.default_rng(1)
    choices = []
    for number in range(8_000):
        scores = rng.normal(0, 2, 2 if number % 2 else 6)
        right = int(rng.choice(len(scores), p=_softmax(scores)))
        choices.append((_softmax(scores * 2).tolist(), right))
    assert fit_choice_temperature(choices) == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_temperature_of_spans_is_found_again(temperature: float) -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0.5, 2, 20_000)
    right = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    said = 1 / (1 + np.exp(-logits * temperature))
    found = fit_temperature(said, right)
    assert found == pytest.approx(temperature, rel=0.03)
    calibration = Calibration(span_temperature=found)
    assert calibration.span(float(said[0])) == pytest.approx(1 / (1 + math.exp(-logits[0])), abs=0.02)


def test_too_few_answers_change_nothing() -> None:
    judged = Judged([([0.9, 0.1], 1)] * 29, [(0.9, False)] * 29, [(0.9, False)] * 29, 29)
    assert fit(judged, precision=0.9) == Calibration()


def test_the_threshold_of_several_labels_has_the_best_micro_f1() -> None:
    rng = np.random.default_rng(3)
    said = np.round(rng.random(300), 2)
    right = rng.random(300) < said**2
    found = fit_threshold(said, right, int(right.sum()))
    best = max(f1_score(right, said > threshold, zero_division=0) for threshold in np.arange(-0.005, 1, 0.01))
    assert f1_score(right, said > found) == pytest.approx(best)
    assert fit_threshold(np.array([0.2, 0.8]), np.array([False, False]), 0) == 0.5


def test_labels_that_hold_but_were_not_scored_count_as_missed() -> None:
    said, right = np.array([0.9, 0.7, 0.6, 0.4, 0.2]), np.array([True, False, False, False, True])
    # F1 with the first alone and with all five: of 2 gold labels 2/3 and 4/7, of 10 2/11 and 4/15
    assert fit_threshold(said, right, 2) == pytest.approx(0.8)
    assert fit_threshold(said, right, 10) == pytest.approx(0.1)


def test_limits_for_a_precision_by_hand() -> None:
    said = np.array([0.9, 0.8, 0.8, 0.6, 0.5])
    right = np.array([True, True, False, True, False])
    # precision at 0.9: 1; at 0.8: 2/3 (both are in or out together); at 0.6: 3/4; at 0.5: 3/5
    assert limit_for_precision(said, right, 0.75) == 0.6
    assert limit_for_precision(said, right, 0.7) == 0.6
    assert limit_for_precision(said, right, 0.8) == 0.9
    assert limit_for_precision(said, right, 0.5) == 0.5
    assert limit_for_precision(said[2:3], right[2:3], 0.5) is None


# --- how reliable ----------------------------------------------------------------------------------------------------


def test_ece_by_hand() -> None:
    # bins of a fifth: two answers at 0.9 (one right), one at 0.5 (right), one at 0.2, where a bin begins (wrong)
    bins = reliability(np.array([0.9, 0.9, 0.5, 0.2]), np.array([True, False, True, False]), num_bins=5)
    assert bins.counts.tolist() == [1, 1, 2]
    assert bins.ece == pytest.approx(0.25 * 0.2 + 0.25 * 0.5 + 0.5 * 0.4)
    assert reliability(np.array([1.0, 0.0]), np.array([True, False])).ece == 0.0
    assert reliability(np.array([]), np.array([], bool)).ece == 0.0


def test_bins_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    said = rng.random(1_000)
    right = rng.random(1_000) < said
    bins = reliability(said, right)
    shares, means = calibration_curve(right, said, n_bins=15)
    np.testing.assert_allclose(bins.shares_right, shares)
    np.testing.assert_allclose(bins.mean_probabilities, means)


# --- from predictions ------------------------------------------------------------------------------------------------


def _said(question: AtomicExample, probabilities: dict[tuple[str, ...], float]) -> Answered:
    return Answered(question, "", Parsed(question.answer), probabilities=probabilities)


def test_what_is_right_comes_from_gold() -> None:
    names = DatasetMeta("names", "NER", "en", ("who", "where"))
    spans = ExtractionRecord(
        "0", "NER", "Ada met Bob in Rome", (Span("who", 0, 3, "Ada"), Span("where", 15, 19, "Rome"))
    )
    topics = DatasetMeta("topics", "CLS", "en", ("a", "b", "c"))
    one, two = (ClassificationRecord(str(i), "CLS", "text", held) for i, held in enumerate([("b",), ("a", "c")]))
    judged = Judged()
    several = replace(topics, multi_label=True)
    for record, meta, probabilities in (
        (spans, names, {("who", "Ada"): 0.9, ("who", "Rome"): 0.3, ("where", "Rome"): 0.8}),
        (one, topics, {("a",): 0.2, ("b",): 0.7, ("c",): 0.1}),
        (one, topics, {("b",): 0.7}),  # a search that ended early says nothing about the others
        (two, several, {("a",): 0.6, ("b",): 0.5}),
    ):
        (question,) = decompose(record, meta)
        judged.add(record, meta, RecordPrediction(record, (_said(question, probabilities),)))
    assert judged.spans == [(0.9, True), (0.3, False), (0.8, True)]
    assert judged.choices == [([0.2, 0.7, 0.1], 1)]
    assert judged.labels == [(0.6, True), (0.5, False)]
    assert judged.num_labels_gold == 2


class _Overconfident:
    """Right about every second record of topics, always at 0.95; right about one of the two names, at 0.9 and 0.6."""

    def predict_records(
        self,
        records: Sequence[Record],
        metas: Sequence[DatasetMeta],
        split: str = "test",
        progress: bool = False,
        all_probabilities: bool = False,
    ) -> list[RecordPrediction]:
        assert all_probabilities
        predictions = []
        for number, (record, meta) in enumerate(zip(records, metas, strict=True)):
            answered = []
            for question in decompose(record, meta, split):
                if question.kind == "classify":
                    labels = question.labels
                    index = int(record.text.split()[1]) % 3 if (number // 2) % 2 else 0
                    rest = 0.05 / (len(labels) - 1)
                    p = {(label,): 0.95 if place == index else rest for place, label in enumerate(labels)}
                else:
                    p = {("person", "Charles"): 0.9, ("city", "May"): 0.6}
                answered.append(_said(question, p))
            predictions.append(RecordPrediction(record, tuple(answered)))
        return predictions


def test_from_a_predictor_to_the_files(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", {"train": 1, "validation": 80, "test": 1})
    datasets = [d for d in find_folder_datasets(root / "en") if d.meta.name in ("tiny_topics", "tiny_ner")]
    said = calibrate(_Overconfident(), datasets, tmp_path, precision=0.9)
    calibration = Calibration.load(tmp_path)
    # two thirds of the choices are right: T makes 0.95, 0.025, 0.025 into about as much
    assert calibration.choice_temperature > 1.5
    assert calibration.span_abstain_below == pytest.approx(calibration.span(0.9))
    assert calibration.choice_abstain_below is None
    assert "choices: no limit gives a precision of 0.9" in said
    assert "spans: a limit of" in said
    assert "precision 1.000 on 50.0% of the other half" in said
    lines = said.splitlines()
    choices = next(line for line in lines if line.startswith("choices ")).split()
    assert choices[1] == choices[3] == "40"
    assert float(choices[-1]) < 0.1 < float(choices[-2])
    assert (tmp_path / "calibration.png").stat().st_size > 5_000


def test_too_little_to_fit_on(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", {"train": 1, "validation": 6, "test": 1})
    datasets = [d for d in find_folder_datasets(root / "en") if d.meta.name == "tiny_topics"]
    with pytest.raises(UserError, match="fewer than 60 answers of any kind to fit on"):
        calibrate(_Overconfident(), datasets, tmp_path)
    assert not (tmp_path / "calibration.json").exists()
    assert "too few" in describe(Calibration(), Judged(spans=[(0.5, True)]), Judged(), None)
