"""The token cache: every atomic task of a mixture as token ids on disk, built once, read at random. No TensorFlow.

    <cache_dir>/<task>-<key>/        one task, see task_cache.py

The key is a hash of the records, the prompt format, the tokenizer, the code in between and the settings, so a cache
that is out of date has another name. What is missing is built by `python -m tasks.build` in child processes, which run
the SeqIO tasks; see cache_build.py.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seqgpt_jax.data.cache_build import BuildJob, build_tasks
from seqgpt_jax.data.datasets import Dataset, atomic_tasks
from seqgpt_jax.data.label_pools import foreign_labels
from seqgpt_jax.data.leaks import TRAIN, ensure_leaks
from seqgpt_jax.data.mixtures import training_datasets
from seqgpt_jax.data.questions import EncodeConfig
from seqgpt_jax.data.task_cache import DamagedCacheError, TaskCache
from seqgpt_jax.errors import UserError
from seqgpt_jax.negatives import AskConfig
from seqgpt_jax.vocabulary import Vocabulary

CACHE_FORMAT = 2  # of the files; another number makes other keys
_RECORDS_PER_PROCESS = 5_000  # fewer are read before another process has imported TensorFlow


@dataclass(frozen=True)
class CacheSpec:
    """What to cache: the records, and how they become token ids.

    tokenizer: a folder or hub id. limit: records a dataset, a seeded sample. passes: times that every record is asked,
    each with other negatives and label order. max_tokens, max_supervised: of one example, see EncodeConfig.
    protocol: few_shot opens held-out datasets, see training_datasets. drop_leaks: whether records of a train split that
    leaks.py finds in evaluation splits are left out.
    """

    mixture: str
    tokenizer: str
    data_dir: str | None = None
    split: str = "train"
    prompt_format: str = "seqgpt_v1"
    max_tokens: int | None = None
    max_supervised: int | None = None
    ask: AskConfig = field(default_factory=AskConfig)
    passes: int = 1
    limit: int | None = None
    seed: int = 0
    protocol: str = "zero_shot"
    drop_leaks: bool = True

    def __post_init__(self) -> None:
        for name in ("passes", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"token cache: {name} is {value} (it must be at least 1)")
        self.encode_config()

    def encode_config(self) -> EncodeConfig:
        return EncodeConfig(self.prompt_format, self.max_tokens, self.max_supervised, self.ask)

    def datasets(self) -> list[Dataset]:
        """What data/mixtures.py training_datasets gives: the mixture's datasets that have the split, or a UserError."""
        data_dir = Path(self.data_dir) if self.data_dir else None
        return training_datasets(self.mixture, self.split, data_dir, self.protocol)

    def leaked(self, cache_dir: Path, progress: bool = False) -> dict[str, frozenset[str]]:
        """Dataset name -> the ids of its records that are left out, for datasets that have any."""
        if not self.drop_leaks or self.split != TRAIN:
            return {}
        data_dir = Path(self.data_dir) if self.data_dir else None
        found = ensure_leaks(self.datasets(), data_dir, cache_dir, progress=progress)
        return {each.dataset: each.record_ids for each in found if each.leaks}

    def key(
        self,
        dataset: Dataset,
        steps: Sequence[str],
        tokenizer_fingerprint: str,
        foreign: Sequence[str] = (),
        leaked: Collection[str] = (),
    ) -> str:
        """A hash of all that one task's token ids depend on.

        foreign: labels of other datasets that it may ask. leaked: ids of the records that are left out.
        """
        parts = {
            "cache_format": CACHE_FORMAT,
            "dataset": dataset.declared.name,
            "source": dataset.fingerprint(self.split),
            "split": self.split,
            "steps": list(steps),
            "tokenizer": tokenizer_fingerprint,
            "code": preprocessing_fingerprint(),
            "encode": dataclasses.asdict(self.encode_config()),
            "foreign": list(foreign),
            "passes": self.passes,
            "limit": self.limit,
            "seed": self.seed,
            "protocol": self.protocol,
            "leaked": sorted(leaked),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CacheSpec:
        fields = json.loads(text)
        return cls(**{**fields, "ask": AskConfig(**fields["ask"])})


# --- the code in between ---------------------------------------------------------------------------------------------

_PREPROCESSING = "tasks.preprocessors"
_WIRING = ("tasks.mixtures", "tasks.build")  # they put it to work; what else they import makes no token
_PACKAGES = ("seqgpt_jax", "tasks")
_APART = "seqgpt_jax.synthesis"  # its code is in the fingerprint of each dataset that it makes


def preprocessing_fingerprint() -> str:
    """A hash of the source of _WIRING, of tasks/preprocessors.py, and of every module of ours that this needs."""
    return code_fingerprint(_PREPROCESSING, _WIRING)


@functools.cache
def code_fingerprint(module: str, wiring: tuple[str, ...] = ()) -> str:
    """A hash of the source of a module and of every module of ours that it needs, and of `wiring` alone."""
    files = {name: path for name in wiring if (path := _source_file(name)) is not None}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in files or name.startswith(_APART) else _source_file(name)
        if path is not None:
            files[name] = path
            waiting += _imported_names(path)
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _source_file(name: str) -> Path | None:
    """The file of a module; None for a name within one, or for a package. Runs none: tasks would import TensorFlow."""
    package, _, module = name.rpartition(".")
    spec = importlib.util.find_spec(package.partition(".")[0])
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, *package.split(".")[1:], f"{module}.py")
        if path.is_file():
            return path
    return None


