"""One process of a run of several, started by test_hosts.py: `python -m tests.training.host_worker OUT [SIGNAL_AT]`.

The rest of the command line is that of `seqgpt train`; toy sources and a toy model stand in for real ones. With
SIGNAL_AT this process sends SIGTERM to itself while it prepares that step.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from seqgpt_jax import cli, configuration, pipeline
from tests.training.host_run import run_toy, toy_recipe


def main() -> int:
    folder, signal_at, *flags = sys.argv[1:]
    patch = pytest.MonkeyPatch()
    patch.setattr(configuration, "load_recipe", lambda *_: toy_recipe(Path(folder)))

    def run(recipe, run_dir):
        if int(signal_at):
            steps_before = int(signal_at)
            from seqgpt_jax.training import steps

            next_batch, asked = steps._timed_next, []

            def signalled(*arguments):
                asked.append(0)
                if len(asked) == steps_before:
                    os.kill(os.getpid(), signal.SIGTERM)
                return next_batch(*arguments)

            patch.setattr(steps, "_timed_next", signalled)
        run_toy(recipe, run_dir)

    patch.setattr(pipeline, "run_recipe", run)
    return cli.main(["train", "toy.gin", "--run_dir", f"{folder}/run", *flags])


if __name__ == "__main__":
    sys.exit(main())
