"""metrics.py as SeqIO metric functions: the answers of one atomic task, put back into records and scored as such.

A step of relations or events is scored with the gold answers of the other steps, so its numbers are those of the stage.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from seqgpt_jax.atomic import AtomicExample, Source, decompose, recompose
from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.metrics import score_dataset
from seqgpt_jax.prompt import PromptFormat
from seqgpt_jax.records import Record, record_from_dict


class AskedQuestion(NamedTuple):
    """A target as the metric function takes it: JSON of the gold record and of the question (preprocessors.py)."""

    record: str
    question: str


def keep_question(output: str, example: Mapping[str, Any], is_target: bool) -> AskedQuestion | str:
    """SeqIO's postprocessor: a target is its record and question, a prediction stays the text that it is."""
    if not is_target:
        return output
    return AskedQuestion(*(_text(example[name]) for name in ("record", "question")))


def make_metric(
    dataset: Dataset, steps: Collection[str], prompt_format: PromptFormat
) -> Callable[[Sequence[AskedQuestion], Sequence[str]], dict[str, float]]:
    """A SeqIO metric function: the metrics of metrics.score_dataset by name, and parse_error_rate over the answers."""

    def score(targets: Sequence[AskedQuestion], predictions: Sequence[str]) -> dict[str, float]:
        gold: dict[str, Record] = {}
        answered: dict[str, list[AtomicExample]] = {}
        counts: Counter[str] = Counter()
        for target, output in zip(targets, predictions, strict=True):
            record = record_from_dict(json.loads(target.record)["record"])
            question = json.loads(target.question)
            if record.id not in gold:
                gold[record.id] = record
                meta = dataset.record_meta(record)
                others = (each for each in decompose(record, meta, question["split"]) if each.source.step not in steps)
                answered[record.id] = list(others)
            parsed = prompt_format.parse(output, question["kind"], question["labels"])
            counts["problems"] += bool(parsed.problems)
            answered[record.id].append(_example(question, record, dataset, parsed.full_answer))
        records = list(gold.values())
        predicted = [recompose(record, dataset.record_meta(record), answered[record.id]) for record in records]
        metrics = score_dataset(records, predicted, dataset.meta).metrics
        return {**metrics, "parse_error_rate": counts["problems"] / len(targets)}

    return score


def _example(question: Mapping[str, Any], record: Record, dataset: Dataset, answer: Any) -> AtomicExample:
    meta, query = dataset.meta, tuple(question["query"])
    source = Source(meta.name, question["split"], record.id, meta.task, meta.language, question["step"], query)
    return AtomicExample(question["text"], question["kind"], tuple(question["labels"]), answer, source)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
