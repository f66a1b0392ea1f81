"""Every fault of dataset folders, each with its file and line: what reading them would refuse, and what is only odd.

The checks of records and meta.json are those of records.py, those of labels are atomic.py's. A fault does not end the
search; a line can have several.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from seqgpt_jax.atomic import ask_next, check_labels, normalise_text
from seqgpt_jax.data.mixtures import dataset_folders
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.fields import show
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    EventRecord,
    ExtractionRecord,
    Record,
    RelationRecord,
    check_records,
    read_meta,
    split_files,
)

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line for the user. A warning is no fault: the dataset can be read as it is."""

    message: str
    warning: bool = False

    def __str__(self) -> str:
        return f"{'warning' if self.warning else 'fault'}: {self.message}"


@dataclass
class Validation:
    """Goes through a dataset folder or a tree of them: iterate for the findings; the counts are those so far."""

    root: Path
    datasets: int = 0
    records: int = 0
    faults: int = 0
    warnings: int = 0

    def __iter__(self) -> Iterator[Finding]:
        """UserError where there is no dataset at all."""
        folders = dataset_folders(self.root)
        names: dict[str, Path] = {}
        with tqdm(desc="checked", unit=" records", delay=1, leave=False, disable=None) as bar:
            for self.datasets, folder in enumerate(folders, start=1):
                check = _Folder(folder, bar)
                for finding in check.findings():
                    self.faults += not finding.warning
                    self.warnings += finding.warning
                    yield finding
                self.records += check.records
                if check.meta and names.setdefault(check.meta.name, folder) != folder:
                    self.faults += 1
                    place = folder / "meta.json"
                    yield _fault(f"{names[check.meta.name]} has this name too", place, "name", "rename one of them")

    def summary(self) -> str:
        datasets = "1 dataset" if self.datasets == 1 else f"{self.datasets:,} datasets"
        found = (
            f"{self.faults:,} fault{'s' * (self.faults != 1)}, {self.warnings:,} warning{'s' * (self.warnings != 1)}"
        )
        return f"{self.root}: {datasets}, {self.records:,} records: {found}"


def _fault(problem: str, file: Path, field: str | None = None, remedy: str | None = None) -> Finding:
    return Finding(str(RecordError(problem, file=file, field=field, remedy=remedy)))


@dataclass
class _Folder:
    """What is known of one dataset folder while its files are read."""

    folder: Path
    bar: tqdm
    meta: DatasetMeta | None = None
    records: int = 0
    ids: dict[str, tuple[Path, int]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    texts: dict[int, tuple[str, int]] = field(default_factory=dict)  # hash of what is asked about -> (split, line)
    shared: dict[tuple[str, str], list[tuple[int, int]]] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        try:
            self.meta = read_meta(self.folder)
        except UserError as error:
            yield Finding(str(error))
        if self.meta:
            yield from _label_findings(self.folder / "meta.json", self.meta)
        try:
            files = split_files(self.folder)
        except UserError as error:
            yield Finding(str(error))
            return
        if not files:
            yield _fault("no records", self.folder, None, "write train.jsonl, validation.jsonl or test.jsonl here")
        for split, path in files.items():
            if split not in SPLITS:
                remedy = f"a split is one of {', '.join(SPLITS)}"
                yield Finding(f"{path}: nothing reads a split '{split}' ({remedy})", warning=True)
            yield from self._file_findings(split, path)
        if self.meta:
            yield from self._unused(self.meta, files)
        for (first, second), lines in self.shared.items():
            where = f"the first at {files[first]}:{lines[0][0]} and {files[second]}:{lines[0][1]}"
            count = f"{len(lines):,} record{'s' * (len(lines) > 1)}"
            yield Finding(f"{self.folder}: {count} of {second} stand in {first} too, {where}", warning=True)

    def _unused(self, meta: DatasetMeta, files: dict[str, Path]) -> Iterator[Finding]:
        place = self.folder / "meta.json"
        for split, count in meta.splits.items():
            if split not in files and count:
                yield _fault(f"is {count}, but there is no {split}.jsonl", place, f"splits.{split}", "write it, or 0")
        if unused := [label for label in meta.labels if label not in self.used]:
            message = RecordError(f"{len(unused)} never used: {show(unused)}", file=place, field="labels")
            yield Finding(str(message), warning=True)

    def _file_findings(self, split: str, path: Path) -> Iterator[Finding]:
        count, whole = 0, True
        for line, item in check_records(path, self.meta):
            self.bar.update()
            if isinstance(item, RecordError):
                yield from (Finding(str(error)) for error in (item, *item.others))
                whole = whole and item.line is not None  # a fault without a line is one of the file
                count += item.line is not None
                continue
            count += 1
            yield from self._record_findings(split, path, line, item)
        self.records += count
        if count == 0 and whole:
            yield _fault("the split is empty", path, None, "write records, or remove the file")
        expected = None if self.meta is None else self.meta.splits.get(split)
        if whole and expected is not None and expected != count:
            problem = f"is {expected}, but {path.name} has {count}"
            yield _fault(problem, self.folder / "meta.json", f"splits.{split}", f"write {count}")

    def _record_findings(self, split: str, path: Path, line: int, record: Record) -> Iterator[Finding]:
        before = self.ids.setdefault(record.id, (path, line))
        if before != (path, line):
            problem = f"{show(record.id)} stands at {before[0].name}:{before[1]} too"
            remedy = "give each record of a dataset an id of its own"
            yield Finding(str(RecordError(problem, file=path, line=line, field="id", remedy=remedy)))
        self.used.update(_labels(record))
        if self.meta and _has_own_labels(record):  # the dataset's were looked at once
            try:
                ask_next(record, self.meta, [])
            except UserError as error:
                yield Finding(str(RecordError(str(error), file=path, line=line)))
        first = self.texts.setdefault(hash(_asked_about(record)), (split, line))
        if first[0] != split:
            self.shared.setdefault((first[0], split), []).append((first[1], line))


def _label_findings(place: Path, meta: DatasetMeta) -> Iterator[Finding]:
    """What the prompt format would refuse of the dataset's own labels."""
    sets = {"labels": meta.labels, "entity_labels": meta.entity_labels, "roles": meta.roles}
    sets |= {f"event_schema.{type_}": roles for type_, roles in (meta.event_schema or {}).items()}
    for name, labels in sets.items():
        try:
            check_labels(meta.descriptions.get(label, label) for label in labels)
        except UserError as error:
            yield _fault(str(error), place, name)


def _labels(record: Record) -> Iterator[str]:
    match record:
        case ClassificationRecord():
            yield from record.labels
        case ExtractionRecord():
            yield from (span.label for span in record.spans)
        case RelationRecord():
            yield from (relation.label for relation in record.relations)
        case EventRecord():
            yield from (event.type for event in record.events)


def _has_own_labels(record: Record) -> bool:
    if not isinstance(record, ClassificationRecord | ExtractionRecord):
        return False
    return record.label_set is not None or (record.kind == "extraction" and record.question is not None)


def _asked_about(record: Record) -> tuple[str | None, ...]:
    """The text with all that is asked about it: a passage may have one question in train and another in test."""
    question = record.question if isinstance(record, ClassificationRecord | ExtractionRecord) else None
    target = record.target if isinstance(record, ClassificationRecord) else None
    pair = record.text_pair if isinstance(record, ClassificationRecord) else None
    asked_of = None if target is None else f"{target.start} {target.text}"
    return (normalise_text(record.text), pair, question, asked_of)
