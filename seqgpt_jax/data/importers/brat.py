"""brat's standoff folders: NAME.txt beside NAME.ann; each text is one record. Offsets count code points.

    T1<TAB>person 0 3<TAB>Ada                    a span; "0 3;8 11" has pieces
    R1<TAB>met Arg1:T1 Arg2:T2                   a relation
    E1<TAB>meeting:T3 who:T1 who2:T2             an event, with its trigger and arguments

Pieces that only white space parts are one span: brat cuts a span so where a line ends. A label that is no type name
of brat's has one in visual.conf, from which brat shows it. Attributes, notes, normalisations and `*` lines are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from seqgpt_jax.data.importers.documents import Document, Format, Notes, ReadOptions, extras_of
from seqgpt_jax.data.importers.offsets import Marked, resolve
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.fields import Fields, show
from seqgpt_jax.lines import decode_line, read_lines, text_lines
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    Relation,
    RelationRecord,
    Span,
)

_UNITS = ("code_points", "utf16")
_LEFT_OUT = {"A": "attribute", "M": "attribute", "N": "normalisation", "#": "note", "*": "group of equals"}
_PLACES = re.compile(r"(\S+) (\d+ \d+(?:;\d+ \d+)*)\s*\Z")
_BREAK = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"  # where brat ends a line of an .ann file
_ARGUMENT = "argument"  # the type that an event's argument has as a span


def recognise(path: Path) -> str:
    return "" if path.is_dir() and any(path.glob("*.ann")) else "it is no folder with .ann files"


# --- reading ---------------------------------------------------------------------------------------------------------


def read(path: Path, options: ReadOptions, notes: Notes) -> Iterator[Document]:
    labels = _labels_by_type(path)
    for file in sorted(path.glob("*.ann"), key=_number_order):
        yield _File(file, labels, options, notes).document()
    alone = sum(not text.with_suffix(".ann").exists() for text in path.glob("*.txt"))
    notes.add("text without an .ann file left out", Fields({}, "", path), alone)


def _number_order(path: Path) -> list[tuple[int, str]]:
    """doc-2 before doc-10"""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.stem)]


def _labels_by_type(folder: Path) -> dict[str, str]:
    """What visual.conf says of types, `TYPE | label`, here or in the folder above."""
    labels: dict[str, str] = {}
    section = ""
    place = next((each for each in (folder, folder.parent) if (each / "visual.conf").is_file()), None)
    for _, line in text_lines(place / "visual.conf") if place else ():
        if line.startswith("["):
            section = line.strip()
        elif section == "[labels]" and "|" in line:
            type_, label = (part.strip() for part in line.split("|")[:2])
            labels[type_] = label
    return labels


@dataclass
class _File:
    """One .ann file with its text."""

    path: Path
    labels: dict[str, str]
    options: ReadOptions
    notes: Notes

    def document(self) -> Document:
        lines = self._lines()
        text, spans = self._spans({id: line for id, line in lines.items() if id[0] == "T"})
        index = {id: number for number, id in enumerate(spans)}
        relations = tuple(self._relation(id, *lines[id], index) for id in lines if id[0] == "R")
        events = tuple(self._event(id, lines, spans) for id in lines if id[0] == "E")
        place = Fields({}, "", self.path)
        return Document(
            place, text, unquote(self.path.stem), spans=tuple(spans.values()), relations=relations, events=events
        )

    def _lines(self) -> dict[str, tuple[str, Fields]]:
        """id -> what stands after it, and where; without what is left out."""
        lines: dict[str, tuple[str, Fields]] = {}
        for number, line in text_lines(self.path):
            if not line.strip():
                continue
            place = Fields({}, "", self.path, number)
            id, tab, rest = line.partition("\t")
            if not tab or id[:1] not in ("T", "R", "E", *_LEFT_OUT):
                raise place.error("id", f"is {show(id)}", "a line is an id such as T1, a tab, and what it stands for")
            if id[0] in _LEFT_OUT:
                self.notes.add(f"{_LEFT_OUT[id[0]]} left out", place)
            elif id in lines:
                raise place.error(id, "stands here twice", "give each line an id of its own")
            else:
                lines[id] = (rest, place)
        return lines

    def _spans(self, lines: dict[str, tuple[str, Fields]]) -> tuple[str, dict[str, Span]]:
        """The text, and id -> span. A text is tried as it is, with its byte order mark and with \\n for \\r\\n."""
        pieces = {id: _pieces(id, *line, self.labels) for id, line in lines.items()}
        path = self.path.with_suffix(".txt")
        data = b"".join(read_lines(path))
        plain = decode_line(data, path, 1)
        texts = dict.fromkeys([plain, decode_line(data, path, 2), plain.replace("\r\n", "\n")])
        marked = [mark for marks in pieces.values() for mark in marks]
        faults = []
        for text in texts:
            try:
                found = iter(resolve(text, marked, self.options.offsets, _UNITS))
            except RecordError as error:
                faults.append(error)
                continue
            return text, self._joined(text, {id: [next(found) for _ in marks] for id, marks in pieces.items()}, lines)
        raise faults[0]

    def _joined(
        self, text: str, pieces: dict[str, list[Span]], lines: dict[str, tuple[str, Fields]]
    ) -> dict[str, Span]:
        """Pieces as one span where white space alone parts them; else further pieces have keys of their own."""
        spans: dict[str, Span] = {}
        further: dict[str, Span] = {}
        for id, parts in pieces.items():
            place = lines[id][1]
            first, last = parts[0], parts[-1]
            whole = Span(first.label, first.start, last.end, text[first.start : last.end])
            gaps = (text[a.end : b.start] for a, b in pairwise(parts))
            if all(gap.isspace() or not gap for gap in gaps) and whole.text:
                spans[id] = whole
            elif self.options.discontinuous != "pieces":
                problem = f"is in {len(parts)} pieces with other text between them, which a record cannot hold"
                raise place.error(id, problem, "--discontinuous pieces takes each piece as a span")
            else:
                self.notes.add("discontinuous span taken as its pieces", place)
                spans[id] = first
                further |= {f"{id};{number}": part for number, part in enumerate(parts) if number}
        return spans | further

    def _relation(self, id: str, rest: str, place: Fields, index: dict[str, int]) -> Relation:
        type_, *ends = rest.split() or [""]
        if len(ends) != 2:
            raise place.error(id, f"has {len(ends)} ends", "a relation is TYPE Arg1:T1 Arg2:T2")
        head, tail = (end.partition(":")[2] for end in ends)
        for end in (head, tail):
            if end not in index:
                raise place.error(id, f"names {show(end)}, which is no span of this file", "write its T line")
        return Relation(self.labels.get(type_, type_), index[head], index[tail])

    def _event(self, id: str, lines: dict[str, tuple[str, Fields]], spans: dict[str, Span]) -> Event:
        rest, place = lines[id]
        (type_, trigger), *arguments = (part.partition(":")[::2] for part in rest.split() or [""])
        if trigger not in spans:
            raise place.error(id, f"names {show(trigger)} as its trigger, which is no span of this file")
        roles = {role for role, _ in arguments}
        found = []
        for role, argument in arguments:
            if argument[:1] == "E" and argument in lines:
                self.notes.add("event as an argument, taken as its trigger", place)
                argument = lines[argument][0].split()[0].partition(":")[2]
            if argument not in spans:
                raise place.error(id, f"names {show(argument)}, which is no span of this file", "write its T line")
            base = role.rstrip("0123456789")  # the second argument of a role has a 2 behind it
            role = base if base in roles else role
            span = spans[argument]
            found.append(Span(self.labels.get(role, role), span.start, span.end, span.text))
        span, type_ = spans[trigger], self.labels.get(type_, type_)
        return Event(type_, Span(type_, span.start, span.end, span.text), tuple(found))


def _pieces(id: str, rest: str, place: Fields, labels: dict[str, str]) -> list[Marked]:
    """ "person 0 3;8 11<TAB>Ada Bo." -> both pieces, with their strings where the lengths fit"""
    what, _, string = rest.partition("\t")
    match = _PLACES.match(what)
    if not match:
        raise place.error(id, f"is {show(what)}", "a span is TYPE START END, or TYPE START END;START END")
    label = labels.get(match[1], match[1])
    marks = []
    at = 0
    for pair in match[2].split(";"):
        start, end = map(int, pair.split())
        part = string[at : at + end - start] if ";" in match[2] else string
        marks.append(Marked(label, start, end, Fields({}, f"{id} ", place.file, place.line), part or None))
        at += end - start + 1
    return marks


# --- writing ---------------------------------------------------------------------------------------------------------


def write(folder: Path, meta: DatasetMeta, split: str, records: Iterable[Record], options: ReadOptions) -> None:
    """One .txt and .ann a record, in a folder for the split, and brat's own configuration of the labels."""
    roles = dict.fromkeys((*meta.roles, *(role for each in (meta.event_schema or {}).values() for role in each)))
    entities = meta.entity_labels if meta.task == "RE" else (_ARGUMENT,) if meta.task == "EE" else meta.labels
    types = _types(dict.fromkeys((*entities, *meta.labels, *roles)))
    renamed = "".join(f"{type_} | {label}\n" for label, type_ in types.items() if type_ != label)
    (folder / "visual.conf").write_text(f"[labels]\n{renamed}[drawing]\n", "utf-8")
    relations = [f"{types[label]}\tArg1:<ENTITY>, Arg2:<ENTITY>" for label in meta.labels if meta.task == "RE"]
    of_event = ", ".join(f"{types[role]}*:<ANY>" for role in roles)
    events = [f"{types[label]}\t{of_event}" for label in meta.labels if meta.task == "EE"]
    sections = {"entities": [types[label] for label in entities], "relations": relations, "events": events}
    text = "".join(f"[{name}]\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections.items())
    (folder / "annotation.conf").write_text(f"{text}[attributes]\n", "utf-8")
    (folder / split).mkdir()
    for record in records:
        base = folder / split / _file_name(record)
        lines = "".join(f"{line}\n" for line in _annotations(record, types))
        try:
            base.with_name(f"{base.name}.txt").write_bytes(record.text.encode("utf-8"))
            base.with_name(f"{base.name}.ann").write_bytes(lines.encode("utf-8"))
        except OSError as error:
            if error.filename is None or len(base.name.encode()) < 250:
                raise
            raise UserError(f"record {show(record.id)}: its id is too long for a file name (shorten it)") from None


def _types(labels: Iterable[str]) -> dict[str, str]:
    """Label -> a type name: A-Z a-z 0-9 _ - alone, no digit at the end (brat counts roles so), each another."""
    labels = list(labels)
    types = {label: label for label in labels if re.fullmatch(r"[A-Za-z0-9_-]*[A-Za-z_-]", label)}
    for label in labels:
        if label != label.strip() or "|" in label or any(char in label for char in _BREAK):
            remedy = "without |, line breaks, and white space at its ends"
            raise UserError(f"label {label!r} cannot be written for brat (rename it {remedy})")
        base = re.sub(r"[^A-Za-z0-9_-]+", "_", label).strip("_") or "type"
        number = 0
        while label not in types:
            type_ = base + "_" * (number > 0 or base[-1].isdigit())
            type_ += "".join(chr(ord("a") + int(digit)) for digit in str(number)) if number else ""
            if type_ not in types.values():
                types[label] = type_
            number += 1
    return types


def _file_name(record: Record) -> str:
    """The id with what a file name must not have as %XX, which reading undoes."""
    if not record.id:
        raise UserError("a record without an id cannot be written for brat, which names files by it (give it one)")
    return re.sub(r'[%/\\:*?"<>|\x00-\x1f\x7f]|^\.', lambda match: f"%{ord(match[0]):02X}", record.id)


def _annotations(record: Record, types: dict[str, str]) -> Iterator[str]:
    place = Fields({}, f"record {record.id}: ")
    if isinstance(record, ClassificationRecord) or extras_of(record):
        what = "labels of whole texts" if isinstance(record, ClassificationRecord) else ", ".join(extras_of(record))
        raise UserError(f"record {record.id}: brat has no place for {what} (convert to doccano or labelstudio)")
    if record.text.startswith("\ufeff"):
        raise place.error("text", "begins with a byte order mark, which brat's files cannot hold", "remove it")
    match record:
        case ExtractionRecord():
            for number, span in enumerate(record.spans, start=1):
                yield _span_line(number, span, types[span.label], place)
        case RelationRecord():
            for number, span in enumerate(record.entities, start=1):
                yield _span_line(number, span, types[span.label], place)
            for number, each in enumerate(record.relations, start=1):
                yield f"R{number}\t{types[each.label]} Arg1:T{each.head + 1} Arg2:T{each.tail + 1}"
        case EventRecord():
            yield from _event_lines(record, types, place)


def _event_lines(record: EventRecord, types: dict[str, str], place: Fields) -> Iterator[str]:
    number = 0
    for event_number, event in enumerate(record.events, start=1):
        number += 1
        yield _span_line(number, event.trigger, types[event.type], place)
        line = f"E{event_number}\t{types[event.type]}:T{number}"
        seen: dict[str, int] = {}
        for argument in event.arguments:
            number += 1
            yield _span_line(number, argument, _ARGUMENT, place)
            seen[argument.label] = seen.get(argument.label, 0) + 1
            times = seen[argument.label] if seen[argument.label] > 1 else ""
            line += f" {types[argument.label]}{times}:T{number}"
        yield line


def _span_line(number: int, span: Span, type_: str, place: Fields) -> str:
    """A span over line ends is written in pieces, as brat does it."""
    pieces = [(span.start + m.start(), span.start + m.end()) for m in re.finditer(f"[^{_BREAK}]+", span.text)]
    if not pieces or pieces[0][0] != span.start or pieces[-1][1] != span.end:
        problem = f"{show(span.text)} begins or ends with a line break, which brat cannot hold"
        raise place.error(f"{span.start}..{span.end}", problem, "shorten it")
    places = ";".join(f"{start} {end}" for start, end in pieces)
    string = " ".join(span.text[start - span.start : end - span.start] for start, end in pieces)
    return f"T{number}\t{type_} {places}\t{string}"


FORMAT = Format("brat", recognise, read, frozenset({"offsets", "discontinuous"}), write)
