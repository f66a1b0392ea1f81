"""Speed of the data path against SeqIO's own: token cache, batch plan, loader, and seek to a far step.

    python benchmarks/data_speed.py [--limit RECORDS] [--row_tokens 1024 ...] [--json FILE] [--quick]

The mixture held_in (SEQGPT_DATA_DIR, else ../shared/data), its train split, with a byte-level BPE vocabulary of 32,768
trained on it as BLOOM's is (training it is not measured; --tokenizer takes one that exists). In this order, each in a
process of its own:

    cache   records that leak are looked for, then ensure_cache: the start of its child processes included
    ours    plan, loader and seek on that cache; it ends with an error if TensorFlow or SeqIO has been imported
    seqio   seqio.get_dataset with PrefixLMFeatureConverter(pack=True) on the examples of our steps

    cache_examples_per_s   examples written, once leaks_s have found what to leave out (they are kept for later builds)
    plan_examples_per_s    examples placed into rows, the plan's construction included
    fill                   tokens over positions of the rows; seqio_fill likewise
    loader_tokens_per_s    tokens in batches, padding not counted, after every task has been read once
    seek_s                 a new plan with stored row counts, and the rows of a far step: the median of several
    seek_cold_s            the same without stored counts
    first_batch_s          that step's batch after opening the caches anew, which reads its tasks into memory

SeqIO has the easier work: its examples lie tokenized in TFRecord files of one task, already shuffled, where ours come
from all tasks of the mixture; and its rows have no second limit, of supervised tokens. It splits a row's positions into
inputs and targets and cuts what is longer (seqio_cut: tokens that it lost).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from _harness import answer_child, finish, machine, make_parser, run_child

# TensorFlow is imported by the side that needs it alone, and what is ours by the processes that are measured.

REPO = Path(__file__).resolve().parent.parent
SIDES = ("prepare", "cache", "ours", "seqio")
SEEK_TRIES = 5


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process does, given to it as JSON."""

    side: str
    folder: str  # everything that is kept between processes
    mixture: str = "held_in"
    limit: int | None = None
    tokenizer: str | None = None
    vocab_size: int = 32_768
    rows_per_step: int = 8
    row_tokens: tuple[int, ...] = (1024,)
    row_supervised: int = 320
    steps: int = 500
    far_step: int = 100_000

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        return cls(**{**fields, "row_tokens": tuple(fields["row_tokens"])})

    @property
    def tokenizer_path(self) -> str:
        return self.tokenizer or f"{self.folder}/tokenizer"

    @property
    def cache_dir(self) -> Path:
        return Path(self.folder) / "cache"

    @property
    def data_dir(self) -> Path:
        return Path(os.environ.get("SEQGPT_DATA_DIR") or REPO.parent / "shared" / "data")


# --- the sides -------------------------------------------------------------------------------------------------------


def run_prepare(job: Job) -> dict[str, Any]:
    """Trains the tokenizer, if none is given."""
    from seqgpt_jax.data.mixtures import resolve_mixture
    from seqgpt_jax.data.questions import training_texts
    from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer

    if job.tokenizer is None:
        datasets = [each for each in resolve_mixture(job.mixture, job.data_dir) if "train" in each.splits]
        train_tokenizer(training_texts(datasets, "train", 200), job.vocab_size).save(Path(job.tokenizer_path))
    return {"vocabulary": Vocabulary.from_pretrained(job.tokenizer_path).size}


def _spec(job: Job) -> Any:
    from seqgpt_jax.data.cache import CacheSpec

    return CacheSpec(
        job.mixture, job.tokenizer_path, str(job.data_dir),
        max_tokens=max(job.row_tokens), max_supervised=job.row_supervised, limit=job.limit,
    )  # fmt: skip


def _caches(job: Job) -> list[Any]:
    """The token caches: built at the first call, opened at later ones."""
    from seqgpt_jax.data.cache import ensure_cache

    return ensure_cache(_spec(job), job.cache_dir)


def run_cache(job: Job) -> dict[str, Any]:
    leaks_seconds, _ = _timed(lambda: _spec(job).leaked(job.cache_dir))
    seconds, caches = _timed(lambda: _caches(job))
    lengths = [cache.lengths.sum(0).tolist() for cache in caches]
    return {
        "seconds": seconds,
        "leaks_seconds": leaks_seconds,
        "tasks": len(caches),
        "examples": sum(map(len, caches)),
        "tokens": sum(tokens for tokens, _ in lengths),
        "supervised": sum(supervised for _, supervised in lengths),
    }


