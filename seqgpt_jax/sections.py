"""One evaluation as JSON, as Markdown and as a table for the terminal. What the numbers mean: averages.py, metrics.py.

score, interval      the mean over languages, with where it would lie with other records (95%); both null without
                     any score. Each group, language, task and dataset has its own
classification {accuracy, majority_baseline}, extraction {span_f1, copying_nothing}: both with the rates without
                     constraints {parse_error_rate, unasked_rate; hallucination_rate}
per_language {en, zh: score, interval, baseline, both groups, per_task}, per_task {NER: {en, zh}}
nats_per_token       the loss of the gold answers, of all, each language, task and dataset; null where not asked for
system, split, limit, seed: what was evaluated, on which records
skipped [names of datasets without the split], unscored {name: why}
datasets [{name, task, language, kind, labels, headline, score, interval, baseline, metrics, baseline_metrics,
  num_records, rates, unconstrained, num_cut, tokens_cut,
  by_label   [{label, precision, recall, f1, support, predicted}]    (breakdowns.py; label null: not asked)
  by_length  [{at_least, below, num_records, score}]
  errors     {missed, wrong_type, boundary, invented, unparsed: {count, ids, examples [{id, gold, predicted}]}}
  confusion  {labels, counts} or null                               (breakdowns.Confusion)
  counts     {ids, counts [[true positives, predicted, gold]]}      (record_counts.py: the headline follows)
  loss       {ids, counts [[nats, tokens, tokens]]} or null         (the same formula gives nats a token)
  predictions: the file, from the folder of the report; null where none was written}]
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqgpt_jax.analysis.breakdowns import LENGTH_LIMITS
from seqgpt_jax.analysis.error_kinds import ERROR_KINDS, ErrorExample, ErrorKind
from seqgpt_jax.analysis.record_counts import RecordCounts
from seqgpt_jax.averages import (
    ClassificationGroup,
    DatasetEvaluation,
    Evaluation,
    ExtractionGroup,
    LanguageScores,
    TaskScores,
)
from seqgpt_jax.records import TASKS
from seqgpt_jax.tables import markdown_table, text_table

# --- numbers ---------------------------------------------------------------------------------------------------------


def section_to_dict(evaluation: Evaluation, report_dir: Path | None = None) -> dict[str, Any]:
    """Returns an evaluation as report.json holds it (module docstring). A group without datasets is left out.

    report_dir: where the JSON will lie, for the paths of the predictions.
    """
    languages = evaluation.languages
    per_task = {
        task: {name: _task_to_dict(scores.tasks[task]) for name, scores in languages.items() if task in scores.tasks}
        for task in tasks_of(languages)
    }
    return {
        "system": dict(evaluation.system),
        "split": evaluation.split,
        "limit": evaluation.limit,
        "seed": evaluation.seed,
        **rounded({"score": evaluation.score}),
        "interval": _interval(evaluation),
        **rounded({"nats_per_token": evaluation.nats_per_token}),
        "num_datasets": len(evaluation.datasets),
        "num_records": sum(dataset.score.num_records for dataset in evaluation.datasets),
        **_groups_to_dict(evaluation.classification, evaluation.extraction),
        "per_language": {name: _language_to_dict(scores) for name, scores in languages.items()},
        "per_task": per_task,
        "datasets": [_dataset_to_dict(dataset, report_dir) for dataset in evaluation.datasets],
        "skipped": list(evaluation.skipped),
        "unscored": dict(evaluation.unscored),
    }


def _groups_to_dict(
    classification: ClassificationGroup | None, extraction: ExtractionGroup | None
) -> dict[str, dict[str, Any]]:
    groups = {"classification": classification, "extraction": extraction}
    return {name: rounded(asdict(group)) for name, group in groups.items() if group is not None}


def _language_to_dict(scores: LanguageScores) -> dict[str, Any]:
    return {
        **_scores(scores),
        **_groups_to_dict(scores.classification, scores.extraction),
        "per_task": {task: _task_to_dict(scores.tasks[task]) for task in tasks_of({"": scores})},
    }


def _scores(scores: LanguageScores | TaskScores) -> dict[str, Any]:
    found = rounded({"score": scores.score, "baseline": scores.baseline, "num_datasets": scores.num_datasets})
    return {**found, "interval": _interval(scores), **rounded({"nats_per_token": scores.nats_per_token})}


def _interval(scored: Evaluation | LanguageScores | TaskScores | DatasetEvaluation) -> list[float] | None:
    found = scored.interval
    return None if found is None else [round(end, 6) for end in found]


def _task_to_dict(scores: TaskScores) -> dict[str, Any]:
    return {
        **_scores(scores),
        "headlines": list(scores.headlines),
        **_groups_to_dict(scores.classification, scores.extraction),
    }


def _dataset_to_dict(dataset: DatasetEvaluation, report_dir: Path | None) -> dict[str, Any]:
    score, baseline, confusion, predictions = dataset.score, dataset.baseline, dataset.confusion, dataset.predictions
    where = None if predictions is None else os.path.relpath(predictions, report_dir or Path())
    return {
        "name": dataset.name,
        "task": dataset.task,
        "language": dataset.language,
        "kind": dataset.kind,
        "split": dataset.split,
        "num_records": score.num_records,
        "headline": score.headline_name,
        **rounded({"score": score.headline}),
        "interval": _interval(dataset),
        **rounded({"nats_per_token": dataset.nats_per_token}),
        **rounded({"baseline": baseline.metrics[score.headline_name]}),
        "metrics": rounded(score.metrics),
        "baseline_metrics": rounded(baseline.metrics),
        "rates": rounded(asdict(dataset.rates)),
        "unconstrained": None if dataset.unconstrained is None else rounded(asdict(dataset.unconstrained)),
        "num_cut": dataset.num_cut,
        "tokens_cut": dataset.tokens_cut,
        "labels": list(dataset.labels),
        "by_label": [rounded(asdict(row)) for row in dataset.by_label],
        "by_length": [rounded(asdict(row)) for row in dataset.by_length],
        "errors": {kind: _error_to_dict(error) for kind, error in dataset.errors.items()},
        "confusion": None if confusion is None else asdict(confusion),
        "predictions": where,
        "counts": dataset.counts.to_dict(),
        "loss": None if dataset.loss is None else _rounded_counts(dataset.loss),
    }


def _rounded_counts(loss: RecordCounts) -> dict[str, Any]:
    return RecordCounts(loss.ids, loss.counts.round(4)).to_dict()


def _error_to_dict(error: ErrorKind) -> dict[str, Any]:
    examples = [asdict(example) for example in error.examples]
    return {"count": error.count, "ids": [example["id"] for example in examples], "examples": examples}


def rounded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields with floats to six digits; what is not a number, as a diverged loss, is null, as in JSON."""
    return {name: _round(value) if isinstance(value, float) else value for name, value in fields.items()}


