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


def judged_recipe(tmp_path: Path, patience: int | None = 2, keep: int = 1) -> Recipe:
    stages = (
        Stage("one", "synthetic", 20, optimizer=TOY_ADAMW, evaluations=(DEV,), evaluate_every=3, patience=patience),
        Stage("two", "mini_real", 2, optimizer=TOY_ADAMW),
    )
    return toy_recipe(tmp_path, stages=stages, checkpoint=CheckpointSettings(every=4, keep=keep))


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


def test_it_stops_and_goes_on_from_the_best(undisturbed: tuple[TrainResult, Params, Script], tmp_path: Path) -> None:
    result, params, script = undisturbed
    assert script.num_calls == 4
    assert evaluation_rows(result.run_dir) == [
        {"stage": "one", "step": step, "evaluation": "dev", "score": score, "accuracy": 0.1}
        for step, score in SCORES.items()
    ]
    assert [stage.steps for stage in result.stages] == [12, 2]
    folder = checkpoint_folder(result.run_dir, "one")
    assert {child.name for child in folder.iterdir() if child.name.isdecimal()} == {"6", "12"}
    # The same stage without patience goes to its end, which is judged too, and kept every checkpoint.
    free = judged_recipe(tmp_path, patience=None, keep=99)
    free_result = run(dataclasses.replace(free, stages=free.stages[:1]), tmp_path / "run", evaluator=Script([0.5] * 7))
    assert [row["step"] for row in evaluation_rows(tmp_path / "run")] == [3, 6, 9, 12, 15, 18, 20]
    assert [stage.steps for stage in free_result.stages] == [20]
    abstract = jax.tree.map(np.zeros_like, params)
    best = restore_params(checkpoint_folder(tmp_path / "run", "one"), abstract, step=6)
    jax.tree.map(np.testing.assert_array_equal, restore_params(folder, abstract), best)


@pytest.mark.parametrize("when", ["before the evaluation", "after the row", "before the end is marked", "by a signal"])
def test_killed_it_ends_the_same(
    undisturbed: tuple[TrainResult, Params, Script], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    want, want_params, script = undisturbed
    calls_before = script.num_calls

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if when == "before the evaluation":
            evaluate = StageEvaluations.run
            patch.setattr(
                StageEvaluations, "run", lambda self, step, params: (evaluate if step < 6 else die)(self, step, params)
            )
        elif when == "after the row":
            write = Journal.write_evaluation
            patch.setattr(Journal, "write_evaluation", lambda *arguments: (write(*arguments), die()))
        elif when == "before the end is marked":
            patch.setattr(StageCheckpoints, "finish", die)
        else:
            patch.setattr(Script, "__call__", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted if when == "by a signal" else Killed):
            run(judged_recipe(tmp_path), tmp_path / "run", evaluator=script)
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
