"""What a run tells while it trains: its rows, which go to every sink (sinks.py), and the progress bar."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from seqgpt_jax.training.sinks import JsonLines, Row, Sink, TensorBoard, read_rows
from seqgpt_jax.training.step import StepMetrics

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
        self._sinks: list[Sink] = [JsonLines(run_dir, stage, start), TensorBoard(run_dir, start)]
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
        for sink in self._sinks:
            sink.close()

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
        self._write(Row(self._stage, step, {**scalars, "tokens": tokens, "targets": targets}, time))
        self._losses.append(scalars["loss"])
        shown = {
            "loss": f"{np.mean(self._losses):.3f}",
            "tok/s": f"{time['tokens_per_second']:,.0f}",
            "answer/s": f"{time['supervised_per_second']:,.0f}",
        }
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def write_evaluation(self, step: int, name: str, scores: Mapping[str, float], seconds: float) -> None:
        """The row of an evaluation of the model after `step` steps; a killed process does not lose it."""
        self._write(Row(self._stage, step, scores, {"seconds": seconds}, name))
        self.flush()

    def flush(self) -> None:
        """Hands all rows to the operating system: from here on a killed process does not lose them."""
        for sink in self._sinks:
            sink.flush()

    def _write(self, row: Row) -> None:
        for sink in self._sinks:
            sink.write(row)


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
