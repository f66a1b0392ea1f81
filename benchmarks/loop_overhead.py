"""What the training loop costs over the bare jitted step: data, journal, TensorBoard, asynchronous checkpoints.

    python benchmarks/loop_overhead.py [--steps 200] [--save_every 50] [--rounds 2] [--json FILE] [--quick]

bloom_mini with Muon, on a token cache of the built-in generator's records. Both sides run in this process, one after
the other: bare, loop, bare, loop, ..., bare. Each begins with the same weights and trains on the same batches.

    bare   the compiled step on batches that lie on the device already; the host waits for nothing but the last step
    loop   training/steps.py as `seqgpt train` runs it: loader, metrics read one step late, metrics.jsonl, TensorBoard,
           progress bar, a checkpoint every save_every steps and at the end (its writing is waited for after the clock)

    overhead         seconds of a loop over the mean of the bare runs before and after it, minus 1: median over rounds
    data_wait        share of the loop's time in which the next batch was waited for
    checkpoint_hold  share of the loop's time that saves cost: the calls, and what steps took longer than the median
                     of the others while a save was being written
    save_calls       the share of the calls alone
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from _harness import finish, machine, make_parser

from seqgpt_jax.data.cache import CacheSpec, ensure_cache
from seqgpt_jax.data.loader import Loader
from seqgpt_jax.host_memory import keep_freed_memory
from seqgpt_jax.models.decoder import DecoderConfig, embedding_rows
from seqgpt_jax.models.presets import get_preset
from seqgpt_jax.recipe import DataSettings, Recipe, Stage
from seqgpt_jax.synthesis import generate_mixture
from seqgpt_jax.training.batches import make_loader
from seqgpt_jax.training.checkpoints import StageCheckpoints, StageInfo
from seqgpt_jax.training.faults import BadSteps
from seqgpt_jax.training.journal import Journal
from seqgpt_jax.training.optimizers import make_optimizer
from seqgpt_jax.training.partitioning import batch_sharding, make_mesh, make_skeleton
from seqgpt_jax.training.profiler import Profiler
from seqgpt_jax.training.signals import SignalWatch
from seqgpt_jax.training.sinks import read_rows
from seqgpt_jax.training.stage_evaluation import StageEvaluations
from seqgpt_jax.training.step import TrainState, init_params, init_state, make_train_step, state_shardings
from seqgpt_jax.training.steps import compile_steps, run_steps
from seqgpt_jax.training.weights import model_maker
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer

NAME = "loop"  # of the stage


@dataclasses.dataclass(frozen=True)
class Bench:
    """All that both sides share."""

    stage: Stage
    config: DecoderConfig
    loader: Loader
    compiled: dict[int, Any]
    mesh: Any
    first_state: Callable[[], TrainState]
    save_every: int

    @property
    def num_steps(self) -> int:
        assert self.stage.steps is not None
        return self.stage.steps


@dataclasses.dataclass(frozen=True)
class Loop:
    """Seconds of one run of the loop, and of them."""

    seconds: float
    data_seconds: float
    save_seconds: float
    slowdown_seconds: float
    final_write_seconds: float  # after the clock


def prepare(options: argparse.Namespace, folder: Path) -> Bench:
    """Tokenizer, token cache, plan, model and compiled step."""
    texts = (record.text for record in generate_mixture("synthetic", 2_000))
    train_tokenizer(texts, options.vocab_size).save(folder / "tokenizer")
    vocabulary = Vocabulary.from_pretrained(folder / "tokenizer")
    stage = Stage(NAME, "synthetic", options.steps, limit=options.records)
    data = DataSettings(
        cache_dir=str(folder / "cache"), rows_per_step=options.rows_per_step, row_tokens=options.row_tokens,
        row_supervised=options.row_supervised,
    )  # fmt: skip
    recipe = Recipe(stages=(stage,), data=data)
    spec = CacheSpec(
        stage.mixture, str(folder / "tokenizer"), max_tokens=options.row_tokens,
        max_supervised=options.row_supervised, limit=stage.limit,
    )  # fmt: skip
    loader = make_loader(ensure_cache(spec, data.cache_path()), recipe, stage)
    config = get_preset("bloom_mini", embedding_rows(vocabulary.size))
    if options.quick:
        config = dataclasses.replace(config, num_layers=2, width=64, num_heads=2)
    mesh, skeleton = make_mesh(), make_skeleton(model_maker(config, 0))
    optimizer = make_optimizer(stage.optimizer, options.steps, skeleton)
    shardings = state_shardings(skeleton, optimizer, mesh)
    host_params = jax.device_get(init_params(model_maker(config, 0), skeleton, mesh))

    def first_state() -> TrainState:
        return init_state(skeleton, host_params, optimizer, shardings)

    compiled = compile_steps(make_train_step(skeleton, optimizer, mesh, shardings), first_state(), loader, mesh)
    return Bench(stage, config, loader, compiled, mesh, first_state, options.save_every)


def run_bare(bench: Bench, batches: list[Any]) -> float:
    """Seconds of all steps."""
    state = jax.block_until_ready(bench.first_state())
    begin = time.perf_counter()
    for batch in batches:
        state, metrics = bench.compiled[batch.tokens_BT.shape[1]](state, batch)
    jax.block_until_ready((state, metrics))
    return time.perf_counter() - begin


class _TimedCheckpoints(StageCheckpoints):
    """Notes how long the call of each save took: step -> seconds."""

    def __init__(self, run_dir: Path, info: StageInfo) -> None:
        super().__init__(run_dir, info)
        self.calls: dict[int, float] = {}

    def save(self, step: int, state: TrainState, best_step: int | None = None) -> None:
        begin = time.perf_counter()
        super().save(step, state, best_step)
        self.calls[step] = time.perf_counter() - begin

    def is_writing(self) -> bool:
        return self._manager.is_saving_in_progress()


class _WatchingJournal(Journal):
    """Notes the steps at whose end a save was being written."""

    def __init__(self, run_dir: Path, num_steps: int, checkpoints: _TimedCheckpoints) -> None:
        super().__init__(run_dir, NAME, 0, num_steps)
        self._checkpoints, self.during_writes = checkpoints, set[int]()

    def write(self, step: int, *arguments: Any) -> None:
        super().write(step, *arguments)
        if self._checkpoints.is_writing():
            self.during_writes.add(step)


def run_loop(bench: Bench, run_dir: Path) -> Loop:
    """The steps as `seqgpt train` takes them, in a run directory of their own."""
    run_dir.mkdir()
    state = jax.block_until_ready(bench.first_state())
    info = StageInfo(NAME, 0, bench.config, steps=bench.num_steps)
    with (
        _TimedCheckpoints(run_dir, info) as checkpoints,
        _WatchingJournal(run_dir, bench.num_steps, checkpoints) as journal,
        Profiler(None, run_dir) as profiler,
        SignalWatch() as watch,
    ):
        evaluations = StageEvaluations(run_dir, bench.stage, bench.num_steps, journal, lambda *_: {})
        begin = time.perf_counter()
        state = run_steps(
            bench.compiled, state, 0, bench.num_steps, bench.loader, mesh=bench.mesh, checkpoints=checkpoints,
            save_every=bench.save_every, journal=journal, evaluations=evaluations,
            bad_steps=BadSteps(run_dir, NAME, 0), profiler=profiler, watch=watch,
        )  # fmt: skip
        jax.block_until_ready(state)
        end = time.perf_counter()
        checkpoints.wait()
        final_write = time.perf_counter() - end
    rows = read_rows(run_dir)
    # The call of a save falls into the seconds of the step after it; that of the last save into none.
    calls = {step + 1: seconds for step, seconds in checkpoints.calls.items()}
    disturbed = journal.during_writes | set(calls)
    own = {row["step"]: row["time"]["seconds"] - calls.get(row["step"], 0.0) for row in rows}
    quiet = statistics.median(seconds for step, seconds in own.items() if step not in disturbed)
    return Loop(
        seconds=end - begin,
        data_seconds=sum(row["time"]["data_seconds"] for row in rows),
        save_seconds=sum(checkpoints.calls.values()),
        slowdown_seconds=max(0.0, sum(own[step] - quiet for step in disturbed & set(own))),
        final_write_seconds=final_write,
    )


def main() -> None:
    parser = make_parser(__doc__, quick="a tiny model, 30 steps, a save every 10")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save_every", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=2, help="runs of the loop")
    parser.add_argument("--rows_per_step", type=int, default=16)
    parser.add_argument("--row_tokens", type=int, default=256)
    parser.add_argument("--row_supervised", type=int, default=96)
    parser.add_argument("--records", type=int, default=200, help="of each dataset of the generator")
    parser.add_argument("--vocab_size", type=int, default=16_384)
    options = parser.parse_args()
    if options.quick:
        for name, value in {"steps": 30, "save_every": 10, "rounds": 1, "records": 10, "vocab_size": 2_048}.items():
            setattr(options, name, value)
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        bench = prepare(options, Path(folder))
        place = batch_sharding(bench.mesh)
        batches = [jax.device_put(bench.loader.batch(step), place) for step in range(options.steps)]
        run_bare(bench, batches[: min(5, len(batches))])  # the first steps of a process are slower
        bare, loops = [run_bare(bench, batches)], list[Loop]()
        for number in range(options.rounds):
            loops.append(run_loop(bench, Path(folder) / f"run{number}"))
            bare.append(run_bare(bench, batches))
    overheads = [
        loop.seconds / statistics.fmean(around) - 1 for loop, *around in zip(loops, bare, bare[1:], strict=False)
    ]
    seconds = sum(loop.seconds for loop in loops)
    saves = sum(loop.save_seconds for loop in loops)
    figures = {
        "overhead": round(statistics.median(overheads), 4),
        "data_wait": round(sum(loop.data_seconds for loop in loops) / seconds, 4),
        "checkpoint_hold": round((saves + sum(loop.slowdown_seconds for loop in loops)) / seconds, 4),
        "save_calls": round(saves / seconds, 4),
        "bare_step_s": round(statistics.median(bare) / options.steps, 4),
        "loop_step_s": round(statistics.median(loop.seconds for loop in loops) / options.steps, 4),
        "bare_spread": round(max(bare) / min(bare) - 1, 4),  # noise: how much equal runs differ
        "final_write_s": round(statistics.median(loop.final_write_seconds for loop in loops), 3),
    }
    for name, figure in figures.items():
        print(f"{name:18} {figure:>9}")
    names = ("steps", "save_every", "rounds", "rows_per_step", "row_tokens", "row_supervised", "records", "vocab_size")
    settings = {name: getattr(options, name) for name in names}
    settings |= {"overheads": [round(each, 4) for each in overheads], "model": dataclasses.asdict(bench.config)}
    finish(
        options, ratios={}, figures=figures, settings=settings, device=f"{machine()}, {jax.devices()[0].device_kind}"
    )


if __name__ == "__main__":
    main()
