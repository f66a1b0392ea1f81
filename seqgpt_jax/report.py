"""The report of a run: report.json for programs, report.md and figures for people, a table for the terminal.

What the numbers mean: evaluation.py and metrics.py. What is written:

    report.json   stages [{name, steps, loss_first, loss_last, tokens_per_second ..., data {mixture, examples, tokens,
                  cut, dropped, leaked, surplus, datasets [...]}}], protocol ("few_shot" where any stage trained on
                  held-out datasets, else "zero_shot"), an object a section (held_out):
                  classification {accuracy, majority_baseline}, extraction {span_f1, copying_nothing}, both with the
                  rates without constraints {parse_error_rate, unasked_rate; hallucination_rate}, per_language {en, zh:
                  score, baseline, both groups, per_task}, per_task {NER: {en, zh}}, datasets [...]
    eval/         <section>.json: each section alone
    report.md     the same for reading
    figures/      loss.png, <section>.png: each task beside its baseline
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqgpt_jax.errors import UserError
from seqgpt_jax.evaluation import (
    ClassificationGroup,
    DatasetEvaluation,
    Evaluation,
    ExtractionGroup,
    LanguageScores,
    TaskScores,
)
from seqgpt_jax.figures import COLOURS, new_figure
from seqgpt_jax.records import TASKS
from seqgpt_jax.tables import markdown_table, text_table
from seqgpt_jax.training.journal import StageResult
from seqgpt_jax.training.sinks import read_rows
from seqgpt_jax.training.stage_data import StageData, mixture_rows, read_stage_data
from seqgpt_jax.whole import write_json, write_text


def write_report(
    run_dir: Path,
    stages: Sequence[StageResult],
    sections: Mapping[str, Evaluation],
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes report.json, report.md, eval/ and figures/ into the run directory; returns what report.json holds.

    sections: evaluations by name ("held_out"). details: further top-level fields of report.json, such as the device.
    The loss curve comes from metrics.jsonl, the data of the stages from data/, where the run has them.
    """
    taken = {"stages", "protocol", *(details or {})} & set(sections)
    if taken:
        raise UserError(f"a section of the report cannot be named '{min(taken)}' (choose another name)")
    protocols = {stage.name: stage.protocol for stage in stages}
    protocol = "few_shot" if few_shot_note(protocols) else "zero_shot"
    data = {stage.name: found for stage in stages if (found := read_stage_data(run_dir, stage.name))}
    report: dict[str, Any] = {
        "stages": [_stage_to_dict(stage, data.get(stage.name)) for stage in stages],
        "protocol": protocol,
        **(details or {}),
    }
    report |= {name: section_to_dict(evaluation) for name, evaluation in sections.items()}
    figures, eval_dir = run_dir / "figures", run_dir / "eval"
    for folder in (figures, eval_dir):
        folder.mkdir(parents=True, exist_ok=True)
    losses = read_losses(run_dir)
    if losses:
        _draw_losses(losses, figures / "loss.png")
    for name, evaluation in sections.items():
        _draw_tasks(name, evaluation, figures / f"{name}.png")
        write_json(eval_dir / f"{name}.json", report[name])
    write_json(run_dir / "report.json", report)
    write_text(run_dir / "report.md", _markdown(run_dir.name, stages, data, sections, has_losses=bool(losses)))
    return report


def _stage_to_dict(stage: StageResult, data: StageData | None) -> dict[str, Any]:
    fields = _rounded(asdict(stage))
    if data is not None:
        totals = {name: data.total(name) for name in _STAGE_TOTALS}
        fields["data"] = {**asdict(data), **totals}
    return fields


def few_shot_note(protocols: Mapping[str, str]) -> str:
    """What a reader must know of stages (name -> protocol) that trained on held-out datasets; empty where none did."""
    names = ", ".join(name for name, protocol in protocols.items() if protocol == "few_shot")
    return f"Not zero-shot: held-out datasets were trained on (protocol few_shot in {names})." if names else ""


# --- numbers ---------------------------------------------------------------------------------------------------------


