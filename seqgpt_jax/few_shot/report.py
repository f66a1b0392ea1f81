"""The table of a few-shot comparison: few_shot.json for programs, few_shot.md for people. English and Chinese apart."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqgpt_jax.few_shot.gains import NEAR_ZERO, Gain, Result, Summary, deviation, gains_of, summarise
from seqgpt_jax.tables import markdown_table
from seqgpt_jax.whole import write_json, write_text


def write_few_shot_report(out: Path, results: Sequence[Result], settings: dict[str, Any]) -> str:
    """Writes both files into `out`, from whatever is finished; returns the text of few_shot.md."""
    gains = gains_of(results)
    languages = {
        name: [gain for gain in gains if gain.language == name] for name in sorted({g.language for g in gains})
    }
    summaries = {name: summarise(group) for name, group in languages.items()}
    report = {
        "settings": settings,
        "datasets": [_gain_to_dict(gain) for gain in gains],
        "per_language": {
            name: {**asdict(summaries[name]), "per_task": {t: asdict(summarise(g)) for t, g in _by_task(group).items()}}
            for name, group in languages.items()
        },
        "results": [asdict(result) for result in results],
    }
    write_json(out / "few_shot.json", report)
    text = "\n".join(_markdown(languages, summaries, results, settings)) + "\n"
    write_text(out / "few_shot.md", text)
    return text


def _gain_to_dict(gain: Gain) -> dict[str, Any]:
    return {
        **asdict(gain),
        "absolute": gain.absolute,
        "absolute_deviation": None if math.isnan(deviation(gain.differences)) else deviation(gain.differences),
        "relative": gain.relative,
        "near_zero": gain.near_zero,
    }


def _by_task(gains: Iterable[Gain]) -> dict[str, list[Gain]]:
    groups: dict[str, list[Gain]] = {}
    for gain in gains:
        groups.setdefault(gain.task, []).append(gain)
    return dict(sorted(groups.items()))


def _markdown(
    languages: dict[str, list[Gain]], summaries: dict[str, Summary], results: Sequence[Result], settings: dict[str, Any]
) -> list[str]:
    lines = ["# Few-shot: with and without upstream training", ""]
    lines += [f"- {name}: {value}" for name, value in settings.items()]
    lines += ["", "Scores are means and standard deviations over samples, of the metric named, on the test split."]
    for language, gains in languages.items():
        summary = summaries[language]
        lines += ["", f"## {language}", "", *_sentences(summary), ""]
        header = ["dataset", "task", "metric", "samples", "without", "with", "gain", "relative gain"]
        lines += markdown_table([header, *(_row(gain) for gain in gains)], num_left=3)
        tasks = [[task, *_summary_cells(summarise(group))] for task, group in _by_task(gains).items()]
        header = ["mean over", "datasets", "without", "with", "gain", "ARG"]
        lines += ["", *markdown_table([header, *tasks, ["all", *_summary_cells(summary)]], num_left=1)]
    short = sorted({result.dataset for result in results if result.short})
    if short:
        lines += ["", f"Some classes have too few records for a full sample: {', '.join(short)} (few_shot.json)."]
    return lines


def _sentences(summary: Summary) -> list[str]:
    num = summary.num_datasets - len(summary.undefined)
    lines = [f"ARG {_percent(summary.arg)} over {num} of {summary.num_datasets} datasets, "]
    lines[0] += f"absolute gain {100 * summary.absolute:+.1f} points over all."
    if summary.undefined:
        lines.append(f"No relative gain, because the baseline is 0: {', '.join(summary.undefined)}.")
    if summary.near_zero:
        lines.append(
            f"**ARG says little here**: part of it rests on baselines below {NEAR_ZERO} "
            f"({', '.join(summary.near_zero)}); without them it is {_percent(summary.arg_sound)}."
        )
    return lines


def _row(gain: Gain) -> list[str]:
    scores = [_spread(gain.without), _spread(gain.with_upstream), _spread(gain.differences, "+")]
    mark = "" if not gain.near_zero or gain.relative is None else " (baseline near 0)"
    return [gain.dataset, gain.task, gain.metric, str(len(gain.without)), *scores, _percent(gain.relative) + mark]


def _summary_cells(summary: Summary) -> list[str]:
    means = [f"{100 * value:.1f}" for value in (summary.without, summary.with_upstream)]
    return [str(summary.num_datasets), *means, f"{100 * summary.absolute:+.1f}", _percent(summary.arg)]


def _spread(values: Sequence[float], sign: str = "-") -> str:
    """sign: "+" shows it above 0 too."""
    spread = deviation(values)
    return f"{100 * statistics.fmean(values):{sign}.1f}" + ("" if math.isnan(spread) else f" ± {100 * spread:.1f}")


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{100 * value:+.1f}%"
