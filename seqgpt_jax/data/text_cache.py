"""Token caches of the texts of a mixture: one task a dataset, <dataset>_text, in the files of task_cache.py.

They lie beside the caches of atomic tasks and are kept, damaged and published as those are. There is nothing to ask,
so they are built here and not by SeqIO in child processes: encoding is quick, and runs on all cores.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from seqgpt_jax.data.cache import CACHE_FORMAT, CacheSpec, code_fingerprint, open_if_whole
from seqgpt_jax.data.cache_build import building_folder
from seqgpt_jax.data.datasets import Dataset, sample_records
from seqgpt_jax.data.task_cache import SHARD_RECORDS, Shard, TaskCache, finish_task, publish, write_shard, writing
from seqgpt_jax.data.texts import dataset_tasks, distinct_texts, text_examples
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import Record
from seqgpt_jax.vocabulary import Vocabulary


def ensure_text_cache(spec: CacheSpec, cache_dir: Path, *, progress: bool = True) -> list[TaskCache]:
    """The texts of the records that `ensure_cache` would ask about, as token examples; builds what is missing.

    What a spec says of prompts and questions plays no part. One cache a dataset, sorted by name; those without any
    example are left out. A damaged cache is built again, with a warning. UserError for whatever is wrong with the
    records, the mixture, the tokenizer or the disk, and where max_tokens is below 2.
    """
    cache_dir = Path(cache_dir)
    if spec.max_tokens == 1:
        raise UserError("texts cannot be cut into pieces of 1 token (make data.row_tokens and data.max_tokens larger)")
    vocabulary, leaked = Vocabulary.from_pretrained(spec.tokenizer), spec.leaked(cache_dir, progress)
    caches: dict[str, TaskCache] = {}
    missing: dict[str, tuple[Dataset, Path]] = {}
    for dataset in spec.datasets():
        (name,) = dataset_tasks(dataset, "language_modelling")
        if name in caches or name in missing:
            raise UserError(f"two datasets of '{spec.mixture}' give a task named '{name}' (rename one)")
        skip = leaked.get(dataset.declared.name, ())
        folder = cache_dir / f"{name}-{text_key(spec, dataset, vocabulary.fingerprint(), skip)}"
        cache = open_if_whole(folder)
        if cache is None:
            missing[name] = (dataset, folder)
        else:
            caches[name] = cache
    if missing:
        title = f"texts of {spec.mixture}"
        with (
            building_folder(cache_dir) as unfinished,
            tqdm(desc=title, unit=" examples", disable=not progress, file=sys.stderr) as bar,
        ):
            for number, (name, (dataset, folder)) in enumerate(missing.items()):
                skip = leaked.get(dataset.declared.name, ())
                _build(spec, dataset, name, unfinished / folder.name, vocabulary, skip, bar)
                publish(unfinished / folder.name, folder)
                caches[name] = TaskCache(folder)
                bar.set_postfix_str(f"{number + 1}/{len(missing)} datasets")
    found = [caches[name] for name in sorted(caches) if len(caches[name])]
    if not found:
        raise UserError(f"'{spec.mixture}' gives no text (choose a mixture whose records have one)")
    return found


def text_key(spec: CacheSpec, dataset: Dataset, tokenizer_fingerprint: str, leaked: Collection[str]) -> str:
    """A hash of all that the token ids of a dataset's texts depend on. leaked: ids of records that are left out."""
    parts = {
        "cache_format": CACHE_FORMAT,
        "dataset": dataset.declared.name,
        "source": dataset.fingerprint(spec.split),
        "split": spec.split,
        "tokenizer": tokenizer_fingerprint,
        "code": code_fingerprint("seqgpt_jax.data.texts"),
        "max_tokens": spec.max_tokens,
        "sample": None if spec.limit is None else [spec.limit, spec.seed],
        "leaked": sorted(leaked),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


def _build(
    spec: CacheSpec,
    dataset: Dataset,
    name: str,
    folder: Path,
    vocabulary: Vocabulary,
    skip: Collection[str],
    bar: tqdm[None],
) -> None:
    stats: Counter[str] = Counter()
    records = sample_records(dataset, spec.split, spec.limit, spec.seed) if spec.limit else dataset.records(spec.split)

    def kept() -> Iterator[Record]:
        for record in records:
            if record.id in skip:
                stats["leaked"] += 1
            else:
                yield record

    with writing(folder):
        folder.mkdir()
    texts = distinct_texts(kept())
    shards: list[Shard] = []
    while block := list(islice(texts, SHARD_RECORDS)):
        examples = text_examples(block, vocabulary, spec.max_tokens, stats)
        shard = write_shard(folder, 0, len(shards), examples)
        shards += [shard] if shard else []
        bar.update(len(examples))
    finish_task(folder, name, shards, stats, json.loads(spec.to_json()))
