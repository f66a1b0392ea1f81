"""Numbers about a mixture: examples, tokens, labels, lengths, and what is cut, dropped or leaked; no cache is built.

The questions are those that training asks of a train split, in the first pass of a stage, or evaluation of any other.

    records   read, the leaked ones among them (data/leaks.py), which are then left out, as training leaves them
    examples  questions that fit in a row, and their tokens: prompt and answer with EOS; lengths are those before
              anything is cut
    labels    of a choice, how many answers name each; of an extraction, how many strings have it; none of span reading,
              whose labels are its questions. The most frequent one's share is of the questions, or of the strings
    surplus   questions left out so that no answer is too frequent (data/balance.py)
    none      questions whose answer is None throughout
    fill      share of the positions of packed rows that hold a token, over the first windows of the batch plan
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from seqgpt_jax.atomic import AtomicExample
from seqgpt_jax.data.datasets import Dataset, atomic_tasks, sample_records
from seqgpt_jax.data.label_pools import foreign_labels
from seqgpt_jax.data.leaks import TRAIN, ensure_leaks
from seqgpt_jax.data.plan import BatchPlan, PlanConfig, TaskSize
from seqgpt_jax.data.questions import (
    EncodeConfig,
    TokenExample,
    ask_context,
    ask_record,
    encode_examples,
    training_texts,
)
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import TASKS
from seqgpt_jax.tables import text_table
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer

SUPERVISED_SHARE = 3 / 8  # of a row's positions may be supervised, as in our recipes
QUANTILES = (0.1, 0.5, 0.9, 0.99, 1.0)
SAMPLE_VOCABULARY = 16_384  # ids, and records a dataset, of the tokenizer that is trained where none is given
SAMPLE_RECORDS = 200
_ROWS_PER_STEP, _WINDOWS = 32, 8  # of the plan that is filled
_BATCH = 256  # records encoded at once
_COUNTED = ("examples", "tokens", "supervised", "cut", "cut_spans", "dropped", "surplus")
_WHOLE = EncodeConfig()
_READING = "MRC-SE"


@dataclass
class TaskStats:
    """One atomic task of a dataset (module docstring)."""

    name: str
    dataset: str
    task: str
    language: str
    records: int = 0
    leaked: int = 0
    none: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # what questions.encode_examples counts
    labels: Counter[str] = field(default_factory=Counter)
    is_choice: bool = False
    questions: int = 0  # before any is dropped
    whole_tokens: list[int] = field(default_factory=list)  # of each question, before anything is cut
    lengths: list[tuple[int, int]] = field(default_factory=list)  # of each example: tokens, supervised tokens

    @property
    def top_label(self) -> tuple[str, float]:
        """The most frequent label, and its share of the questions (of a choice) or of the strings; "" and 0: none."""
        if not self.labels:
            return "", 0.0
        label, number = self.labels.most_common(1)[0]
        return label, number / (self.questions if self.is_choice else self.labels.total())

    def add(self, examples: Sequence[AtomicExample], vocabulary: Vocabulary, config: EncodeConfig) -> None:
        """Counts questions and encodes them."""
        for example in examples:
            self.questions += 1
            self.none += not example.answer
            self.is_choice = example.kind == "classify"
            if isinstance(example.answer, tuple):
                self.labels.update(example.answer)
            elif self.task != _READING:  # whose labels are its questions
                self.labels.update({label: len(strings) for label, strings in example.answer.items()})
        whole = [_lengths(each) for each in encode_examples(examples, vocabulary, _WHOLE, Counter())]
        self.whole_tokens += [tokens for tokens, _ in whole]
        fits = [
            tokens <= (config.max_tokens or tokens) and supervised <= (config.max_supervised or supervised)
            for tokens, supervised in whole
        ]
        fitting = [lengths for lengths, fit in zip(whole, fits, strict=True) if fit]
        self.lengths += fitting
        tokens, supervised = sum(each for each, _ in fitting), sum(each for _, each in fitting)
        self.counts.update({"examples": len(fitting), "tokens": tokens, "supervised": supervised})
        others = [example for example, fit in zip(examples, fits, strict=True) if not fit]
        shortened = encode_examples(others, vocabulary, config, self.counts)
        self.lengths += [_lengths(each) for each in shortened if each is not None]


def _lengths(example: TokenExample | None) -> tuple[int, int]:
    assert example is not None
    return len(example.ids), len(example.ids) - example.num_prompt


@dataclass(frozen=True)
class MixtureStats:
    mixture: str
    split: str
    limit: int | None
    tokenizer: str
    row_tokens: int
    row_supervised: int
    fill: float
    tasks: tuple[TaskStats, ...]


def mixture_stats(
    mixture: str,
    datasets: Sequence[Dataset],
    split: str,
    vocabulary: Vocabulary,
    tokenizer: str,
    row_tokens: int,
    *,
    leaked: Mapping[str, Collection[str]] | None = None,
    limit: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> MixtureStats:
    """Reads, asks and encodes every record of the split. limit: records a dataset, a sample drawn with seed.

    leaked: dataset name -> ids of the records that are left out. UserError where no dataset has the split, or nothing
    fits into a row.
    """
    row_supervised = int(row_tokens * SUPERVISED_SHARE)
    config = EncodeConfig(max_tokens=row_tokens, max_supervised=row_supervised)
    datasets = [dataset for dataset in datasets if split in dataset.splits]
    if not datasets:
        raise UserError(f"no dataset of '{mixture}' has a split '{split}' that may be read (choose another --split)")
    found: list[TaskStats] = []
    with tqdm(desc=f"{mixture}, {split}", unit=" records", disable=not progress, file=sys.stderr) as bar:
        for dataset in datasets:
            skip = (leaked or {}).get(dataset.declared.name, ())
            found += _dataset_stats(dataset, datasets, split, vocabulary, config, skip, limit, seed, bar)
    sizes = [TaskSize(each.name, np.array(each.lengths, np.int32), len(each.lengths)) for each in found if each.lengths]
    if not sizes:
        raise UserError(f"'{mixture}' gives no example of at most {row_tokens} tokens (raise --row_tokens)")
    plan = BatchPlan(sizes, PlanConfig(_ROWS_PER_STEP, row_tokens, row_supervised, seed=seed))
    total = sum(len(each.lengths) for each in found)
    fill = plan.fill(min(_WINDOWS, -(-total // plan.config.window)))
    return MixtureStats(mixture, split, limit, tokenizer, row_tokens, row_supervised, fill, tuple(found))


def _dataset_stats(
    dataset: Dataset,
    mixture: Sequence[Dataset],
    split: str,
    vocabulary: Vocabulary,
    config: EncodeConfig,
    skip: Collection[str],
    limit: int | None,
    seed: int,
    bar: tqdm,
) -> list[TaskStats]:
    meta = dataset.declared
    foreign = foreign_labels(dataset, mixture, config.ask) if split == TRAIN else ()
    tasks = {}
    for name, steps in atomic_tasks(dataset).items():
        context = ask_context(dataset, split, steps, config.ask, seed, foreign, limit, sample_seed=seed)
        tasks[steps] = TaskStats(name, meta.name, meta.task, meta.language), context
    records = iter(sample_records(dataset, split, limit, seed) if limit else dataset.records(split))
    while batch := list(islice(records, _BATCH)):
        kept = [record for record in batch if record.id not in skip]
        for steps, (stats, context) in tasks.items():
            stats.records += len(batch)
            stats.leaked += len(batch) - len(kept)
            asked = [
                question
                for record in kept
                for question in ask_record(record, dataset, split, steps, config.ask, seed, context, stats.counts)
            ]
            stats.add(asked, vocabulary, config)
        bar.update(len(batch))
    return [stats for stats, _ in tasks.values()]


def sample_tokenizer(datasets: Iterable[Dataset], split: str) -> Vocabulary:
    """A tokenizer for counting where none is given: BPE of a sample of the mixture's own texts, as a recipe trains."""
    present = [dataset for dataset in datasets if split in dataset.splits]
    return train_tokenizer(training_texts(present, split, SAMPLE_RECORDS), SAMPLE_VOCABULARY)


