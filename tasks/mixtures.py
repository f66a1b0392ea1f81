"""Registers SeqIO tasks, one per dataset and atomic step, and the mixtures of them. Nothing happens at import."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import seqio

from seqgpt_jax.data.datasets import Dataset, atomic_tasks
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.questions import AskContext, EncodeConfig, ask_context
from seqgpt_jax.data.rates import mixing_rates
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
    mixture: str,
    data_dir: Path | None = None,
    *,
    settings: TaskSettings,
    rate_cap: int | None = RATE_CAP,
    temperature: float = 1.0,
    weights: Mapping[str, float] | None = None,
) -> list[str]:
    """Registers a mixture of data/mixtures.py and its tasks with SeqIO; returns the names of the tasks.

    Rates: those of data/rates.py by the training records of each task, or 1 each where not every dataset has any. To
    register again is harmless: the same settings change nothing, others replace what there was. UserError for an
    unknown mixture, data that is not there, or a weight that names nothing.
    """
    datasets = resolve_mixture(mixture, data_dir)
    owners = {name: dataset for dataset in datasets for name in add_tasks(dataset, settings)}
    if all("train" in dataset.splits for dataset in datasets):
        sizes = {name: _num_train_records(name, dataset, settings) for name, dataset in owners.items()}
        rates = mixing_rates(sizes, rate_cap, temperature, weights)
    else:
        rates = dict.fromkeys(owners, 1.0)
    _add_mixture(re.sub(r"\W", "_", mixture), rates)
    return list(owners)


def _num_train_records(name: str, dataset: Dataset, settings: TaskSettings) -> int:
    known: int | None = seqio.TaskRegistry.get(name).num_input_examples("train")
    return known if known is not None else sum(1 for _ in dataset.records("train", settings.limit))


def add_tasks(dataset: Dataset, settings: TaskSettings) -> list[str]:
    """Registers one dataset's atomic tasks; returns their names.

    They ask no labels of other datasets, as a task is one and the same in every mixture; those of token caches do.
    """
    names = []
    for name, steps in atomic_tasks(dataset).items():
        identity = (dataset.declared.name, dataset.place, dataset.splits, settings.identity())
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
    foreign: tuple[str, ...] = (),
    stats: Counter[str] | None = None,
) -> seqio.Task:
    """The seqio.Task of one dataset's steps.

    foreign: labels of other datasets that its training questions may ask (label_pools.foreign_labels). stats: counts
    what data/questions.py STATS names, in all that is read.
    """
    vocabulary = SeqioVocabulary(settings.vocabulary)
    features = {
        "inputs": seqio.Feature(vocabulary, add_eos=False),
        "targets": seqio.Feature(vocabulary, add_eos=True),  # the preprocessor has put it there
    }
    stats = Counter() if stats is None else stats
    skip = settings.skip.get(dataset.declared.name, ())

    @functools.lru_cache(maxsize=1)  # a pass over the records has one seed
    def context(split: str, seed: int) -> AskContext:
        ask, limit = settings.encode.ask, settings.limit
        return ask_context(dataset, split, steps, ask, seed, foreign, limit, sample_seed=settings.seed, skip=skip)

    preprocessor = functools.partial(
        ask_and_encode,
        dataset=dataset,
        steps=steps,
        vocabulary=settings.vocabulary,
        config=settings.encode,
        stats=stats,
        context=context,
        strings=settings.strings,
    )
    return seqio.Task(
        name,
        source=record_source(dataset, settings.limit, settings.seed, skip, stats),
        output_features=features,
        preprocessors=[preprocessor, seqio.CacheDatasetPlaceholder(), split_questions],
        postprocess_fn=keep_question,
        metric_fns=[make_metric(dataset, steps, get_format(settings.encode.prompt_format))],
    )


def _add_mixture(name: str, rates: Mapping[str, float]) -> None:
    if name in seqio.TaskRegistry.names():  # a mixture of one dataset, which bears its name
        return
    if name in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add(name, list(rates.items()))
