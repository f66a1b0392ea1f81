"""Fitting a calibration: predictions on records with gold -> temperatures, thresholds, and how far they can be trusted.

Of each dataset every other record is fitted on; what is reported is measured on the rest. Only what a model said can be
calibrated: a span that it missed has no probability.

ECE, the expected calibration error (Guo et al., 2017), is over 15 bins of equal width in 0..1: the sum over bins of the
share of the answers that are in the bin, times how far the share of right ones among them is from their mean
probability.

Shapes: Q questions or answers, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from seqgpt_jax.asking import RecordPrediction
from seqgpt_jax.atomic import decompose, several_may_hold
from seqgpt_jax.calibration import Calibration
from seqgpt_jax.data.datasets import Dataset, sample_records
from seqgpt_jax.errors import UserError
from seqgpt_jax.evaluation import datasets_with
from seqgpt_jax.figures import COLOURS, DPI, plain
from seqgpt_jax.metrics import empty_predictions
from seqgpt_jax.records import DatasetMeta, Record
from seqgpt_jax.tables import text_table

NUM_BINS = 15
FEWEST = 30  # answers to fit a number on


# --- what was said, and what is right --------------------------------------------------------------------------------


@dataclass
class Judged:
    """Probabilities of the model with gold beside them.

    choices: of each question with one right label, the probabilities of all labels and the place of the right one.
    labels, spans: (probability, whether it is right) of each label where several may hold, and of each span.
    num_labels_gold: labels that hold, given a probability or not.
    """

    choices: list[tuple[list[float], int]] = field(default_factory=list)
    labels: list[tuple[float, bool]] = field(default_factory=list)
    spans: list[tuple[float, bool]] = field(default_factory=list)
    num_labels_gold: int = 0

    def add(self, gold: Record, meta: DatasetMeta, prediction: RecordPrediction) -> None:
        right = {(each.source.step, each.source.query): each.answer for each in decompose(gold, meta)}
        for answer in prediction.answered:
            example, probabilities = answer.example, answer.probabilities
            truth = right.get((example.source.step, example.source.query))  # None: gold does not lead to the question
            if not probabilities:
                continue
            if example.kind == "extract":
                known = truth if isinstance(truth, dict) else {}
                self.spans += [(p, string in known.get(label, ())) for (label, string), p in probabilities.items()]
                continue
            holding = truth if isinstance(truth, tuple) else ()
            if several_may_hold(example.source, meta):
                self.labels += [(p, label in holding) for (label,), p in probabilities.items()]
                self.num_labels_gold += len(holding)
            elif len(holding) == 1 and len(probabilities) == len(example.labels):
                of_labels = [probabilities[label,] for label in example.labels]
                self.choices.append((of_labels, example.labels.index(holding[0])))


class Predictor(Protocol):
    """What can be calibrated: SeqGPT."""

    def predict_records(
        self,
        records: Sequence[Record],
        metas: Sequence[DatasetMeta],
        split: str = "test",
        progress: bool = False,
        all_probabilities: bool = False,
    ) -> list[RecordPrediction]: ...


def judge(predictor: Predictor, datasets: Sequence[Dataset], split: str, limit: int | None) -> tuple[Judged, Judged]:
    """Asks about the records of a split of each dataset that has it; every other record goes into the second part.

    UserError where no dataset has the split.
    """
    parts = Judged(), Judged()
    present = datasets_with(datasets, split)
    golds = [sample_records(dataset, split, limit) for dataset in present]
    records = [record for gold in golds for record in gold]
    metas = [dataset.record_meta(record) for dataset, gold in zip(present, golds, strict=True) for record in gold]
    predictions = iter(
        predictor.predict_records(empty_predictions(records), metas, split, progress=True, all_probabilities=True)
    )
    for dataset, gold in zip(present, golds, strict=True):
        for number, record in enumerate(gold):
            parts[number % 2].add(record, dataset.record_meta(record), next(predictions))
    return parts


# --- fitting ---------------------------------------------------------------------------------------------------------


def fit(judged: Judged, precision: float | None = None) -> Calibration:
    """The calibration with the highest likelihood. What there are too few answers for (FEWEST) stays as it is.

    precision: also the lowest limits such that, of the answers that are not under them, so large a share is right.
    """
    calibration = Calibration()
    if len(judged.choices) >= FEWEST:
        calibration = replace(calibration, choice_temperature=fit_choice_temperature(judged.choices))
    if len(judged.labels) >= FEWEST:
        calibration = replace(
            calibration,
            label_temperature=fit_temperature(*_columns(judged.labels)),
            label_threshold=fit_threshold(*_columns(judged.labels), judged.num_labels_gold),
        )
    if len(judged.spans) >= FEWEST:
        calibration = replace(calibration, span_temperature=fit_temperature(*_columns(judged.spans)))
    if precision is None:
        return calibration
    limits = {
        name: limit_for_precision(*answers, precision) if len(answers[0]) >= FEWEST else None
        for name, answers in (("choice", _top(judged, calibration)), ("span", _spans(judged, calibration)))
    }
    return replace(calibration, choice_abstain_below=limits["choice"], span_abstain_below=limits["span"])


def fit_choice_temperature(choices: Sequence[tuple[Sequence[float], int]]) -> float:
    """The T for which softmax(log p / T) gives the right labels the highest likelihood."""
    logs_QL = np.full((len(choices), max(len(of_labels) for of_labels, _ in choices)), -np.inf)
    for row, (of_labels, _) in enumerate(choices):
        logs_QL[row, : len(of_labels)] = np.log(np.maximum(of_labels, _SMALLEST))
    right_Q = np.array([right for _, right in choices])

    def loss(temperature: float) -> float:
        scaled_QL = logs_QL / temperature
        highest_Q1 = scaled_QL.max(axis=1, keepdims=True)
        sums_Q = highest_Q1[:, 0] + np.log(np.exp(scaled_QL - highest_Q1).sum(axis=1))
        return float((sums_Q - scaled_QL[np.arange(len(right_Q)), right_Q]).sum())

    return _lowest(loss)


def fit_temperature(probabilities_Q: np.ndarray, right_Q: np.ndarray) -> float:
    """The T for which sigmoid(logit(p) / T) is the likeliest probability of being right."""
    p_Q = np.clip(probabilities_Q, _SMALLEST, 1 - 1e-16)
    logits_Q = np.log(p_Q) - np.log1p(-p_Q)
    signed_Q = np.where(right_Q, logits_Q, -logits_Q)
    return _lowest(lambda temperature: float(np.logaddexp(0, -signed_Q / temperature).sum()))


_SMALLEST = 1e-300
_SHARPEST, _FLATTEST = 0.05, 20.0


def _lowest(loss: Callable[[float], float]) -> float:
    """The temperature in 0.05 .. 20 of the lowest loss, to four digits: a grid, and finer ones around its best point.

    The loss is convex in 1 / T, so that there is one minimum.
    """
    low, high = np.log(_SHARPEST), np.log(_FLATTEST)
    for _ in range(5):
        grid = np.linspace(low, high, 41)
        best = int(np.argmin([loss(float(np.exp(point))) for point in grid]))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(np.round(np.exp(grid[best]), 4))


def fit_threshold(probabilities_Q: np.ndarray, right_Q: np.ndarray, num_gold: int) -> float:
    """The threshold of the highest micro-F1, halfway to the next lower probability; 0.5 where nothing is right.

    Each label is taken by itself; that later ones depend on earlier ones is left out.
    """
    order = np.argsort(-probabilities_Q, kind="stable")
    p_Q, hits_Q = probabilities_Q[order], np.cumsum(right_Q[order])
    f1_Q = 2 * hits_Q / (np.arange(1, len(p_Q) + 1) + num_gold)
    next_Q = np.append(p_Q[1:], 0.0)
    f1_Q = np.where(p_Q > next_Q, f1_Q, 0.0)  # between equal ones is no threshold
    best = int(np.argmax(f1_Q))
    return float(np.clip((p_Q[best] + next_Q[best]) / 2, 1e-6, 1 - 1e-6)) if f1_Q[best] > 0 else 0.5


def limit_for_precision(probabilities_Q: np.ndarray, right_Q: np.ndarray, precision: float) -> float | None:
    """The lowest limit such that, of the answers that are not under it, at least this share is right; None: no such."""
    order = np.argsort(-probabilities_Q, kind="stable")
    p_Q = probabilities_Q[order]
    precision_Q = np.cumsum(right_Q[order]) / np.arange(1, len(p_Q) + 1)
    is_last_Q = np.append(p_Q[:-1] > p_Q[1:], True)
    fitting = np.flatnonzero((precision_Q >= precision) & is_last_Q)
    return float(p_Q[fitting[-1]]) if len(fitting) else None


# --- how reliable ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bins:
    """Answers by probability, in bins of equal width; empty ones are left out."""

    counts: np.ndarray
    mean_probabilities: np.ndarray
    shares_right: np.ndarray

    @property
    def ece(self) -> float:
        """The expected calibration error (module docstring); 0 without answers."""
        gaps = np.abs(self.shares_right - self.mean_probabilities)
        return float((self.counts * gaps).sum() / max(self.counts.sum(), 1))


def reliability(probabilities_Q: np.ndarray, right_Q: np.ndarray, num_bins: int = NUM_BINS) -> Bins:
    """Bin b holds the probabilities in b/n .. (b+1)/n, the lower end included; 1 is in the last."""
    bins_Q = np.minimum((probabilities_Q * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins_Q, minlength=num_bins)
    kept = counts > 0
    sums, rights = (np.bincount(bins_Q, weights=x, minlength=num_bins) for x in (probabilities_Q, right_Q))
    return Bins(counts[kept], sums[kept] / counts[kept], rights[kept] / counts[kept])


Answers = tuple[np.ndarray, np.ndarray]  # probability, whether it is right


def _columns(pairs: Iterable[tuple[float, bool]]) -> Answers:
    pairs = list(pairs)
    return np.array([p for p, _ in pairs], float), np.array([right for _, right in pairs], bool)


def _top(judged: Judged, calibration: Calibration) -> Answers:
    """Of each choice the best label."""
    tops = []
    for of_labels, right in judged.choices:
        calibrated = calibration.choice(dict(enumerate(of_labels)))
        best = max(calibrated, key=lambda place: calibrated[place])
        tops.append((calibrated[best], best == right))
    return _columns(tops)


def _labels(judged: Judged, calibration: Calibration) -> Answers:
    return _columns((calibration.label(p), right) for p, right in judged.labels)


def _spans(judged: Judged, calibration: Calibration) -> Answers:
    return _columns((calibration.span(p), right) for p, right in judged.spans)


_KINDS = {"choices": _top, "labels, several": _labels, "spans": _spans}


def describe(calibration: Calibration, fitted: Judged, held_back: Judged, precision: float | None) -> str:
    """A table: what was fitted, and ECE on the other half before and after; with what limits for a precision gave."""
    temperatures = (calibration.choice_temperature, calibration.label_temperature, calibration.span_temperature)
    rows = [["", "fitted on", "temperature", "measured on", "right", "ECE before", "ECE after"]]
    lines = []
    for (name, answers), temperature in zip(_KINDS.items(), temperatures, strict=True):
        num_fitted, (before, right) = len(answers(fitted, Calibration())[0]), answers(held_back, Calibration())
        if not num_fitted:
            continue
        after = answers(held_back, calibration)
        shown = f"{temperature:.3f}" if num_fitted >= FEWEST else f"too few (< {FEWEST})"
        errors = [f"{reliability(*each).ece:.4f}" if len(right) else "-" for each in ((before, right), after)]
        share = f"{right.mean():.3f}" if len(right) else "-"
        rows.append([name, str(num_fitted), shown, str(len(right)), share, *errors])
    if fitted.labels:
        lines.append(f"several labels: chosen above {calibration.label_threshold:.3f}")
    limits = (("choices", calibration.choice_abstain_below), ("spans", calibration.span_abstain_below))
    for name, limit in limits if precision is not None else ():
        p, right = _KINDS[name](held_back, calibration)
        if not len(right):
            continue
        if limit is None:
            lines.append(f"{name}: no limit gives a precision of {precision:g}")
        elif (kept := p >= limit).any():
            gave = f"precision {right[kept].mean():.3f} on {kept.mean():.1%} of the other half"
            lines.append(f"{name}: a limit of {limit:.3f} for a precision of {precision:g} gave {gave}")
    return "\n".join([*text_table(rows, num_left=1), *lines])


def draw(calibration: Calibration, held_back: Judged, file: Path) -> None:
    """The share of right answers over probability, before and after; the diagonal is a calibrated model."""
    from matplotlib.figure import Figure

    kinds = [(name, answers) for name, answers in _KINDS.items() if len(answers(held_back, Calibration())[0])]
    figure = Figure(figsize=(3.6 * max(len(kinds), 1), 3.6), layout="constrained")
    for axes, (name, answers) in zip(np.ravel(figure.subplots(1, max(len(kinds), 1))), kinds, strict=False):
        plain(axes, "both")
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for when, each, colour in zip(("before", "after"), (Calibration(), calibration), COLOURS.values(), strict=True):
            bins = reliability(*answers(held_back, each))
            label = f"{when}: ECE {bins.ece:.3f}"
            axes.plot(bins.mean_probabilities, bins.shares_right, color=colour, marker="o", markersize=4, label=label)
        axes.set(xlim=(0, 1), ylim=(0, 1), title=name, xlabel="probability", ylabel="share that is right")
        axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(file, dpi=DPI)


def calibrate(
    predictor: Predictor,
    datasets: Sequence[Dataset],
    model_dir: Path,
    split: str = "validation",
    limit: int | None = None,
    precision: float | None = None,
) -> str:
    """Writes calibration.json and calibration.png into the model's directory; returns what there is to say about them.

    UserError where no dataset has the split, or there is too little to fit anything on.
    """
    fitted, held_back = judge(predictor, datasets, split, limit)
    if max(len(fitted.choices), len(fitted.labels), len(fitted.spans)) < FEWEST:
        raise UserError(f"fewer than {2 * FEWEST} answers of any kind to fit on (give more records)")
    calibration = fit(fitted, precision)
    calibration.save(model_dir)
    draw(calibration, held_back, model_dir / "calibration.png")
    return describe(calibration, fitted, held_back, precision)
