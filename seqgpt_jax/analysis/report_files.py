"""The report of an evaluation, read again: what is made of report.json (sections.py) later on, here and in studies/."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqgpt_jax.analysis.record_counts import RecordCounts
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import DatasetMeta

_REMEDY = "give report.json of `seqgpt eval --out`, or eval/<name>.json of a run"


@dataclass(frozen=True)
class ReportedDataset:
    """score, baseline: as the report says, to six digits. loss: of the gold answers; None where not asked for.
    predictions: the file behind it; None where none was written.
    """

    meta: DatasetMeta
    kind: str
    headline: str
    score: float
    baseline: float
    counts: RecordCounts
    loss: RecordCounts | None
    predictions: Path | None


@dataclass(frozen=True)
class ReportedEvaluation:
    """datasets: by name. missing: name -> why a dataset has no score."""

    path: Path
    system: str
    datasets: Mapping[str, ReportedDataset]
    missing: Mapping[str, str]


def read_evaluation(path: Path) -> ReportedEvaluation:
    """Returns what a report holds, or that of a folder with report.json. UserError for what is no such report."""
    file = path / "report.json" if path.is_dir() else path
    try:
        fields = json.loads(file.read_text("utf-8"))
        datasets = [_dataset(each, file.parent) for each in fields["datasets"]]
        missing = dict.fromkeys(fields["skipped"], "it has no such split") | fields["unscored"]
        system = fields["system"].get("name") or file.parent.resolve().name
    except FileNotFoundError:
        raise UserError(f"{file}: no such file ({_REMEDY})") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not the report of an evaluation: {error!r} ({_REMEDY})") from None
    return ReportedEvaluation(file, system, {each.meta.name: each for each in datasets}, missing)


def _dataset(fields: Mapping[str, Any], folder: Path) -> ReportedDataset:
    meta = DatasetMeta(fields["name"], fields["task"], fields["language"], tuple(fields["labels"]))
    predictions = fields["predictions"]
    return ReportedDataset(
        meta=meta,
        kind=fields["kind"],
        headline=fields["headline"],
        score=fields["score"],
        baseline=fields["baseline"],
        counts=RecordCounts.from_dict(fields["counts"]),
        loss=RecordCounts.from_dict(fields["loss"]) if fields.get("loss") else None,
        predictions=None if predictions is None else Path(os.path.normpath(folder / predictions)),
    )
