"""The report of a study, from whatever is finished: study.md for people, study.json for programs, figures/*.png.

study.json   title, command, measures {score: [{cell, measure, seeds, by_seed, score [value, low, high], baseline,
             difference, verdict}]}, fits, contrasts, reference (majority answer, copying nothing), failures,
             unfinished
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqgpt_jax.analysis.bootstrap import Estimate
from seqgpt_jax.errors import UserError
from seqgpt_jax.studies.figures import draw_study
from seqgpt_jax.studies.grid import OWN, Study, parse_study
from seqgpt_jax.studies.measures import is_loss
from seqgpt_jax.studies.results import Results, Row, study_results
from seqgpt_jax.tables import markdown_table
from seqgpt_jax.whole import write_json, write_text

CONFIG_FILE = "config.json"


def keep_config(folder: Path, command: str, config: Mapping[str, Any]) -> None:
    """Leaves what a study declares in its folder, so that its report needs nothing else."""
    write_json(folder / CONFIG_FILE, {"command": command, "config": config})


def write_study_report(folder: Path) -> Results:
    """Writes study.md, study.json and figures/ of a study's folder; returns what they say. UserError where none is."""
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise UserError(f"{folder}: no study (give the --out of seqgpt study)")
    kept = json.loads(file.read_text("utf-8"))
    study, command = parse_study(kept["config"], str(file)), kept["command"]
    results = study_results(study, folder)
    figures = draw_study(results, folder / "figures") if any(_scored(results)) else []
    write_json(folder / "study.json", results_to_dict(results, command))
    write_text(folder / "study.md", results_to_markdown(results, command, [path.name for path in figures]))
    return results


def _scored(results: Results) -> list[Row]:
    return [row for rows in results.rows.values() for row in rows if row.score]


# --- for programs ----------------------------------------------------------------------------------------------------


def results_to_dict(results: Results, command: str) -> dict[str, Any]:
    study = results.study
    return {
        "title": study.title,
        "command": command,
        "seeds": list(study.seeds),
        "evaluation": dataclasses.asdict(study.evaluation),
        "num_datasets": results.num_datasets,
        "num_records": results.num_records,
        "seconds": round(results.seconds),
        "measures": {measure: [_row_to_dict(study, row) for row in rows] for measure, rows in results.rows.items()},
        "fits": [
            {
                "measure": each.measure,
                "series": each.series,
                "points": each.points,
                "a": round(each.fit.a, 6),
                "b": round(each.fit.b, 6),
                "r2": round(each.fit.r2, 6),
                "a_doubling": _triple(each.fit.a_doubling),
            }
            for each in results.fits
        ],
        "contrasts": [
            {**_without_estimate(contrast), "estimate": _triple(contrast.estimate)} for contrast in results.contrasts
        ],
        "reference": {measure: round(value, 6) for measure, value in results.reference.items()},
        "failures": [{"cell": cell, "why": why} for cell, why in results.failures],
        "unfinished": results.unfinished,
    }


def _row_to_dict(study: Study, row: Row) -> dict[str, Any]:
    return {
        "cell": {axis.name: value.name for axis, value in zip(study.axes, row.cell.values, strict=True)},
        "measure": row.measure,
        "seeds": list(row.seeds),
        "by_seed": [round(score, 6) for score in row.by_seed],
        "score": _triple(row.score),
        "baseline": _triple(row.baseline),
        "difference": _triple(row.difference),
        "verdict": row.verdict,
    }


def _without_estimate(contrast: Any) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(contrast).items() if name != "estimate"}


def _triple(estimate: Estimate | None) -> list[float] | None:
    return None if estimate is None else [round(each, 6) for each in (estimate.value, estimate.low, estimate.high)]


# --- for people ------------------------------------------------------------------------------------------------------


