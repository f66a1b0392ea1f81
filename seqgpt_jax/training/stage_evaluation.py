"""A stage that is judged while it trains, and early stopping.

A stage is judged after every `evaluate_every` steps and at its end, always after the checkpoint of that step is begun.
Whatever is decided is decided by the rows of evaluations.jsonl, so a run that was killed decides the same; a row that
is missing at the step that the run goes on from is made again from its checkpoint.

Worked example, patience=2: the scores at steps 10, 20, 30, 40 are 0.3, 0.5, 0.5, 0.4. Equal is not better, so the best
is step 20; two evaluations came after it, so the stage stops after step 40 and ends with the weights of step 20.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.recipe import EvaluationSettings, Stage
from seqgpt_jax.training.hosts import from_main
from seqgpt_jax.training.journal import Journal
from seqgpt_jax.training.partitioning import Params
from seqgpt_jax.training.sinks import EVALUATIONS_FILE, read_rows
from seqgpt_jax.vocabulary import Vocabulary


class Evaluator(Protocol):
    """Judges a model under training; it must not keep the model, whose arrays the next step consumes.

    Returns scores by name. One is `score`, which early stopping goes by: higher is better.
    """

    def __call__(self, model: Decoder, vocabulary: Vocabulary, settings: EvaluationSettings) -> Mapping[str, float]: ...


class StageEvaluations:
    """The evaluations of a stage of num_steps steps. judge(params, settings) gives the scores of a model."""

    def __init__(
        self,
        run_dir: Path,
        stage: Stage,
        num_steps: int,
        journal: Journal,
        judge: Callable[[Params, EvaluationSettings], Mapping[str, float]],
    ) -> None:
        self._run_dir, self._stage, self._num_steps = run_dir, stage, num_steps
        self._journal, self._judge = journal, judge

    def is_due(self, step: int) -> bool:
        """Whether the model is judged after this many steps."""
        every = self._stage.evaluate_every
        if every is not None:
            every = math.ceil(every * self._num_steps) if every < 1 else round(every)
        at_multiple = every is not None and step > 0 and step % every == 0
        return bool(self._stage.evaluations) and (at_multiple or step == self._num_steps)

    def run(self, step: int, params: Params) -> None:
        """Judges the model after `step` steps, if that is due, on every mixture that has no row of that step yet."""
        if not self.is_due(step):
            return
        done = {row["evaluation"] for row in self._rows() if row["step"] == step}
        for settings in self._stage.evaluations:
            if settings.name not in done:
                begin = time.perf_counter()
                scores = self._judge(params, settings)
                self._journal.write_evaluation(step, settings.name, scores, time.perf_counter() - begin)

    def is_over(self) -> bool:
        """Whether the stage has to stop: `patience` evaluations came after the best one."""
        best = self.best_step()
        later = sum(best is None or step > best for step in self._scores())
        return self._stage.patience is not None and later >= self._stage.patience

    def best_step(self) -> int | None:
        """The step whose weights a stage with `patience` ends with: the first of the highest score.

        None without patience, and before anything was judged.
        """
        scores = self._scores() if self._stage.patience is not None else {}
        return max(scores, key=lambda step: (scores[step], -step), default=None)

    def _scores(self) -> dict[int, float]:
        """Step -> mean of the scores of all evaluations; one that is not a number counts as the lowest."""
        names = {settings.name for settings in self._stage.evaluations}
        by_step: dict[int, dict[str, float]] = defaultdict(dict)
        for row in self._rows():
            by_step[row["step"]][row["evaluation"]] = -math.inf if row["score"] is None else row["score"]
        return {step: statistics.fmean(scores.values()) for step, scores in by_step.items() if set(scores) == names}

    def _rows(self) -> list[dict[str, Any]]:
        return from_main(lambda: read_rows(self._run_dir, self._stage.name, EVALUATIONS_FILE))
