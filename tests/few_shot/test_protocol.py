"""The protocol with a stand-in for training, and gains computed by hand."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from seqgpt_jax.cli import main
from seqgpt_jax.data.datasets import Dataset, FolderDataset
from seqgpt_jax.data.own import OwnData
from seqgpt_jax.errors import UserError
from seqgpt_jax.few_shot.gains import Result, gains_of, summarise
from seqgpt_jax.few_shot.protocol import Judgement, Settings, run_few_shot
from seqgpt_jax.few_shot.report import write_few_shot_report
from seqgpt_jax.few_shot.sampling import Shots
from seqgpt_jax.studies.locks import study_lock
from tests.tiny_data import write_data

SETTINGS = Settings(("base", "upstream"), Shots(2, 4), seeds=(1, 2), learning_rates=(0.1, 0.2))
DEV = {("base", 0.1): 0.5, ("base", 0.2): 0.4, ("upstream", 0.1): 0.3, ("upstream", 0.2): 0.6}
TEST = {"base": (0.2, 0.4), "upstream": (0.5, 0.5)}  # of seeds 1 and 2


class Stub:
    """Scores by table; counts what it is asked. stop_at: the tuning at which it dies."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.tuned: list[str] = []
        self.stop_at = stop_at

    def tune(self, own: OwnData, model: str, run_dir: Path, rate: float | None, seed: int) -> float:
        if len(self.tuned) == self.stop_at:
            raise KeyboardInterrupt
        self.tuned.append(run_dir.name)
        assert rate is not None
        run_dir.mkdir(parents=True)
        (run_dir / "model").write_text(f"{model} {rate} {seed} {own.meta.splits['train']}")
        return DEV[model, rate]

    def judge(self, run_dir: Path, dataset: Dataset, predictions_dir: Path) -> Judgement:
        model, rate, seed, num_train = (run_dir / "model").read_text().split()
        assert float(rate) == {"base": 0.1, "upstream": 0.2}[model]  # what validation chose
        assert num_train == {"CLS": "6", "NER": "4"}[dataset.declared.task]
        return Judgement("accuracy", TEST[model][int(seed) - 1], 6)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    root = write_data(tmp_path_factory.mktemp("few_shot") / "data")
    return [FolderDataset(root / "en" / name) for name in ("tiny_topics", "tiny_ner")]


def test_each_model_is_tuned_on_each_sample(datasets: list[Dataset], tmp_path: Path) -> None:
    stub = Stub()
    results = run_few_shot(datasets, SETTINGS, tmp_path, stub)
    assert len(stub.tuned) == 2 * 2 * 2 * 2  # datasets, samples, models, rates
    assert [(r.dataset, r.seed, r.arm, r.score) for r in results[:4]] == [
        ("tiny_topics", 1, "without", 0.2),
        ("tiny_topics", 1, "with", 0.5),
        ("tiny_topics", 2, "without", 0.4),
        ("tiny_topics", 2, "with", 0.5),
    ]
    assert (results[1].learning_rate, results[1].dev_scores) == (0.2, {"0.1": 0.3, "0.2": 0.6})
    assert (results[1].num_train, results[1].num_validation, results[1].num_test) == (6, 6, 6)
    assert list((tmp_path / "runs").iterdir()) == []
    # Once more: nothing is left to do, and the report is the same.
    before = (tmp_path / "few_shot.json").read_bytes()
    assert run_few_shot(datasets, SETTINGS, tmp_path, Stub(stop_at=0)) == results
    assert (tmp_path / "few_shot.json").read_bytes() == before


