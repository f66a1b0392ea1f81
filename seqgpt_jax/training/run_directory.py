"""Whose a run directory is: of one config, which is kept in it and compared."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

from seqgpt_jax.errors import UserError
from seqgpt_jax.training.checkpoints import saved_stages
from seqgpt_jax.whole import write_text

_SHOWN = 40  # changed lines in a message


def claim_run_dir(run_dir: Path, config_text: str, allow_changed_config: bool = False, resume: bool = True) -> None:
    """Makes the run directory or checks that it is of the same config; without a checkpoint it is begun anew.

    Raises UserError where it holds a run of another config (unless allowed), or any run where none is gone on with.
    """
    file = run_dir / "config.gin"
    old = file.read_text("utf-8") if file.is_file() else None
    if not resume and (old is not None or saved_stages(run_dir)):
        raise UserError(
            f"{run_dir}: holds a run already (choose another --run_dir, remove this one, or go on with it: --resume)"
        )
    if old is not None and old != config_text:
        if saved_stages(run_dir) and not allow_changed_config:
            raise UserError(
                f"{run_dir}: holds a run with another config (choose another --run_dir, remove this one, "
                f"or go on with the new config: --allow_changed_config)\n{_diff(old, config_text)}"
            )
        if not saved_stages(run_dir):
            shutil.rmtree(run_dir / "tokenizer", ignore_errors=True)
    run_dir.mkdir(parents=True, exist_ok=True)
    write_text(file, config_text)


def _diff(old: str, new: str) -> str:
    """Lines that are gone with a -, new ones with a +, by place."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    changes = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    more = [f"... and {len(changes) - _SHOWN} more lines"] if len(changes) > _SHOWN else []
    return "\n".join(changes[:_SHOWN] + more)
