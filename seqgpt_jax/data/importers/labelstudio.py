"""Label Studio's JSON export, a list of tasks, and JSON-MIN. Offsets count code points; before 2021 UTF-16 units.

    [{"id": 1, "data": {"text": "EU rejects"}, "annotations": [{"result": [
       {"id": "a", "type": "labels", "value": {"start": 0, "end": 2, "text": "EU", "labels": ["ORG"]}},
       {"type": "choices", "value": {"choices": ["news"]}},
       {"type": "relation", "from_id": "a", "to_id": "b", "direction": "right", "labels": ["rejects"]}]}]}]

    [{"id": 1, "text": "EU rejects", "label": [{"start": 0, "end": 2, "text": "EU", "labels": ["ORG"]}]}]      JSON-MIN
    [{"id": 1, "text": "Great price.", "sentiment": "positive"}]

Of several annotations of a task the ground truth is taken, else the newest; cancelled ones and predictions never are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from seqgpt_jax.data.importers.documents import Document, Format, Notes, ReadOptions, extras_of, read_extras
from seqgpt_jax.data.importers.json_files import id_of, list_objects
from seqgpt_jax.data.importers.offsets import Marked, resolve
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.fields import Fields, show
from seqgpt_jax.lines import read_lines
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, EventRecord, Record, Relation, RelationRecord, Span

_UNITS = ("code_points", "utf16")
_ANNOTATIONS = ("annotations", "completions")  # the older name
_MIN_FIELDS = {"id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement"}
_EXTRAS = {"label_set", "text_pair", "question", "target", "answers", "record_id"}


def recognise(path: Path) -> str:
    first = b"".join(line for _, line in zip(range(50), read_lines(path), strict=False)).lstrip(b"\xef\xbb\xbf \t\r\n")
    if first[:1] != b"[":
        return "it is not a list of tasks in JSON"
    try:
        task = next(list_objects(path), None)
    except RecordError as error:
        return error.problem
    if task is None:
        return "it holds no task"
    if isinstance(task.values.get("data"), dict) or "annotation_id" in task.values or "annotator" in task.values:
        return ""
    if any(_is_regions(value) for value in task.values.values()):
        return ""
    return "its first task has no data, and it is no JSON-MIN either"


def read(path: Path, options: ReadOptions, notes: Notes) -> Iterator[Document]:
    tasks = list(list_objects(path))
    region_names = {name for task in tasks for name, value in task.values.items() if _is_regions(value)}
    for task in tasks:
        if any(name in task.values for name in ("data", *_ANNOTATIONS, "predictions")):
            document = _read_task(task, options, notes)
        else:
            document = _read_minimal(task, region_names, options)
        if document is not None:
            yield document


def _read_task(task: Fields, options: ReadOptions, notes: Notes) -> Document | None:
    annotation = _chosen(task, notes)
    if annotation is None:
        return None
    data = task.inner("data")
    text = data.string(_text_name(data, options))
    id = data.values.get("record_id", id_of(task))
    marked: list[Marked] = []
    regions: dict[str, int] = {}
    choices: dict[str, tuple[str, ...]] = {}
    links: list[Fields] = []

    def take(result: Fields) -> None:
        type_ = result.string("type")
        if type_ == "relation":
            links.append(result)
        elif type_ == "labels":
            value = result.inner("value")
            names = value.strings("labels") if "labels" in value.values else ()
            notes.add("region without a label left out", result, not names)
            if names:
                regions[str(result.values.get("id"))] = len(marked)
            marked.extend(_mark(value, name) for name in names)
        elif type_ == "choices" and "start" not in result.inner("value").values:
            name = str(result.values.get("from_name"))
            choices[name] = choices.get(name, ()) + result.inner("value").distinct_strings("choices")
        else:
            notes.add(f"result of type {type_} left out", result)

    annotation.each("result", take)
    labels = _one_choice(annotation, choices, options)
    relations = tuple(relation for link in links for relation in _relations(link, regions, notes))
    spans = resolve(text, marked, options.offsets, _UNITS, displayed=True)
    if not (marked or labels):  # nothing was marked, of either kind
        return Document(task, text, id, labels=(), spans=(), **read_extras(data))
    return Document(task, text, id, labels=labels, spans=spans, relations=relations, **read_extras(data))


def _chosen(task: Fields, notes: Notes) -> Fields | None:
    """The annotation that counts, or None for a task without one."""
    name = next((name for name in _ANNOTATIONS if name in task.values), None)
    found: list[Fields] = []
    if name:
        task.each(name, found.append)
    done = [each for each in found if not (each.values.get("was_cancelled") or each.values.get("skipped"))]
    if not done:
        notes.add("task without an annotation left out", task)
        return None
    truth = [each for each in done if each.values.get("ground_truth")]
    notes.add("further annotation of a task left out", task, len(done) - 1)
    return max(truth or done, key=lambda each: str(each.values.get("created_at") or ""))


def _text_name(data: Fields, options: ReadOptions) -> str:
    """The field that holds the text: the one that the user names, or `text`, or the only string."""
    if options.text_column:
        return options.text_column
    strings = [name for name, value in data.values.items() if isinstance(value, str) and name not in _EXTRAS]
    if "text" in data.values or not strings:
        return "text"
    if len(strings) > 1:
        raise data.error("text", f"is missing, and {show(strings)} are strings", "name the text with --text_column")
    return strings[0]


def _mark(value: Fields, label: str) -> Marked:
    string = value.optional("text", Fields.string)
    return Marked(label, value.integer("start"), value.integer("end"), value, string)


def _one_choice(place: Fields, choices: dict[str, tuple[str, ...]], options: ReadOptions) -> tuple[str, ...] | None:
    if options.label_column:
        return choices.get(options.label_column, ())
    if len(choices) > 1:
        problem = f"there are choices of {show(sorted(choices))}"
        raise place.error("result", problem, "name those that you want with --label_column")
    return next(iter(choices.values()), None)


def _relations(link: Fields, regions: dict[str, int], notes: Notes) -> Iterator[Relation]:
    ends = []
    for name in ("from_id", "to_id"):
        if link.string(name) not in regions:
            raise link.error(name, f"is {show(link.values[name])}, and no labelled region has this id", "export again")
        ends.append(regions[link.values[name]])
    labels = link.optional("labels", Fields.strings) or ()
    notes.add("relation without a label left out", link, not labels)
    direction = link.values.get("direction", "right")
    for label in labels:
        if direction != "left":
            yield Relation(label, ends[0], ends[1])
        if direction != "right":
            yield Relation(label, ends[1], ends[0])


# --- JSON-MIN --------------------------------------------------------------------------------------------------------


def _is_regions(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) and "start" in each for each in value)


def _read_minimal(task: Fields, region_names: set[str], options: ReadOptions) -> Document:
    values = {name: value for name, value in task.values.items() if name not in _MIN_FIELDS}
    name = _text_name(Fields(values, task.path, task.file), options)
    text, id, extras = task.string(name), values.get("record_id", id_of(task)), read_extras(task)
    marked: list[Marked] = []
    for each in sorted(region_names & set(values)):
        task.each(each, lambda region: marked.extend(_mark(region, label) for label in region.strings("labels")))
    choices = {
        other: (value,) if isinstance(value, str) else tuple(value["choices"])
        for other, value in values.items()
        if other not in (name, *_EXTRAS) and (isinstance(value, str) or _is_choices(value))
    }
    if region_names and not options.label_column:  # then other strings are data that came with the text
        return Document(task, text, id, spans=resolve(text, marked, options.offsets, _UNITS, displayed=True), **extras)
    return Document(task, text, id, labels=_one_choice(task, choices, options) or (), **extras)


def _is_choices(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("choices"), list)


# --- writing ---------------------------------------------------------------------------------------------------------


def write(folder: Path, meta: DatasetMeta, split: str, records: Iterable[Record], options: ReadOptions) -> None:
    """A list of tasks to import, one a line, and the labelling configuration that a project needs for it."""
    (folder / "labeling_config.xml").write_text(_configuration(meta), "utf-8")
    with open(folder / f"{split}.json", "w", encoding="utf-8", newline="\n") as file:
        before = "[\n"
        for record in records:
            data = {"text": record.text, "record_id": record.id, **extras_of(record)}
            task = {"data": data, "annotations": [{"result": list(_results(record))}]}
            file.write(before + json.dumps(task, ensure_ascii=False))
            before = ",\n"
        file.write("[]\n" if before == "[\n" else "\n]\n")


def _results(record: Record) -> Iterator[dict[str, Any]]:
    match record:
        case EventRecord():
            raise UserError(f"record {record.id}: Label Studio has no events (convert to brat)")
        case ClassificationRecord():
            if record.labels:
                value = {"choices": list(record.labels)}
                yield {"from_name": "class", "to_name": "text", "type": "choices", "value": value}
        case RelationRecord():
            yield from _regions(record.entities)
            for each in record.relations:
                ends = {"from_id": f"r{each.head}", "to_id": f"r{each.tail}"}
                yield {"type": "relation", **ends, "direction": "right", "labels": [each.label]}
        case _:
            yield from _regions(record.spans)


def _regions(spans: Iterable[Span]) -> Iterator[dict[str, Any]]:
    for i, span in enumerate(spans):
        value = {"start": span.start, "end": span.end, "text": span.text, "labels": [span.label]}
        yield {"id": f"r{i}", "from_name": "label", "to_name": "text", "type": "labels", "value": value}


def _configuration(meta: DatasetMeta) -> str:
    def tags(name: str, labels: Iterable[str]) -> str:
        return "".join(f"    <{name} value={quoteattr(label)}/>\n" for label in labels)

    if meta.task == "RE":
        control = f'  <Labels name="label" toName="text">\n{tags("Label", meta.entity_labels)}  </Labels>\n'
        control += f"  <Relations>\n{tags('Relation', meta.labels)}  </Relations>\n"
    elif meta.task in ("NER", "SF", "MRC-SE"):
        control = f'  <Labels name="label" toName="text">\n{tags("Label", meta.labels)}  </Labels>\n'
    else:
        control = f'  <Choices name="class" toName="text">\n{tags("Choice", meta.labels)}  </Choices>\n'
    style = "  <Style>.htx-text{ white-space: pre-wrap; }</Style>\n"  # or blanks are trimmed, and offsets with them
    return f'<View>\n{style}{control}  <Text name="text" value="$text"/>\n</View>\n'


FORMAT = Format("labelstudio", recognise, read, frozenset({"offsets", "text_column", "label_column"}), write)
