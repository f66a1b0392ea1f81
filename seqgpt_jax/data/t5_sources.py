"""t5's own GLUE and SuperGLUE tasks as classification: what t5 feeds its models is the text, its target the label.

    t5:glue_cola_v002     "cola sentence: The book was read."  ->  acceptable   of (unacceptable, acceptable)
    t5:glue, t5:super_glue                                         all of one benchmark

The text is what t5's preprocessors write; they need TensorFlow, so they run in a child process (tasks/t5_glue.py). The
data is TFDS's, of the version that the task names, and is never downloaded here (tfds_sources.py says where it lies).
Left out: ReCoRD and WSC, whose answers are free text, and AX, whose labels were kept back.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from seqgpt_jax.data.datasets import Dataset, hash_file
from seqgpt_jax.data.tfds_sources import shards, split_sizes, tfds_folder
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, Record, check_record


@dataclass(frozen=True)
class T5Row:
    """A task of t5's registry. tfds: the dataset and version that it reads; splits: our name -> TFDS's."""

    name: str
    tfds: str
    task: str
    labels: tuple[str, ...]
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "validation": "validation"})
    held_out_with: str = ""


_TWO_WAY = ("entailment", "not_entailment")
_ENTAILMENT = ("entailment", "neutral", "contradiction")
_TRUTH = ("False", "True")
_MNLI = {"train": "train", "validation": "validation_matched", "test": "validation_mismatched"}
_SIMILARITY = tuple(f"{tenths / 10:.1f}" for tenths in range(0, 51, 2))  # t5 rounds 0 to 5 to steps of 0.2


ROWS = (
    T5Row("glue_cola_v002", "glue/cola/1.0.0", "CLS", ("unacceptable", "acceptable")),
    T5Row("glue_sst2_v002", "glue/sst2/1.0.0", "SA", ("negative", "positive")),
    T5Row("glue_mrpc_v002", "glue/mrpc/1.0.0", "NLI", ("not_equivalent", "equivalent"),
          {name: name for name in ("train", "validation", "test")}),
    T5Row("glue_qqp_v002", "glue/qqp/1.0.0", "NLI", ("not_duplicate", "duplicate")),
    T5Row("glue_stsb_v002", "glue/stsb/1.0.0", "NLI", _SIMILARITY),
    T5Row("glue_mnli_v002", "glue/mnli/1.0.0", "NLI", _ENTAILMENT, _MNLI),
    T5Row("glue_mnli_matched_v002", "glue/mnli_matched/1.0.0", "NLI", _ENTAILMENT, {"validation": "validation"}),
    T5Row("glue_mnli_mismatched_v002", "glue/mnli_mismatched/1.0.0", "NLI", _ENTAILMENT, {"validation": "validation"}),
    T5Row("glue_qnli_v002", "glue/qnli/1.0.0", "NLI", _TWO_WAY),
    T5Row("glue_rte_v002", "glue/rte/1.0.0", "NLI", _TWO_WAY, held_out_with="rte"),
    T5Row("glue_wnli_v002", "glue/wnli/1.0.0", "NLI", ("not_entailment", "entailment")),
    T5Row("super_glue_boolq_v102", "super_glue/boolq/1.0.2", "MRC-MC", _TRUTH),
    T5Row("super_glue_cb_v102", "super_glue/cb/1.0.2", "NLI", ("entailment", "contradiction", "neutral")),
    T5Row("super_glue_copa_v102", "super_glue/copa/1.0.2", "MRC-MC", ("choice1", "choice2")),
    T5Row("super_glue_multirc_v102", "super_glue/multirc/1.0.2", "MRC-MC", _TRUTH),
    T5Row("super_glue_rte_v102", "super_glue/rte/1.0.2", "NLI", _TWO_WAY, held_out_with="rte"),
    T5Row("super_glue_wic_v102", "super_glue/wic/1.0.2", "NLI", _TRUTH),
)  # fmt: skip


class T5Dataset(Dataset):
    """A task of the table; what its row says needs no data."""

    def __init__(self, row: T5Row, *, held_out: bool = False) -> None:
        self.row, self.held_out = row, held_out

    @property
    def declared(self) -> DatasetMeta:
        return DatasetMeta(f"t5_{self.row.name}", self.row.task, "en", self.row.labels)

    @functools.cached_property
    def meta(self) -> DatasetMeta:
        """With the sizes of the splits, where the data has been prepared."""
        sizes = split_sizes(self.folder) if self.folder.is_dir() else {}
        splits = {ours: sizes[theirs] for ours, theirs in self.row.splits.items() if theirs in sizes}
        return dataclasses.replace(self.declared, splits=splits)

    @property
    def folder(self) -> Path:
        return tfds_folder() / self.row.tfds

    @property
    def splits(self) -> tuple[str, ...]:
        return self._readable(self.row.splits)

    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        self._check_split(split)
        self._check_prepared()
        return islice(self._records(split), limit)

    def _records(self, split: str) -> Iterator[Record]:
        meta = self.declared
        for i, (text, target) in enumerate(_run_t5(self.row.name, self.row.splits[split])):
            record = ClassificationRecord(f"{meta.name}-{split}-{i}", meta.task, text, (target,))
            check_record(record, meta, file=self.folder / self.row.splits[split], line=i + 1)
            yield record

    def fingerprint(self, split: str) -> str:
        """Of the row, of the prepared files, of t5's and SeqIO's versions, and of the code that runs them."""
        self._check_split(split)
        self._check_prepared()
        theirs = self.row.splits[split]
        versions = [importlib.metadata.version(package) for package in ("t5", "seqio")]
        digest = hashlib.sha256(f"{self.row} {theirs} {versions}".encode())
        code = Path(__file__)
        files = (code, code.parents[2] / "tasks" / "t5_glue.py", self.folder / "dataset_info.json")
        for file in (*files, *shards(self.folder, theirs)):
            digest.update(hash_file(file).encode())
        return digest.hexdigest()

    def _check_prepared(self) -> None:
        if not (self.folder / "dataset_info.json").is_file():
            root, (name, config, version) = tfds_folder(), self.row.tfds.split("/")
            raise UserError(
                f"t5:{self.row.name} reads {self.row.tfds}, which has not been prepared in {root} (run `tfds build "
                f"{name}/{config}:{version} --data_dir {root}`, or set SEQGPT_TFDS_DIR to the folder where it is)"
            )


def t5_datasets(held_out: Collection[str] = ()) -> dict[str, T5Dataset]:
    """Every task of the table by its name in t5's registry. held_out: names of folder datasets that are held out."""
    return {row.name: T5Dataset(row, held_out=row.held_out_with in held_out) for row in ROWS}


def _run_t5(name: str, split: str) -> Iterator[tuple[str, str]]:
    """(text, target) of every example, from `python -m tasks.t5_glue`; RuntimeError with its last words if it fails."""
    root = os.fspath(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "",  # TensorFlow would claim what training needs
    }
    command = [sys.executable, "-W", "ignore", "-m", "tasks.t5_glue", name, split, os.fspath(tfds_folder())]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8", env=environment
        )
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if line.startswith("["):
                    text, target = json.loads(line)
                    yield text, target
            if child.wait():
                errors.seek(0)
                raise RuntimeError(f"t5's {name} failed:\n{errors.read()[-4_000:]}")
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
