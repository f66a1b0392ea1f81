"""The end of a stage: finished.json in its checkpoint folder, written when its last checkpoint is complete.

    {"step": 800, "best_step": null, "length": {"steps": 800}}

A stage is over when this file is there. What comes after reads the checkpoint that it names: the best where there is
one, else the last.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from seqgpt_jax.errors import UserError
from seqgpt_jax.whole import write_json

FINISHED_FILE = "finished.json"


@dataclasses.dataclass(frozen=True)
class Finished:
    """step: steps done; best_step: the one whose checkpoint counts, None: the last; length: Stage.length as asked."""

    step: int
    best_step: int | None
    length: Mapping[str, float]

    @property
    def result_step(self) -> int:
        return self.step if self.best_step is None else self.best_step

    def is_end_of(self, length: Mapping[str, float]) -> bool:
        """Whether a stage that is to be this long is over, as far as can be told without its data."""
        return self.length == length


def write_finished(folder: Path, finished: Finished) -> None:
    write_json(folder / FINISHED_FILE, dataclasses.asdict(finished))


def remove_finished(folder: Path) -> None:
    (folder / FINISHED_FILE).unlink(missing_ok=True)


def read_finished(folder: Path) -> Finished | None:
    """How the stage of a checkpoint folder ended, or None where it has not. UserError for a damaged file."""
    file = folder / FINISHED_FILE
    if not file.is_file():
        return None
    try:
        return Finished(**json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{file}: not the end of a stage ({error}; remove the file, and the stage goes on)") from error
