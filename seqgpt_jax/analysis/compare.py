"""Two or more evaluations side by side, on the records that all of them have.

Every system stands beside the first by its paired difference (bootstrap.py). A dataset is won where the interval of
the difference lies above 0, lost where it lies below, a tie otherwise. Means: datasets, tasks, languages apart.
What cannot be compared is said in the notes, and counted: nothing is left out in silence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seqgpt_jax.analysis.bootstrap import Estimate, estimate, mean, resample
from seqgpt_jax.analysis.record_counts import RecordCounts
from seqgpt_jax.analysis.report_files import ReportedDataset, ReportedEvaluation
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import LANGUAGES, TASKS
from seqgpt_jax.tables import text_table


@dataclass(frozen=True)
class Verdicts:
    """Datasets that a system won, tied and lost against the first."""

    wins: int
    ties: int
    losses: int


@dataclass(frozen=True)
class ComparedRow:
    """A dataset, the mean of a task, or a mean over tasks (task ""), of every system.

    dataset: None of a mean. scores: by system. differences, verdicts: of every system but the first, against it.
    """

    language: str
    task: str
    dataset: str | None
    num_datasets: int
    num_records: int
    scores: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]
    verdicts: tuple[Verdicts, ...]


@dataclass(frozen=True)
class Comparison:
    """systems: names, the first is what the others are compared with. rows: of tasks and of means over them."""

    systems: tuple[str, ...]
    rows: tuple[ComparedRow, ...]
    datasets: tuple[ComparedRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Scored:
    """Scores of every system with their resamples: of a dataset, or of a mean over `parts`."""

    values: tuple[float, ...]
    resampled: tuple[np.ndarray, ...]
    num_records: int
    parts: tuple[_Scored, ...] = ()

    @classmethod
    def mean(cls, parts: Sequence[_Scored]) -> _Scored:
        values = (sum(each) / len(each) for each in zip(*(part.values for part in parts), strict=True))
        resampled = (mean(each) for each in zip(*(part.resampled for part in parts), strict=True))
        return cls(tuple(values), tuple(resampled), sum(part.num_records for part in parts), tuple(parts))

    @property
    def datasets(self) -> list[_Scored]:
        return [each for part in self.parts for each in part.datasets] if self.parts else [self]

    def row(self, language: str, task: str, dataset: str | None = None) -> ComparedRow:
        pairs = zip(self.values, self.resampled, strict=True)
        verdicts = [Counter(each._verdict(i) for each in self.datasets) for i in range(1, len(self.values))]
        return ComparedRow(
            language=language,
            task=task,
            dataset=dataset,
            num_datasets=len(self.datasets),
            num_records=self.num_records,
            scores=tuple(estimate(value, resampled) for value, resampled in pairs),
            differences=tuple(self._difference(i) for i in range(1, len(self.values))),
            verdicts=tuple(Verdicts(each["win"], each["tie"], each["loss"]) for each in verdicts),
        )

    def _difference(self, i: int) -> Estimate:
        return estimate(self.values[i] - self.values[0], self.resampled[i] - self.resampled[0])

    def _verdict(self, i: int) -> str:
        difference = self._difference(i)
        return "tie" if not difference.shows else "win" if difference.value > 0 else "loss"


def compare(evaluations: Sequence[ReportedEvaluation]) -> Comparison:
    """UserError where no record of any dataset is in all evaluations."""
    notes: list[str] = []
    systems = _names(evaluations)
    scored: dict[str, dict[str, list[_Scored]]] = defaultdict(lambda: defaultdict(list))
    rows = []
    for name in dict.fromkeys(name for each in evaluations for name in each.datasets):
        present = [each.datasets.get(name) for each in evaluations]
        datasets = [each for each in present if each is not None]
        if len(datasets) < len(evaluations):
            lacking = [
                f"{system} ({each.missing.get(name, 'not in its report')})"
                for system, each, found in zip(systems, evaluations, present, strict=True)
                if found is None
            ]
            notes.append(f"{name} is left out: it has no score in {', '.join(lacking)}")
            continue
        counts = _on_shared_ids(name, datasets, systems, notes)
        if counts is None:
            continue
        meta = datasets[0].meta
        resampled = tuple(resample(each, name) for each in counts)
        found = _Scored(tuple(each.headline for each in counts), resampled, len(counts[0].ids))
        scored[meta.language][meta.task].append(found)
        rows.append(found.row(meta.language, meta.task, name))
    unscored = dict.fromkeys(name for each in evaluations for name in each.missing)
    for name in unscored:
        if not any(name in each.datasets for each in evaluations):
            notes.append(f"{name} is left out: {next(e.missing[name] for e in evaluations if name in e.missing)}")
    if not rows:
        raise UserError("; ".join(["there is nothing to compare", *notes]))
    return Comparison(tuple(systems), tuple(_mean_rows(scored)), tuple(sorted(rows, key=_place)), tuple(notes))


def _mean_rows(scored: dict[str, dict[str, list[_Scored]]]) -> Iterable[ComparedRow]:
    languages = []
    for language in sorted(scored, key=LANGUAGES.index):
        tasks = []
        for task in sorted(scored[language], key=TASKS.index):
            tasks.append(_Scored.mean(scored[language][task]))
            yield tasks[-1].row(language, task)
        languages.append(_Scored.mean(tasks))
        yield languages[-1].row(language, "")
    if len(languages) > 1:
        yield _Scored.mean(languages).row("", "")


def _place(row: ComparedRow) -> tuple[int, int, str]:
    return LANGUAGES.index(row.language), TASKS.index(row.task), row.dataset or ""


def _names(evaluations: Sequence[ReportedEvaluation]) -> list[str]:
    """What the systems are called; by their files where two have one name."""
    names = [each.system for each in evaluations]
    return names if len(set(names)) == len(names) else [str(each.path) for each in evaluations]


def _on_shared_ids(
    name: str, datasets: Sequence[ReportedDataset], systems: Sequence[str], notes: list[str]
) -> list[RecordCounts] | None:
    """The counts of the records that all systems have, in one order; None where there are none. Says what is not so."""
    headlines = list(dict.fromkeys(dataset.headline for dataset in datasets))
    if len(headlines) > 1:
        notes.append(f"{name} is left out: its headline is {' in one report and '.join(headlines)} in another")
        return None
    keys = [_keys(dataset.counts.ids) for dataset in datasets]
    shared = [key for key in keys[0] if all(key in own for own in keys)]
    alone = [f"{len(own) - len(shared)} of {system}" for system, own in zip(systems, keys, strict=True)]
    if any(len(own) > len(shared) for own in keys):
        what = f"compared on {len(shared)} records that all have" if shared else "left out, as no record is in all"
        notes.append(f"{name} is {what}; not shared: {', '.join(alone)} (evaluate with the same --limit and --seed)")
    if not shared:
        return None
    counts = [d.counts.select([own[key] for key in shared]) for d, own in zip(datasets, keys, strict=True)]
    other = sum(np.any(each.counts[:, 2] != counts[0].counts[:, 2]) for each in counts)
    if other:
        notes.append(f"{name}: the gold of some records is not the same in all reports (another version of the data?)")
    return counts


def _keys(ids: Iterable[str]) -> dict[Hashable, int]:
    """(id, which of its occurrences) -> place."""
    seen = Counter[str]()
    keys: dict[Hashable, int] = {}
    for place, id in enumerate(ids):
        keys[id, seen[id]] = place
        seen[id] += 1
    return keys


# --- shown -----------------------------------------------------------------------------------------------------------


def comparison_to_dict(comparison: Comparison) -> dict[str, Any]:
    """Returns JSON values: systems, rows, datasets, notes, with the fields of the classes above."""
    return asdict(comparison)


def comparison_to_text(comparison: Comparison) -> str:
    """Returns a table of tasks and means for the terminal, and the notes.

    A row reads: scores of all systems; then, of each but the first, its difference and its wins-ties-losses.
    """
    letters = [chr(ord("A") + i) for i in range(len(comparison.systems))]
    header = ["language", "task", "datasets", *letters]
    for letter in letters[1:]:
        header += [f"{letter} - A", f"{letter} won-tied-lost"]
    rows = [header]
    for row in comparison.rows:
        cells = [row.language or "mean", row.task or "mean", str(row.num_datasets)]
        cells += [score.text() for score in row.scores]
        for difference, verdict in zip(row.differences, row.verdicts, strict=True):
            cells += [difference.text("+"), f"{verdict.wins}-{verdict.ties}-{verdict.losses}"]
        rows.append(cells)
    legend = [f"{letter} = {system}" for letter, system in zip(letters, comparison.systems, strict=True)]
    return "\n".join([*legend, "", *text_table(rows, num_left=2), *(f"note: {note}" for note in comparison.notes)])
