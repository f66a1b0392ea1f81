"""What a run tells: the numbers of a row, the line of the bar, MFU, and the places that rows go to."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.bloom import BloomConfig
from seqgpt_jax.training.bar import ProgressBar, StepFigures, summary
from seqgpt_jax.training.chips import peak_flops
from seqgpt_jax.training.journal import Journal
from seqgpt_jax.training.mfu import Mfu, mfu_on
from seqgpt_jax.training.partitioning import make_mesh
from seqgpt_jax.training.sinks import WeightsAndBiases, read_rows
from seqgpt_jax.training.step import StepMetrics
from tests.training.toy import CONFIG

METRICS = StepMetrics(*(np.float32(x) for x in (2.5, 0.25, 1.5, 0.01)), np.int32(240), np.int32(40), np.bool_(True))  # type: ignore[arg-type]

FAKE_WANDB = """
import json, pathlib
calls = pathlib.Path(__file__).with_name("calls.jsonl")

def tell(call, /, *arguments, **options):
    with calls.open("a") as file:
        file.write(json.dumps([call, *arguments, options]) + "\\n")

class Run:
    def define_metric(self, *arguments, **options):
        tell("define_metric", *arguments, **options)
    def log(self, values):
        tell("log", values)
    def finish(self):
        tell("finish")

def init(**options):
    tell("init", **options)
    return Run()
"""


def test_a_row_by_hand(tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=10, num_layers=2, width=4, num_heads=2)
    # A block's matrices: 4 x 12 query, key and value, 4 x 4 out, 4 x 16 up, 16 x 4 down = 192.
    flops = 3 * (2 * 2 * 192 * 240 + 4 * 2 * 4 * 40 * 240 + 2 * 4 * 10 * 40)
    with Journal(tmp_path, "one", 0, 9, mfu=Mfu(config, 1e6), show_progress=False) as journal:
        journal.write(1, METRICS, (8, 40), 2.0, 0.5)
    (row,) = read_rows(tmp_path)
    assert row.pop("time") == {
        "seconds": 2.0, "tokens_per_second": 120.0, "supervised_per_second": 20.0, "data_seconds": 0.5,
        "mfu": round(flops / 2e6, 6),
    }  # fmt: skip
    assert row == {
        "stage": "one", "step": 1, "loss": 2.5, "accuracy": 0.25, "grad_norm": 1.5,
        "learning_rate": pytest.approx(0.01), "tokens": 240, "targets": 40, "padding": 0.25,
    }  # fmt: skip


def test_mfu_is_left_out_where_no_peak_is_known() -> None:
    assert mfu_on(make_mesh(), CONFIG) is None
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989.4e12


def test_the_line_of_the_bar_is_smoothed_and_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slow = StepFigures(3.0, tokens=100, targets=10, positions=200, seconds=3.0, data_seconds=1.0, mfu=0.1)
    fast = StepFigures(2.0, tokens=300, targets=30, positions=300, seconds=1.0, data_seconds=0.0, mfu=0.5)
    assert summary([slow, fast]) == "loss 2.500 100 tok/s 10.0 sup/s MFU 20% pad 20% wait 25%"
    with Journal(tmp_path, "real_stage", 25_000, 25_001, mfu=Mfu(CONFIG, 1e15)) as journal:
        journal.write(25_001, METRICS._replace(num_tokens=np.int32(999_999)), (8, 10**6), 1.0, 0.5)  # type: ignore[arg-type]
    line = capsys.readouterr().err.split("\r")[-1].rstrip("\n")
    assert len(line) <= 100
    assert line.startswith("real_stage 25001/25001 [")
    assert line.endswith("% pad 88% wait 50%]")


def test_time_before_the_steps_is_no_time_of_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar("one", 0, 2)
    time.sleep(1.2)
    bar.restart_clock()
    bar.update(StepFigures(3.0, tokens=100, targets=10, positions=200, seconds=3.0, data_seconds=1.0, mfu=None))
    bar.close()
    assert "one 1/2 [00:00<00:00, loss 3.000 " in capsys.readouterr().err


def test_weights_and_biases_gets_every_row_and_goes_on_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"--wandb ours needs Weights & Biases, .*\(pip install wandb\)"):
        WeightsAndBiases("ours", tmp_path, "")
    monkeypatch.delitem(sys.modules, "wandb")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(FAKE_WANDB)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    run_dir = tmp_path / "run"
    for step in (1, 2):
        sink = WeightsAndBiases("ours", run_dir, "recipe.seed = 1")
        with Journal(run_dir, "one", step - 1, 2, sinks=[sink], show_progress=False) as journal:
            journal.write(step, METRICS, (8, 40), 2.0, 0.5)
            if step == 2:
                journal.write_evaluation(2, "dev", {"score": 0.5}, 3.0)
        sink.close()
    calls = [json.loads(line) for line in (tmp_path / "modules" / "calls.jsonl").read_text().splitlines()]
    assert [call[0] for call in calls] == [
        "init", "define_metric", "log", "finish", "init", "define_metric", "log", "log", "finish",
    ]  # fmt: skip
    assert calls[0] == calls[4]
    given = calls[0][1]
    assert given["project"] == "ours"
    assert given["id"]
    assert given["resume"] == "allow"
    assert calls[1][1:] == ["one/*", {"step_metric": "one/step"}]
    assert {"one/step": 2, "one/loss": 2.5, "one/padding": 0.25, "one/seconds": 2.0}.items() <= calls[6][1].items()
    assert calls[7][1] == {"one/step": 2, "one/dev/score": 0.5, "one/dev/seconds": 3.0}