def test_it_goes_on_where_it_was_cut_off(datasets: list[Dataset], tmp_path: Path) -> None:
    cut = Stub(stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        run_few_shot(datasets, SETTINGS, tmp_path / "cut", cut)
    assert len(list((tmp_path / "cut" / "results").iterdir())) == 2
    rest = Stub()
    shutil.rmtree(tmp_path / "cut" / "runs")  # the stub's runs cannot be gone on with
    results = run_few_shot(datasets, SETTINGS, tmp_path / "cut", rest)
    assert len(rest.tuned) == 16 - 4
    whole = run_few_shot(datasets, SETTINGS, tmp_path / "whole", Stub())
    assert [replace(r, seconds=0) for r in results] == [replace(r, seconds=0) for r in whole]


def test_two_in_one_folder_are_refused(datasets: list[Dataset], tmp_path: Path) -> None:
    with study_lock(tmp_path, shared=False), pytest.raises(UserError, match="runs here already"):
        run_few_shot(datasets, SETTINGS, tmp_path, Stub())
    assert run_few_shot(datasets[:1], SETTINGS, tmp_path, Stub())


def test_other_settings_are_refused_and_other_samples_are_not(datasets: list[Dataset], tmp_path: Path) -> None:
    run_few_shot(datasets[:1], SETTINGS, tmp_path, Stub())
    with pytest.raises(UserError, match=r"other settings \(test_limit None and not 5; choose another --out\)"):
        run_few_shot(datasets, replace(SETTINGS, test_limit=5), tmp_path, Stub())
    with pytest.raises(UserError, match="learning_rates"):
        run_few_shot(datasets, replace(SETTINGS, learning_rates=(None,)), tmp_path, Stub())
    stub = Stub()
    run_few_shot(datasets, replace(SETTINGS, seeds=(1,)), tmp_path, stub)
    assert len(stub.tuned) == 4  # the second dataset alone


# --- gains -----------------------------------------------------------------------------------------------------------


def result(dataset: str, seed: int, arm: str, score: float, language: str = "en") -> Result:
    return Result(dataset, "CLS", language, seed, arm, "accuracy", score, 32, 32, 200, {}, None, {}, 1.0)


def both(dataset: str, without: list[float], with_upstream: list[float]) -> list[Result]:
    arms = {"without": without, "with": with_upstream}
    return [result(dataset, seed, arm, score) for arm in arms for seed, score in enumerate(arms[arm])]


def test_the_average_relative_gain_by_hand() -> None:
    """0.2 -> 0.3 is +50%, 0.8 -> 0.6 is -25%: ARG is their mean, and not that of the mean scores (-10%)."""
    gains = gains_of([*both("a", [0.1, 0.3], [0.2, 0.4]), *both("b", [0.8, 0.8], [0.5, 0.7])])
    assert [gain.relative for gain in gains] == [pytest.approx(0.5), pytest.approx(-0.25)]
    assert gains[0].differences == pytest.approx((0.1, 0.1))
    summary = summarise(gains)
    assert summary.arg == pytest.approx(0.125)
    assert summary.absolute == pytest.approx((0.1 - 0.2) / 2)
    assert (summary.undefined, summary.near_zero) == ((), ())


def test_a_baseline_of_0_or_near_it_is_named(tmp_path: Path) -> None:
    """0 has no relative gain; 0.01 -> 0.11 is +1000%, which makes an ARG of +525% with 0.5 -> 0.75."""
    results = [*both("zero", [0.0], [0.4]), *both("near", [0.01], [0.11]), *both("sound", [0.5], [0.75])]
    summary = summarise(gains_of(results))
    assert (summary.undefined, summary.near_zero) == (("zero",), ("near",))
    assert (summary.arg, summary.arg_sound) == (pytest.approx(5.25), pytest.approx(0.5))
    assert summary.absolute == pytest.approx((0.4 + 0.1 + 0.25) / 3)
    text = write_few_shot_report(tmp_path, results, {})
    assert "ARG +525.0% over 2 of 3 datasets, absolute gain +25.0 points over all." in text
    assert "No relative gain, because the baseline is 0: zero." in text
    assert "**ARG says little here**" in text
    assert "(near); without them it is +50.0%." in text
    assert "| zero | CLS | accuracy | 1 | 0.0 | 40.0 | +40.0 | undefined |" in text
    assert summarise(gains_of(both("zero", [0.0], [0.4]))).arg is None


def test_deviations_are_over_samples(tmp_path: Path) -> None:
    """Of 0.1, 0.3: 0.141 (n - 1). Differences 0.4, 0.0: mean 0.2, deviation 0.283."""
    text = write_few_shot_report(tmp_path, both("a", [0.1, 0.3], [0.5, 0.3]), {"epochs": 3})
    assert "| a | CLS | accuracy | 2 | 20.0 ± 14.1 | 40.0 ± 14.1 | +20.0 ± 28.3 | +100.0% |" in text
    assert "- epochs: 3" in text
    report = json.loads((tmp_path / "few_shot.json").read_text())
    assert report["datasets"][0]["absolute_deviation"] == pytest.approx(0.2828, abs=1e-4)
    assert report["per_language"]["en"]["per_task"]["CLS"]["arg"] == pytest.approx(1.0)


def test_samples_of_one_model_alone_do_not_count() -> None:
    results = [*both("a", [0.2], [0.3]), result("a", 7, "with", 0.9), result("b", 7, "with", 0.9)]
    (gain,) = gains_of(results)
    assert gain.with_upstream == (0.3,)


def test_languages_are_kept_apart(tmp_path: Path) -> None:
    results = [*both("a", [0.2], [0.3])]
    results += [replace(each, language="zh", score=2 * each.score) for each in results]
    report_text = write_few_shot_report(tmp_path, results, {})
    assert [line for line in report_text.splitlines() if line.startswith("## ")] == ["## en", "## zh"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mixture", "mini_real"], "--model, --upstream, --out is missing (give --model, --upstream and --out)"),
        (["--mixture", "mini_real", "--show_upstream"], "--show_upstream is that of a partition (give --partition"),
        (["--partition", "randm"], "unknown partition 'randm' (did you mean random"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fewshot", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_upstream_side_is_printed(
    datasets: list[Dataset], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQGPT_DATA_DIR", str(datasets[0].place.rsplit("/", 2)[0]))
    assert main(["fewshot", "--partition", "classification_to_classification", "--show_upstream"]) == 0
    assert capsys.readouterr().out == "held_in_cls\n"
