"""The trainer: a run that is cut off anywhere ends where it would have ended."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from seqgpt_jax.data.loader import Batch
from seqgpt_jax.data.packing import RowShape
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.lora import LoraConfig
from seqgpt_jax.recipe import CheckpointSettings, DataSettings, MeshSettings, Recipe, Stage
from seqgpt_jax.training import batches, loop, steps
from seqgpt_jax.training.checkpoints import StageCheckpoints, checkpoint_folder, load_run, saved_stages
from seqgpt_jax.training.faults import BadSteps
from seqgpt_jax.training.finished import Finished
from seqgpt_jax.training.journal import Journal, summarise_stage
from seqgpt_jax.training.loop import TrainResult, train
from seqgpt_jax.training.partitioning import params_of
from seqgpt_jax.training.profiler import Profiler, ProfileWindow
from seqgpt_jax.training.run_directory import claim_run_dir
from seqgpt_jax.training.signals import Interrupted, SignalWatch
from seqgpt_jax.training.sinks import read_rows
from seqgpt_jax.training.stage_evaluation import StageEvaluations
from seqgpt_jax.training.start import StartingPoint
from seqgpt_jax.training.step import StepMetrics
from seqgpt_jax.vocabulary import train_tokenizer
from tests.training.toy import CONFIG, SKELETON, TOY_ADAMW, TOY_MUON, ToySource, host_params, packed_batch


class Killed(BaseException):
    """Stands for kill -9: nothing after it runs."""


@pytest.fixture(autouse=True)
def toy_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy caches and a toy model in place of real ones."""
    vocabulary = train_tokenizer(["some text"], 300)
    sources = [ToySource("a", 60, seed=1), ToySource("b", 30, seed=2)]
    monkeypatch.setattr(batches, "ensure_cache", lambda spec, cache_dir, progress: sources)
    monkeypatch.setattr(loop, "prepare_start", lambda recipe, run_dir: StartingPoint(vocabulary, CONFIG, None))


def toy_recipe(tmp_path: Path, **changes: Any) -> Recipe:
    recipe = Recipe(
        stages=(
            Stage("one", "synthetic", 7, optimizer=dataclasses.replace(TOY_MUON, ema_decay=0.5)),
            Stage("two", "mini_real", 6, optimizer=TOY_ADAMW, freeze_half=True),
        ),
        data=DataSettings(
            cache_dir=str(tmp_path / "cache"), rows_per_step=8, row_tokens=40, row_supervised=12, window=32
        ),
        checkpoint=CheckpointSettings(every=3),
    )
    return dataclasses.replace(recipe, **changes)


def run(recipe: Recipe, run_dir: Path, **options: Any) -> TrainResult:
    return train(recipe, run_dir, config_text="seed = 1\n", show_progress=False, **options)


def test_rates_of_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, float] = {}
    monkeypatch.setattr(batches, "BatchPlan", lambda tasks, *_: given.update({task.name: task.rate for task in tasks}))
    monkeypatch.setattr(batches, "Loader", lambda *_: None)
    sources = [ToySource("a", 64, seed=1), ToySource("b_entities", 16, seed=2), ToySource("b_relation", 4, seed=3)]
    stage = Stage("one", "synthetic", 7, rate_cap=36, temperature=2.0, weights={"b": 3.0})
    batches.make_loader(sources, toy_recipe(tmp_path), stage)
    assert given == {"a": 6.0, "b_entities": 12.0, "b_relation": 6.0}


def test_a_length_in_epochs_or_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """90 examples, of which eight rows of 40 tokens hold about two each."""
    lengths = {"steps": 2, "examples": 40, "epochs": 1.5}
    stages = tuple(Stage(name, "synthetic", **{name: value}) for name, value in lengths.items())  # type: ignore[arg-type]
    recipe = toy_recipe(tmp_path, stages=stages, checkpoint=CheckpointSettings(every=100))
    plan = batches.make_loader([ToySource("a", 60, seed=1), ToySource("b", 30, seed=2)], recipe, stages[0]).plan
    steps_of = {stage.name: batches.steps_of_stage(stage, plan) for stage in stages}
    assert steps_of == {"steps": 2, "examples": plan.steps_until(40), "epochs": plan.steps_until(135)}
    assert 1 < steps_of["examples"] < steps_of["epochs"] < 15
    result = train(recipe, tmp_path / "run")
    assert "stage epochs: 1.5 epochs are " in capsys.readouterr().err
    assert {stage.name: stage.steps for stage in result.stages} == steps_of
    assert {info.name: info.steps for info in saved_stages(tmp_path / "run")} == steps_of
    rows = read_rows(tmp_path / "run", "epochs")  # all of them warm-up, which ends with the stage
    assert rows[-1]["learning_rate"] == pytest.approx(0.02)


