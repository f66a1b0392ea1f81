"""Figures of a study: scores over an axis, as lines with their logarithmic fit or as bars, with 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqgpt_jax.figures import COLOURS, DPI, new_figure, written
from seqgpt_jax.studies.grid import OWN
from seqgpt_jax.studies.measures import is_loss
from seqgpt_jax.studies.results import Results, Row, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PALETTE = ("#718096", "#2f855a", "#6b46c1", "#b83280", "#b7791f", "#0987a0")
_SHIFT = 0.8  # of the room between two values, for all the bars of a group


@dataclass(frozen=True)
class _Line:
    """What is drawn in one colour: a series under a measure."""

    measure: str
    series: str
    label: str
    rows: list[tuple[float, Row]]


def draw_study(results: Results, folder: Path) -> list[Path]:
    """Draws and returns the figures: with one axis, all scores in one and all losses in another; else one figure a
    measure, a colour a series.

    The measure "own" has a figure by itself: each cell beside its baseline.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study, paths = results.study, []
    plain = [measure for measure in study.measures if measure != OWN]
    if len(study.axes) == 1:
        both = {"scores": [m for m in plain if not is_loss(m)], "loss": [m for m in plain if is_loss(m)]}
        groups = [(name, [line for m in own for line in _lines(results, m, m)]) for name, own in both.items()]
    else:
        groups = [(measure.replace("/", "_"), _lines(results, measure, None)) for measure in plain]
    for name, lines in groups:
        if any(line.rows for line in lines):
            paths.append(folder / f"{name}.png")
            (_draw_lines if study.figure.kind == "lines" else _draw_bars)(results, lines, paths[-1])
    if own := [row for row in results.rows.get(OWN, []) if row.score and row.baseline]:
        paths.append(folder / "own.png")
        _draw_own(results, own, paths[-1])
    return paths


def _lines(results: Results, measure: str, label: str | None) -> list[_Line]:
    rows = {row.cell: row for row in results.rows[measure]}
    return [
        _Line(measure, name, label or name, [(x, rows[cell]) for cell, x in cells if rows[cell].score])
        for name, cells in series(results.study)
    ]


def _colour(line: _Line, number: int) -> str:
    return COLOURS.get(line.label, _PALETTE[number % len(_PALETTE)])


def _draw_lines(results: Results, lines: Sequence[_Line], path: Path) -> None:
    figure, axes = new_figure(6.4, 4.0)
    fits = {(fit.measure, fit.series): fit.fit for fit in results.fits}
    every = sorted({x for line in lines for x, _ in line.rows})
    for number, line in enumerate(lines):
        if not line.rows:
            continue
        shift = 1.02 ** (number - (len(lines) - 1) / 2)  # so that intervals of several lines do not lie on each other
        x = np.array([x for x, _ in line.rows])
        label = line.label
        if fit := fits.get((line.measure, line.series)):
            smooth = np.geomspace(every[0], every[-1], 64)
            axes.plot(smooth, fit.a + fit.b * np.log(smooth), color=_colour(line, number), linewidth=1, linestyle="--")
            label += f": {fit.a:.3f} {'+' if fit.b >= 0 else '-'} {abs(fit.b):.4f} ln n, R$^2$ {fit.r2:.2f}"
        _intervals(axes, x * shift, [row for _, row in line.rows], _colour(line, number))
        style = "none" if fit else "-"
        scores = [row.score.value for _, row in line.rows if row.score]
        axes.plot(x * shift, scores, color=_colour(line, number), marker="o", linestyle=style, label=written(label))
    axes.set_xscale("log")
    axes.set_xticks(every, [f"{x:g}" for x in every])
    axes.set_xticks((), minor=True)
    axes.set(xlabel=results.study.figure.axis or results.study.axes[0].name)
    _name_scores(axes, lines)
    _draw_reference(results, axes, lines)
    _finish(results, figure, axes, path)