def _plan(job: Job, caches: list[Any], counts_folder: Path | None = None) -> Any:
    from seqgpt_jax.data.plan import BatchPlan, PlanConfig, TaskSize

    config = PlanConfig(job.rows_per_step, job.row_tokens, job.row_supervised)
    return BatchPlan([TaskSize(cache.name, cache.lengths, len(cache)) for cache in caches], config, counts_folder)


def run_ours(job: Job) -> dict[str, Any]:
    from seqgpt_jax.data.loader import Loader

    caches, counts_folder = _caches(job), Path(job.folder) / "plans"

    def seek() -> None:
        _plan(job, caches, counts_folder).rows(job.far_step)

    plan_seconds, plan = _timed(lambda: _plan_steps(job, caches))
    cold_seconds, plan_far = _timed(lambda: _plan(job, caches, counts_folder))
    cold_seconds += _timed(lambda: plan_far.rows(job.far_step))[0]
    plan_far.save_counts()
    seeks = [_timed(seek)[0] for _ in range(SEEK_TRIES)]
    first_batch_seconds, _ = _timed(lambda: Loader(plan_far, _caches(job)).batch(job.far_step))

    for cache in caches:
        cache[0]
    loader = Loader(plan, caches)
    tokens = positions = 0
    begin = time.perf_counter()
    for batch in loader.batches(0, job.steps):
        tokens += int((batch.segment_ids_BT > 0).sum())
        positions += batch.tokens_BT.size
    loader_seconds = time.perf_counter() - begin
    loaded = {"tensorflow", "seqio"} & set(sys.modules)
    assert not loaded, loaded
    return {
        "plan_examples": plan.examples_until(job.steps),
        "plan_seconds": plan_seconds,
        "seek_cold": cold_seconds,
        "seek": statistics.median(seeks),
        "first_batch": first_batch_seconds,
        "tokens": tokens,
        "positions": positions,
        "loader_seconds": loader_seconds,
    }


def _plan_steps(job: Job, caches: list[Any]) -> Any:
    plan = _plan(job, caches)
    for step in range(job.steps + 1):
        plan.rows(step)
    return plan


def run_seqio(job: Job) -> dict[str, Any]:
    import numpy as np
    import seqio
    import tensorflow as tf

    row_tokens = max(job.row_tokens)
    lengths = {"inputs": row_tokens - row_tokens // 4, "targets": row_tokens // 4}
    paths, num_tokens = _write_tfrecords(job)
    description = {name: tf.io.VarLenFeature(tf.int64) for name in lengths}
    vocabulary = seqio.PassThroughVocabulary(size=1 << 20)
    task = seqio.Task(
        "examples_of_our_steps",
        source=seqio.TFExampleDataSource({"train": paths}, description),
        preprocessors=[_to_dense],
        output_features={name: seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32) for name in lengths},
        metric_fns=[],
    )
    rows = seqio.get_dataset(
        task, lengths, seqio.PrefixLMFeatureConverter(pack=True), "train", shuffle=False, num_epochs=1
    )
    seen: list[np.ndarray] = []
    begin = time.perf_counter()
    for row in rows.as_numpy_iterator():
        if not seen:
            begin = time.perf_counter()  # what comes before the first row is its start
        seen.append(row["decoder_segment_ids"] > 0)
    seconds = time.perf_counter() - begin
    tokens = [int(each.sum()) for each in seen]
    return {
        "seconds": seconds,
        "tokens": sum(tokens),
        "tokens_timed": sum(tokens[1:]),
        "positions": row_tokens * len(seen),
        "cut": num_tokens - sum(tokens),
    }


