"""The token cache as an Apache Beam pipeline, for mixtures that one machine is too small for: same tasks, same bytes.

    python -m tasks.beam gin/recipes/real.gin --run_dir runs/real --runner=DirectRunner --direct_num_workers=2

    task, pass  --read-->  SHARD_RECORDS records each  --encode-->  shards  --by task-->  one folder, published

Builds what the stages of a recipe lack; what it does not know of the command line goes to Beam. The data, the tokenizer
and the cache folder must lie at the same paths for every worker. A shard that is made twice, as Beam may have it, is
the same shard.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import seqio
import tensorflow as tf

from seqgpt_jax.data.cache import CacheSpec, open_if_whole, planned_tasks
from seqgpt_jax.data.cache_build import BuildJob, building_folder
from seqgpt_jax.data.datasets import Dataset, atomic_tasks
from seqgpt_jax.data.label_pools import foreign_labels
from seqgpt_jax.data.task_cache import SHARD_RECORDS, Shard, finish_task, is_whole, publish, write_shard, writing
from seqgpt_jax.errors import UserError
from tasks.build import pass_seed, task_settings, token_examples
from tasks.mixtures import TaskSettings, make_task
from tasks.preprocessors import take_user_error

_USER_ERROR = "user_error"  # the file in which a worker leaves one


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all is built; 2: the user's input was wrong, and one line says what."""
    from seqgpt_jax.configuration import load_recipe
    from seqgpt_jax.training.start import cache_spec, prepare_start

    parser = argparse.ArgumentParser(
        prog="python -m tasks.beam", description="Build a recipe's token caches with Beam."
    )
    parser.add_argument("recipe", metavar="RECIPE.gin")
    parser.add_argument("--gin", action="append", default=[], metavar="'name=value'", help="overrides the file")
    parser.add_argument("--run_dir", type=Path, required=True, metavar="DIR", help="the run that will train on them")
    options, beam_options = parser.parse_known_args(arguments)
    try:
        recipe = load_recipe(options.recipe, options.gin)
        prepare_start(recipe, options.run_dir)
        data_dir = recipe.data.data_dir or os.environ.get("SEQGPT_DATA_DIR")  # workers have an environment of their own
        for stage in recipe.stages:
            if stage.objective == "language_modelling":
                print(f"{stage.name}: its texts are no SeqIO tasks, and quick to encode: `seqgpt train` does it")
                continue
            spec = cache_spec(recipe, stage, (options.run_dir / "tokenizer").resolve())
            spec = dataclasses.replace(spec, data_dir=data_dir and str(Path(data_dir).resolve()))
            num_built = build_with_beam(spec, recipe.data.cache_path().resolve(), beam_options)
            print(f"{stage.name}: built the token caches of {num_built} tasks")
    except UserError as error:
        print(f"tasks.beam: error: {error}", file=sys.stderr)
        return 2
    return 0


def build_with_beam(spec: CacheSpec, cache_dir: Path, beam_options: Sequence[str]) -> int:
    """Builds what ensure_cache would, and returns how many tasks that were. UserError as there, or without Beam."""
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UserError(f"Apache Beam cannot be imported: {error} (pip install 'seqgpt_jax[beam]')") from None
    leaked = spec.leaked(cache_dir)
    missing = [task for task in planned_tasks(spec, cache_dir, leaked) if open_if_whole(task.folder) is None]
    if not missing:
        return 0
    with building_folder(cache_dir) as unfinished:
        workshop = _Workshop(BuildJob(spec, leaked).to_json(), str(unfinished))
        folders = {task.name: str(task.folder) for task in missing}
        passes = [(name, pass_number) for name in folders for pass_number in range(spec.passes)]
        try:
            with beam.Pipeline(options=PipelineOptions(list(beam_options))) as pipeline:
                (
                    pipeline
                    | "tasks" >> beam.Create(passes)
                    | "deal out" >> beam.Reshuffle()
                    | "read" >> beam.FlatMap(workshop.read)
                    | "deal out records" >> beam.Reshuffle()
                    | "encode" >> beam.Map(workshop.encode)
                    | "by task" >> beam.GroupByKey()
                    | "finish" >> beam.MapTuple(functools.partial(workshop.finish, folders))
                )
        except Exception:
            report = unfinished / _USER_ERROR
            if report.is_file():
                raise UserError(report.read_text("utf-8")) from None
            raise
    return len(missing)


