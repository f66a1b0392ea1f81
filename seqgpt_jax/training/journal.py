"""What a run tells while it trains: its rows, which go to every sink (sinks.py), and the progress bar.

Of several processes, process 0 alone has sinks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seqgpt_jax.training.bar import SMOOTHED, ProgressBar, StepFigures
from seqgpt_jax.training.hosts import is_main
from seqgpt_jax.training.mfu import Mfu
from seqgpt_jax.training.sinks import JsonLines, Row, Sink, TensorBoard, read_rows
from seqgpt_jax.training.step import StepMetrics


@dataclass(frozen=True)
class StageResult:
    """How a stage went, from its rows in metrics.jsonl. The losses are means over the first and last steps (up to 20).

    Tokens are those in the rows, without padding; supervised tokens are the part of them that the loss is over.
    protocol: few_shot where held-out datasets were trained on, which every report says. skipped: steps whose loss or
    gradient was no number, so that they changed nothing.
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
    skipped: int = 0


class Journal:
    """Writes the rows of one stage after step `start`; rows of later steps, left by a run that was cut off, go."""

    def __init__(
        self,
        run_dir: Path,
        stage: str,
        start: int,
        num_steps: int,
        *,
        mfu: Mfu | None = None,
        sinks: Sequence[Sink] = (),
        show_progress: bool = True,
    ) -> None:
        """sinks: others than the files of the run directory; they are not closed."""
        self._stage, self._mfu = stage, mfu
        self._own: list[Sink] = [JsonLines(run_dir, stage, start), TensorBoard(run_dir, start)] if is_main() else []
        self._sinks = [*self._own, *sinks]
        self._bar = ProgressBar(stage, start, num_steps, show=show_progress)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        for sink in self._own:
            sink.close()

    def write(
        self, step: int, metrics: StepMetrics, shape_BT: tuple[int, int], seconds: float, data_seconds: float
    ) -> None:
        """The row of the step-th step; metrics are on the host. It took `seconds`, of which the data was waited for.

        shape_BT: rows of the step over all hosts, and positions of a row.
        """
        tokens, targets, positions = int(metrics.num_tokens), int(metrics.num_targets), math.prod(shape_BT)
        mfu = None if self._mfu is None else self._mfu.of_step(tokens, targets, shape_BT[1], seconds)
        time = {
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "supervised_per_second": targets / seconds,
            "data_seconds": data_seconds,
            **({} if mfu is None else {"mfu": mfu}),
        }
        scalars = {name: float(getattr(metrics, name)) for name in ("loss", "accuracy", "learning_rate", "grad_norm")}
        counts = {"tokens": tokens, "targets": targets, "padding": round(1 - tokens / positions, 6)}
        skipped = {} if metrics.finite else {"skipped": True}
        self._write(Row(self._stage, step, {**scalars, **counts, **skipped}, time))
        self._bar.update(StepFigures(scalars["loss"], tokens, targets, positions, seconds, data_seconds, mfu))

    def write_evaluation(self, step: int, name: str, scores: Mapping[str, float], seconds: float) -> None:
        """The row of an evaluation of the model after `step` steps; a killed process does not lose it."""
        self._write(Row(self._stage, step, scores, {"seconds": seconds}, name))
        self.flush()

    def restart_clock(self) -> None:
        """Steps go on now, after something else took time: compiling, or an evaluation."""
        self._bar.restart_clock()

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
    edge = min(SMOOTHED, max(1, len(rows) // 4))
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
        skipped=sum("skipped" in row for row in rows),
    )


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    return float(np.mean([math.nan if row[name] is None else row[name] for row in rows]))
