"""The records behind the score of a dataset, prediction by prediction, and the score made of them once more."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from seqgpt_jax.analysis.error_kinds import Item, Judgement, judge_items
from seqgpt_jax.analysis.record_counts import RecordCounts, headline_counts
from seqgpt_jax.analysis.report_files import ReportedDataset, ReportedEvaluation
from seqgpt_jax.errors import UserError
from seqgpt_jax.metrics import nfc
from seqgpt_jax.predictions import PredictedRecord, read_predictions
from seqgpt_jax.records import ClassificationRecord, ExtractionRecord

_ROUNDING = 1e-6  # of a score in report.json


def explain(
    report: ReportedEvaluation,
    name: str,
    kind: str | None = None,
    label: str | None = None,
    limit: int | None = None,
) -> Iterator[str]:
    """Yields lines: the records that have an error of the kind and an item of the label, and the score made again.

    UserError for a dataset that the report does not have, or has without predictions.
    """
    dataset = _find(report, name)
    if dataset.predictions is None:
        raise UserError(f"{report.path} has no predictions of '{name}' (evaluate with --out, which writes them)")
    records = read_predictions(dataset.predictions)
    if not records:
        raise UserError(f"{dataset.predictions} is empty (evaluate again)")
    judged = judge_items(records, dataset.meta)
    counts = headline_counts([each.gold for each in records], [each.predicted for each in records], dataset.meta)
    chosen = [i for i, judgements in enumerate(judged) if _is_wanted(judgements, kind, label)]
    for i in chosen[:limit]:
        yield from _show(records[i], judged[i], counts.select([i]), dataset.headline)
    yield f"{len(chosen[:limit])} of {len(chosen)} such records shown, of {len(records)} in {dataset.predictions}"
    yield from _derive(dataset, counts)


def _find(report: ReportedEvaluation, name: str) -> ReportedDataset:
    if name in report.datasets:
        return report.datasets[name]
    if name in report.missing:
        raise UserError(f"{report.path} has no score of '{name}': {report.missing[name]}")
    close = difflib.get_close_matches(name, report.datasets, n=3, cutoff=0.4) or list(report.datasets)[:3]
    raise UserError(f"{report.path} has no dataset '{name}' (did you mean {', '.join(close)}?)")


def _is_wanted(judgements: Sequence[Judgement], kind: str | None, label: str | None) -> bool:
    """Whether one item is of both; without either, any record is wanted."""
    if kind is None and label is None:
        return True
    return any(
        (kind is None or judgement.kind == kind) and (label is None or nfc(label) in judgement.labels)
        for judgement in judgements
    )


def _show(
    record: PredictedRecord, judgements: Sequence[Judgement], counts: RecordCounts, headline: str
) -> Iterator[str]:
    ((right, predicted, gold),) = counts.counts.tolist()
    if headline in ("accuracy", "token_f1"):
        yield f"{record.gold.id}: {headline} {right:.3f}"
    else:
        yield f"{record.gold.id}: {right:g} right of {predicted:g} predicted and {gold:g} gold"
    yield f"  text       {record.gold.text!r}"
    for name in ("text_pair", "question", "target"):
        if isinstance(record.gold, ClassificationRecord | ExtractionRecord):
            value = getattr(record.gold, name, None)
            if value is not None:
                yield f"  {name:10} {getattr(value, 'text', value)!r}"
    for kind, wanted, given in judgements or [Judgement("right", None, None)]:
        yield f"  {kind.replace('_', ' '):10} gold {_side(wanted)} | predicted {_side(given)}"
    for answer in record.answers:
        about = f" about {', '.join(answer.query)}" if answer.query else ""
        problems = f"  ! {'; '.join(answer.problems)}" if answer.problems else ""
        yield f"  answer     {answer.step}{about}: {answer.raw!r}{problems}"


def _side(item: Item | None) -> str:
    return "nothing" if item is None else item.shown


def _derive(dataset: ReportedDataset, counts: RecordCounts) -> Iterator[str]:
    """The score from the predictions, and whether the report says the same of the same records."""
    right, predicted, gold = counts.counts.sum(axis=0).tolist()
    made = f"{dataset.headline} {counts.headline:.6f} = 2 x {right:g} / ({predicted:g} + {gold:g})"
    faults = []
    if missing := len(set(dataset.counts.ids) - set(counts.ids)):
        faults.append(f"{missing} of its {len(dataset.counts.ids)} records are not among the predictions")
    if more := len(set(counts.ids) - set(dataset.counts.ids)):
        faults.append(f"{more} predictions are of records that it does not count")
    if abs(counts.headline - dataset.score) > _ROUNDING:
        faults.append(f"it says {dataset.score:.6f}")
    if abs(dataset.counts.headline - dataset.score) > _ROUNDING:
        faults.append(f"its own counts give {dataset.counts.headline:.6f}")
    yield made + ("; the report DOES NOT AGREE: " + "; ".join(faults) if faults else ", as the report says")