def leaked_records(datasets: Sequence[Dataset], split: str, cache_dir: Path) -> dict[str, frozenset[str]]:
    """What training leaves out of the split: dataset name -> ids."""
    if split != TRAIN:
        return {}
    return {each.dataset: each.record_ids for each in ensure_leaks(datasets, None, cache_dir)}


# --- as JSON and as tables -------------------------------------------------------------------------------------------


def groups(stats: MixtureStats) -> dict[tuple[str, str], list[TaskStats]]:
    """(task, language) -> its atomic tasks, in the order of records.TASKS."""
    found: dict[tuple[str, str], list[TaskStats]] = {}
    for each in sorted(stats.tasks, key=lambda each: (TASKS.index(each.task), each.language)):
        found.setdefault((each.task, each.language), []).append(each)
    return found


def stats_to_dict(stats: MixtureStats) -> dict[str, Any]:
    """{"mixture", "split", ..., "fill", "all": {...}, "groups": [{"task", "language", ...}], "tasks": [{...}]}"""
    settings = ("mixture", "split", "limit", "tokenizer", "row_tokens", "row_supervised")
    return {
        **{name: getattr(stats, name) for name in settings},
        "fill": round(stats.fill, 4),
        "all": _sum(stats.tasks),
        "groups": [
            {"task": task, "language": language, **_sum(each)} for (task, language), each in groups(stats).items()
        ],
        "tasks": [_task_to_dict(each) for each in stats.tasks],
    }


