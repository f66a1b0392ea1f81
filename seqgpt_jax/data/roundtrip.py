"""Gold through the text format and back: what of a record is lost or added where every question is answered right.

    record -> decompose -> evaluation_questions -> render_answer -> parse -> recompose -> a record like the first

A record is compared part by part. A part is a set of facts, and a fact that is lost or added has a reason (`REASONS`):

    labels     label                                   classification
    spans      label, start, end                       extraction; of reading comprehension: answers
    mentions   entity type, start, end                 relations
    triples    relation, head string, tail string
    triggers   event type, start, end                  events
    arguments  event type, role, start, end
    events     the type, the trigger and the arguments: the whole event

The span F1 is that of spans, answers, mentions, triggers and arguments together, as metrics.py defines it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from tqdm import tqdm

from seqgpt_jax.atomic import NONE, decompose, recompose
from seqgpt_jax.data.datasets import Dataset, sample_records
from seqgpt_jax.errors import UserError
from seqgpt_jax.negatives import evaluation_questions
from seqgpt_jax.occurrences import locate, normalise_text
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    EventRecord,
    ExtractionRecord,
    Record,
    RelationRecord,
    Span,
)
from seqgpt_jax.tables import text_table

AGAIN = "string occurs again"  # gold marks other of its occurrences than the answer means (atomic.recompose)
NESTED = "inside a longer span"  # and its string also stands elsewhere
CUTS_WORD = "cuts a word"  # and its string also stands elsewhere
EDGE = "white space at an edge"  # an answer has none there
NONE_STRING = "is the string None"  # which is the format's empty answer
SAME_STRING = "head and tail are one string"  # pairs of distinct strings are asked
TYPE_PAIR = "types never related in training"  # such pairs are not asked
SHARED_TRIGGER = "two events of one type and trigger"  # come back as one
SAME_TYPE = "two events of one type"  # an argument goes to the nearest trigger of its type
OTHER = "other"
REASONS = (AGAIN, NESTED, CUTS_WORD, EDGE, NONE_STRING, SAME_STRING, TYPE_PAIR, SHARED_TRIGGER, SAME_TYPE, OTHER)
SPAN_PARTS = ("spans", "answers", "mentions", "triggers", "arguments")
PARTS = ("labels", *SPAN_PARTS, "triples", "events")

Fact: TypeAlias = tuple[Any, ...]


@dataclass
class PartCounts:
    """Facts of one part that came back, and by reason those that did not, or that came unasked for."""

    kept: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    added: Counter[str] = field(default_factory=Counter)

    def add(self, other: PartCounts) -> None:
        self.kept += other.kept
        self.lost += other.lost
        self.added += other.added

    @property
    def num_lost(self) -> int:
        return self.lost.total()

    @property
    def num_added(self) -> int:
        return self.added.total()

    @property
    def f1(self) -> float | None:
        """None where there is no such fact."""
        total = 2 * self.kept + self.num_lost + self.num_added
        return 2 * self.kept / total if total else None


@dataclass
class RoundTrip:
    """The records of one dataset, or of several together.

    num_same: records of which nothing was lost or added. num_malformed: answers that were not read as they were
    written: none, or the format is broken.
    """

    name: str
    task: str
    language: str
    num_records: int = 0
    num_same: int = 0
    num_malformed: int = 0
    parts: dict[str, PartCounts] = field(default_factory=dict)

    def part(self, *names: str) -> PartCounts:
        """These parts together."""
        total = PartCounts()
        for name in names:
            total.add(self.parts.get(name, PartCounts()))
        return total

    @property
    def span_f1(self) -> float | None:
        return self.part(*SPAN_PARTS).f1


def together(results: Iterable[RoundTrip], name: str, task: str = "", language: str = "") -> RoundTrip:
    """The sum of several results: a large dataset weighs more than a small one."""
    total = RoundTrip(name, task, language)
    for result in results:
        total.num_records += result.num_records
        total.num_same += result.num_same
        total.num_malformed += result.num_malformed
        for part, counts in result.parts.items():
            total.parts.setdefault(part, PartCounts()).add(counts)
    return total


def by_task(results: Sequence[RoundTrip]) -> list[RoundTrip]:
    """Their sums by task and language, named after how many datasets there are."""
    groups: dict[tuple[str, str], list[RoundTrip]] = {}
    for result in results:
        groups.setdefault((result.task, result.language), []).append(result)
    return [together(group, str(len(group)), *key) for key, group in sorted(groups.items())]


def round_trip(
    datasets: Sequence[Dataset], split: str | None = None, limit: int | None = None, progress: bool = True
) -> list[RoundTrip]:
    """One result a dataset. split: None means all that may be read; limit: records a split, a seeded sample.

    UserError where no dataset has the split.
    """
    present = [(dataset, [each for each in dataset.splits if split in (None, each)]) for dataset in datasets]
    present = [(dataset, splits) for dataset, splits in present if splits]
    if not present:
        raise UserError(f"none of {len(datasets)} datasets has a split '{split}' (choose train, validation or test)")
    results = []
    with tqdm(desc="round trip", unit=" records", disable=not progress, file=sys.stderr) as bar:
        for dataset, splits in present:
            meta = dataset.meta
            result = RoundTrip(meta.name, meta.task, meta.language)
            bar.set_postfix_str(meta.name)
            for each in splits:
                for record in dataset.records(each) if limit is None else sample_records(dataset, each, limit):
                    add_record(result, record, dataset.record_meta(record), each)
                    bar.update()
            results.append(result)
    return results


def add_record(result: RoundTrip, record: Record, meta: DatasetMeta, split: str = "train") -> Record:
    """Counts what one record loses and gains, and returns the record that came back."""
    answered = []
    for example in evaluation_questions(decompose(record, meta, split)):
        parsed = SEQGPT_V1.parse(SEQGPT_V1.render_answer(example), example.kind, example.labels)
        result.num_malformed += bool(parsed.problems) or parsed.answer != example.answer
        answered.append(replace(example, answer=parsed.answer))
    found = recompose(record, meta, answered)
    gold_facts, found_facts = facts(record), facts(found)
    same = True
    for part, gold_part in gold_facts.items():
        counts = result.parts.setdefault(part, PartCounts())
        found_part = found_facts[part]
        lost, added = gold_part - found_part, found_part - gold_part
        counts.kept += len(gold_part) - len(lost)
        if lost or added:
            same = False
            why = _Reasons(record, found)
            counts.lost.update(why.lost(part, fact) for fact in lost)
            counts.added.update(why.added(part, fact) for fact in added)
    result.num_records += 1
    result.num_same += same
    return found


# --- tables ----------------------------------------------------------------------------------------------------------


def round_trip_table(results: Sequence[RoundTrip]) -> str:
    """A row a dataset, a row for all of them, and the mean over datasets of their span F1."""
    rows = [["task", "language", "dataset", "records", "same", "span F1", "lost", "added", "why"]]
    rows += [_row(result) for result in (*results, together(results, "all"))]
    table = text_table([row[:-1] for row in rows], num_left=3)
    lines = [f"{line}  {row[-1]}".rstrip() for line, row in zip(table, rows, strict=True)]
    if (mean := _mean_span_f1(results)) is not None:
        lines.append(f"mean over datasets of their span F1: {mean:.4f}")
    return "\n".join(lines)


def _row(result: RoundTrip) -> list[str]:
    everything = result.part(*PARTS)
    why = "; ".join(f"{reason} {number:,}" for reason, number in (everything.lost + everything.added).most_common())
    f1 = "-" if result.span_f1 is None else f"{result.span_f1:.4f}"
    same = f"{result.num_same / max(result.num_records, 1):.1%}"
    counts = [f"{result.num_records:,}", same, f1, f"{everything.num_lost:,}", f"{everything.num_added:,}"]
    return [result.task, result.language, result.name, *counts, why]


def _mean_span_f1(results: Iterable[RoundTrip]) -> float | None:
    scores = [result.span_f1 for result in results if result.span_f1 is not None]
    return sum(scores) / len(scores) if scores else None


def round_trip_json(results: Sequence[RoundTrip]) -> dict[str, Any]:
    """The same for programs: every count by part and reason; by dataset, by task and language, and over all."""
    overall = _to_dict(together(results, "all")) | {"mean_span_f1": _mean_span_f1(results)}
    return {
        "datasets": [_to_dict(result) for result in results],
        "tasks": [_to_dict(result) for result in by_task(results)],
        "overall": overall,
    }


def _to_dict(result: RoundTrip) -> dict[str, Any]:
    parts = {
        part: {"kept": counts.kept, "lost": dict(counts.lost), "added": dict(counts.added), "f1": counts.f1}
        for part, counts in result.parts.items()
    }
    return {
        "name": result.name,
        "task": result.task,
        "language": result.language,
        "records": result.num_records,
        "same": result.num_same,
        "malformed": result.num_malformed,
        "span_f1": result.span_f1,
        "parts": parts,
    }


# --- facts -----------------------------------------------------------------------------------------------------------


def facts(record: Record) -> dict[str, set[Fact]]:
    """What a record says, part by part (module docstring)."""
    match record:
        case ClassificationRecord():
            return {"labels": {(label,) for label in record.labels}}
        case ExtractionRecord():
            return {"answers" if record.question else "spans": {_place(span) for span in record.spans}}
        case RelationRecord():
            texts = [_string(entity) for entity in record.entities]
            return {
                "mentions": {_place(entity) for entity in record.entities},
                "triples": {(r.label, texts[r.head], texts[r.tail]) for r in record.relations},
            }
        case EventRecord():
            return {
                "triggers": {_place(event.trigger, event.type) for event in record.events},
                "arguments": {(event.type, *_place(each)) for event in record.events for each in event.arguments},
                "events": set(_whole_events(record)),
            }


def _place(span: Span, label: str | None = None) -> tuple[str, int, int, str]:
    """Offsets where the span is in the text; otherwise its string keeps it apart from others that are not."""
    return span.label if label is None else label, span.start, span.end, "" if span.in_text else span.text


def _string(span: Span) -> str:
    return normalise_text(span.text).strip()


def _whole_events(record: EventRecord) -> Iterator[Fact]:
    """(type, trigger, arguments, number): a second event with the same type and trigger is number 1, and so on."""
    seen: Counter[Fact] = Counter()
    for event in record.events:
        trigger = _place(event.trigger, event.type)
        yield event.type, trigger, frozenset(map(_place, event.arguments)), seen[trigger]
        seen[trigger] += 1


# --- reasons ---------------------------------------------------------------------------------------------------------


class _Reasons:
    """Why a fact of `record` is not in `found`, or one of `found` not in `record`."""

    def __init__(self, record: Record, found: Record) -> None:
        self.record, self.gold, self.found = record, facts(record), facts(found)

    def lost(self, part: str, fact: Fact) -> str:
        if part == "triples":
            return self._lost_triple(*fact)
        if part == "events":
            return self._changed_event(*fact)
        return self._lost_span(part, *fact[-4:-1]) if part in SPAN_PARTS else OTHER

    def added(self, part: str, fact: Fact) -> str:
        if part == "events":
            return self._changed_event(*fact)
        return AGAIN if part in SPAN_PARTS and fact[-3] >= 0 else OTHER

    def _lost_span(self, part: str, label: str, start: int, end: int) -> str:
        given = normalise_text(self.record.text[start:end] + "|")[:-1]
        string = given.strip()
        if string == NONE:
            return NONE_STRING
        if string != given:
            return EDGE
        if (start, end) not in {(span.start, span.end) for span in locate(self.record.text, {label: [string]})}:
            return CUTS_WORD
        longer = any(a <= start and end <= b and b - a > end - start for *_, a, b, _ in self.found[part])
        return NESTED if longer else AGAIN

    def _lost_triple(self, relation: str, head: str, tail: str) -> str:
        if head == tail:
            return SAME_STRING
        assert isinstance(self.record, RelationRecord)
        placed = {normalise_text(self.record.text[a:b]).strip() for _, a, b, _ in self.found["mentions"]}
        for entity in self.record.entities:
            if _string(entity) in (head, tail) and _string(entity) not in placed:
                return self._lost_span("mentions", entity.label, entity.start, entity.end)
        return TYPE_PAIR

    def _changed_event(self, type_: str, trigger: Fact, arguments: frozenset[Fact], number: int) -> str:
        """Of an event that is lost as a whole, or that has come in place of one."""
        assert isinstance(self.record, EventRecord)
        own = [event for event in self.record.events if event.type == type_]
        if len({_place(event.trigger) for event in own}) < len(own):
            return SHARED_TRIGGER
        for part in ("triggers", "arguments"):
            changed = [
                (self.lost, self.gold[part] - self.found[part]),
                (self.added, self.found[part] - self.gold[part]),
            ]
            for why, missing in changed:
                mine = sorted(fact for fact in missing if fact[0] == type_)
                if mine:
                    return why(part, mine[0])
        return SAME_TYPE if len(own) > 1 else OTHER
