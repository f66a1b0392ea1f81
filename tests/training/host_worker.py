"""One process of several: `python -m tests.training.host_worker FOLDER MESH SIGNAL_AT` and flags of `seqgpt train`.

It makes the run of host_run.py. While it prepares step SIGNAL_AT (0: never), it sends itself SIGTERM; while it prepares
step -SIGNAL_AT, it fails.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax import cli, configuration, pipeline
from seqgpt_jax.errors import UserError
from seqgpt_jax.recipe import Recipe
from tests.training.host_run import run_toy, toy_recipe


def main() -> int:
    folder, mesh, signal_at, *flags = sys.argv[1:]
    patch = pytest.MonkeyPatch()
    patch.setattr(
        configuration, "load_recipe", lambda *_: toy_recipe(Path(folder), [int(size) for size in mesh.split(",")])
    )

    def run(recipe: Recipe, run_dir: Path, **options: Any) -> None:
        from seqgpt_jax.training import steps

        next_batch, asked = steps._timed_next, []

        def next_or_signal(*arguments: Any) -> Any:
            asked.append(None)
            if len(asked) == int(signal_at):
                os.kill(os.getpid(), signal.SIGTERM)
            if len(asked) == -int(signal_at):
                raise UserError("the disk is full")
            return next_batch(*arguments)

        patch.setattr(steps, "_timed_next", next_or_signal)
        run_toy(recipe, run_dir)

    patch.setattr(pipeline, "run_recipe", run)
    return cli.main(["train", "toy.gin", *flags])


if __name__ == "__main__":
    sys.exit(main())