def section_to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Returns an evaluation as report.json holds it. A group without datasets is left out."""
    languages = evaluation.languages
    per_task = {
        task: {name: _task_to_dict(scores.tasks[task]) for name, scores in languages.items() if task in scores.tasks}
        for task in _tasks(languages)
    }
    return {
        "split": evaluation.split,
        "limit": evaluation.limit,
        "num_datasets": len(evaluation.datasets),
        "num_records": sum(dataset.score.num_records for dataset in evaluation.datasets),
        **_groups_to_dict(evaluation.classification, evaluation.extraction),
        "per_language": {name: _language_to_dict(scores) for name, scores in languages.items()},
        "per_task": per_task,
        "datasets": [_dataset_to_dict(dataset) for dataset in evaluation.datasets],
        "skipped": list(evaluation.skipped),
    }


def _groups_to_dict(
    classification: ClassificationGroup | None, extraction: ExtractionGroup | None
) -> dict[str, dict[str, Any]]:
    groups = {"classification": classification, "extraction": extraction}
    return {name: _rounded(asdict(group)) for name, group in groups.items() if group is not None}


def _language_to_dict(scores: LanguageScores) -> dict[str, Any]:
    return {
        **_rounded({"score": scores.score, "baseline": scores.baseline, "num_datasets": scores.num_datasets}),
        **_groups_to_dict(scores.classification, scores.extraction),
        "per_task": {task: _task_to_dict(scores.tasks[task]) for task in _tasks({"": scores})},
    }


def _task_to_dict(scores: TaskScores) -> dict[str, Any]:
    return {
        **_rounded({"score": scores.score, "baseline": scores.baseline, "num_datasets": scores.num_datasets}),
        "headlines": list(scores.headlines),
        **_groups_to_dict(scores.classification, scores.extraction),
    }


def _dataset_to_dict(dataset: DatasetEvaluation) -> dict[str, Any]:
    fields = asdict(dataset)
    score, baseline = fields.pop("score"), fields.pop("baseline")
    rates = {name: fields.pop(name) for name in ("rates", "unconstrained")}
    return {
        **_rounded({"name": fields.pop("name"), **fields}),
        **{name: None if given is None else _rounded(given) for name, given in rates.items()},
        "num_records": score["num_records"],
        "headline": score["headline_name"],
        **_rounded({"score": score["headline"], "baseline": baseline["metrics"][score["headline_name"]]}),
        "metrics": _rounded(score["metrics"]),
        "baseline_metrics": _rounded(baseline["metrics"]),
    }


def _rounded(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Floats to six digits; what is not a number, as a diverged loss, is null: JSON has no NaN."""
    return {name: _round(value) if isinstance(value, float) else value for name, value in fields.items()}


