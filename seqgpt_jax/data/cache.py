"""The token cache: every atomic task of a mixture as token ids on disk, built once, read at random. No TensorFlow.

    <cache_dir>/<task>-<key>/meta.json                    what it was made of, and counts; written last
                             lengths.npy                  int32 [N, 2]: tokens, and how many of them are supervised
                             examples-00000.array_record  one record an example: int32 num_prompt, then the ids

The key is a hash of the records, the prompt format, the tokenizer, the code in between and the settings, so a cache
that is out of date has another name. What is missing is built by `python -m tasks.build` in child processes, which run
the SeqIO tasks; a folder appears under its name only when it is complete.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from tqdm import tqdm

from seqgpt_jax.data.datasets import Dataset, atomic_tasks
from seqgpt_jax.data.label_pools import foreign_labels
from seqgpt_jax.data.leaks import TRAIN, ensure_leaks
from seqgpt_jax.data.mixtures import training_datasets
from seqgpt_jax.data.questions import STATS, EncodeConfig, TokenExample
from seqgpt_jax.errors import UserError
from seqgpt_jax.negatives import AskConfig
from seqgpt_jax.vocabulary import Vocabulary

CACHE_FORMAT = 1  # of the files; another number makes other keys
SHARD_EXAMPLES = 1 << 16
MEMORY_BYTES = 16 << 20  # a task with no more token ids than this is read into memory as a whole
_RECORDS_PER_PROCESS = 5_000  # fewer are read before another process has imported TensorFlow
_WRITER_OPTIONS = "group_size:1,zstd:1"  # group_size 1: reading one example decodes no other
_PREPROCESSING_MODULES = (
    "records", "occurrences", "atomic", "prompt", "negatives", "label_similarity", "vocabulary",
    "data.balance", "data.datasets", "data.label_pools", "data.questions",
)  # fmt: skip
_TASK_FILES = ("preprocessors.py", "build.py")


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
            "dataset": dataset.meta.name,
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


@functools.cache
def preprocessing_fingerprint() -> str:
    """A hash of the source of every module that a record passes on its way to token ids."""
    digest = hashlib.sha256()
    for name in (*(f"seqgpt_jax.{module}" for module in _PREPROCESSING_MODULES), "tasks"):
        spec = importlib.util.find_spec(name)  # does not run it: importing tasks would import TensorFlow
        if spec is None or spec.origin is None:
            raise UserError(f"module {name} is not installed (install the project with pip install -e .)")
        path = Path(spec.origin)
        for file in [path.with_name(each) for each in _TASK_FILES] if name == "tasks" else [path]:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


# --- reading and writing one task ------------------------------------------------------------------------------------


class TaskCache:
    """The token examples of one atomic task, in random access. lengths: int32 [N, 2], tokens and supervised tokens."""

    def __init__(self, folder: Path) -> None:
        fields = json.loads((folder / "meta.json").read_text("utf-8"))
        self.name: str = fields["name"]
        self.stats: Mapping[str, int] = {**dict.fromkeys(STATS, 0), **fields["stats"]}
        self.folder = folder
        self.lengths: np.ndarray = np.load(folder / "lengths.npy")
        self._paths = [os.fspath(path) for path in sorted(folder.glob("examples-*.array_record"))]
        self._ends = np.cumsum(self.lengths[:, 0], dtype=np.int64)
        self._ids: np.ndarray | None = None
        self._source: ArrayRecordDataSource | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.lengths)

    def __repr__(self) -> str:
        return f"TaskCache({self.name}, {len(self)} examples)"

    def __getitem__(self, index: int) -> TokenExample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} examples, asked for number {index}")
        index %= len(self)
        length, supervised = (int(value) for value in self.lengths[index])
        if 4 * self._ends[-1] > MEMORY_BYTES:
            record = np.frombuffer(self._open()[index], np.int32)
            return TokenExample(record[1:], int(record[0]))
        end = int(self._ends[index])
        return TokenExample(self._load()[end - length : end], length - supervised)

    def _load(self) -> np.ndarray:
        with self._lock:
            if self._ids is None:
                records: list[np.ndarray] = []
                for path in self._paths:
                    reader = ArrayRecordReader(path)
                    records += [np.frombuffer(record, np.int32)[1:] for record in reader.read_all()]
                    reader.close()
                self._ids = np.concatenate(records)
                self._ids.flags.writeable = False
                assert len(self._ids) == self._ends[-1], f"{self.folder} does not agree with its lengths.npy"
            return self._ids

    def _open(self) -> ArrayRecordDataSource:
        with self._lock:
            if self._source is None:
                self._source = ArrayRecordDataSource(self._paths)
            return self._source


def write_task_cache(
    folder: Path, name: str, examples: Iterable[TokenExample], stats: Mapping[str, int], settings: Mapping[str, Any]
) -> int:
    """Writes a task's examples into a new folder, meta.json last; returns their number.

    stats is read when the examples are used up, so that they may be counted while they are made.
    """
    folder.mkdir(parents=True)
    lengths: list[tuple[int, int]] = []
    writer: ArrayRecordWriter | None = None
    for number, example in enumerate(examples):
        if number % SHARD_EXAMPLES == 0:
            if writer is not None:
                writer.close()
            path = folder / f"examples-{number // SHARD_EXAMPLES:05d}.array_record"
            writer = ArrayRecordWriter(os.fspath(path), _WRITER_OPTIONS)
        assert writer is not None
        writer.write(np.concatenate([[example.num_prompt], example.ids]).astype(np.int32).tobytes())
        lengths.append((len(example.ids), len(example.ids) - example.num_prompt))
    if writer is not None:
        writer.close()
    np.save(folder / "lengths.npy", np.array(lengths, np.int32).reshape(-1, 2))
    fields = {"name": name, "stats": dict(stats), "settings": dict(settings)}
    (folder / "meta.json").write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return len(lengths)


# --- building what is missing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildJob:
    """What one child process does: builds these tasks of a spec, each into its folder. Its only argument, as JSON."""

    spec: CacheSpec
    folders: Mapping[str, str]  # task name -> folder
    leaked: Mapping[str, Collection[str]] = field(default_factory=dict)  # dataset name -> ids of records to leave out

    def to_json(self) -> str:
        leaked = {name: sorted(ids) for name, ids in self.leaked.items()}
        return json.dumps({"spec": self.spec.to_json(), "folders": dict(self.folders), "leaked": leaked})

    @classmethod
    def from_json(cls, text: str) -> BuildJob:
        fields = json.loads(text)
        return cls(CacheSpec.from_json(fields["spec"]), fields["folders"], fields["leaked"])


def ensure_cache(
    spec: CacheSpec, cache_dir: Path, *, num_processes: int | None = None, progress: bool = True
) -> list[TaskCache]:
    """The caches of a mixture's tasks, sorted by name; builds those that are missing, and shows a progress bar.

    Tasks without any example are left out. num_processes: child processes, None: as many as the work and the cores
    allow, 8 at most. UserError for whatever is wrong with the records, the mixture or the tokenizer.
    """
    vocabulary_print = Vocabulary.from_pretrained(spec.tokenizer).fingerprint()
    folders: dict[str, Path] = {}
    sizes: dict[str, int] = {}
    leaked = spec.leaked(Path(cache_dir), progress)
    datasets = spec.datasets()
    for dataset in datasets:
        foreign = foreign_labels(dataset, datasets, spec.ask)
        skip = leaked.get(dataset.declared.name, ())
        for name, steps in atomic_tasks(dataset).items():
            if name in folders:
                raise UserError(f"two datasets of '{spec.mixture}' give a task named '{name}' (rename one)")
            folders[name] = Path(cache_dir) / f"{name}-{spec.key(dataset, steps, vocabulary_print, foreign, skip)}"
            sizes[name] = min(spec.limit or sys.maxsize, dataset.meta.splits.get(spec.split, 1_000))
    missing = sorted((name for name in folders if not (folders[name] / "meta.json").is_file()), key=lambda n: -sizes[n])
    if missing:
        enough = 1 + spec.passes * sum(sizes[name] for name in missing) // _RECORDS_PER_PROCESS
        num_processes = num_processes or min(os.cpu_count() or 1, 8, enough)
        _build(spec, {name: folders[name] for name in missing}, leaked, min(num_processes, len(missing)), progress)
    caches = (TaskCache(folders[name]) for name in sorted(folders))
    found = [cache for cache in caches if len(cache)]
    if not found:
        raise UserError(f"'{spec.mixture}' gives no example of at most {spec.max_tokens} tokens (allow more tokens)")
    return found


def _build(
    spec: CacheSpec,
    folders: Mapping[str, Path],
    leaked: Mapping[str, Collection[str]],
    num_processes: int,
    progress: bool,
) -> None:
    cache_dir = next(iter(folders.values())).parent
    cache_dir.mkdir(parents=True, exist_ok=True)
    names = list(folders)  # largest first, so dealing them out in turn gives each process about as much
    with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".building-") as unfinished:
        parts = [
            {name: os.path.join(unfinished, folders[name].name) for name in names[i::num_processes]}
            for i in range(num_processes)
        ]
        jobs = [BuildJob(spec, part, leaked) for part in parts]
        bar = tqdm(desc=f"token cache of {spec.mixture}", unit=" examples", disable=not progress, file=sys.stderr)
        with bar:
            _run_jobs(jobs, folders, bar)


def _run_jobs(jobs: Sequence[BuildJob], folders: Mapping[str, Path], bar: tqdm) -> None:
    children = [_Child(job, single_threaded=len(jobs) > 1) for job in jobs]
    num_built = 0
    try:
        for message in _messages(children):
            if "user_error" in message:
                raise UserError(message["user_error"])
            if "failure" in message:
                raise RuntimeError(f"building the token cache failed:\n{message['failure']}")
            bar.update(message["examples"])
            if message["done"]:
                num_built += 1
                bar.set_postfix_str(f"{num_built}/{len(folders)} tasks")
                _publish(Path(message["folder"]), folders[message["task"]])
    finally:
        for child in children:
            child.stop()


def _publish(built: Path, folder: Path) -> None:
    try:
        built.rename(folder)
    except OSError:
        if not (folder / "meta.json").is_file():  # else another process was quicker, and built the same
            raise


class _Child:
    """One `python -m tasks.build`: JSON lines on its standard output, everything else on its standard error."""

    def __init__(self, job: BuildJob, *, single_threaded: bool) -> None:
        self._errors: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        package_root = os.fspath(Path(__file__).resolve().parents[2])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH")))),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",  # TensorFlow and jax would claim what training needs
            "JAX_PLATFORMS": "cpu",
        }
        if single_threaded:
            environment["TOKENIZERS_PARALLELISM"] = "false"
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tasks.build", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(job.to_json())
            self.process.stdin.close()
        except BrokenPipeError:  # it died at once; its exit status says so
            pass

    def messages(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        if self.process.wait():
            self._errors.seek(0)
            yield {"failure": self._errors.read()[-4_000:] or f"exit status {self.process.returncode}"}

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._errors.close()


def _messages(children: Sequence[_Child]) -> Iterator[dict[str, Any]]:
    """The messages of all children as they come, until every one has ended."""
    waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def read(child: _Child) -> None:
        try:
            for message in child.messages():
                waiting.put(message)
        except ValueError:  # its output was closed under us: it was stopped
            pass
        finally:
            waiting.put(None)

    for child in children:
        threading.Thread(target=read, args=(child,), daemon=True).start()
    num_running = len(children)
    while num_running:
        message = waiting.get()
        if message is None:
            num_running -= 1
        else:
            yield message
