"""What a run tells while it trains: metrics.jsonl, TensorBoard and the progress bar.

metrics.jsonl has one row a step, and the same rows after any number of interruptions, but for what is under `time`:
    {"stage": "synthetic", "step": 1, "loss": 9.1, "accuracy": 0.0, "learning_rate": 0.001, "grad_norm": 3.2,
     "tokens": 3991, "targets": 612, "time": {"seconds": 1.1, "tokens_per_second": 3628.2, ...}}
`step` counts from 1. A loss that is not a number is null.
"""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

from seqgpt_jax.training.step import StepMetrics
from seqgpt_jax.whole import write_text

METRICS_FILE = "metrics.jsonl"
_SMOOTHED = 20  # steps in the loss that is shown, and in the first and last loss of a stage


@dataclass(frozen=True)
class StageResult:
    """How a stage went, from its rows in metrics.jsonl. The losses are means over the first and last steps (up to 20).

    Tokens are those in the rows, without padding; supervised tokens are the part of them that the loss is over.
    protocol: few_shot where held-out datasets were trained on, which every report says.
    """

    name: str
    steps: int
    loss_first: float
    loss_last: float
    accuracy_last: float
    tokens: int
    seconds: float
    tokens_per_second: float
    supervised_per_second: float
    protocol: str = "zero_shot"


class Journal:
    """Writes the rows of one stage after step `start`; rows of later steps, left by a run that was cut off, go."""

    def __init__(self, run_dir: Path, stage: str, start: int, num_steps: int, *, show_progress: bool = True) -> None:
        self._stage, self._losses = stage, deque[float](maxlen=_SMOOTHED)
        path = run_dir / METRICS_FILE
        _keep_rows(path, stage, start)
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._board = _open_tensorboard(run_dir / "tensorboard", start)
        self._bar = tqdm(
            total=num_steps,
            initial=start,
            desc=stage,
            unit="step",
            disable=not show_progress,
            mininterval=0.5 if sys.stderr.isatty() else 20.0,
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._board.close()
        self._file.close()

    def write(self, step: int, metrics: StepMetrics, seconds: float, data_seconds: float) -> None:
        """The row of the step-th step; metrics are on the host. It took `seconds`, of which the data was waited for."""
        tokens, targets = int(metrics.num_tokens), int(metrics.num_targets)
        time = {
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "supervised_per_second": targets / seconds,
            "data_seconds": data_seconds,
        }
        scalars = {name: float(getattr(metrics, name)) for name in ("loss", "accuracy", "learning_rate", "grad_norm")}
        row = {
            "stage": self._stage,
            "step": step,
            **{name: value if math.isfinite(value) else None for name, value in scalars.items()},
            "tokens": tokens,
            "targets": targets,
            "time": {name: round(value, 6) for name, value in time.items()},
        }
        self._file.write(json.dumps(row) + "\n")
        for name, value in (scalars | time).items():
            self._board.add_scalar(f"{self._stage}/{name}", value, step)
        self._losses.append(scalars["loss"])
        shown = {
            "loss": f"{np.mean(self._losses):.3f}",
            "tok/s": f"{time['tokens_per_second']:,.0f}",
            "answer/s": f"{time['supervised_per_second']:,.0f}",
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def flush(self) -> None:
        """Hands all rows to the operating system: from here on a killed process does not lose them."""
        self._file.flush()


class SilentJournal(Journal):
    """That of the processes that write nothing."""

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, step: int, metrics: StepMetrics, seconds: float, data_seconds: float) -> None:
        pass

    def flush(self) -> None:
        pass


def read_rows(run_dir: Path, stage: str | None = None) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, of one stage or of all; a last line that was cut off is left out."""
    path = run_dir / METRICS_FILE
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if stage is None or row["stage"] == stage]


def summarise_stage(run_dir: Path, stage: str, protocol: str = "zero_shot") -> StageResult:
    """The result of a stage that has at least one row."""
    rows = read_rows(run_dir, stage)
    edge = min(_SMOOTHED, max(1, len(rows) // 4))
    seconds = sum(row["time"]["seconds"] for row in rows)
    tokens, targets = (sum(row[name] for row in rows) for name in ("tokens", "targets"))
    return StageResult(
        name=stage,
        steps=len(rows),
        loss_first=_mean(rows[:edge], "loss"),
        loss_last=_mean(rows[-edge:], "loss"),
        accuracy_last=_mean(rows[-edge:], "accuracy"),
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        supervised_per_second=targets / seconds,
        protocol=protocol,
    )


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([math.nan if row[name] is None else row[name] for row in rows]))


def _keep_rows(path: Path, stage: str, until_step: int) -> None:
    """Drops rows of this stage after a step, and lines that were cut off."""
    if not path.exists():
        return

    def is_kept(row: Mapping[str, Any]) -> bool:
        return row["stage"] != stage or row["step"] <= until_step

    kept = "".join(json.dumps(row) + "\n" for row in read_rows(path.parent) if is_kept(row))
    write_text(path, kept)


def _open_tensorboard(folder: Path, start: int) -> Any:
    # tensorboardX imports torch when it is installed, only to recognise its tensors: seconds that nobody needs here.
    hide_torch = "torch" not in sys.modules
    if hide_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hide_torch:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=start + 1 if start else None, write_to_disk=True)
