"""Every sample of every dataset tuned from both models: one result file each, so that it can be gone on with.

    OUT/settings.json                              what a result depends on; another is refused
    OUT/samples/<language>-<dataset>-<seed>/       a dataset folder with train and validation
    OUT/runs/<cell>-<rate>/                        the run of a fine-tuning, removed when its cell has a result
    OUT/runs/<cell>-<rate>.log                     what it printed
    OUT/results/<cell>.json                        gains.Result; <cell> is <language>-<dataset>-<seed>-<arm>
    OUT/predictions/<cell>/                        what the score is made of, record by record
    OUT/few_shot.json, few_shot.md                 report.py

The learning rate, and when to stop, are chosen on the sample's validation set; the test split is read once a cell.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.data.own import OwnData
from seqgpt_jax.errors import UserError
from seqgpt_jax.few_shot.gains import ARMS, Result
from seqgpt_jax.few_shot.report import write_few_shot_report
from seqgpt_jax.few_shot.sampling import SEEDS, Shots, draw_sample, write_sample
from seqgpt_jax.studies.locks import study_lock
from seqgpt_jax.whole import write_json


@dataclass(frozen=True)
class Settings:
    """models: one an arm (gains.ARMS). learning_rates: tried on each sample; None: finetune's default for the model.

    epochs: at most, None: as the recipe has it. test_limit: records of a test split, the same for all; None: all.
    """

    models: tuple[str, str]
    shots: Shots = field(default_factory=Shots)
    seeds: tuple[int, ...] = SEEDS
    learning_rates: tuple[float | None, ...] = (None,)
    epochs: float | None = None
    test_limit: int | None = None
    bindings: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """What a result depends on beside its dataset, its seed and its arm."""
        fields = asdict(self)
        del fields["seeds"]
        return json.loads(json.dumps({**fields, "models": dict(zip(ARMS, self.models, strict=True))}))


class Judgement(NamedTuple):
    metric: str
    score: float
    num_records: int


class Tuner(Protocol):
    """How a model is tuned and judged: FineTuner, or a stand-in."""

    def tune(self, own: OwnData, model: str, run_dir: Path, rate: float | None, seed: int) -> float:
        """Leaves the tuned model in run_dir; returns its validation score."""
        ...

    def judge(self, run_dir: Path, dataset: Dataset, predictions_dir: Path) -> Judgement: ...


class FineTuner:
    """`seqgpt finetune` on a sample, and evaluation.evaluate on the test split."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def tune(self, own: OwnData, model: str, run_dir: Path, rate: float | None, seed: int) -> float:
        from seqgpt_jax.finetune import Choices, finetune

        said = ("finetune/stage.protocol = 'few_shot'", f"recipe.seed = {seed}")
        choices = Choices(self._settings.epochs, rate, bindings=(*said, *self._settings.bindings))
        log = run_dir.parent / f"{run_dir.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            return finetune(own, model, run_dir, choices)["validation"].score

    def judge(self, run_dir: Path, dataset: Dataset, predictions_dir: Path) -> Judgement:
        from seqgpt_jax.evaluation import evaluate
        from seqgpt_jax.predictor import SeqGPT

        predictor = SeqGPT.from_pretrained(run_dir)
        limit = self._settings.test_limit
        evaluation = evaluate(predictor, [dataset], "test", limit, predictions_dir, num_unconstrained=0)
        (found,) = evaluation.datasets
        return Judgement(found.score.headline_name, found.score.headline, found.score.num_records)


def run_few_shot(
    datasets: Sequence[Dataset], settings: Settings, out: Path, tuner: Tuner | None = None, keep_runs: bool = False
) -> list[Result]:
    """All results of the datasets (opened), those that `out` has already and those that are missing; writes the report.

    UserError where `out` has results of other settings or is being worked in, or a dataset has no test split or too few
    train records; before anything is tuned.
    """
    with study_lock(out, shared=False):
        return _run_cells(datasets, settings, out, tuner, keep_runs)


def _run_cells(
    datasets: Sequence[Dataset], settings: Settings, out: Path, tuner: Tuner | None, keep_runs: bool
) -> list[Result]:
    claim(out, settings)
    tuner = tuner or FineTuner(settings)
    cells = []
    for dataset in datasets:
        if "test" not in dataset.splits:
            raise UserError(f"dataset {dataset.declared.name} has no test split to be judged on (leave it out)")
        for seed in settings.seeds:
            drawn = draw_sample(dataset, seed, settings.shots)
            own = write_sample(drawn, dataset, out / "samples" / _name(dataset, seed))
            cells += [_Cell(dataset, seed, arm, own, dict(drawn.short)) for arm in ARMS]
    results: list[Result] = []
    said = {**settings.identity(), "seeds": list(settings.seeds)}
    for cell in tqdm(cells, desc="few-shot", unit="tuning"):
        file = out / "results" / f"{cell.name}.json"
        if not file.is_file():
            write_json(file, asdict(_run_cell(cell, settings, out, tuner, keep_runs)))
        results.append(Result(**json.loads(file.read_text("utf-8"))))
        write_few_shot_report(out, results, said)  # of what is finished
    return results


def claim(out: Path, settings: Settings) -> None:
    """Makes `out` that of these settings, or checks that it is."""
    file, identity = out / "settings.json", settings.identity()
    if not file.is_file():
        write_json(file, identity)
        return
    old = json.loads(file.read_text("utf-8"))
    changed = [name for name in identity if old.get(name) != identity[name]]
    if changed:
        raise UserError(
            f"{out}: holds results of other settings ({_changes(old, identity, changed)}; choose another --out)"
        )


def _changes(old: dict[str, Any], new: dict[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {old.get(name)} and not {new[name]}" for name in names)


def _name(dataset: Dataset, seed: int) -> str:
    return f"{dataset.declared.language}-{dataset.declared.name.replace('/', '_')}-{seed}"


@dataclass(frozen=True)
class _Cell:
    dataset: Dataset
    seed: int
    arm: str
    own: OwnData
    short: dict[str, int]

    @property
    def name(self) -> str:
        return f"{_name(self.dataset, self.seed)}-{self.arm}"


def _run_cell(cell: _Cell, settings: Settings, out: Path, tuner: Tuner, keep_runs: bool) -> Result:
    begun = time.monotonic()
    runs = {rate: out / "runs" / f"{cell.name}-{rate or 'default'}" for rate in settings.learning_rates}
    model = settings.models[ARMS.index(cell.arm)]
    dev_scores = {rate: tuner.tune(cell.own, model, run_dir, rate, cell.seed) for rate, run_dir in runs.items()}
    best = max(dev_scores, key=lambda rate: dev_scores[rate])  # the first of equals
    judged = tuner.judge(runs[best], cell.dataset, out / "predictions" / cell.name)
    if not keep_runs:
        for run_dir in runs.values():
            shutil.rmtree(run_dir, ignore_errors=True)
    meta = cell.dataset.declared
    return Result(
        dataset=meta.name,
        task=meta.task,
        language=meta.language,
        seed=cell.seed,
        arm=cell.arm,
        metric=judged.metric,
        score=judged.score,
        num_train=cell.own.meta.splits["train"],
        num_validation=cell.own.meta.splits["validation"],
        num_test=judged.num_records,
        short=cell.short,
        learning_rate=best,
        dev_scores={str(rate or "default"): score for rate, score in dev_scores.items()},
        seconds=round(time.monotonic() - begun, 1),
    )
