"""Registers SeqIO tasks, one per dataset and atomic step, and the mixtures of them. Nothing happens at import."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import seqio

from seqgpt_jax.data.datasets import Dataset, atomic_tasks
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.questions import EncodeConfig
from seqgpt_jax.prompt import get_format
from seqgpt_jax.vocabulary import Vocabulary
from tasks.preprocessors import ask_and_encode, record_source, split_questions
from tasks.scoring import keep_question, make_metric
from tasks.seqio_vocabulary import SeqioVocabulary

RATE_CAP = 50_000  # records: a dataset counts as at most this many, in examples-proportional mixing


@dataclass(frozen=True)
class TaskSettings:
    """How tasks are made. limit: records a dataset, a sample drawn with seed. strings: whether to give words too.

    skip: dataset name -> ids of records that are left out of it, and counted as `leaked`.
    """

    vocabulary: Vocabulary
    encode: EncodeConfig = field(default_factory=EncodeConfig)
    limit: int | None = None
    seed: int = 0
    strings: bool = True
    skip: Mapping[str, Collection[str]] = field(default_factory=dict)

    def identity(self) -> tuple[object, ...]:
        skip = tuple((name, *sorted(ids)) for name, ids in sorted(self.skip.items()))
        return (self.vocabulary.fingerprint(), self.encode, self.limit, self.seed, self.strings, skip)


def register(
    mixture: str, data_dir: Path | None = None, *, settings: TaskSettings, rate_cap: int = RATE_CAP
) -> list[str]:
    """Registers a mixture of data/datasets.py and its tasks with SeqIO; returns the names of the tasks.

    To register again is harmless: the same settings change nothing, others replace what there was. UserError for an
    unknown mixture, or data that is not there.
    """
    datasets = resolve_mixture(mixture, data_dir)
    names = [name for dataset in datasets for name in add_tasks(dataset, settings)]
    held_out = any(dataset.held_out for dataset in datasets)
    rate = 1.0 if held_out else functools.partial(seqio.mixing_rate_num_examples, maximum=rate_cap)
    _add_mixture(re.sub(r"\W", "_", mixture), names, rate)
    return names


def add_tasks(dataset: Dataset, settings: TaskSettings) -> list[str]:
    """Registers one dataset's atomic tasks; returns their names."""
    names = []
    for name, steps in atomic_tasks(dataset).items():
        identity = (dataset.meta.name, str(getattr(dataset, "folder", "")), settings.identity())
        if _registered.get(name) != identity:
            if name in seqio.TaskRegistry.names():
                seqio.TaskRegistry.remove(name)
            seqio.TaskRegistry.add_provider(name, make_task(dataset, name, steps, settings))
            _registered[name] = identity
        names.append(name)
    return names


_registered: dict[str, object] = {}  # task name -> what it was made of


def make_task(
    dataset: Dataset,
    name: str,
    steps: tuple[str, ...],
    settings: TaskSettings,
    stats: Counter[str] | None = None,
) -> seqio.Task:
    """The seqio.Task of one dataset's steps. stats: counts what data/questions.py STATS names, in all that is read."""
    vocabulary = SeqioVocabulary(settings.vocabulary)
    features = {
        "inputs": seqio.Feature(vocabulary, add_eos=False),
        "targets": seqio.Feature(vocabulary, add_eos=True),  # the preprocessor has put it there
    }
    stats = Counter() if stats is None else stats
    preprocessor = functools.partial(
        ask_and_encode,
        dataset=dataset,
        steps=steps,
        vocabulary=settings.vocabulary,
        config=settings.encode,
        stats=stats,
        strings=settings.strings,
    )
    return seqio.Task(
        name,
        source=record_source(
            dataset, settings.limit, settings.seed, settings.skip.get(dataset.declared.name, ()), stats
        ),
        output_features=features,
        preprocessors=[preprocessor, seqio.CacheDatasetPlaceholder(), split_questions],
        postprocess_fn=keep_question,
        metric_fns=[make_metric(dataset, steps, get_format(settings.encode.prompt_format))],
    )


def _add_mixture(name: str, tasks: Iterable[str], rate: object) -> None:
    if name in seqio.TaskRegistry.names():  # a mixture of one dataset, which bears its name
        return
    if name in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add(name, list(tasks), default_rate=rate)
