"""Damaged checkpoints of a run that is about to go on: moved aside, so that the one before them is gone on from.

Nothing is deleted. A stage whose result is damaged is over no longer, and one without a sound checkpoint starts again
from where it began; training then makes what was lost once more, bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from seqgpt_jax.training.checkpoints import checkpoint_folder, saved_steps
from seqgpt_jax.training.finished import read_finished, remove_finished
from seqgpt_jax.training.integrity import find_damage, move_aside


def clear_damage(run_dir: Path, stages: Sequence[str]) -> None:
    """Moves the damaged checkpoints aside that the stages (names in the recipe's order) would go on from.

    Of a stage that a later one has gone on from, nothing is read. Only one process may do this.
    """
    for stage in reversed(stages):
        folder = checkpoint_folder(run_dir, stage)
        if not folder.is_dir() or not saved_steps(folder):
            continue
        newest, ended = _newest_sound(folder), read_finished(folder)
        if ended is not None and ended.result_step != newest and not _is_sound(folder, ended.result_step):
            remove_finished(folder)
        if newest is not None:
            return
        print(f"warning: {folder}: no sound checkpoint is left; stage '{stage}' starts again", file=sys.stderr)


def _newest_sound(folder: Path) -> int | None:
    return next((step for step in reversed(saved_steps(folder)) if _is_sound(folder, step)), None)


def _is_sound(folder: Path, step: int) -> bool:
    """Whether a step's checkpoint is there and not damaged; a damaged one is moved aside."""
    if not (folder / str(step)).is_dir():
        return False
    problem = find_damage(folder / str(step))
    if problem is not None:
        move_aside(folder / str(step), problem)
    return problem is None