def _sum(tasks: Sequence[TaskStats]) -> dict[str, Any]:
    """The numbers of several atomic tasks. The records of a dataset count once, however many tasks ask about them."""
    by_dataset = {each.dataset: each for each in tasks}
    counts = {name: sum(each.counts[name] for each in tasks) for name in _COUNTED}
    records = sum(each.records for each in by_dataset.values())
    leaked = sum(each.leaked for each in by_dataset.values())
    questions = sum(each.questions for each in tasks)
    lengths = np.array([tokens for each in tasks for tokens in each.whole_tokens])
    return {
        "datasets": len(by_dataset),
        "atomic_tasks": len(tasks),
        "records": records,
        "leaked": leaked,
        "share_leaked": _share(leaked, records),
        "questions": questions,
        **counts,
        "share_cut": _share(counts["cut"], questions),
        "share_dropped": _share(counts["dropped"], questions),
        "share_none": _share(sum(each.none for each in tasks), questions),
        "lengths": {f"{quantile:.0%}": int(np.quantile(lengths, quantile)) for quantile in QUANTILES}
        if len(lengths)
        else {},
    }


def _task_to_dict(each: TaskStats) -> dict[str, Any]:
    label, share = each.top_label
    return {
        "name": each.name,
        "dataset": each.dataset,
        "task": each.task,
        "language": each.language,
        **_sum([each]),
        "kind": "classify" if each.is_choice else "extract",
        "top_label": label,
        "top_share": round(share, 4),
        "labels": dict(each.labels.most_common()),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 5) if whole else 0.0


_WHOLE_NUMBERS = ("records", "leaked", "surplus", "examples", "tokens")
_NUMBERS = (*_WHOLE_NUMBERS, "cut", "dropped", "None", *(f"{each:.0%}" for each in QUANTILES))


def stats_to_text(stats: MixtureStats) -> str:
    """The groups and all, then every atomic task with its most frequent label."""
    sample = "all records" if stats.limit is None else f"at most {stats.limit} records a dataset"
    lines = [
        f"{stats.mixture}, {stats.split}, {sample}; tokens of {stats.tokenizer}",
        f"rows of {stats.row_tokens} tokens, {stats.row_supervised} of them supervised: "
        f"{stats.fill:.4f} of their positions hold a token",
        "",
    ]
    rows = [["task", "language", "datasets", *_NUMBERS]]
    parts = {**groups(stats), ("all", ""): list(stats.tasks)}
    for (task, language), each in parts.items():
        sums = _sum(each)
        rows.append([task, language, str(sums["datasets"]), *_cells(sums)])
    lines += [*text_table(rows, num_left=2), ""]
    rows = [["atomic task", "most frequent label", "share", *_NUMBERS]]
    for stat in stats.tasks:
        label, share = stat.top_label
        shown = label if len(label) <= 24 else f"{label[:23]}…"
        rows.append([stat.name, shown or "-", f"{share:.1%}", *_cells(_sum([stat]))])
    return "\n".join([*lines, *text_table(rows, num_left=2)])


def _cells(sums: Mapping[str, Any]) -> list[str]:
    lengths = [str(sums["lengths"].get(f"{quantile:.0%}", "-")) for quantile in QUANTILES]
    whole = [f"{sums[name]:,}" for name in _WHOLE_NUMBERS]
    return [*whole, *(f"{sums[name]:.1%}" for name in ("share_cut", "share_dropped", "share_none")), *lengths]