def _round(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _tasks(languages: Mapping[str, LanguageScores]) -> list[str]:
    """The tasks of any of the languages, in the order of records.TASKS."""
    return [task for task in TASKS if any(task in scores.tasks for scores in languages.values())]


# --- tables ----------------------------------------------------------------------------------------------------------


def section_to_text(name: str, evaluation: Evaluation) -> str:
    """Returns the table for the terminal: a row a task, columns by language, each score beside its baseline."""
    lines = [*text_table(_task_rows(evaluation), num_left=2), *_group_lines(evaluation)]
    return "\n".join([f"{name} ({_scope(evaluation)})", *(f"  {line}" for line in lines)])


def _scope(evaluation: Evaluation) -> str:
    limit = "all records" if evaluation.limit is None else f"at most {evaluation.limit} records a dataset"
    skipped = f", {len(evaluation.skipped)} without this split" if evaluation.skipped else ""
    return f"{evaluation.split}, {len(evaluation.datasets)} datasets{skipped}, {limit}"


def _task_rows(evaluation: Evaluation) -> list[list[str]]:
    languages = evaluation.languages
    header = ["task", "metric"]
    for name in languages:
        header += [name, "baseline", "datasets"]
    rows = [header]
    for task in _tasks(languages):
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
        return ["-", "-", "-"]
    return [f"{scores.score:.3f}", f"{scores.baseline:.3f}", str(scores.num_datasets)]


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
    return lines


def _unconstrained(group: ClassificationGroup | ExtractionGroup) -> str:
    if group.parse_error_rate is None or group.unasked_rate is None:
        return ""
    said = f"; unconstrained: malformed answers {group.parse_error_rate:.1%}, labels not asked {group.unasked_rate:.1%}"
    if isinstance(group, ExtractionGroup):
        said += f", strings not in the text {group.hallucination_rate:.1%}"
    return said


def _markdown(
    name: str,
    stages: Sequence[StageResult],
    data: Mapping[str, StageData],
    sections: Mapping[str, Evaluation],
    has_losses: bool,
) -> str:
    parts = [f"# Report of {name}", ""]
    if stages:
        parts += ["## Training", ""]
        rows = [["stage", "protocol", "steps", "loss first", "loss last", "tokens/s"]]
        for stage in stages:
            losses = [f"{stage.loss_first:.3f}", f"{stage.loss_last:.3f}"]
            speed = f"{stage.tokens_per_second:,.0f}"
            rows.append([stage.name, stage.protocol, str(stage.steps), *losses, speed])
        parts += [*markdown_table(rows, num_left=2), ""]
        if skipped := ", ".join(f"{stage.name} {stage.skipped}" for stage in stages if stage.skipped):
            parts += [f"Steps skipped because their loss or gradient was not a number: {skipped}.", ""]
    if note := few_shot_note({stage.name: stage.protocol for stage in stages}):
        parts += [f"**{note}**", ""]
    if has_losses:
        parts += ["![loss a supervised token](figures/loss.png)", ""]
    parts += _data_section(data)
    for section, evaluation in sections.items():
        parts += [
            f"## {section}",
            "",
            f"{_scope(evaluation)}. Each score stands beside its baseline: the majority answer",
        ]
        parts += [
            "(classification), or copying nothing (all else). Means: datasets, then tasks; languages are never pooled."
        ]
        parts += ["", *markdown_table(_task_rows(evaluation), num_left=2), ""]
        parts += [f"- {line}" for line in _group_lines(evaluation)]
        parts += ["", f"![{section} by task](figures/{section}.png)", "", "### Every dataset", ""]
        parts += [_RATES_NOTE, "", *markdown_table(_dataset_rows(evaluation), num_left=4), ""]
    return "\n".join(parts)


_STAGE_TOTALS = ("examples", "tokens", "cut", "dropped", "leaked", "surplus")


def _data_section(data: Mapping[str, StageData]) -> list[str]:
    """What the stages were trained on; leaked records by dataset; what was drawn of each dataset."""
    if not data:
        return []
    rows = [["stage", "mixture", "datasets", "examples", "tokens", "texts cut", "dropped", "leaked records", "surplus"]]
    lines = []
    for stage, each in data.items():
        totals = [f"{each.total(name):,}" for name in _STAGE_TOTALS]
        rows.append([stage, each.mixture, str(len(each.datasets)), *totals])
        leaked = sorted((-dataset.leaked, dataset.name) for dataset in each.datasets if dataset.leaked)
        if leaked:
            lines.append(f"- {stage}, leaked: " + ", ".join(f"{name} {-number}" for number, name in leaked))
    note = (
        "Dropped: questions that fit into no row. Leaked: left out because an evaluation split has the same text. "
        "Surplus: questions left out because their answer is too frequent."
    )
    parts = ["## Data", "", *markdown_table(rows, num_left=2), "", note, *(["", *lines] if lines else []), ""]
    for stage, each in data.items():
        parts += [f"Mixture of {stage}, after {each.step:,} steps (all datasets: data/{stage}.json):", ""]
        parts += [*markdown_table(mixture_rows(each), num_left=2), ""]
    return parts


_RATES_NOTE = (
    "Malformed answers, answers with a label that was not asked, and span strings that are not in the text: without "
    "constraints, on the first records / in the answers that were scored."
)


def _dataset_rows(evaluation: Evaluation) -> list[list[str]]:
    header = ["language", "task", "dataset", "metric", "score", "baseline", "records"]
    rows = [[*header, "malformed", "not asked", "not in text", "texts cut"]]
    for dataset in sorted(evaluation.datasets, key=lambda d: (d.language, TASKS.index(d.task), d.name)):
        score = dataset.score
        row = [dataset.language, dataset.task, dataset.name, score.headline_name, f"{score.headline:.3f}"]
        row += [f"{dataset.baseline.metrics[score.headline_name]:.3f}", str(score.num_records)]
        row += [_both_rates(dataset, name) for name in ("parse_error_rate", "unasked_rate", "hallucination_rate")]
        rows.append([*row, f"{dataset.num_cut} of {dataset.rates.num_questions}"])
    return rows


def _both_rates(dataset: DatasetEvaluation, name: str) -> str:
    free = "-" if dataset.unconstrained is None else f"{getattr(dataset.unconstrained, name):.1%}"
    return f"{free} / {getattr(dataset.rates, name):.1%}"


# --- figures ---------------------------------------------------------------------------------------------------------


def read_losses(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns stage -> [(step, loss)] of the run's metrics.jsonl, if it has one, without losses that are null."""
    losses: dict[str, list[tuple[int, float]]] = {}
    for row in read_rows(run_dir):
        if row.get("loss") is not None:
            losses.setdefault(row["stage"], []).append((row["step"], row["loss"]))
    return losses


def _draw_losses(losses: Mapping[str, Sequence[tuple[int, float]]], path: Path) -> None:
    """Stages one after the other along the steps: each logged loss faint, its running mean strong."""
    figure, axes = new_figure(7, 3.6)
    before = 0
    for index, (stage, rows) in enumerate(losses.items()):
        steps = [before + step for step, _ in rows]
        values = [loss for _, loss in rows]
        colour = f"C{index}"
        axes.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
        axes.plot(steps, _running_mean(values, max(len(values) // 20, 1)), color=colour, linewidth=2, label=stage)
        if before:
            axes.axvline(before, color="0.6", linewidth=0.8, linestyle=":")
        before = steps[-1]
    axes.set(xlabel="step", ylabel="loss a supervised token (nats)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def _running_mean(values: Sequence[float], half: int) -> list[float]:
    """The mean of each value with up to `half` neighbours on either side; at the start, as many on both."""
    means = []
    for i in range(len(values)):
        reach = min(half, i)
        window = values[i - reach : i + reach + 1]
        means.append(sum(window) / len(window))
    return means


def _draw_tasks(name: str, evaluation: Evaluation, path: Path) -> None:
    """A group of bars a task and one for the mean over tasks; the black tick on a bar is its baseline."""
    languages = evaluation.languages
    tasks = [*_tasks(languages), "mean"]
    figure, axes = new_figure(max(4.5, 1.2 + 0.75 * len(tasks)), 3.8)
    width = 0.8 / max(len(languages), 1)
    for index, (language, scores) in enumerate(languages.items()):
        shift = (index - (len(languages) - 1) / 2) * width
        bars = {x: scores if task == "mean" else scores.tasks.get(task) for x, task in enumerate(tasks)}
        present = {x + shift: bar for x, bar in bars.items() if bar is not None}
        heights = [bar.score for bar in present.values()]
        colour = COLOURS.get(language, f"C{index + 2}")
        axes.bar(list(present), heights, width * 0.94, color=colour, label=language)
        axes.hlines(
            [bar.baseline for bar in present.values()],
            [x - width * 0.47 for x in present],
            [x + width * 0.47 for x in present],
            color="black",
            linewidth=2,
            label="_" if index else "baseline",  # "_": named once in the legend
        )
        for x, bar in present.items():
            tick_in_the_way = 0 <= bar.baseline - bar.score < 0.07
            above = (bar.baseline if tick_in_the_way else bar.score) + 0.015
            axes.text(x, above, f"{bar.score:.2f}", ha="center", va="bottom", fontsize=7, color="0.25")
    axes.axvline(len(tasks) - 1.5, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(tasks)), tasks)
    axes.set(ylim=(0, 1.08), ylabel="score", title=f"{name}: {evaluation.split}, {len(evaluation.datasets)} datasets")
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.savefig(path, dpi=150)
