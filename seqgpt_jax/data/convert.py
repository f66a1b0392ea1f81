"""Users' own data: files of other tools as a dataset folder, and a dataset folder as files of other tools.

    IN, a file or a folder --files_by_split--> {"train": file, ...} --Format.read--> documents --> records --> OUT
    a folder of records --Format.write--> OUT

The input is read twice, so that the labels are known before the first record is written, and memory holds one document
at a time. OUT appears whole or not at all, and is never written over.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from seqgpt_jax.atomic import check_labels
from seqgpt_jax.data.importers.documents import (
    Document,
    Format,
    Notes,
    ReadOptions,
    kind_of,
    place_name,
    tasks_of,
    to_record,
)
from seqgpt_jax.data.importers.registry import detect, get_format
from seqgpt_jax.data.importers.tags import guess_language
from seqgpt_jax.errors import UserError
from seqgpt_jax.fields import show
from seqgpt_jax.records import (
    DatasetMeta,
    Record,
    RelationRecord,
    check_record,
    read_meta,
    read_records,
    split_files,
    write_meta,
    write_records,
)
from seqgpt_jax.whole import whole_folder

T = TypeVar("T")
SPLITS = ("train", "validation", "test")
_SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLIT_WORDS |= dict.fromkeys(("dev", "devel", "val", "valid", "validation"), "validation")
_DATA_FILE = re.compile(r"\.(txt|tsv|csv|json|jsonl|conll|conll2003|iob|iob2|bio|bioes|bilou|bmes)(\.gz)?$", re.I)
_GUESSED_FROM = 200  # documents


@dataclass(frozen=True)
class Description:
    """What a user says of the dataset that is to be; None: found out.

    split: where all records go. split_by: shares of train, validation and test, by a hash of the text, so that a text
    that occurs twice is in one split.
    """

    name: str | None = None
    task: str | None = None
    language: str | None = None
    labels: tuple[str, ...] | None = None
    split: str | None = None
    split_by: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote: the format read or written, records by split, and what is worth knowing."""

    format: str
    meta: DatasetMeta
    counts: Mapping[str, int]
    notes: Notes = field(default_factory=Notes)

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {split}" for split, count in self.counts.items())
        meta = self.meta
        labels = f"{len(meta.labels)} label{'s' * (len(meta.labels) != 1)}"
        return f"{self.format}: {counts}; {meta.name} ({meta.task}, {meta.language}, {labels})"


# --- files -> records ------------------------------------------------------------------------------------------------


def to_records(
    source: Path,
    out: Path,
    format_name: str | None = None,
    description: Description = Description(),
    options: ReadOptions = ReadOptions(),  # noqa: B008
) -> Converted:
    """Writes the dataset folder `out` from files of another tool; returns what it holds.

    UserError or RecordError, with nothing written, for input that is not as its format says, for a task or language
    that cannot be told, and for labels that a prompt cannot have.
    """
    _refuse_existing(out)
    files = files_by_split(source, description.split)
    if description.split_by and len(files) > 1:
        raise UserError(f"{source}: has {', '.join(files)} already (leave --split_by out)")
    format_ = get_format(format_name) if format_name else detect(next(iter(files.values())))
    _refuse_ignored(format_, options)
    language = description.language or _guess_language(source, format_, files, options)
    name = description.name or out.resolve().name
    reading = _Reading(format_, files, replace(options, language=language), name, description.split_by)
    notes, survey = Notes(), _Survey()
    for split, document in _progress(reading.documents(notes), "read"):
        survey.add(split, document)
    for split, path in files.items():
        if not (survey.counts if description.split_by else survey.counts.get(split)):
            raise UserError(f"{path}: holds no annotated text (annotate it, or leave it out)")
    meta = survey.meta(source, name, description.task, language, description.labels)
    counts = {}
    kind = kind_of(meta.task, bool(survey.texts))
    with _whole(out) as folder:
        for split in sorted(survey.counts, key=SPLITS.index):
            records = _progress(reading.records(split, meta, kind, notes), f"write {split}", survey.counts[split])
            counts[split] = write_records(folder / f"{split}.jsonl", records)
        write_meta(folder, replace(meta, splits=counts))
    return Converted(format_.name, meta, counts, notes)


