"""How our figures look. They name tasks, languages and datasets: the font has no Han characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"en": "#2b6cb0", "zh": "#dd7733"}
DPI = 150


def new_figure(width: float, height: float, grid: str = "y") -> tuple[Figure, Axes]:
    """A figure of that many inches with one pair of axes. grid: the axis that has lines, "x", "y" or "both"."""
    # Imported here: a second that only a figure is worth. A Figure without pyplot draws with Agg and needs no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    plain(axes, grid)
    return figure, axes


def written(text: str) -> str:
    """The text as a figure can show it: what is not ASCII is escaped, so that no box stands for it."""
    return text.encode("ascii", "backslashreplace").decode()


def plain(axes: Axes, grid: str = "y") -> None:
    """Takes the box off, and puts faint lines behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.9", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