def _imported_names(path: Path) -> list[str]:
    """What a module of ours imports from our packages, within functions too: modules, and names that may be modules."""
    names = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.partition(".")[0] in _PACKAGES]


# --- what there is, and what is missing ------------------------------------------------------------------------------


def ensure_cache(
    spec: CacheSpec, cache_dir: Path, *, num_processes: int | None = None, progress: bool = True
) -> list[TaskCache]:
    """The caches of a mixture's tasks, sorted by name; builds those that are missing, and shows a progress bar.

    Tasks without any example are left out. A damaged cache is built again, with a warning. num_processes: child
    processes, None: as many as the work and the cores allow, 8 at most. UserError for whatever is wrong with the
    records, the mixture, the tokenizer or the disk.
    """
    leaked = spec.leaked(Path(cache_dir), progress)
    tasks = planned_tasks(spec, Path(cache_dir), leaked)
    caches = {task.name: cache for task in tasks if (cache := open_if_whole(task.folder)) is not None}
    missing = [task for task in tasks if task.name not in caches]
    if missing:
        enough = 1 + spec.passes * sum(task.num_records for task in missing) // _RECORDS_PER_PROCESS
        num_processes = min(num_processes or min(os.cpu_count() or 1, 8, enough), len(missing))
        folders = {task.name: task.folder for task in missing}
        build_tasks(BuildJob(spec, leaked), folders, num_processes, progress)
        caches |= {name: TaskCache(folder) for name, folder in folders.items()}
    found = [caches[name] for name in sorted(caches) if len(caches[name])]
    if not found:
        raise UserError(f"'{spec.mixture}' gives no example of at most {spec.max_tokens} tokens (allow more tokens)")
    return found


@dataclass(frozen=True)
class PlannedTask:
    """One atomic task of a spec. folder: where its cache is, or is to be. num_records: about how many it reads."""

    name: str
    dataset: Dataset
    steps: tuple[str, ...]
    folder: Path
    num_records: int


def planned_tasks(spec: CacheSpec, cache_dir: Path, leaked: Mapping[str, Collection[str]]) -> list[PlannedTask]:
    """The tasks of a spec, those first that take longest to build. UserError as from ensure_cache."""
    vocabulary_print = Vocabulary.from_pretrained(spec.tokenizer).fingerprint()
    tasks: dict[str, PlannedTask] = {}
    datasets = spec.datasets()
    for dataset in datasets:
        foreign = foreign_labels(dataset, datasets, spec.ask)
        skip = leaked.get(dataset.declared.name, ())
        size = min(spec.limit or sys.maxsize, dataset.declared.splits.get(spec.split, 1_000))
        for name, steps in atomic_tasks(dataset).items():
            if name in tasks:
                raise UserError(f"two datasets of '{spec.mixture}' give a task named '{name}' (rename one)")
            folder = cache_dir / f"{name}-{spec.key(dataset, steps, vocabulary_print, foreign, skip)}"
            tasks[name] = PlannedTask(name, dataset, steps, folder, size)
    # Relations come first: there is a question for each pair of mentions.
    return sorted(tasks.values(), key=lambda task: (task.steps != ("relation",), -task.num_records, task.name))


def open_if_whole(folder: Path) -> TaskCache | None:
    """The cache in a folder; None where there is nothing, or, with a warning, nothing whole."""
    if not folder.exists():
        return None
    try:
        return TaskCache(folder)
    except DamagedCacheError as error:
        print(f"warning: {error.path}: {error.problem}; this token cache is built again", file=sys.stderr)
        return None
