"""A toy run in a process of its own, which tests may kill: real train(), toy data and model, virtual devices.

Processes are forked from a server that has imported everything and touched no device, so one more costs little.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from seqgpt_jax.data.loader import Loader  # noqa: F401 - so that the server has imported it
from seqgpt_jax.errors import UserError
from seqgpt_jax.recipe import CheckpointSettings, DataSettings, MeshSettings, Recipe, Stage
from seqgpt_jax.training import batches, integrity, loop
from seqgpt_jax.training.checkpoints import checkpoint_folder
from seqgpt_jax.training.journal import Journal
from seqgpt_jax.training.signals import Interrupted, SignalWatch
from seqgpt_jax.training.sinks import read_rows

REPO = Path(__file__).resolve().parents[2]
STAGES = ("one", "two")


@dataclass(frozen=True)
class ToyRun:
    """mesh: devices along data, fsdp and tensor. slow_save: seconds that each checkpoint takes longer to write.

    max_file_bytes: the system refuses to make a file larger (RLIMIT_FSIZE), as a quota would.
    """

    run_dir: Path
    cache_dir: Path  # batch plans and compiled functions
    steps: int = 20  # of each stage
    save_every: int = 2
    mesh: tuple[int, int, int] = (8, 1, 1)
    slow_save: float = 0.0
    max_file_bytes: int | None = None

    def start(self, progress: Any = None) -> ForkServerProcess:
        """Trains in a new process. progress: a shared integer that counts the steps whose rows are written."""
        process = _SERVER.Process(target=_train, args=(self, progress), daemon=True)
        process.start()
        return process

    def finish(self) -> None:
        """Trains to the end; raises where the process fails."""
        process = self.start()
        process.join()
        assert process.exitcode == 0, f"exit code {process.exitcode}: {self.errors()}"

    def errors(self) -> str:
        """What the processes have written to stderr."""
        return self.error_file.read_text("utf-8") if self.error_file.exists() else ""

    @property
    def error_file(self) -> Path:
        """Not beside the run, whose disk may be full."""
        return self.cache_dir / f"{self.run_dir.parent.name}-{self.run_dir.name}.stderr"

    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl but for the fields under `time`."""
        return [{name: value for name, value in row.items() if name != "time"} for row in read_rows(self.run_dir)]

    def state(self) -> dict[str, Any]:
        """stage -> parameters and optimiser state of its end, as they lie on disk."""
        found = {}
        for stage in STAGES:
            folder = checkpoint_folder(self.run_dir, stage).absolute()
            step = str(json.loads((folder / "finished.json").read_text("utf-8"))["step"])
            with ocp.StandardCheckpointer() as checkpointer:
                found[stage] = [checkpointer.restore(folder / step / item) for item in ("params", "opt_state")]
        return found

    def half_written(self) -> int:
        """Number of checkpoints whose writing was cut off."""
        return len(list((self.run_dir / "checkpoints").glob("*/*.orbax-checkpoint-tmp*")))


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload([__name__])


def _train(run: ToyRun, progress: Any) -> None:
    num_devices = run.mesh[0] * run.mesh[1] * run.mesh[2]
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={num_devices}"
    run.cache_dir.mkdir(parents=True, exist_ok=True)
    errors = run.error_file.open("a", encoding="utf-8", buffering=1)
    os.dup2(errors.fileno(), 2)

    import absl.logging
    import jax

    absl.logging.set_verbosity(absl.logging.FATAL)
    jax.config.update("jax_compilation_cache_dir", str(run.cache_dir / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    from seqgpt_jax.training.start import StartingPoint
    from seqgpt_jax.vocabulary import train_tokenizer
    from tests.training.toy import CONFIG, TOY_ADAMW, TOY_MUON, ToySource

    vocabulary = train_tokenizer(["some text"], 300)
    sources = [ToySource("a", 60, seed=1), ToySource("b", 30, seed=2)]
    caches: Any = batches
    caches.ensure_cache = lambda spec, cache_dir, progress: sources
    starts: Any = loop
    starts.prepare_start = lambda recipe, run_dir: StartingPoint(vocabulary, CONFIG, None)
    if run.max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (run.max_file_bytes, resource.RLIM_INFINITY))
    if run.slow_save:
        write_checksums = integrity.write_checksums

        def write_slowly(folder: Path) -> None:
            time.sleep(run.slow_save)
            write_checksums(folder)

        integrity.write_checksums = write_slowly
    if progress is not None:
        write = Journal.write

        def write_and_count(self: Journal, step: int, *arguments: Any) -> None:
            write(self, step, *arguments)
            progress.value = STAGES.index(self._stage) * run.steps + step

        Journal.write = write_and_count  # type: ignore[method-assign]
    recipe = Recipe(
        stages=(
            Stage("one", "synthetic", run.steps, optimizer=TOY_MUON),
            Stage("two", "mini_real", run.steps, optimizer=TOY_ADAMW),
        ),
        data=DataSettings(cache_dir=str(run.cache_dir), rows_per_step=8, row_tokens=40, row_supervised=12, window=32),
        mesh=MeshSettings(*run.mesh),
        checkpoint=CheckpointSettings(every=run.save_every),
    )
    try:
        with SignalWatch():  # as cli.py does
            loop.train(recipe, run.run_dir, config_text="seed = 1\n", show_progress=False)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(f"stopped: {stop}", file=sys.stderr)
        sys.exit(75)