def _round(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def tasks_of(languages: Mapping[str, LanguageScores]) -> list[str]:
    """Returns the tasks of any of the languages, in the order of records.TASKS."""
    return [task for task in TASKS if any(task in scores.tasks for scores in languages.values())]


# --- tables ----------------------------------------------------------------------------------------------------------


def section_to_text(name: str, evaluation: Evaluation) -> str:
    """Returns the table for the terminal: a row a task, columns by language, each score beside its baseline."""
    lines = [*text_table(_task_rows(evaluation), num_left=2), *_group_lines(evaluation)]
    lines += [f"no score for {dataset}: {why}" for dataset, why in evaluation.unscored.items()]
    return "\n".join([f"{name} ({_scope(evaluation)})", *(f"  {line}" for line in lines)])


def _scope(evaluation: Evaluation) -> str:
    limit = "all records" if evaluation.limit is None else f"at most {evaluation.limit} records a dataset"
    skipped = f", {len(evaluation.skipped)} without this split" if evaluation.skipped else ""
    unscored = f", {len(evaluation.unscored)} without a score" if evaluation.unscored else ""
    return f"{evaluation.split}, {len(evaluation.datasets)} datasets{skipped}{unscored}, {limit}"


def _task_rows(evaluation: Evaluation) -> list[list[str]]:
    languages = evaluation.languages
    header = ["task", "metric"]
    for name in languages:
        header += [name, "95%", "baseline", "datasets"]
    rows = [header]
    for task in tasks_of(languages):
        headlines = {h for scores in languages.values() if task in scores.tasks for h in scores.tasks[task].headlines}
        row = [task, ", ".join(sorted(headlines))]
        for scores in languages.values():
            row += _cells(scores.tasks.get(task))
        rows.append(row)
    mean_row = ["mean", "over tasks"]
    for scores in languages.values():
        mean_row += _cells(scores)
    return [*rows, mean_row]


def _cells(scores: TaskScores | LanguageScores | None) -> list[str]:
    if scores is None:
        return ["-", "-", "-", "-"]
    return [f"{scores.score:.3f}", _range(scores), f"{scores.baseline:.3f}", str(scores.num_datasets)]


def _range(scored: LanguageScores | TaskScores | DatasetEvaluation) -> str:
    low, high = scored.interval
    return f"{low:.2f}-{high:.2f}"


def _group_lines(evaluation: Evaluation) -> list[str]:
    """Both groups over all datasets and by language, in words."""
    groups: dict[str, Evaluation | LanguageScores] = {"all": evaluation, **evaluation.languages}
    lines = []
    for name, group in groups.items():
        if group.classification is not None:
            g = group.classification
            lines.append(
                f"classification, {name}: accuracy {g.accuracy:.3f} (majority {g.majority_baseline:.3f}; "
                f"{g.num_datasets} datasets){_unconstrained(g)}"
            )
    for name, group in groups.items():
        if group.extraction is not None:
            e = group.extraction
            lines.append(
                f"extraction, {name}: span F1 {e.span_f1:.3f} (copying nothing {e.copying_nothing:.3f}; "
                f"{e.num_datasets} datasets), string F1 {e.string_f1:.3f}{_unconstrained(e)}"
            )
    if evaluation.nats_per_token is not None:
        losses = [(name, scores.nats_per_token) for name, scores in evaluation.languages.items()]
        parts = ", ".join(f"{name} {loss:.3f}" for name, loss in losses if loss is not None)
        lines.append(f"loss of the gold answers: {evaluation.nats_per_token:.3f} nats a token ({parts})")
    return lines


def _unconstrained(group: ClassificationGroup | ExtractionGroup) -> str:
    if group.parse_error_rate is None or group.unasked_rate is None:
        return ""
    said = f"; unconstrained: malformed answers {group.parse_error_rate:.1%}, labels not asked {group.unasked_rate:.1%}"
    if isinstance(group, ExtractionGroup):
        said += f", strings not in the text {group.hallucination_rate:.1%}"
    return said


# --- Markdown --------------------------------------------------------------------------------------------------------


def section_to_markdown(name: str, evaluation: Evaluation) -> list[str]:
    """Returns the lines of a section with its tables; the figure is figures/<name>.png."""
    parts = [
        f"## {name}",
        "",
        f"{_scope(evaluation)}. Each score stands beside its baseline: the majority answer",
        "(classification), or copying nothing (all else). Means: datasets, then tasks; languages are never pooled.",
        "95%: where the score would lie with other records of the same datasets (bootstrap).",
    ]
    parts += ["", *markdown_table(_task_rows(evaluation), num_left=2), ""]
    parts += [f"- {line}" for line in _group_lines(evaluation)]
    parts += [f"- no score for {dataset}: {why}" for dataset, why in evaluation.unscored.items()]
    parts += ["", f"![{name} by task](figures/{name}.png)", "", "### Every dataset", ""]
    parts += [_RATES_NOTE, "", *markdown_table(_dataset_rows(evaluation), num_left=4), ""]
    return parts


def breakdowns_to_markdown(evaluation: Evaluation) -> list[str]:
    """Returns the lines of what else is known of each dataset: kinds of errors with examples, lengths, labels."""
    datasets = _in_order(evaluation)
    errors = [["language", "task", "dataset", *(kind.replace("_", " ") for kind in ERROR_KINDS)]]
    lengths = [["language", "task", "dataset", *(f"quarter {place}" for place in "1234")]]
    labels = [["language", "task", "dataset", "labels", "lowest F1"]]
    for dataset in datasets:
        place = [dataset.language, dataset.task, dataset.name]
        errors.append([*place, *(str(dataset.errors[kind].count) for kind in ERROR_KINDS)])
        scores = {row.at_least: f"{row.score:.3f} ({row.num_records})" for row in dataset.by_length}
        lengths.append([*place, *(scores.get(at_least, "-") for at_least in LENGTH_LIMITS[dataset.language])])
        asked = [row for row in dataset.by_label if row.label is not None and row.support]
        worst = sorted(asked, key=lambda row: (row.f1, -row.support))[:3]
        if asked:
            lowest = ", ".join(f"{row.label} {row.f1:.2f} of {row.support}" for row in worst)
            labels.append([*place, str(len(asked)), lowest.replace("|", "\\|")])
    parts = ["### Errors", "", _ERRORS_NOTE, "", *markdown_table(errors, num_left=3), ""]
    for kind in ERROR_KINDS:
        examples = [
            f"- {kind.replace('_', ' ')}, {dataset.name} {example.id}: {_example(example)}"
            for dataset in datasets
            for example in dataset.errors[kind].examples[:1]
        ]
        parts += [*examples[:_NUM_EXAMPLES], ""] if examples else []
    ends = "; ".join(f"{name} {', '.join(map(str, limits[1:]))}" for name, limits in LENGTH_LIMITS.items())
    parts += ["### By length of the text", "", f"Score (records). Quarters end at so many characters: {ends}.", ""]
    parts += [*markdown_table(lengths, num_left=3), ""]
    if len(labels) > 1:
        note = "Labels with gold, and the three of lowest F1 (of so many gold items). All of them: report.json."
        parts += ["### By label", "", note, ""]
        parts += [*markdown_table(labels, num_left=3), ""]
    return parts


_NUM_EXAMPLES = 6  # of a kind of error, each of another dataset
_EXAMPLE_CHARACTERS = 120

_ERRORS_NOTE = (
    "Gold items (labels, spans, triples, arguments) missed, under a wrong type, at a place that overlaps, in answers "
    "that cannot be read; and predicted ones that are invented."
)


def _example(example: ErrorExample) -> str:
    sides = {"gold": example.gold, "predicted": example.predicted}
    return ", ".join(f"{name} `{_short(shown)}`" for name, shown in sides.items() if shown is not None)


def _short(shown: str) -> str:
    shown = shown.replace("`", "'")
    return shown if len(shown) <= _EXAMPLE_CHARACTERS else shown[:_EXAMPLE_CHARACTERS] + " ..."


_RATES_NOTE = (
    "Malformed answers, answers with a label that was not asked, and span strings that are not in the text: without "
    "constraints, on the first records / in the answers that were scored."
)


def _in_order(evaluation: Evaluation) -> list[DatasetEvaluation]:
    return sorted(evaluation.datasets, key=lambda d: (d.language, TASKS.index(d.task), d.name))


def _dataset_rows(evaluation: Evaluation) -> list[list[str]]:
    has_loss = evaluation.nats_per_token is not None
    header = ["language", "task", "dataset", "metric", "score", "95%", "baseline", "records"]
    rows = [[*header, "malformed", "not asked", "not in text", "texts cut", *(["nats a token"] * has_loss)]]
    for dataset in _in_order(evaluation):
        score = dataset.score
        row = [dataset.language, dataset.task, dataset.name, score.headline_name, f"{score.headline:.3f}"]
        row += [_range(dataset), f"{dataset.baseline.metrics[score.headline_name]:.3f}", str(score.num_records)]
        row += [_both_rates(dataset, name) for name in ("parse_error_rate", "unasked_rate", "hallucination_rate")]
        row.append(f"{dataset.num_cut} of {dataset.rates.num_questions}")
        loss = dataset.nats_per_token
        rows.append([*row, *(["-" if loss is None else f"{loss:.3f}"] * has_loss)])
    return rows


def _both_rates(dataset: DatasetEvaluation, name: str) -> str:
    free = "-" if dataset.unconstrained is None else f"{getattr(dataset.unconstrained, name):.1%}"
    return f"{free} / {getattr(dataset.rates, name):.1%}"