def results_to_markdown(results: Results, command: str, figures: Sequence[str]) -> str:
    study = results.study
    parts = [f"# {study.title}", "", f"    {command}", "", *_scope(results), ""]
    parts += [line for name in figures for line in (f"![{name.removesuffix('.png')}](figures/{name})", "")]
    for measure, rows in results.rows.items():
        parts += [f"## {measure}", ""]
        parts += ["Of the gold answers, in nats a token: lower is better.", ""] if is_loss(measure) else []
        parts += [*markdown_table(_table(results, measure, rows), len(study.axes)), ""]
        if measure in results.reference:
            parts += [f"The majority answer, or copying nothing, scores {results.reference[measure]:.3f}.", ""]
    parts += [*_fit_lines(results), *_contrast_lines(results)]
    if results.failures:
        parts += ["## Failed", "", *(f"- {cell}: {why}" for cell, why in results.failures), ""]
    return "\n".join(parts)


def _scope(results: Results) -> list[str]:
    study, given = results.study, results.study.evaluation
    limit = f"at most {given.limit} records a dataset" if given.limit else "all records"
    compared = ", ".join(f"{axis} = {value}" for axis, value in study.baseline.items())
    seeds = (
        f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed, so nothing is known of chance in training"
    )
    lines = [
        f"Judged on {given.mixture}, {given.split}: {results.num_datasets} datasets, {limit}, {results.num_records:,} "
        f"in all, the same ones for every cell; {seeds}.",
        f"Differences are from {compared}. Brackets hold 95% intervals (bootstrap over the records of each dataset and "
        "over the seeds, paired for differences).",
        "No signal: the interval of a difference covers 0. Scores: mean over languages of the mean over tasks of the "
        "mean over datasets.",
    ]
    if results.seconds:
        lines.append(f"All cells together took {results.seconds / 60:.0f} minutes of training and evaluation.")
    if results.unfinished:
        lines.append(f"**{len(results.unfinished)} of {len(study.cells) * len(study.seeds)} cells are not finished.**")
    return lines


def _table(results: Results, measure: str, rows: Sequence[Row]) -> list[list[str]]:
    own = measure == OWN
    axes = [axis.name for axis in results.study.axes]
    header = [*axes, "seeds", *(["measure"] if own else []), "score", *(["baseline"] if own else [])]
    table = [[*header, "difference", "verdict"]]
    for row in rows:
        line = [*(value.name for value in row.cell.values), f"{len(row.seeds)} of {len(results.study.seeds)}"]
        line += [row.measure] if own else []
        line += [_shown(row.score)]
        line += [_shown(row.baseline)] if own else []
        table.append([*line, _shown(row.difference, "+"), row.verdict])
    return table


def _shown(estimate: Estimate | None, sign: str = "") -> str:
    return "-" if estimate is None else estimate.text(sign)


def _fit_lines(results: Results) -> list[str]:
    if not results.fits:
        return []
    axis = results.study.figure.axis or results.study.axes[0].name
    rows = [["measure", "series", "points", "fit", "R2", f"twice the {axis} adds", "verdict"]]
    for each in results.fits:
        fit = each.fit
        line = f"{fit.a:.3f} {'+' if fit.b >= 0 else '-'} {abs(fit.b):.4f} ln n"
        verdict = ("rises" if fit.b > 0 else "falls") if fit.a_doubling.shows else "no signal"
        doubling = _shown(fit.a_doubling, "+")
        rows.append([each.measure, each.series or "-", str(each.points), line, f"{fit.r2:.2f}", doubling, verdict])
    return ["## Logarithmic fit", "", *markdown_table(rows, 2), ""]


def _contrast_lines(results: Results) -> list[str]:
    if not results.contrasts:
        return []
    one = results.contrasts[0]
    rows = [["measure", "compared", f"difference at {one.first} less that at {one.last}", "verdict"]]
    for each in results.contrasts:
        more_at_first = (each.estimate.value > 0) != is_loss(each.measure)
        verdict = f"better at {one.first if more_at_first else one.last}" if each.estimate.shows else "no signal"
        rows.append([each.measure, each.compared, _shown(each.estimate, "+"), verdict])
    return [f"## Along {one.axis}", "", *markdown_table(rows, 2), ""]