def _guess_language(source: Path, format_: Format, files: Mapping[str, Path], options: ReadOptions) -> str:
    documents = (each for path in files.values() for each in format_.read(path, options, Notes()))
    texts = [document.text for document in islice(documents, _GUESSED_FROM)]
    if not texts:
        raise UserError(f"{source}: holds no annotated text (annotate some, or give another --from)")
    return guess_language(texts)


def files_by_split(source: Path, split: str | None = None) -> dict[str, Path]:
    """Split -> its file, or for brat its folder. A file or folder has its split in its name, else is all train.

    train.conll, my-dev.conll -> {"train": ..., "validation": ...}; split: that of all that there is.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder (give what you exported)")
    if source.is_file() or any(source.glob("*.ann")):
        return {split or _split_of(source) or "train": source}
    inside = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
    parts = [path for path in inside if path.is_dir() and any(path.glob("*.ann"))]
    parts = parts or [path for path in inside if path.is_file() and _DATA_FILE.search(path.name)]
    if len(parts) == 1:
        return {split or _split_of(parts[0]) or "train": parts[0]}
    if split:
        raise UserError(f"{source}: has {len(parts)} files, and --split {split} takes one (give the file)")
    found: dict[str, Path] = {}
    for path in parts:
        each = _split_of(path)
        if each is None:
            continue
        if each in found:
            raise UserError(f"{source}: {found[each].name} and {path.name} are both {each} (give one file at a time)")
        found[each] = path
    if not found:
        names = ", ".join(path.name for path in inside[:5]) or "nothing"
        raise UserError(f"{source}: no file is named train, dev or test (it has {names}; give a file, and --split)")
    return found


def _split_of(path: Path) -> str | None:
    """The split that a name speaks of, or None for none or several: "my-dev.conll" -> "validation"."""
    words = re.split(r"[^a-z]+", path.name.lower())
    found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


def hashed_split(text: str, shares: tuple[float, ...]) -> str:
    """train, validation or test, by a hash of the text, so that a text that occurs twice is in one split."""
    share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64 * sum(shares)
    return SPLITS[0] if share < shares[0] else SPLITS[1 + (share >= shares[0] + shares[1])]


def _refuse_ignored(format_: Format, options: ReadOptions) -> None:
    for each in fields(ReadOptions):
        if getattr(options, each.name) != each.default and each.name not in format_.options:
            takes = ", ".join(f"--{name}" for name in sorted(format_.options)) or "none"
            raise UserError(f"--{each.name} says nothing to format {format_.name} (of these options it takes {takes})")


@dataclass(frozen=True)
class _Reading:
    """The input, as often as it is wanted."""

    format: Format
    files: Mapping[str, Path]
    options: ReadOptions
    name: str
    split_by: tuple[float, ...] | None

    def documents(self, notes: Notes, only: str | None = None) -> Iterator[tuple[str, Document]]:
        """Each document, with an id, and the split it goes to."""
        for file_split, path in self.files.items():
            if only in (None, file_split) or self.split_by:
                for number, document in enumerate(self.format.read(path, self.options, notes)):
                    split = hashed_split(document.text, self.split_by) if self.split_by else file_split
                    if only in (None, split):
                        yield split, replace(document, id=document.id or f"{self.name}-{file_split}-{number}")

    def records(self, split: str, meta: DatasetMeta, kind: str, notes: Notes) -> Iterator[Record]:
        for _, document in self.documents(Notes(), split):  # their notes were taken when they were first read
            assert document.id
            record = to_record(document, meta.task, kind, document.id, notes)
            check_record(record, meta, file=document.place.file, line=document.place.line)
            yield record


@dataclass
class _Survey:
    """What must be known of all documents before the first is written. Labels are in the order of their first use."""

    counts: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)  # task -> the first place that is of it
    ids: dict[str, str] = field(default_factory=dict)
    texts: dict[str, None] = field(default_factory=dict)  # the labels of whole texts, and so on
    spans: dict[str, None] = field(default_factory=dict)
    relations: dict[str, None] = field(default_factory=dict)
    events: dict[str, dict[str, None]] = field(default_factory=dict)
    every_has_its_own: bool = True

    def add(self, split: str, document: Document) -> None:
        place = place_name(document.place)
        self.counts[split] = self.counts.get(split, 0) + 1
        assert document.id is not None
        if document.id in self.ids:
            remedy = "give each an id of its own, or remove the ids"
            raise document.place.error("id", f"{show(document.id)} stands at {self.ids[document.id]} too", remedy)
        self.ids[document.id] = place
        for task in tasks_of(document):
            self.tasks.setdefault(task, place)
        if document.label_set is None:
            self.every_has_its_own = False
            self.texts.update(dict.fromkeys(document.labels or ()))
        self.spans.update(dict.fromkeys(span.label for span in document.spans or ()))
        self.relations.update(dict.fromkeys(relation.label for relation in document.relations))
        for event in document.events:
            self.events.setdefault(event.type, {}).update(dict.fromkeys(each.label for each in event.arguments))

    def meta(
        self, source: Path, name: str, task: str | None, language: str, labels: tuple[str, ...] | None
    ) -> DatasetMeta:
        """UserError where the task cannot be told, or where there are no labels or such as a prompt cannot have."""
        task = task or self._task(source)
        schema = None
        if task == "EE":
            found, schema = tuple(self.events), {type_: tuple(roles) for type_, roles in self.events.items()}
        elif task == "RE":
            found = tuple(self.relations)
        else:
            found = tuple(self.spans if kind_of(task, bool(self.texts)) == "extraction" else self.texts)
        labels = found if labels is None else labels
        if not labels and not self.every_has_its_own:
            raise UserError(
                f"{source}: no label for task {task} occurs (give another --task, or the --labels there are)"
            )
        check_labels(labels)
        entities = tuple(self.spans) if task == "RE" else ()
        return DatasetMeta(name, task, language, labels, entity_labels=entities, event_schema=schema)

    def _task(self, source: Path) -> str:
        tasks = set(self.tasks)
        if tasks & {"RE", "EE"}:
            tasks.discard("NER")  # texts without relations or events in data that has them
        if len(tasks) == 1:
            return tasks.pop()
        if not tasks:
            raise UserError(f"{source}: nothing is annotated in any text, so the task cannot be told (give --task)")
        places = ", ".join(f"{task} at {self.tasks[task]}" for task in sorted(tasks))
        raise UserError(f"{source}: may be {places} (say which with --task; the rest is counted and left out)")


# --- records -> files ------------------------------------------------------------------------------------------------


def from_records(source: Path, out: Path, format_name: str, options: ReadOptions = ReadOptions()) -> Converted:  # noqa: B008
    """Writes the files of another tool from the dataset folder `source`; returns what was written.

    UserError, with nothing written, where the format has no place for what the records hold.
    """
    _refuse_existing(out)
    format_ = get_format(format_name)
    if format_.write is None:
        raise UserError(f"format {format_name} can be read, not written (convert to doccano, labelstudio or brat)")
    _refuse_ignored(format_, options)
    meta, files = read_meta(source), split_files(source)
    if not files:
        raise UserError(f"{source}: no records (write train.jsonl, validation.jsonl or test.jsonl beside meta.json)")
    if meta.task == "RE":
        meta = replace(meta, entity_labels=_entity_labels(meta, files))
    counts: dict[str, int] = {}
    with _whole(out) as folder:
        for split, path in files.items():
            records = _progress(_counted(read_records(path, meta), counts, split), f"write {split}")
            format_.write(folder, meta, split, records, options)
    return Converted(format_name, meta, counts)


def _entity_labels(meta: DatasetMeta, files: Mapping[str, Path]) -> tuple[str, ...]:
    """Those of meta.json, then the others that occur in any split."""
    records = (record for path in files.values() for record in read_records(path, meta))
    found = (span.label for record in records if isinstance(record, RelationRecord) for span in record.entities)
    return tuple(dict.fromkeys((*meta.entity_labels, *found)))


def _counted(records: Iterable[Record], counts: dict[str, int], split: str) -> Iterator[Record]:
    counts[split] = 0
    for record in records:
        counts[split] += 1
        yield record


# --- both ways -------------------------------------------------------------------------------------------------------


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out}: exists already (give a folder that does not, or remove it)")


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """whole_folder, where a disk that refuses is the user's to know."""
    try:
        with whole_folder(out) as folder:
            yield folder
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror} (nothing is left of it)") from None


def _progress(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    yield from tqdm(items, what, total, unit=" records", delay=1, leave=False, disable=None)
