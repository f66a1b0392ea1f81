"""Whose a run directory is: of one config, which is kept in it and compared."""

from __future__ import annotations

import shutil
from pathlib import Path

from seqgpt_jax.errors import UserError
from seqgpt_jax.training.checkpoints import saved_stages
from seqgpt_jax.whole import write_text


def claim_run_dir(run_dir: Path, config_text: str, allow_changed_config: bool) -> None:
    """Makes the run directory or checks that it is of the same config; without a checkpoint it is begun anew."""
    run_dir.mkdir(parents=True, exist_ok=True)
    file = run_dir / "config.gin"
    old = file.read_text("utf-8") if file.is_file() else None
    if old is not None and old != config_text:
        if saved_stages(run_dir) and not allow_changed_config:
            before, after = set(old.splitlines()), set(config_text.splitlines())
            changes = [f"- {line}" for line in sorted(before - after)] + [
                f"+ {line}" for line in sorted(after - before)
            ]
            shown = "; ".join(changes[:6]) + (" ..." if len(changes) > 6 else "")
            raise UserError(
                f"{run_dir}: holds a run with another config: {shown} (choose another --run_dir, or remove this one)"
            )
        if not saved_stages(run_dir):
            shutil.rmtree(run_dir / "tokenizer", ignore_errors=True)
    write_text(file, config_text)
