"""A stage that is judged while it trains: what is written, when it stops, and that a killed run decides the same."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import pytest

from seqgpt_jax.recipe import CheckpointSettings, EvaluationSettings, Recipe, Stage
from seqgpt_jax.training.checkpoints import StageCheckpoints, checkpoint_folder, restore_params
from seqgpt_jax.training.journal import Journal
from seqgpt_jax.training.loop import TrainResult, _Run
from seqgpt_jax.training.partitioning import Params, params_of
from seqgpt_jax.training.signals import Interrupted
from seqgpt_jax.training.sinks import EVALUATIONS_FILE, read_rows
from seqgpt_jax.training.stage_evaluation import StageEvaluations
from tests.training.test_loop import Killed, rows_without_time, run, toy_recipe, toy_run
from tests.training.toy import SKELETON, TOY_ADAMW, host_params

DEV = EvaluationSettings("dev", "mini_real", "validation")
SCORES = {3: 0.3, 6: 0.5, 9: 0.5, 12: 0.4}  # the second best is no better, so step 6 is the best, and 12 the end


def judged_recipe(tmp_path: Path) -> Recipe:
    stages = (
        Stage("one", "synthetic", 20, optimizer=TOY_ADAMW, evaluations=(DEV,), evaluate_every=3, patience=2),
        Stage("two", "mini_real", 2, optimizer=TOY_ADAMW),
    )
    return toy_recipe(tmp_path, stages=stages, checkpoint=CheckpointSettings(every=100, keep=1))


class Script:
    """Gives the scores in order, and to weights that it has seen the score that it gave them."""

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.given, self.num_calls = iter(scores), dict[bytes, float](), 0

    def __call__(self, model: Any, vocabulary: Any, settings: EvaluationSettings) -> dict[str, float]:
        self.num_calls += 1
        weights = np.asarray(model.embedding[...]).tobytes()
        if weights not in self.given:
            self.given[weights] = next(self.scores)
        return {"score": self.given[weights], "accuracy": 0.1}


def evaluation_rows(run_dir: Path) -> list[dict[str, Any]]:
    rows = read_rows(run_dir, file=EVALUATIONS_FILE)
    assert all(row.pop("time")["seconds"] > 0 for row in rows)
    return rows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, Params, Script]:
    with pytest.MonkeyPatch().context() as monkeypatch:
        toy_run.__wrapped__(monkeypatch)
        folder, script = tmp_path_factory.mktemp("judged"), Script(list(SCORES.values()))
        result = run(judged_recipe(folder), folder / "run", evaluator=script)
    return result, jax.device_get(params_of(result.model)), script


def test_it_stops_and_goes_on_from_the_best(undisturbed: tuple[TrainResult, Params, Script]) -> None:
    result, _, script = undisturbed
    assert script.num_calls == 4
    assert evaluation_rows(result.run_dir) == [
        {"stage": "one", "step": step, "evaluation": "dev", "score": score, "accuracy": 0.1}
        for step, score in SCORES.items()
    ]
    assert [stage.steps for stage in result.stages] == [12, 2]
    folder = checkpoint_folder(result.run_dir, "one")
    assert {child.name for child in folder.iterdir() if child.name.isdecimal()} == {"6", "12"}
    judged_at_6 = list(script.given)[1]
    best = restore_params(folder, jax.tree.map(np.zeros_like, host_params()))
    assert np.asarray(best["embedding"]).tobytes() == judged_at_6


def test_killed_again_and_again_it_ends_the_same(
    undisturbed: tuple[TrainResult, Params, Script], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want, want_params, script = undisturbed
    calls_before = script.num_calls
    evaluate, write = StageEvaluations.run, Journal.write_evaluation

    def die(*_: Any) -> None:
        raise Killed

    def die_before_the_evaluation(self: StageEvaluations, step: int, params: Params) -> None:
        (evaluate if step < 6 else die)(self, step, params)

    def die_after_the_row(*arguments: Any) -> None:
        write(*arguments)
        die()

    deaths = [
        (StageEvaluations, "run", die_before_the_evaluation, Killed),
        (Journal, "write_evaluation", die_after_the_row, Killed),
        (Script, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGTERM), Interrupted),
        (StageCheckpoints, "finish", die, Killed),
    ]
    for owner, name, death, error in deaths:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, death)
            with pytest.raises(error):
                run(judged_recipe(tmp_path), tmp_path / "run", evaluator=script)
    steps = [row["step"] for row in evaluation_rows(tmp_path / "run")]
    assert steps == [3, 6, 9, 12]
    result = run(judged_recipe(tmp_path), tmp_path / "run", evaluator=script)
    assert script.num_calls - calls_before == 4  # no row was made twice
    assert evaluation_rows(tmp_path / "run") == evaluation_rows(want.run_dir)
    assert rows_without_time(tmp_path / "run") == rows_without_time(want.run_dir)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params_of(result.model)), want_params)


def test_the_mean_of_several_evaluations_decides(tmp_path: Path) -> None:
    stage = Stage(
        "one", "synthetic", 20, evaluate_every=5, patience=1,
        evaluations=(DEV, dataclasses.replace(DEV, name="other")),
    )  # fmt: skip
    scores = iter([0.4, 0.4, 0.9, 0.1, np.nan, 0.9])
    with Journal(tmp_path, "one", 0, 20, show_progress=False) as journal:
        evaluations = StageEvaluations(tmp_path, stage, 20, journal, lambda *_: {"score": next(scores)})
        evaluations.run(4, {})
        assert (evaluations.best_step(), evaluations.is_over()) == (None, False)
        evaluations.run(5, {})
        assert (evaluations.best_step(), evaluations.is_over()) == (5, False)
        evaluations.run(10, {})
        assert (evaluations.best_step(), evaluations.is_over()) == (10, False)
        evaluations.run(15, {})  # one of the two is not a number
        assert (evaluations.best_step(), evaluations.is_over()) == (10, True)
        evaluations.run(15, {})
        assert [step for step in range(1, 21) if evaluations.is_due(step)] == [5, 10, 15, 20]
        at_the_end = StageEvaluations(
            tmp_path, dataclasses.replace(stage, evaluate_every=None, patience=None), 18, journal, lambda *_: {}
        )
        assert [step for step in range(19) if at_the_end.is_due(step)] == [18]
    assert len(evaluation_rows(tmp_path)) == 6
    assert read_rows(tmp_path, file=EVALUATIONS_FILE)[4]["score"] is None


def test_the_model_that_is_judged_is_the_one_that_trains(tmp_path: Path) -> None:
    """No second copy of the weights."""
    nothing, seen = cast(Any, None), list[Any]()
    weights = cast(Any, SimpleNamespace(skeleton=SKELETON, start=SimpleNamespace(vocabulary=None)))

    def see(model: Any, *_: Any) -> dict[str, float]:
        seen.append(model)
        return {}

    params = jax.device_put(host_params())
    _Run(nothing, tmp_path, nothing, weights, see, "", nothing, nothing, (), False).judge(params, DEV)
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(params_of(seen[0])), strict=True):
        assert ours is theirs
