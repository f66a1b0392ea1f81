"""The reports of a run and of `seqgpt eval`: JSON for programs, Markdown and figures for people.

A run directory:

    report.json   stages [{name, steps, loss_first, loss_last, tokens_per_second ..., data {mixture, examples, tokens,
                  cut, dropped, leaked, surplus, datasets [...]}}], protocol ("few_shot" where any stage trained on
                  held-out datasets, else "zero_shot"), an object a section (held_out): sections.py without what its
                  datasets hold record by record
    eval/         <section>.json: each section whole
    report.md     the same for reading
    figures/      loss.png, <section>.png: each task beside its baseline

The folder of an evaluation: report.json is the section whole, ids.json the records that were drawn, report.md,
figures/<name>.png; predictions/ was written by evaluation.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqgpt_jax.averages import Evaluation
from seqgpt_jax.errors import UserError
from seqgpt_jax.figures import COLOURS, new_figure
from seqgpt_jax.sections import breakdowns_to_markdown, rounded, section_to_dict, section_to_markdown, tasks_of
from seqgpt_jax.tables import markdown_table
from seqgpt_jax.training.journal import StageResult
from seqgpt_jax.training.sinks import read_rows
from seqgpt_jax.training.stage_data import StageData, mixture_rows, read_stage_data
from seqgpt_jax.whole import write_text

_BY_RECORD = ("counts", "predictions", "by_label", "by_length", "errors", "confusion", "labels")


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
    figures, eval_dir = run_dir / "figures", run_dir / "eval"
    for folder in (figures, eval_dir):
        folder.mkdir(parents=True, exist_ok=True)
    losses = read_losses(run_dir)
    if losses:
        _draw_losses(losses, figures / "loss.png")
    for name, evaluation in sections.items():
        _draw_tasks(name, evaluation, figures / f"{name}.png")
        section = section_to_dict(evaluation, eval_dir)
        _write_json(eval_dir / f"{name}.json", section)
        report[name] = {**section, "datasets": [_in_short(dataset) for dataset in section["datasets"]]}
    _write_json(run_dir / "report.json", report)
    write_text(run_dir / "report.md", _markdown(run_dir.name, stages, data, sections, has_losses=bool(losses)))
    return report


def write_evaluation(folder: Path, name: str, evaluation: Evaluation) -> None:
    """Writes the report of one evaluation (module docstring) into a folder; report.json comes last."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    section = section_to_dict(evaluation, folder)
    ids = {f"{each['language']}/{each['name']}": each["counts"]["ids"] for each in section["datasets"]}
    drawn = {name: section[name] for name in ("split", "limit", "seed")}
    _write_json(folder / "ids.json", {**drawn, "ids": ids})
    _draw_tasks(name, evaluation, folder / "figures" / f"{name}.png")
    system = ", ".join(f"{key} {value}" for key, value in section["system"].items() if not isinstance(value, dict))
    parts = [f"# {name}", "", *([f"System: {system}.", ""] if system else []), *section_to_markdown(name, evaluation)]
    write_text(folder / "report.md", "\n".join([*parts, *breakdowns_to_markdown(evaluation)]))
    _write_json(folder / "report.json", section)


def _in_short(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in dataset.items() if name not in _BY_RECORD}


def _write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Lists of plain values stand on one line: a line break is never inside a string of JSON."""
    text = json.dumps(fields, indent=2, ensure_ascii=False)
    short = re.sub(r"\[\n\s+([^\[\]{}]*?)\n\s+\]", lambda found: "[" + re.sub(r"\n\s+", " ", found[1]) + "]", text)
    write_text(path, short + "\n")


def _stage_to_dict(stage: StageResult, data: StageData | None) -> dict[str, Any]:
    fields = rounded(asdict(stage))
    if data is not None:
        totals = {name: data.total(name) for name in _STAGE_TOTALS}
        fields["data"] = {**asdict(data), **totals}
    return fields


def few_shot_note(protocols: Mapping[str, str]) -> str:
    """What a reader must know of stages (name -> protocol) that trained on held-out datasets; empty where none did."""
    names = ", ".join(name for name, protocol in protocols.items() if protocol == "few_shot")
    return f"Not zero-shot: held-out datasets were trained on (protocol few_shot in {names})." if names else ""


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
        parts += section_to_markdown(section, evaluation)
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
    tasks = [*tasks_of(languages), "mean"]
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
    if languages:
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.1))
    figure.savefig(path, dpi=150)