def _draw_bars(results: Results, lines: Sequence[_Line], path: Path) -> None:
    study = results.study
    values = study.axis(study.figure.axis or study.axes[0].name).values
    figure, axes = new_figure(max(4.5, 1.5 + 0.35 * len(values) * max(len(lines), 2)), 4.0)
    width = _SHIFT / len(lines)
    for number, line in enumerate(lines):
        x = np.array([x for x, _ in line.rows]) + (number - (len(lines) - 1) / 2) * width
        heights = [row.score.value for _, row in line.rows if row.score]
        if is_loss(line.measure):  # of which 0 is no natural foot
            axes.plot(x, heights, "o", color=_colour(line, number), label=written(line.label))
        else:
            axes.bar(x, heights, width * 0.92, color=_colour(line, number), label=written(line.label))
        _intervals(axes, x, [row for _, row in line.rows], "0.25")
    _name_values(axes, [value.name for value in values])
    axes.set(xlabel=study.figure.axis or study.axes[0].name)
    _name_scores(axes, lines)
    _draw_reference(results, axes, lines)
    _finish(results, figure, axes, path)


def _draw_own(results: Results, rows: Sequence[Row], path: Path) -> None:
    """Pairs of bars: the baseline, and the cell."""
    figure, axes = new_figure(max(4.5, 1.5 + 0.7 * len(rows)), 4.0)
    width = _SHIFT / 2
    places = np.arange(len(rows))
    for shift, colour, label, estimates in (
        (-width / 2, _PALETTE[0], "baseline", [row.baseline for row in rows]),
        (width / 2, _PALETTE[1], "the cell", [row.score for row in rows]),
    ):
        found = [each for each in estimates if each]
        axes.bar(places + shift, [each.value for each in found], width * 0.92, color=colour, label=label)
        axes.vlines(places + shift, [e.low for e in found], [e.high for e in found], color="0.25", linewidth=1.2)
    _name_values(axes, [f"{row.cell.name}\n{row.measure}" for row in rows])
    axes.set(ylabel="score of the named measure")
    axes.set_ylim(bottom=0)
    _finish(results, figure, axes, path)


def _name_scores(axes: Axes, lines: Sequence[_Line]) -> None:
    if is_loss(lines[0].measure):
        axes.set_ylabel("nats a token of the gold answers")
    else:
        axes.set_ylabel("score")
        axes.set_ylim(bottom=0)


def _name_values(axes: Axes, names: Sequence[str]) -> None:
    slanted = max(map(len, names)) * len(names) > 60
    axes.set_xticks(range(len(names)), [written(name) for name in names] if "\n" not in "".join(names) else names)
    if slanted:
        axes.tick_params(axis="x", rotation=35)


def _intervals(axes: Axes, x: Sequence[float] | np.ndarray, rows: Sequence[Row], colour: str) -> None:
    found = [row.score for row in rows if row.score]
    axes.vlines(x, [each.low for each in found], [each.high for each in found], color=colour, linewidth=1.2)


def _draw_reference(results: Results, axes: Axes, lines: Sequence[_Line]) -> None:
    """Dotted: what the majority answer and copying nothing score."""
    for measure in dict.fromkeys(line.measure for line in lines):
        if measure in results.reference:
            alone = len({line.measure for line in lines}) == 1
            number = next(i for i, line in enumerate(lines) if line.measure == measure)
            colour = "0.2" if alone else _colour(lines[number], number)
            label = "_" if number else "majority answer, or copying nothing"  # "_": named once in the legend
            axes.axhline(results.reference[measure], color=colour, linestyle=":", linewidth=1.2, label=label)


def _finish(results: Results, figure: Figure, axes: Axes, path: Path) -> None:
    axes.set_title(written(results.study.title), loc="left", fontsize=11)
    figure.legend(frameon=False, fontsize=9, loc="outside lower left", ncols=1 if results.fits else 4)
    figure.savefig(path, dpi=DPI)
