"""Figures of a mixture's numbers: lengths by task, the most frequent answer of each choice, sizes by task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from seqgpt_jax.data.stats import MixtureStats, TaskStats, groups
from seqgpt_jax.figures import COLOURS, DPI, new_figure, plain, written
from seqgpt_jax.records import LANGUAGES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 48
_COLUMNS = 3  # of the small figures of lengths


def draw_stats(stats: MixtureStats, folder: Path) -> list[Path]:
    """Writes lengths.png, labels.png (where any choice is asked) and sizes.png into the folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [draw_lengths(stats, folder / "lengths.png"), draw_sizes(stats, folder / "sizes.png")]
    if any(each.is_choice and each.labels for each in stats.tasks):
        drawn.append(draw_labels(stats, folder / "labels.png"))
    return drawn


def draw_lengths(stats: MixtureStats, path: Path) -> Path:
    """A small histogram a task: tokens of a question with its answer before anything is cut, on a log scale."""
    from matplotlib.figure import Figure

    parts = groups(stats)
    tasks = list(dict.fromkeys(task for task, _ in parts))
    tokens = {key: np.array([n for each in found for n in each.whole_tokens]) for key, found in parts.items()}
    longest = max(stats.row_tokens, *(lengths.max() for lengths in tokens.values() if len(lengths)))
    bins = np.geomspace(min(lengths.min() for lengths in tokens.values() if len(lengths)), longest * 1.05, _BINS)
    ticks = [2**power for power in range(20) if bins[0] <= 2**power <= bins[-1]]
    num_rows = -(-len(tasks) // _COLUMNS)
    figure = Figure(figsize=(3.4 * _COLUMNS, 0.9 + 1.55 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, _COLUMNS, sharex=True, squeeze=False)
    for number, axes in enumerate(grid.flat):
        plain(axes, "x")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        if number >= len(tasks):
            axes.set_visible(False)
            continue
        for language in LANGUAGES:
            lengths = tokens.get((tasks[number], language), ())
            if len(lengths):
                heights, _ = np.histogram(lengths, bins)
                axes.stairs(heights / len(lengths), bins, fill=True, alpha=0.35, color=COLOURS[language])
                axes.stairs(heights / len(lengths), bins, color=COLOURS[language], linewidth=1.2)
                axes.axvline(np.median(lengths), color=COLOURS[language], linewidth=1, linestyle=":")
        axes.axvline(stats.row_tokens, color="0.2", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_title(tasks[number], fontsize=9, loc="left")
        axes.set_xticks(ticks, map(str, ticks))
        axes.set_xticks((), minor=True)
        axes.tick_params(labelsize=8, labelbottom=number + _COLUMNS >= len(tasks))
    present = [language for language in LANGUAGES if any(key[1] == language for key in parts)]
    handles = [_patch(COLOURS[language], language) for language in present]
    handles += [_line("0.4", ":", "median"), _line("0.2", "-", f"a row, {stats.row_tokens}")]
    figure.legend(handles=handles, loc="outside upper right", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(f"{_title(stats)}: tokens of an example, before it is cut", x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=DPI)
    return path


def _title(stats: MixtureStats) -> str:
    return written(f"{stats.mixture}, {stats.split}")


def _patch(colour: str, label: str, alpha: float = 0.6) -> object:
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, alpha=alpha, label=label)


def _line(colour: str, style: Literal["-", ":"], label: str) -> object:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, linewidth=1.2, label=label)


def draw_labels(stats: MixtureStats, path: Path) -> Path:
    """A row a choice: the share of its questions that the most frequent label answers, and that None does."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    columns = {
        language: sorted(
            (each for each in stats.tasks if each.is_choice and each.questions and each.language == language),
            key=lambda each: each.top_label[1],
        )
        for language in LANGUAGES
    }
    columns = {language: found for language, found in columns.items() if found}
    most = max(map(len, columns.values()))
    figure = Figure(figsize=(0.8 + 4.8 * len(columns), 1.1 + 0.17 * most), layout="constrained")
    for axes, (language, found) in zip(
        figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True
    ):
        plain(axes, "both")
        _draw_shares(axes, found, COLOURS[language])
        axes.set_ylim(len(found) - most - 0.8, len(found) - 0.2)  # rows as high in both columns
        axes.set_title(f"{language}, {len(found)} atomic tasks", fontsize=10, loc="left")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.set_xlim(-0.02, 1.02)
    handles = [_dot(COLOURS[language], f"the most frequent label, {language}") for language in columns]
    handles.append(_dot("white", "None", edge="0.3"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(f"{_title(stats)}: the most frequent answer of each choice", x=0.01, ha="left", fontsize=11)
    figure.savefig(path, dpi=DPI)
    return path


def _draw_shares(axes: Axes, found: Sequence[TaskStats], colour: str) -> None:
    places = range(len(found))
    top = [each.top_label[1] for each in found]
    none = [each.none / each.questions for each in found]
    axes.hlines(places, 0, top, color=colour, alpha=0.35, linewidth=1.5)
    axes.scatter(top, places, s=22, color=colour, zorder=3)
    shown = [place for place in places if none[place]]
    axes.scatter([none[place] for place in shown], shown, s=18, color="white", edgecolor="0.3", zorder=4)
    axes.set_yticks(places, [written(each.name) for each in found], fontsize=7)
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)


def _dot(colour: str, label: str, edge: str | None = None) -> object:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], linestyle="", marker="o", markersize=5, color=colour, markeredgecolor=edge or colour, label=label
    )


def draw_sizes(stats: MixtureStats, path: Path) -> Path:
    """Bars of examples by task and language; on each, its datasets and tokens."""
    parts = groups(stats)
    tasks = list(dict.fromkeys(task for task, _ in parts))
    present = [language for language in LANGUAGES if any(key[1] == language for key in parts)]
    figure, axes = new_figure(7.5, 1.1 + 0.42 * len(tasks), grid="x")
    height = 0.8 / len(present)
    for index, language in enumerate(present):
        shift = (index - (len(present) - 1) / 2) * height
        for place, task in enumerate(tasks):
            found = parts.get((task, language))
            if not found:
                continue
            examples = sum(each.counts["examples"] for each in found)
            tokens = sum(each.counts["tokens"] for each in found)
            axes.barh(place + shift, examples, height * 0.92, color=COLOURS[language])
            datasets = len({each.dataset for each in found})
            axes.annotate(
                f"{datasets} dataset{'s' if datasets > 1 else ''}, {_short(tokens)} tokens",
                (examples, place + shift), (4, 0), textcoords="offset points", va="center", fontsize=7, color="0.3",
            )  # fmt: skip
    axes.set_yticks(range(len(tasks)), tasks)
    axes.margins(x=0.25)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.set_ylim(len(tasks) - 0.4, -0.6)
    axes.set_xlabel("examples")
    axes.set_title(_title(stats), loc="left", fontsize=11)
    axes.legend(handles=[_patch(COLOURS[each], each, 1.0) for each in present], frameon=False, loc="lower right")
    figure.savefig(path, dpi=DPI)
    return path


def _short(number: float) -> str:
    """1_234_567 -> "1.2M" """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"
