"""One process of several: `python -m tests.training.host_worker FOLDER SIGNAL_AT`, then the flags of `seqgpt train`.

It makes the run of host_run.py. While it prepares step SIGNAL_AT (0: never), it sends itself SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax import cli, configuration, pipeline
from tests.training.host_run import run_toy, toy_recipe


def main() -> int:
    folder, signal_at, *flags = sys.argv[1:]
    patch = pytest.MonkeyPatch()
    patch.setattr(configuration, "load_recipe", lambda *_: toy_recipe(Path(folder)))

    def run(*arguments: Any) -> None:
        from seqgpt_jax.training import steps

        next_batch, asked = steps._timed_next, []

        def next_or_signal(*arguments: Any) -> Any:
            asked.append(None)
            if len(asked) == int(signal_at):
                os.kill(os.getpid(), signal.SIGTERM)
            return next_batch(*arguments)

        patch.setattr(steps, "_timed_next", next_or_signal)
        run_toy(*arguments)

    patch.setattr(pipeline, "run_recipe", run)
    return cli.main(["train", "toy.gin", *flags])


if __name__ == "__main__":
    sys.exit(main())
