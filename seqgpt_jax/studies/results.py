"""What the finished cells of a study say: each measure of each cell, its difference from the baseline, fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqgpt_jax.analysis.bootstrap import Estimate
from seqgpt_jax.analysis.report_files import ReportedDataset, read_evaluation
from seqgpt_jax.studies.grid import OWN, Cell, Study, Value
from seqgpt_jax.studies.jobs import cell_seed, evaluation_folder, shared_names, training_name
from seqgpt_jax.studies.measures import Draws, Floats, LogFit, fit_log, interval
from seqgpt_jax.studies.runner import read_outcome


@dataclass(frozen=True)
class Row:
    """One cell under one measure. difference: from the baseline, over the seeds that both have; None without one.

    measure: "own" is resolved. verdict: baseline, higher, lower, no signal (the difference's interval covers 0), or
    what there is to say where nothing can be compared.
    """

    cell: Cell
    measure: str
    seeds: tuple[int, ...]
    score: Estimate | None
    by_seed: tuple[float, ...]
    baseline: Estimate | None
    difference: Estimate | None
    verdict: str


@dataclass(frozen=True)
class Fit:
    """The logarithmic fit of one series: the cells that differ along the figure's axis alone."""

    measure: str
    series: str
    points: int
    fit: LogFit


@dataclass(frozen=True)
class Contrast:
    """How much larger the difference from the baseline is at one end of an axis than at the other."""

    measure: str
    compared: str
    axis: str
    first: str
    last: str
    estimate: Estimate


@dataclass(frozen=True)
class Results:
    """rows, by measure in the study's order. reference: what the majority answer and copying nothing score, by
    measure. failures: (cell and seed, why)."""

    study: Study
    rows: dict[str, list[Row]]
    fits: list[Fit]
    contrasts: list[Contrast]
    reference: dict[str, float]
    failures: list[tuple[str, str]]
    unfinished: list[str]
    num_records: int
    num_datasets: int
    seconds: float


def study_results(study: Study, folder: Path) -> Results:
    """The results of whatever is finished in a study's folder. UserError for a report that cannot be read."""
    return _Reader(study, folder).results()


class _Reader:
    def __init__(self, study: Study, folder: Path) -> None:
        self.study, self.folder = study, folder
        self.evaluations: dict[str, dict[str, ReportedDataset]] = {}
        self.failures: list[tuple[str, str]] = []
        self.unfinished: list[str] = []
        names: set[str] = set()
        for cell in study.cells:
            for seed in study.seeds:
                key = cell_seed(cell, seed)
                runs = [*shared_names(study, cell, seed).values(), training_name(study, cell, seed)]
                jobs = [*(f"train-{run}" for run in runs), f"eval-{key}"]
                names.update(jobs)
                file = evaluation_folder(folder, cell, seed) / "report.json"
                outcomes = [outcome for name in jobs if (outcome := read_outcome(folder, name))]
                failed = next((outcome.failure for outcome in outcomes if outcome.failure), None)
                if file.is_file():
                    found = read_evaluation(file).datasets
                    self.evaluations[key] = {name: each for name, each in found.items() if each.counts.ids}
                elif failed:
                    self.failures.append((key, failed))
                else:
                    self.unfinished.append(key)
        self.seconds = sum(outcome.seconds for name in names if (outcome := read_outcome(folder, name)))
        self.draws = Draws(self.evaluations) if self.evaluations else None

    def results(self) -> Results:
        study, draws = self.study, self.draws
        rows = {measure: [self.row(cell, measure) for cell in study.cells] for measure in study.measures}
        if OWN in rows:
            rows[OWN] = [row for row in rows[OWN] if row.cell.measure]
        plain = [measure for measure in study.measures if measure != OWN]
        reference = {m: value for m in plain if draws and (value := draws.baseline(m)) is not None}
        datasets = list(draws.datasets.values()) if draws else []
        return Results(
            study=study,
            rows=rows,
            fits=[fit for measure in plain for fit in self.fits(measure)] if study.figure.fit else [],
            contrasts=[contrast for measure in plain for contrast in self.contrasts(measure)],
            reference=reference,
            failures=self.failures,
            unfinished=self.unfinished,
            num_records=sum(len(dataset.counts.ids) for dataset in datasets),
            num_datasets=len(datasets),
            seconds=self.seconds,
        )

    # --- cells ---

    def scores(self, cell: Cell, seed: int, measure: str) -> Floats | None:
        key = cell_seed(cell, seed)
        return self.draws.scores(key, measure) if self.draws and key in self.evaluations else None

    def by_seed(self, cell: Cell, measure: str) -> dict[int, Floats]:
        found = {seed: self.scores(cell, seed, measure) for seed in self.study.seeds}
        return {seed: scores for seed, scores in found.items() if scores is not None}

    def over_seeds(self, cell: Cell, measure: str) -> Floats | None:
        scores = self.by_seed(cell, measure)
        return self.draws.over_seeds(list(scores.values())) if self.draws and scores else None

    def difference(self, cell: Cell, measure: str) -> Floats | None:
        own, others = self.by_seed(cell, measure), self.by_seed(self.study.baseline_of(cell), measure)
        common = [own[seed] - others[seed] for seed in own if seed in others]
        return self.draws.over_seeds(common) if self.draws and common else None

    def row(self, cell: Cell, named: str) -> Row:
        measure = (cell.measure or OWN) if named == OWN else named
        baseline = self.study.baseline_of(cell)
        scores = self.by_seed(cell, measure)
        difference = None if cell == baseline else self.difference(cell, measure)
        return Row(
            cell=cell,
            measure=measure,
            seeds=tuple(scores),
            score=_estimate(self.over_seeds(cell, measure)),
            by_seed=tuple(float(values[0]) for values in scores.values()),
            baseline=_estimate(self.over_seeds(baseline, measure)),
            difference=_estimate(difference),
            verdict=self.verdict(cell, bool(scores), _estimate(difference)),
        )

    def verdict(self, cell: Cell, has_score: bool, difference: Estimate | None) -> str:
        if not has_score:
            keys = {cell_seed(cell, seed) for seed in self.study.seeds}
            failed = any(key in keys for key, _ in self.failures)
            return "failed" if failed else "no such dataset" if keys & self.evaluations.keys() else "not finished"
        if cell == self.study.baseline_of(cell):
            return "baseline"
        if difference is None:
            return "no common seed"
        if not difference.shows:
            return "no signal"
        return "higher" if difference.value > 0 else "lower"

    # --- over cells ---

    def fits(self, measure: str) -> list[Fit]:
        found = []
        for name, cells in series(self.study):
            scored = [(x, scores) for cell, x in cells if (scores := self.over_seeds(cell, measure)) is not None]
            if len({x for x, _ in scored}) > 2:  # two points lie on any line
                fit = fit_log([x for x, _ in scored], [scores for _, scores in scored])
                found.append(Fit(measure, name, len(scored), fit))
        return found

    def contrasts(self, measure: str) -> list[Contrast]:
        """Along the one axis that the baseline leaves open: the first value's difference against the last one's."""
        study = self.study
        free = [axis for axis in study.axes if axis.name not in study.baseline]
        if len(free) != 1 or len(free[0].values) < 2:
            return []
        first, last = free[0].values[0], free[0].values[-1]
        found = []
        for cell in study.cells:
            if first not in cell.values or cell == study.baseline_of(cell):
                continue
            other = Cell(tuple(last if value is first else value for value in cell.values))
            ends = self.difference(cell, measure), self.difference(other, measure)
            if ends[0] is not None and ends[1] is not None:
                compared = "-".join(value.name for value in cell.values if value is not first)
                estimate = interval(ends[0] - ends[1])
                found.append(Contrast(measure, compared, free[0].name, first.name, last.name, estimate))
        return found


def _estimate(values: Floats | None) -> Estimate | None:
    return None if values is None else interval(values)


def series(study: Study) -> list[tuple[str, list[tuple[Cell, float]]]]:
    """The lines or groups of bars of a figure: name -> cells along the figure's axis, with their places on it.

    A value's place is its x; where bars have none, its number in the list.
    """
    axis = study.axis(study.figure.axis or study.axes[0].name)
    place = study.axes.index(axis)
    found: dict[str, list[tuple[Cell, float]]] = {}
    for cell in study.cells:
        others: Sequence[Value] = [*cell.values[:place], *cell.values[place + 1 :]]
        own = cell.values[place]
        x = own.x if study.figure.kind == "lines" and own.x is not None else float(axis.values.index(own))
        found.setdefault("-".join(value.name for value in others), []).append((cell, x))
    return list(found.items())
