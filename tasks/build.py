"""Child process of data/cache.py: runs SeqIO tasks once, into token caches. Reads a BuildJob from standard input.

Standard output is JSON lines: {"task", "folder", "examples": since the last line, "done"}, or {"user_error": one line}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from seqgpt_jax.data.cache import BuildJob, CacheSpec, write_task_cache
from seqgpt_jax.data.datasets import atomic_tasks
from seqgpt_jax.data.questions import TokenExample
from seqgpt_jax.errors import UserError
from seqgpt_jax.vocabulary import Vocabulary
from tasks.mixtures import TaskSettings, add_tasks, task_stats
from tasks.preprocessors import take_user_error
from tasks.seqio_vocabulary import SHIFT

READ_BATCH = 1024  # examples handed over from TensorFlow at once


def main() -> int:
    """0: all is built; 2: the user's input was wrong, see standard output."""
    job = BuildJob.from_json(sys.stdin.read())
    try:
        build(job)
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


def build(job: BuildJob) -> None:
    """Builds the job's tasks, each into its folder."""
    spec = job.spec
    vocabulary = Vocabulary.from_pretrained(spec.tokenizer)
    settings = TaskSettings(vocabulary, spec.encode_config(), spec.limit, spec.seed, strings=False, skip=job.leaked)
    datasets = spec.datasets()
    for dataset in datasets:
        if job.folders.keys().isdisjoint(atomic_tasks(dataset)):
            continue
        for name in add_tasks(dataset, settings, datasets):
            if name in job.folders:
                folder = Path(job.folders[name])
                stats = task_stats(name)
                examples = _examples(spec, name, str(folder))
                write_task_cache(folder, name, examples, stats, json.loads(spec.to_json()))
                _tell(task=name, folder=str(folder), examples=0, done=True)


def _examples(spec: CacheSpec, name: str, folder: str) -> Iterator[TokenExample]:
    task = seqio.TaskRegistry.get(name)
    for number in range(spec.passes):
        seed = spec.seed * spec.passes + number
        ds = task.get_dataset(split=spec.split, shuffle=False, seed=seed, try_in_mem_cache=False)
        for batch in ds.ragged_batch(READ_BATCH):
            inputs, targets = _rows(batch["inputs"]), _rows(batch["targets"])
            for prompt, answer in zip(inputs, targets, strict=True):
                yield TokenExample(np.concatenate([prompt, answer]), len(prompt))
            _tell(task=name, folder=folder, examples=len(inputs), done=False)


def _rows(ragged: tf.RaggedTensor) -> list[np.ndarray]:
    return np.split(ragged.flat_values.numpy() - SHIFT, ragged.row_splits.numpy()[1:-1])


def _tell(**fields: object) -> None:
    print(json.dumps(fields, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    sys.exit(main())
