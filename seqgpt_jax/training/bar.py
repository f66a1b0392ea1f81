"""The progress bar of a stage: one line of at most 100 columns on stderr, smoothed over the last steps.

    real 800/1600 [03:20<03:20, loss 2.314 9.12k tok/s 1.40k sup/s MFU 41% pad 6% wait 0%]

tok/s: tokens without padding; sup/s: the supervised ones among them; pad: share of positions without a token; wait:
share of the time in which the next batch was waited for. MFU is shown where the devices' peak is known (mfu.py).
"""

from __future__ import annotations

import shutil
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

SMOOTHED = 20  # steps that a number of the bar is the mean of
_COLUMNS = 100


@dataclass(frozen=True)
class StepFigures:
    """What one step says of itself. positions: tokens and padding; mfu: None where it is not known."""

    loss: float
    tokens: int
    targets: int
    positions: int
    seconds: float
    data_seconds: float
    mfu: float | None


class ProgressBar:
    """Steps done of a stage, and how it goes."""

    def __init__(self, stage: str, start: int, num_steps: int, *, show: bool = True) -> None:
        self._last = deque[StepFigures](maxlen=SMOOTHED)
        self._bar = tqdm(
            total=num_steps,
            initial=start,
            desc=stage,
            disable=not show,
            mininterval=0.5 if sys.stderr.isatty() else 20.0,
            ncols=min(_COLUMNS, shutil.get_terminal_size().columns) if sys.stderr.isatty() else _COLUMNS,
            smoothing=0.05,
            bar_format="{desc} {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )

    def restart_clock(self) -> None:
        """The time since the last step was no time of a step, so it does not count for the time that is left."""
        self._bar.unpause()

    def update(self, step: StepFigures) -> None:
        """One more step is done."""
        self._last.append(step)
        self._bar.set_postfix_str(summary(self._last), refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def summary(steps: Sequence[StepFigures]) -> str:
    """The numbers of a bar over these steps: rates and shares of their sums, the mean loss."""
    seconds = sum(step.seconds for step in steps)
    tokens, targets = sum(step.tokens for step in steps), sum(step.targets for step in steps)
    known = [step.mfu * step.seconds for step in steps if step.mfu is not None]
    parts = [
        f"loss {sum(step.loss for step in steps) / len(steps):.3f}",
        f"{tqdm.format_sizeof(tokens / seconds)} tok/s",
        f"{tqdm.format_sizeof(targets / seconds)} sup/s",
        *([f"MFU {sum(known) / seconds:.0%}"] if known else []),
        f"pad {1 - tokens / sum(step.positions for step in steps):.0%}",
        f"wait {sum(step.data_seconds for step in steps) / seconds:.0%}",
    ]
    return " ".join(parts)
