"""Draws docs/figures/path.png, the path of data through the package: python docs/figures/path.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

TRAINING = (
    ("records", "11 tasks, two languages\n137 folders or the generator"),
    ("atomic", "every task becomes\nclassify or extract"),
    ("prompt", "seqgpt_v1 text,\none answer format"),
    ("token cache", "SeqIO once, then\nArrayRecord"),
    ("batch plan", "packed rows, a function\nof (seed, step)"),
    ("train step", "BLOOM in Flax NNX,\non any device mesh"),
    ("checkpoint", "Orbax, per stage"),
)
INFERENCE = (
    ("report", "tables, figures,\nbeside baselines"),
    ("metrics", "F1 and accuracy\nfrom exact offsets"),
    ("recompose", "answers become\nrecords again"),
    ("parse", "never raises,\nreports problems"),
    ("decode", "greedy, KV cache"),
    ("export", "BloomForCausalLM,\ntokenizer, model card"),
)
BLUE, ORANGE = "#2b6cb0", "#c05621"
WIDTH, HEIGHT, STEP = 1.72, 1.0, 2.0


def draw_row(axes: Axes, boxes: tuple[tuple[str, str], ...], y: float, colour: str, start: int = 0) -> None:
    for place, (name, what) in enumerate(boxes, start):
        x = place * STEP
        axes.add_patch(
            FancyBboxPatch(
                (x, y), WIDTH, HEIGHT, boxstyle="round,pad=0.04", facecolor="white", edgecolor=colour, lw=1.6
            )
        )
        axes.text(x + WIDTH / 2, y + 0.74, name, ha="center", va="center", weight="bold", color=colour, fontsize=11)
        axes.text(x + WIDTH / 2, y + 0.31, what, ha="center", va="center", fontsize=7.6, color="#333333")


def draw_arrow(axes: Axes, tip: tuple[float, float], tail: tuple[float, float], colour: str) -> None:
    axes.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6})


def main() -> None:
    figure, axes = plt.subplots(figsize=(13.5, 3.6))
    top, bottom = 1.9, 0.0
    draw_row(axes, TRAINING, top, BLUE)
    draw_row(axes, INFERENCE, bottom, ORANGE, start=1)
    for place in range(len(TRAINING) - 1):
        draw_arrow(axes, ((place + 1) * STEP - 0.03, top + 0.5), (place * STEP + WIDTH + 0.03, top + 0.5), BLUE)
    for place in range(1, 5):
        draw_arrow(axes, (place * STEP + WIDTH + 0.03, bottom + 0.5), ((place + 1) * STEP - 0.03, bottom + 0.5), ORANGE)
    last = 6 * STEP + WIDTH / 2
    draw_arrow(axes, (last, bottom + HEIGHT + 0.06), (last, top - 0.06), BLUE)
    draw_arrow(axes, (5 * STEP + WIDTH / 2 + 0.2, bottom + HEIGHT + 0.06), (6 * STEP + 0.2, top - 0.06), BLUE)
    axes.text(
        0, bottom + 0.5, "judged zero-shot on label\nsets never trained on", fontsize=9, color=ORANGE, va="center"
    )
    axes.set_xlim(-0.15, 7 * STEP)
    axes.set_ylim(-0.2, 3.1)
    axes.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=130)


if __name__ == "__main__":
    main()