def rows_without_time(run_dir: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "time"} for row in read_rows(run_dir)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainResult, Any]:
    patch = pytest.MonkeyPatch()
    with patch.context() as monkeypatch:
        toy_run.__wrapped__(monkeypatch)
        folder = tmp_path_factory.mktemp("undisturbed")
        result = run(toy_recipe(folder), folder / "run", profile=ProfileWindow(3, 4))
    return result, jax.device_get(params_of(result.model))


def test_a_run_leaves_what_it_should(undisturbed: tuple[TrainResult, Any]) -> None:
    result, end = undisturbed
    assert [(stage.name, stage.steps) for stage in result.stages] == [("one", 7), ("two", 6)]
    assert all(stage.loss_last < stage.loss_first for stage in result.stages)
    assert all(stage.tokens_per_second > stage.supervised_per_second > 0 for stage in result.stages)
    rows = read_rows(result.run_dir)
    assert [(row["stage"], row["step"]) for row in rows] == [("one", n) for n in range(1, 8)] + [
        ("two", n) for n in range(1, 7)
    ]
    assert set(rows[0]) == {
        "stage", "step", "loss", "accuracy", "learning_rate", "grad_norm", "tokens", "targets", "padding", "time",
    }  # fmt: skip
    assert set(rows[0]["time"]) == {"seconds", "tokens_per_second", "supervised_per_second", "data_seconds"}
    assert (result.run_dir / "config.gin").read_text() == "seed = 1\n"
    for stage, kept in (("one", {"6", "7"}), ("two", {"3", "6"})):
        folder = checkpoint_folder(result.run_dir, stage)
        assert {child.name for child in folder.iterdir() if child.is_dir()} == kept
        assert (folder / "config.gin").read_text() == "seed = 1\n"
        finished = json.loads((folder / "finished.json").read_text())
        steps = {"one": 7, "two": 6}[stage]
        assert finished == {"step": steps, "best_step": None, "length": {"steps": steps}}
    assert list((result.run_dir / "tensorboard").iterdir())
    one, two = saved_stages(result.run_dir)
    assert (one.steps, one.frozen_layers, two.steps, len(two.frozen_layers)) == (7, (), 6, 1)
    assert (checkpoint_folder(result.run_dir, "one") / "7" / "averaged").is_dir()
    traces = list((result.run_dir / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1  # of the first stage alone
    assert traces[0].stat().st_size > 1000
    info = (result.run_dir / "model_info.txt").read_text().splitlines()
    total, (layer,) = SKELETON.num_parameters(), two.frozen_layers
    a_block = sum(leaf.size for leaf in jax.tree.leaves(SKELETON.shapes["blocks"])) // 2
    assert info[:4] == [
        "stage two", f"{total:,} parameters, {total - a_block:,} of them trained",
        f"blocks that stay as they are: {layer} of 2", "mesh data=8 fsdp=1 tensor=1: 8 devices of kind cpu",
    ]  # fmt: skip
    assert "optimiser: name adamw, learning_rate 0.01" in info[4]
    assert "temporaries" in info[5]
    (embedding,) = (line.split("  ") for line in info if line.startswith("embedding "))
    assert [cell.strip() for cell in embedding if cell] == [
        "embedding", "64x32", "float32", "(vocab, embed)", "(tensor, fsdp)", "100%", "8,192",
    ]  # fmt: skip
    # The second stage goes on from the average of the first, and leaves a layer as it was; its optimiser is its own.
    averaged, params = (
        ocp.StandardCheckpointer().restore(checkpoint_folder(result.run_dir, "one") / "7" / name)
        for name in ("averaged", "params")
    )
    kernels = (tree["blocks"]["up"]["kernel"][layer] for tree in (end, averaged, params))
    final, kept, other = (np.asarray(kernel) for kernel in kernels)
    np.testing.assert_array_equal(final, kept)
    assert (kept != other).any()
    assert rows[7]["loss"] < rows[0]["loss"]
    assert rows[7]["learning_rate"] == pytest.approx(0.5 * TOY_ADAMW.learning_rate)


def test_killed_anywhere_it_ends_bit_equal(
    undisturbed: tuple[TrainResult, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want, want_params = undisturbed
    write, deaths = Journal.write, [("one", 2), ("one", 5), ("one", 7), ("two", 1), ("two", 4)]

    def mortal_write(self: Journal, step: int, *arguments: Any) -> None:
        write(self, step, *arguments)
        if deaths and (self._stage, step) == deaths[0]:
            self.flush()
            deaths.pop(0)
            raise Killed

    monkeypatch.setattr(Journal, "write", mortal_write)
    for _ in range(len(deaths)):
        with pytest.raises(Killed):
            run(toy_recipe(tmp_path), tmp_path / "run")
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            file.write('{"stage": "one", "st')  # a line that was cut off
    result = run(toy_recipe(tmp_path), tmp_path / "run")
    assert not deaths
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params_of(result.model)), want_params)
    assert rows_without_time(tmp_path / "run") == rows_without_time(want.run_dir)


def test_a_signal_saves_and_the_run_goes_on(
    undisturbed: tuple[TrainResult, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want, want_params = undisturbed
    write = Journal.write
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def write_and_signal(self: Journal, step: int, *arguments: Any) -> None:
        write(self, step, *arguments)
        if (self._stage, step) == ("one", 4):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Journal, "write", write_and_signal)
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 5 of 7, saved"):
        run(toy_recipe(tmp_path), tmp_path / "run")
    assert {number: signal.getsignal(number) for number in before} == before
    assert (checkpoint_folder(tmp_path / "run", "one") / "5").is_dir()
    monkeypatch.setattr(Journal, "write", write)
    result = run(toy_recipe(tmp_path), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params_of(result.model)), want_params)
    assert rows_without_time(tmp_path / "run") == rows_without_time(want.run_dir)


def test_rows_of_several_lengths_train_and_resume_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSettings(
        cache_dir=str(tmp_path / "cache"), rows_per_step=8, row_tokens=(16, 32), row_supervised=12, window=64
    )
    recipe = toy_recipe(tmp_path, data=data, stages=(Stage("one", "synthetic", 8, optimizer=TOY_ADAMW),))
    write, next_batch, seen = Journal.write, steps._timed_next, Counter[tuple[int, int]]()

    def watched(batches: Iterator[Batch], mesh: Any) -> tuple[Batch, float]:
        batch, waited = next_batch(batches, mesh)
        seen[batch.tokens_BT.shape] += 1
        return batch, waited

    monkeypatch.setattr(steps, "_timed_next", watched)
    want = run(recipe, tmp_path / "want")
    assert set(seen) == {(16, 16), (8, 32)}  # the same number of tokens in each
    assert want.stages[0].loss_last < want.stages[0].loss_first

    def mortal_write(self: Journal, step: int, *arguments: Any) -> None:
        write(self, step, *arguments)
        if (self._stage, step) == ("one", 5):
            self.flush()
            raise Killed

    monkeypatch.setattr(Journal, "write", mortal_write)
    with pytest.raises(Killed):
        run(recipe, tmp_path / "run")
    monkeypatch.setattr(Journal, "write", write)
    result = run(recipe, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, *(jax.device_get(params_of(each.model)) for each in (result, want)))
    assert rows_without_time(tmp_path / "run") == rows_without_time(tmp_path / "want")


def test_a_finished_run_is_not_trained_again(
    undisturbed: tuple[TrainResult, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    want, want_params = undisturbed
    monkeypatch.setattr(loop, "run_steps", lambda *_, **__: pytest.fail("it trained"))
    result = run(toy_recipe(want.run_dir.parent), want.run_dir)
    assert result.stages == want.stages
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params_of(result.model)), want_params)


def test_killed_before_its_end_is_marked_a_stage_ends_the_same(
    undisturbed: tuple[TrainResult, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want, want_params = undisturbed
    finish = StageCheckpoints.finish

    def mortal_finish(self: StageCheckpoints, finished: Finished) -> None:
        self.wait()
        raise Killed

    monkeypatch.setattr(StageCheckpoints, "finish", mortal_finish)
    with pytest.raises(Killed):
        run(toy_recipe(tmp_path), tmp_path / "run")
    monkeypatch.setattr(StageCheckpoints, "finish", finish)
    result = run(toy_recipe(tmp_path), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params_of(result.model)), want_params)
    assert rows_without_time(tmp_path / "run") == rows_without_time(want.run_dir)


def test_a_stage_that_became_longer_trains_on(tmp_path: Path) -> None:
    def last_rows(steps: int) -> list[int]:
        recipe = toy_recipe(tmp_path, stages=(Stage("one", "synthetic", steps, optimizer=TOY_ADAMW),))
        result = train(
            recipe, tmp_path / "run", config_text=f"steps = {steps}", allow_changed_config=True, show_progress=False
        )
        assert result.stages[0].steps == len(read_rows(tmp_path / "run"))
        return [row["step"] for row in read_rows(tmp_path / "run")]

    assert last_rows(2) == [1, 2]
    assert last_rows(4) == [1, 2, 3, 4]
    assert last_rows(3) == [1, 2, 3, 4]  # shorter: there is nothing to take back


def test_a_run_of_another_config_is_refused(undisturbed: tuple[TrainResult, Any], tmp_path: Path) -> None:
    want, _ = undisturbed
    with pytest.raises(UserError, match=r"another config \(.*--allow_changed_config\)\n-seed = 1\n\+seed = 2$"):
        train(toy_recipe(tmp_path), want.run_dir, config_text="seed = 2\n", show_progress=False)
    with pytest.raises(UserError, match=r"holds a run already \(choose another --run_dir, .*: --resume\)"):
        run(toy_recipe(tmp_path), want.run_dir, resume=False)
    # Before there is a checkpoint, nothing is lost by beginning anew.
    (tmp_path / "run" / "tokenizer").mkdir(parents=True)
    (tmp_path / "run" / "config.gin").write_text("seed = 2\n")
    claim_run_dir(tmp_path / "run", "seed = 1\n", False)
    assert not (tmp_path / "run" / "tokenizer").exists()


def test_rows_that_do_not_fit_the_mesh_are_refused_first(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path, mesh=MeshSettings(data=-1, tensor=3))
    with pytest.raises(UserError, match="does not fit 8 devices"):
        run(recipe, tmp_path / "run")
    recipe = toy_recipe(tmp_path, data=DataSettings(rows_per_step=12), mesh=MeshSettings(data=8))
    with pytest.raises(UserError, match="12 rows a step do not divide by 8"):
        run(recipe, tmp_path / "run")
    data = DataSettings(rows_per_step=9, row_tokens=(24, 32), row_supervised=8)
    with pytest.raises(UserError, match="12 rows a step do not divide by 8"):
        run(toy_recipe(tmp_path, data=data, mesh=MeshSettings(data=8)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def bad_metrics() -> StepMetrics:
    return StepMetrics(np.nan, 0.0, np.inf, 0.1, 30, 10, finite=False)  # type: ignore[arg-type]


class BadStep:
    """A compiled step whose loss is no number."""

    def __call__(self, state: int, batch: Any) -> tuple[int, StepMetrics]:
        return state + 1, bad_metrics()


def test_a_loss_that_stays_no_number_ends_the_run(tmp_path: Path) -> None:
    class Loader:
        def shapes(self) -> tuple[RowShape, ...]:
            return (RowShape(8, 40, 12),)

        def batches(self, start: int, stop: int) -> Iterator[Any]:
            return (packed_batch() for _ in range(start, stop))

    mesh = loop.make_mesh()
    with (
        Journal(tmp_path, "one", 0, 50, show_progress=False) as journal,
        pytest.raises(UserError, match=r"not a number in steps 1 to 10; .*one-10.npz \(lower optimizer"),
    ):
        steps.run_steps(
            {40: BadStep()}, 0, 0, 50, Loader(), mesh=mesh, checkpoints=None, save_every=100,  # type: ignore[arg-type]
            journal=journal, evaluations=StageEvaluations(tmp_path, toy_recipe(tmp_path).stages[0], 50, journal, None),
            bad_steps=BadSteps(tmp_path, "one", 0), profiler=Profiler(None, tmp_path), watch=SignalWatch(),
        )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 10
    assert rows[0]["loss"] is None
    assert all(row["skipped"] for row in rows)
    assert summarise_stage(tmp_path, "one").skipped == 10
    dumped, want = np.load(tmp_path / "bad_batches" / "one-10.npz"), packed_batch()
    for name in dumped.files:
        np.testing.assert_array_equal(dumped[name], getattr(want, name))
    assert len(dumped.files) == 6
    # A run that is cut off in between counts on.
    with pytest.raises(UserError, match="in steps 1 to 10"):
        BadSteps(tmp_path, "one", 9).check(10, bad_metrics(), jax.device_put(want))
    assert np.isnan(summarise_stage(tmp_path, "one").loss_last)


def test_a_signal_between_steps_stops_at_once() -> None:
    with pytest.raises(Interrupted, match="SIGINT between steps"), SignalWatch():
        signal.raise_signal(signal.SIGINT)


def test_a_second_signal() -> None:
    with SignalWatch() as watch:
        with watch.deferred():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # as launchers do
            assert watch.requested == "SIGTERM"
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted, match="stopped by SIGTERM"):
            watch.leave_if_requested()


def test_a_signal_at_the_last_step_ends_the_run_before_the_next_stage(
    undisturbed: tuple[TrainResult, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = StageCheckpoints.save

    def save_and_signal(self: StageCheckpoints, step: int, *arguments: Any) -> None:
        save(self, step, *arguments)
        if step == 7:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGTERM)  # while it is being saved

    monkeypatch.setattr(StageCheckpoints, "save", save_and_signal)
    with pytest.raises(Interrupted, match="everything is saved"):
        run(toy_recipe(tmp_path), tmp_path / "run")
    assert (checkpoint_folder(tmp_path / "run", "one") / "finished.json").is_file()
    assert not checkpoint_folder(tmp_path / "run", "two").exists()
    result = run(toy_recipe(tmp_path), tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params_of(result.model)), undisturbed[1])


def test_a_lora_is_trained_on_weights_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted = dataclasses.replace(CONFIG, lora=LoraConfig(rank=2))
    start = StartingPoint(train_tokenizer(["some text"], 300), adapted, host_params)
    monkeypatch.setattr(loop, "prepare_start", lambda recipe, run_dir: start)
    result = run(toy_recipe(tmp_path), tmp_path / "run")
    start.vocabulary.save(tmp_path / "run" / "tokenizer")
    model, _ = load_run(tmp_path / "run")
    assert model.config == adapted
    saved, trained, base = (jax.device_get(tree) for tree in (params_of(model), params_of(result.model), host_params()))
    jax.tree.map(np.testing.assert_array_equal, saved, trained)
    loras = {name: matrix.pop("lora_b") for name, matrix in saved["blocks"].items() if "lora_b" in matrix}
    assert set(loras) == {"query", "key_value"}
    assert all(np.abs(values).max() > 0 for values in loras.values())  # they begin as zeros
    for name in loras:
        saved["blocks"][name].pop("lora_a")
    info = (tmp_path / "run" / "model_info.txt").read_text()
    assert info.count(" 50% ") == 2 * len(loras)  # one layer of two stays as it is
    assert " 0% " in next(line for line in info.splitlines() if line.startswith("embedding "))
    jax.tree.map(np.testing.assert_array_equal, saved, base)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7", r"--profile 7 is no window of steps \(give START:STOP, such as 10:12\)"),
        ("9:8", "--profile 9:8 is no window"),
        ("0:8", "--profile 0:8 is no window"),
        ("5:9", r"--profile 5:9: stage 'one' trains the steps 6 to 20 now \(choose a window among them\)"),
        ("20:21", "stage 'one' trains the steps 6 to 20 now"),
    ],
)
def test_a_window_that_cannot_be_recorded_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Profiler(ProfileWindow.parse(text), tmp_path).begin_stage("one", 5, 20)