# --- what the workers do ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Records:
    """Records of one pass over a task, as its source gives them. stats: what the source has counted."""

    task: str
    pass_number: int
    number: int
    records: list[bytes]
    stats: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Encoded:
    pass_number: int
    number: int
    shard: Shard | None
    stats: Counter[str]


@dataclass(frozen=True)
class _Workshop:
    """The three steps of the pipeline. job: a BuildJob as JSON. unfinished: the folder that all workers write into."""

    job: str
    unfinished: str

    def read(self, task_pass: tuple[str, int]) -> Iterator[_Records]:
        """The records of one pass over a task; at least one item, without any where it has none."""
        name, pass_number = task_pass
        with self._reporting():
            spec, stats, task = _make_task(self.job, name)
            source = task.source.get_dataset(spec.split, shuffle=False, seed=pass_seed(spec, pass_number))
            records = (element["record"] for element in source.as_numpy_iterator())
            number = 0
            while block := list(islice(records, SHARD_RECORDS)):
                yield _Records(name, pass_number, number, block)
                number += 1
            yield _Records(name, pass_number, number, [], stats)

    def encode(self, part: _Records) -> tuple[str, _Encoded]:
        """Writes the shard of these records. What an attempt that failed has left is in a folder of its own."""
        with self._reporting():
            shard, stats = None, part.stats
            if part.records:
                spec, stats, task = _make_task(self.job, part.task)
                source = tf.data.Dataset.from_tensor_slices({"record": part.records})
                batches = task.preprocess_precache(source, pass_seed(spec, part.pass_number))
                folder = Path(self.unfinished)
                with writing(folder):
                    attempt = Path(tempfile.mkdtemp(dir=folder))
                    (folder / part.task).mkdir(exist_ok=True)
                shard = write_shard(attempt, part.pass_number, part.number, token_examples(batches))
                if shard:
                    with writing(folder):
                        (attempt / shard.file).rename(folder / part.task / shard.file)
            return part.task, _Encoded(part.pass_number, part.number, shard, stats)

    def finish(self, folders: Mapping[str, str], name: str, parts: Iterable[_Encoded]) -> None:
        """Makes a task's shards a cache, and publishes it."""
        with self._reporting():
            built, folder = Path(self.unfinished, name), Path(folders[name])
            if is_whole(folder):  # this has been done before, and Beam does it again
                return
            in_order = sorted(parts, key=lambda part: (part.pass_number, part.number))
            stats = sum((part.stats for part in in_order), Counter[str]())
            shards = [part.shard for part in in_order if part.shard]
            settings = json.loads(BuildJob.from_json(self.job).spec.to_json())
            with writing(built):
                built.mkdir(exist_ok=True)  # there is none where the task has no example
            finish_task(built, name, shards, stats, settings)
            publish(built, folder)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """A UserError is written to a file: Beam would show it as a traceback of its own."""
        try:
            yield
        except (UserError, tf.errors.OpError) as error:
            user_error = error if isinstance(error, UserError) else take_user_error()
            if user_error is not None:
                (Path(self.unfinished) / _USER_ERROR).write_text(str(user_error), "utf-8")
            raise


def _make_task(job: str, name: str) -> tuple[CacheSpec, Counter[str], seqio.Task]:
    """The spec, the task, and what the task counts from now on; tasks of several threads do not share it."""
    spec, settings, datasets = _materials(job)
    dataset, steps = next(
        (dataset, steps) for dataset in datasets for task, steps in atomic_tasks(dataset).items() if task == name
    )
    stats: Counter[str] = Counter()
    foreign = foreign_labels(dataset, datasets, spec.ask)
    return spec, stats, make_task(dataset, name, steps, settings, foreign, stats)


@functools.lru_cache(maxsize=1)
def _materials(job: str) -> tuple[CacheSpec, TaskSettings, list[Dataset]]:
    """What all tasks of a job share, once in a process."""
    parsed = BuildJob.from_json(job)
    return parsed.spec, task_settings(parsed), parsed.spec.datasets()


if __name__ == "__main__":
    from tasks import beam  # so that workers find the functions under a name that they know, too

    sys.exit(beam.main())