def _to_dense(dataset: Any) -> Any:
    import tensorflow as tf

    return dataset.map(
        lambda example: {name: tf.cast(tf.sparse.to_dense(ids), tf.int32) for name, ids in example.items()},
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _write_tfrecords(job: Job, num_files: int = 8) -> tuple[list[str], int]:
    """The examples of our steps in random order, ids one higher, as 0 is SeqIO's padding; and their tokens."""
    import numpy as np
    import tensorflow as tf

    caches = _caches(job)
    plan = _plan(job, caches)
    documents = [document for step in range(job.steps) for row in plan.rows(step) for document in row]
    order = np.random.default_rng(0).permutation(len(documents))
    paths, num_tokens = [f"{job.folder}/examples-{number}.tfrecord" for number in range(num_files)], 0
    for number, path in enumerate(paths):
        with tf.io.TFRecordWriter(path) as writer:
            for place in order[number::num_files].tolist():
                task, index = documents[place]
                example = caches[task][index]
                num_tokens += len(example.ids)
                parts = {
                    "inputs": example.ids[: example.num_prompt] + 1,
                    "targets": example.ids[example.num_prompt :] + 1,
                }
                feature = {
                    name: tf.train.Feature(int64_list=tf.train.Int64List(value=ids.tolist()))
                    for name, ids in parts.items()
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return paths, num_tokens


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


# --- all together ----------------------------------------------------------------------------------------------------


def _run(job: Job) -> dict[str, Any]:
    return run_child(job, job.side, TF_CPP_MIN_LOG_LEVEL="3")


def _child_main(text: str) -> None:
    job = Job.from_json(text)
    run = {"prepare": run_prepare, "cache": run_cache, "ours": run_ours, "seqio": run_seqio}[job.side]
    answer_child(lambda: run(job))


def _figures(results: dict[str, dict[str, Any]]) -> Iterator[tuple[str, float]]:
    cache, ours, seqio = results["cache"], results["ours"], results["seqio"]
    yield "cache_examples_per_s", round(cache["examples"] / cache["seconds"])
    yield "leaks_s", round(cache["leaks_seconds"], 1)
    yield "plan_examples_per_s", round(ours["plan_examples"] / ours["plan_seconds"])
    yield "fill", round(ours["tokens"] / ours["positions"], 4)
    yield "loader_tokens_per_s", round(ours["tokens"] / ours["loader_seconds"])
    yield "seek_s", round(ours["seek"], 4)
    yield "seek_cold_s", round(ours["seek_cold"], 2)
    yield "first_batch_s", round(ours["first_batch"], 3)
    yield "seqio_fill", round(seqio["tokens"] / seqio["positions"], 4)
    yield "seqio_tokens_per_s", round(seqio["tokens_timed"] / seqio["seconds"])
    yield "seqio_cut", seqio["cut"]


def main() -> None:
    parser = make_parser(__doc__, quick="a few generated records")
    parser.add_argument("--limit", type=int, help="records a dataset (default: all)")
    parser.add_argument("--tokenizer", help="a tokenizer to use, instead of training one")
    parser.add_argument("--vocab_size", type=int, default=Job.vocab_size, help="of the one that is trained")
    parser.add_argument("--rows_per_step", type=int, default=Job.rows_per_step, help="of the longest length")
    parser.add_argument("--row_tokens", type=int, nargs="+", default=list(Job.row_tokens), help="one length, or more")
    parser.add_argument("--row_supervised", type=int, default=Job.row_supervised, help="of the longest length")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child_main(options.child)
        return
    names = ("limit", "tokenizer", "vocab_size", "rows_per_step", "row_supervised")
    settings = {name: getattr(options, name) for name in names}
    job = Job("", "", **settings, row_tokens=tuple(options.row_tokens))
    if options.quick:
        job = dataclasses.replace(job, mixture="synthetic", limit=20, vocab_size=2_048, steps=4, far_step=200)
    with tempfile.TemporaryDirectory() as folder:
        job = dataclasses.replace(job, folder=folder)
        results = {side: _run(dataclasses.replace(job, side=side)) for side in SIDES}
    figures = dict(_figures(results))
    for name, value in figures.items():
        print(f"{name:24}{value:>16,}")
    ratios = {
        "fill": round(figures["fill"] / figures["seqio_fill"], 3),
        "loader_tokens_per_s": round(figures["loader_tokens_per_s"] / figures["seqio_tokens_per_s"], 2),
    }
    shown = {key: value for key, value in dataclasses.asdict(job).items() if key not in ("side", "folder")}
    shown |= {name: results["cache"][name] for name in ("tasks", "examples", "tokens", "supervised")}
    shown |= {"vocabulary": results["prepare"]["vocabulary"]}
    finish(options, ratios=ratios, figures=figures, settings=shown, device=machine())


if __name__ == "__main__":
    main()
