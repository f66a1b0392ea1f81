"""Predictions on disk: one line a record, so that any number can be traced to the answers behind it.

{"gold": record, "predicted": record, "answers": [{step, query, kind, text, labels, raw, problems, unasked,
 invented, tokens_cut}, ...]}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from seqgpt_jax.errors import UserError
from seqgpt_jax.lines import parse_json, read_lines
from seqgpt_jax.records import (
    ClassificationRecord,
    Event,
    ExtractionRecord,
    Record,
    Relation,
    RelationRecord,
    Span,
    record_from_dict,
    record_to_dict,
)
from seqgpt_jax.whole import whole_file

if TYPE_CHECKING:
    from seqgpt_jax.asking import Answered, RecordPrediction


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """One question about a record, with what was said. query, raw ...: as of atomic.Source and answering.Answered."""

    step: str
    query: tuple[str, ...]
    kind: str
    text: str
    labels: tuple[str, ...]
    raw: str
    problems: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    invented: tuple[str, ...] = ()
    tokens_cut: int = 0

    @classmethod
    def of(cls, answer: Answered) -> Self:
        example, parsed = answer.example, answer.parsed
        return cls(
            step=example.source.step,
            query=tuple(example.source.query),
            kind=example.kind,
            text=example.text,
            labels=tuple(example.labels),
            raw=answer.raw,
            problems=tuple(parsed.problems),
            unasked=tuple(parsed.unasked),
            invented=tuple(answer.invented),
            tokens_cut=answer.tokens_cut,
        )


@dataclass(frozen=True, slots=True)
class PredictedRecord:
    """A record with gold, as predicted (a span that is not in the text has start = -1), and the answers behind it."""

    gold: Record
    predicted: Record
    answers: tuple[GivenAnswer, ...]

    @classmethod
    def of(cls, gold: Record, prediction: RecordPrediction) -> Self:
        return cls(gold, prediction.record, tuple(map(GivenAnswer.of, prediction.answered)))


def predictions_name(language: str, dataset: str, split: str) -> str:
    return f"{language}-{dataset}-{split}.jsonl"


def write_predictions(path: Path, records: Iterable[PredictedRecord]) -> None:
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for each in records:
            line = {
                "gold": record_to_dict(each.gold),
                "predicted": record_to_dict(each.predicted),
                "answers": [asdict(answer) for answer in each.answers],
            }
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def read_predictions(path: Path) -> list[PredictedRecord]:
    """What write_predictions wrote. UserError names file and line of what it cannot have written."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of predictions (it lies beside its report; run `seqgpt eval` again)")
    found = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        values = parse_json(line, path, number)
        try:
            gold = record_from_dict(values["gold"], file=path, line=number)
            answers = tuple(_answer(answer) for answer in values["answers"])
            found.append(PredictedRecord(gold, _as_predicted(gold, values["predicted"]), answers))
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"{path}:{number}: not a line of predictions: {error!r} (run `seqgpt eval` again)"
            ) from None
    return found


def _answer(values: Mapping[str, Any]) -> GivenAnswer:
    given: dict[str, Any] = {entry.name: values[entry.name] for entry in fields(GivenAnswer)}
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    return GivenAnswer(**given)


def _as_predicted(gold: Record, values: Mapping[str, Any]) -> Record:
    """Not record_from_dict: a prediction may hold labels that were not asked and spans that are not in the text."""
    named = replace(gold, id=values["id"])
    match named:
        case ClassificationRecord():
            return replace(named, labels=tuple(values["labels"]))
        case ExtractionRecord():
            return replace(named, spans=_spans(values["spans"], "label"), answers=None)
        case RelationRecord():
            relations = (Relation(each["label"], each["head"], each["tail"]) for each in values["relations"])
            return replace(named, entities=_spans(values["entities"], "label"), relations=tuple(relations))
    return replace(named, events=tuple(map(_event, values["events"])))


def _event(values: Mapping[str, Any]) -> Event:
    (trigger,) = _spans([{**values["trigger"], "type": values["type"]}], "type")
    return Event(values["type"], trigger, _spans(values["arguments"], "role"))


def _spans(values: Sequence[Mapping[str, Any]], label: str) -> tuple[Span, ...]:
    return tuple(Span(each[label], each["start"], each["end"], each["text"]) for each in values)
