"""Records for reading: fields with their spans marked, and the questions that training and evaluation ask about them.

[Ada Lovelace](person) met [Charles](person) in [London](city).

> 输入: Ada Lovelace met Charles in London.     the prompt, byte for byte, but for tabs, which are shown as ⇥
> 抽取: city，person
> 输出: [GEN]
< city: London                                  the answer
< person: Ada Lovelace⇥Charles
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seqgpt_jax.atomic import STEPS, AtomicExample
from seqgpt_jax.data.datasets import Dataset, atomic_tasks, sample_records
from seqgpt_jax.data.label_pools import foreign_labels
from seqgpt_jax.data.questions import ask_context, ask_record
from seqgpt_jax.errors import UserError
from seqgpt_jax.negatives import AskConfig
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

TAB = "⇥"
_MAX_LABELS = 12  # of a label set that are written out


def show_dataset(
    dataset: Dataset,
    split: str | None = None,
    num: int = 1,
    seed: int = 0,
    record_id: str | None = None,
    max_questions: int = 6,
    mixture: Sequence[Dataset] = (),
) -> Iterator[str]:
    """Yields the lines for `num` records of a split, drawn with `seed`, or for the one with that id.

    split None: train, or else the first that may be read. Training's questions are those of the first pass of a stage
    with this seed, over the whole split; mixture: the datasets beside which it is trained. max_questions: of each way
    of asking. UserError for a split or a record that there is not.
    """
    split = split or dataset.splits[0]
    if record_id is None:
        records = sample_records(dataset, split, num, seed)
    else:
        records = [record for record in dataset.records(split) if record.id == record_id][:1]
        if not records:
            raise UserError(f"{dataset.declared.name} has no record '{record_id}' in {split} (choose another --split)")
    config, contexts = AskConfig(), {}
    if split == "train":
        foreign = foreign_labels(dataset, mixture, config)
        contexts = {
            steps: ask_context(dataset, split, steps, config, seed, foreign) for steps in atomic_tasks(dataset).values()
        }
    for record in records:
        meta = dataset.record_meta(record)
        yield f"== {meta.name}, {split}, record {record.id}: {meta.task}, {meta.language} =="
        yield from _record_lines(record, meta)
        if contexts:
            asked = [
                question
                for steps, context in contexts.items()
                for question in ask_record(record, dataset, split, steps, config, seed, context)
            ]
            yield from _question_lines("training", asked, max_questions)
        asked = ask_record(record, dataset, "test", STEPS, config, seed)
        yield from _question_lines("evaluation", asked, max_questions)
        yield ""


# --- one record ------------------------------------------------------------------------------------------------------


def _record_lines(record: Record, meta: DatasetMeta) -> Iterator[str]:
    yield f"text         {_one_line(mark_spans(record.text, _spans(record)))}"
    match record:
        case ClassificationRecord():
            asked = {"text_pair": record.text_pair, "question": record.question}
            yield from (f"{name:<13}{_one_line(text)}" for name, text in asked.items() if text is not None)
            if record.target is not None:
                place = "" if record.target.start is None else f" ({record.target.start} to {record.target.end})"
                yield f"target       {record.target.text}{place}"
            yield f"labels       {_listed(record.labels)}"
            yield f"of           {_listed(record.label_set or meta.labels)}"
        case ExtractionRecord():
            if record.question is not None:
                yield f"question     {_one_line(record.question)}"
                yield f"answers      {_listed(record.answers or ())}"
            yield f"of           {_listed(record.label_set or meta.labels)}"
        case RelationRecord():
            for each in record.relations:
                head, tail = record.entities[each.head].text, record.entities[each.tail].text
                yield f"relation     {each.label}: {_one_line(head)} -> {_one_line(tail)}"
            yield f"of           {_listed(meta.labels)}"
        case EventRecord():
            for event in record.events:
                arguments = "; ".join(f"{each.label}: {_one_line(each.text)}" for each in event.arguments)
                yield f"event        {event.type}, {_one_line(event.trigger.text)} ({arguments or 'no arguments'})"
            yield f"of           {_listed(meta.labels)}"


def _spans(record: Record) -> list[Span]:
    match record:
        case ExtractionRecord():
            return list(record.spans)
        case RelationRecord():
            return list(record.entities)
        case EventRecord():
            arguments = [each for event in record.events for each in event.arguments]
            return [event.trigger for event in record.events] + arguments
    return []


def mark_spans(text: str, spans: Sequence[Span]) -> str:
    """The text with each span as [span](label); what two labels share: [span](one, other); spans may nest."""
    labels: dict[tuple[int, int], list[str]] = {}
    for span in spans:
        if span.in_text and span.label not in labels.setdefault((span.start, span.end), []):
            labels[span.start, span.end].append(span.label)
    opening: dict[int, int] = {}
    closing: dict[int, list[str]] = {}
    # Of spans that end together, the one that began last closes first.
    for (start, end), names in sorted(labels.items(), key=lambda item: -item[0][0]):
        opening[start] = opening.get(start, 0) + 1
        closing.setdefault(end, []).append(f"]({', '.join(names)})")
    marked, done = [], 0
    for place in sorted({*opening, *closing}):
        marked += [text[done:place], *closing.get(place, ()), "[" * opening.get(place, 0)]
        done = place
    return "".join([*marked, text[done:]])


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _MAX_LABELS else ""
    return ", ".join(names[:_MAX_LABELS]) + more if names else "none"


def _one_line(text: str) -> str:
    return text.replace("\n", "↵").replace("\t", TAB)


# --- what is asked ---------------------------------------------------------------------------------------------------


def _question_lines(who: str, asked: Sequence[AtomicExample], max_questions: int) -> Iterator[str]:
    for number, example in enumerate(asked[:max_questions], start=1):
        about = f" about {' and '.join(example.source.query)}" if example.source.query else ""
        yield f"-- {who} asks {number} of {len(asked)}: {example.source.step}{about}"
        yield from (f"> {line}" for line in SEQGPT_V1.render_prompt(example).replace("\t", TAB).split("\n"))
        answer = SEQGPT_V1.render_answer(example).replace("\t", TAB)
        yield from (f"< {line}" for line in answer.removesuffix("\n").split("\n"))
    if not asked:
        yield f"-- {who} asks nothing"
    if len(asked) > max_questions:
        yield f"-- {who} asks {len(asked) - max_questions} more (show them with --questions {len(asked)})"
