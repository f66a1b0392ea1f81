"""Child process of data/cache_build.py: runs SeqIO tasks once, into token caches.

Standard input: a BuildJob, then a line {"task", "folder"} for each task to build, then null. Where it ends without
null the parent is no more, and this process ends too.
Standard output: {"examples": since the last line}, {"done": task, "folder"}, or {"user_error": one line}.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import seqio
import tensorflow as tf

from seqgpt_jax.data.cache import CacheSpec
from seqgpt_jax.data.cache_build import BuildJob
from seqgpt_jax.data.datasets import atomic_tasks
from seqgpt_jax.data.label_pools import foreign_labels
from seqgpt_jax.data.questions import TokenExample
from seqgpt_jax.data.task_cache import SHARD_RECORDS, Shard, finish_task, write_shard, writing
from seqgpt_jax.errors import UserError
from seqgpt_jax.vocabulary import Vocabulary
from tasks.mixtures import TaskSettings, make_task
from tasks.preprocessors import BATCH, take_user_error
from tasks.seqio_vocabulary import SHIFT

BATCHES_PER_SHARD = SHARD_RECORDS // BATCH


def main() -> int:
    """0: all is built; 2: the user's input was wrong, see standard output."""
    job = BuildJob.from_json(sys.stdin.readline())
    try:
        build(job, _orders(sys.stdin))
    except UserError as error:
        _tell(user_error=str(error))
        return 2
    except tf.errors.OpError:
        user_error = take_user_error()
        if user_error is None:
            raise
        _tell(user_error=str(user_error))
        return 2
    return 0


def build(job: BuildJob, orders: Iterable[tuple[str, Path]]) -> None:
    """Builds tasks of the job, each into its folder."""
    spec, settings = job.spec, task_settings(job)
    datasets = spec.datasets()
    tasks = {name: (dataset, steps) for dataset in datasets for name, steps in atomic_tasks(dataset).items()}
    for name, folder in orders:
        dataset, steps = tasks[name]
        foreign = foreign_labels(dataset, datasets, spec.ask)
        stats: Counter[str] = Counter()
        build_task(make_task(dataset, name, steps, settings, foreign, stats), folder, spec, stats)
        _tell(done=name, folder=os.fspath(folder))


def task_settings(job: BuildJob) -> TaskSettings:
    """How the tasks of a cache are made: without words, which it does not hold."""
    vocabulary = Vocabulary.from_pretrained(job.spec.tokenizer)
    spec = job.spec
    return TaskSettings(vocabulary, spec.encode_config(), spec.limit, spec.seed, strings=False, skip=job.leaked)


def build_task(task: seqio.Task, folder: Path, spec: CacheSpec, stats: Mapping[str, int]) -> None:
    """Runs a task once for every pass. stats: what the task counts meanwhile."""
    with writing(folder):
        folder.mkdir(parents=True)
    shards: list[Shard] = []
    for pass_number in range(spec.passes):
        seed = pass_seed(spec, pass_number)
        source = task.source.get_dataset(spec.split, shuffle=False, seed=seed)
        batches = _told(task.preprocess_precache(source, seed))
        for number, first in enumerate(batches):
            examples = token_examples(chain([first], islice(batches, BATCHES_PER_SHARD - 1)))
            shard = write_shard(folder, pass_number, number, examples)
            shards += [shard] if shard else []
    finish_task(folder, task.name, shards, stats, json.loads(spec.to_json()))


def pass_seed(spec: CacheSpec, pass_number: int) -> int:
    return spec.seed * spec.passes + pass_number


def token_examples(batches: Iterable[Mapping[str, tf.Tensor]]) -> Iterator[TokenExample]:
    """The questions in what preprocessors.ask_and_encode gives, one by one."""
    for batch in batches:
        inputs, targets = (batch[name].numpy() - SHIFT for name in ("inputs", "targets"))
        prompt_end = answer_end = 0
        for num_prompt, num_answer in zip(batch["num_inputs"].numpy(), batch["num_targets"].numpy(), strict=True):
            prompt_start, prompt_end = prompt_end, prompt_end + num_prompt
            answer_start, answer_end = answer_end, answer_end + num_answer
            ids = np.concatenate([inputs[prompt_start:prompt_end], targets[answer_start:answer_end]])
            yield TokenExample(ids, int(num_prompt))


def _told(batches: Iterable[Mapping[str, tf.Tensor]]) -> Iterator[Mapping[str, tf.Tensor]]:
    for batch in batches:
        yield batch
        _tell(examples=len(batch["num_inputs"]))


def _orders(stream: IO[str]) -> Iterator[tuple[str, Path]]:
    """What is to be built, as it is ordered. Ends this process when the parent, at the other end, is no more."""
    orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in stream:
            orders.put(json.loads(line))
            if line.strip() == "null":
                return
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    while (order := orders.get()) is not None:
        yield order["task"], Path(order["folder"])


def _tell(**fields: object) -> None:
    print(json.dumps(fields, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
