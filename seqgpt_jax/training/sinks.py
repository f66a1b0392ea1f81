"""Where the numbers of a run go: files of JSON lines, TensorBoard, Weights & Biases, behind one interface.

metrics.jsonl has one row a step, and the same rows after any number of interruptions, but for what is under `time`:
    {"stage": "synthetic", "step": 1, "loss": 9.1, "accuracy": 0.0, "learning_rate": 0.001, "grad_norm": 3.2,
     "tokens": 3991, "targets": 612, "padding": 0.03, "time": {"seconds": 1.1, "tokens_per_second": 3628.2, ...}}
evaluations.jsonl has one row for each time that a stage was judged on a mixture, likewise:
    {"stage": "synthetic", "step": 200, "evaluation": "dev", "score": 0.31, "accuracy": 0.35, ..., "time": {...}}
`step` counts from 1. A value that is not a number is null. The row of a step whose loss or gradient was no number, and
whose update was left out therefore, says "skipped": true.
"""

from __future__ import annotations

import json
import math
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

from seqgpt_jax.errors import UserError
from seqgpt_jax.whole import write_text

METRICS_FILE = "metrics.jsonl"
EVALUATIONS_FILE = "evaluations.jsonl"


@dataclass(frozen=True)
class Row:
    """Numbers of one step, or of one evaluation after it. time: those that another run would not repeat."""

    stage: str
    step: int
    values: Mapping[str, float]
    time: Mapping[str, float]
    evaluation: str | None = None

    def scalars(self) -> Iterator[tuple[str, float]]:
        """All numbers under the names of a dashboard: synthetic/loss, synthetic/dev/score."""
        prefix = f"{self.stage}/{self.evaluation}" if self.evaluation else self.stage
        for name, value in {**self.values, **self.time}.items():
            yield f"{prefix}/{name}", value


class Sink(Protocol):
    """One place that rows go to, in the order of the steps."""

    def write(self, row: Row) -> None: ...

    def flush(self) -> None:
        """From here on a killed process does not lose what was written."""

    def close(self) -> None: ...


class JsonLines:
    """Both files of a run directory, for one stage after step `start`: rows of later steps, left by a run that was
    cut off, go."""

    def __init__(self, run_dir: Path, stage: str, start: int) -> None:
        for name in (METRICS_FILE, EVALUATIONS_FILE):
            _keep_rows(run_dir / name, stage, start)
        self._evaluations = run_dir / EVALUATIONS_FILE
        self._metrics: TextIO = (run_dir / METRICS_FILE).open("a", encoding="utf-8")

    def write(self, row: Row) -> None:
        fields: dict[str, Any] = {"stage": row.stage, "step": row.step}
        if row.evaluation is not None:
            fields["evaluation"] = row.evaluation
        fields |= {name: value if math.isfinite(value) else None for name, value in row.values.items()}
        fields["time"] = {name: round(value, 6) for name, value in row.time.items()}
        line = json.dumps(fields) + "\n"
        if row.evaluation is None:
            self._metrics.write(line)
        else:
            with self._evaluations.open("a", encoding="utf-8") as file:
                file.write(line)

    def flush(self) -> None:
        self._metrics.flush()

    def close(self) -> None:
        self._metrics.close()


class TensorBoard:
    """Event files in run_dir/tensorboard; after an interruption, steps past `start` are shown as they were trained
    again.

    They are written here and now: the thread of tensorboardX's SummaryWriter ends at its first error, so on a full disk
    its queue would fill, and the run wait for it for ever.
    """

    def __init__(self, run_dir: Path, start: int) -> None:
        # tensorboardX imports torch when it is installed, only to recognise its tensors: seconds that nobody needs.
        hide_torch = "torch" not in sys.modules
        if hide_torch:
            sys.modules["torch"] = None  # type: ignore[assignment]
        try:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event
            from tensorboardX.summary import scalar
        finally:
            if hide_torch:
                del sys.modules["torch"]
        self._event, self._scalar = Event, scalar
        (run_dir / "tensorboard").mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(run_dir / "tensorboard" / "events"))
        if start:
            begin = Event(wall_time=time.time(), step=start + 1)
            begin.session_log.status = begin.session_log.START
            self._writer.write_event(begin)

    def write(self, row: Row) -> None:
        for name, value in row.scalars():
            event = self._event(wall_time=time.time(), step=row.step, summary=self._scalar(name, value))
            self._writer.write_event(event)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb.ai; all stages are in it, each over its own steps (<stage>/step). Close it at the end.

    A run that was interrupted is gone on with by its id in run_dir/wandb_id.txt; steps that are trained again are
    logged again. Raises UserError where wandb is not installed.
    """

    def __init__(self, project: str, run_dir: Path, config_text: str) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                f"--wandb {project} needs Weights & Biases, which is not installed (pip install wandb)"
            ) from None
        file = run_dir / "wandb_id.txt"
        if not file.is_file():
            write_text(file, uuid.uuid4().hex + "\n")
        self._run: Any = wandb.init(
            project=project, id=file.read_text("utf-8").strip(), resume="allow", name=run_dir.name, dir=str(run_dir),
            config={"gin": config_text},
        )  # fmt: skip
        self._stages: set[str] = set()

    def write(self, row: Row) -> None:
        if row.stage not in self._stages:
            self._stages.add(row.stage)
            self._run.define_metric(f"{row.stage}/*", step_metric=f"{row.stage}/step")
        self._run.log({f"{row.stage}/step": row.step, **dict(row.scalars())})

    def flush(self) -> None:
        """It sends in the background."""

    def close(self) -> None:
        self._run.finish()


def read_rows(run_dir: Path, stage: str | None = None, file: str = METRICS_FILE) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl or evaluations.jsonl, of one stage or of all, without a last line that was cut off."""
    path = run_dir / file
    rows = []
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return [row for row in rows if stage is None or row["stage"] == stage]


def _keep_rows(path: Path, stage: str, until_step: int) -> None:
    """Drops rows of this stage after a step, and lines that were cut off."""
    if not path.exists():
        return

    def is_kept(row: Mapping[str, Any]) -> bool:
        return row["stage"] != stage or row["step"] <= until_step

    rows = read_rows(path.parent, file=path.name)
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows if is_kept(row)))
