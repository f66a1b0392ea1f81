"""report.html: one evaluation as a page that needs nothing else, with its predictions to browse.

    <folder>/report.json (sections.py), <folder>/predictions/*.jsonl (predictions.py) -> <folder>/report.html

Style, script, figures and data stand in the page, and its content security policy forbids it to load anything. Tables
and figures of the summary are plain HTML and SVG, readable without the script; what is known of one dataset lies beside
as JSON, which report.js shows. Whatever a dataset or a model wrote is text there, never markup.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seqgpt_jax.analysis.error_kinds import ERROR_KINDS, judge_items
from seqgpt_jax.errors import UserError
from seqgpt_jax.predictions import GivenAnswer, PredictedRecord, read_predictions
from seqgpt_jax.records import (
    TASKS,
    ClassificationRecord,
    DatasetMeta,
    EventRecord,
    ExtractionRecord,
    Record,
    RelationRecord,
    Span,
)
from seqgpt_jax.whole import write_text

MAX_RECORDS = 200  # of a dataset that can be browsed: 60 such datasets are about 10 MB

_HERE = Path(__file__).parent
_LANGUAGES = {"en": "English", "zh": "Chinese"}
_TASKS = {
    "NER": "named entities",
    "SF": "slot filling",
    "ID": "intent",
    "SA": "sentiment",
    "CLS": "topics and other classes",
    "NLI": "inference",
    "RE": "relations",
    "EE": "events",
    "ET": "entity typing",
    "MRC-SE": "reading: a span is the answer",
    "MRC-MC": "reading: choices",
}
_METRICS = {"argument_c": "Arg-C", "em": "exact match"}
_KINDS = {
    "missed": "Gold that was not said.",
    "wrong_type": "The right place under another label, or another option.",
    "boundary": "The right label at a place that overlaps.",
    "invented": "Said, and not in gold.",
    "unparsed": "Gold that got lost with an answer that is not well-formed.",
}


def write_html(report: Path, max_records: int = MAX_RECORDS) -> Path:
    """Writes the page of an evaluation beside its JSON and returns its path: report.json gives report.html.

    report: the JSON, or the folder that has report.json. max_records: how many records of a dataset can be browsed, the
    first ones; the page says how many are left out. UserError where the JSON or predictions that it names are missing
    or hold something else.
    """
    path = report / "report.json" if report.is_dir() else report
    evaluation = _read(path)
    datasets = [_dataset(values, path.parent, max_records) for values in _in_order(evaluation["datasets"])]
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "share": _share, "named": _named, "count": "{:,}".format}
    page = environment.get_template("report.html.jinja").render(
        title=path.parent.name if path.name == "report.json" else path.stem,
        evaluation=evaluation,
        datasets=datasets,
        embedded=[_embedded(dataset) for dataset in datasets],
        groups=_groups(datasets),
        errors=_errors(datasets),
        settings=_flat(evaluation.get("system") or {}),
        language_names=_LANGUAGES,
        task_names=_TASKS,
        kinds=_KINDS,
        max_records=max_records,
        style=Markup((_HERE / "report.css").read_text("utf-8")),
        script=Markup((_HERE / "report.js").read_text("utf-8")),
    )
    target = path.with_suffix(".html")
    write_text(target, _UNPRINTABLE.sub("\ufffd", page))
    return target


_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def _read(path: Path) -> dict[str, Any]:
    remedy = "give the folder that `seqgpt eval --out` wrote"
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError:
        raise UserError(f"{path}: no such report ({remedy})") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error} ({remedy})") from None
    if not isinstance(values, dict) or not isinstance(values.get("datasets"), list):
        raise UserError(f"{path}: not the report of an evaluation: it has no datasets ({remedy})")
    return values


def _in_order(datasets: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(datasets, key=lambda each: (each["language"], TASKS.index(each["task"]), each["name"]))


# --- the summary's tables --------------------------------------------------------------------------------------------


def _groups(datasets: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(language, task) of the datasets, each once, in their order."""
    return list(dict.fromkeys((each["language"], each["task"]) for each in datasets))


def _errors(datasets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a language and task: how many errors of each kind, and the share of all its errors."""
    counts: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys(ERROR_KINDS, 0))
    for dataset in datasets:
        for kind in ERROR_KINDS:
            counts[dataset["language"], dataset["task"]][kind] += dataset["errors"].get(kind, {}).get("count", 0)
    rows = []
    for (language, task), kinds in counts.items():
        total = sum(kinds.values())
        shares = {kind: number / total if total else 0.0 for kind, number in kinds.items()}
        rows.append({"language": language, "task": task, "counts": kinds, "shares": shares, "total": total})
    return rows


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows: {"settings": {"beams": 1}} -> ("settings.beams", "1")."""
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{name}.")
        else:
            rows.append((f"{before}{name}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    return rows


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _named(metric: str) -> str:
    return _METRICS.get(metric) or metric.replace("_", " ").replace(" f1", " F1")


# --- one dataset as JSON ---------------------------------------------------------------------------------------------


def _dataset(values: Mapping[str, Any], folder: Path, max_records: int) -> dict[str, Any]:
    """What the page knows of a dataset: its entry of report.json, without counts by record, and its first records.

    label_lists: lists of labels that were asked, to which the answers of records refer by their place.
    """
    kept = {name: value for name, value in values.items() if name != "counts"}
    kept["metric_names"] = {name: _named(name) for name in kept["metrics"]}
    label_lists: dict[tuple[str, ...], int] = {}
    records: list[dict[str, Any]] = []
    num_all = 0
    if values.get("predictions"):
        predicted = read_predictions(folder / values["predictions"])
        num_all = len(predicted)
        meta = DatasetMeta(values["name"], values["task"], values["language"], tuple(values.get("labels") or ()))
        judged = judge_items(predicted, meta)[:max_records] if predicted else []
        for each, judgements in zip(predicted, judged, strict=False):
            items = [[kind, gold and gold.shown, said and said.shown] for kind, gold, said in judgements]
            labels = sorted(set().union(*(judgement.labels for judgement in judgements)) - {""})
            records.append(_record(each, label_lists) | {"items": items, "labels": labels})
    return {**kept, "records": records, "left_out": num_all - len(records), "label_lists": list(label_lists)}


def _record(each: PredictedRecord, label_lists: dict[tuple[str, ...], int]) -> dict[str, Any]:
    """A record for the page, without what is empty. Spans: [label, start, end]; those outside the text are in items."""
    gold = each.gold
    fields: dict[str, Any] = {"id": gold.id, "text": gold.text}
    if isinstance(gold, ClassificationRecord):
        fields |= {"pair": gold.text_pair, "question": gold.question}
        fields["target"] = gold.target and gold.target.text
    elif isinstance(gold, ExtractionRecord):
        fields |= {"question": gold.question, "accepted": gold.answers}
    fields |= {"gold": _marks(gold), "said": _marks(each.predicted)}
    fields["answers"] = [_answer(answer, gold.text, label_lists) for answer in each.answers]
    return {name: value for name, value in fields.items() if value}


def _marks(record: Record) -> list[tuple[str, int, int]]:
    return [(span.label, span.start, span.end) for span in _spans(record) if span.in_text]


def _spans(record: Record) -> list[Span]:
    match record:
        case ExtractionRecord():
            return list(record.spans)
        case RelationRecord():
            return list(record.entities)
        case EventRecord():
            triggers = [Span(e.type, e.trigger.start, e.trigger.end, e.trigger.text) for e in record.events]
            return triggers + [argument for event in record.events for argument in event.arguments]
    return []


def _answer(answer: GivenAnswer, text: str, label_lists: dict[tuple[str, ...], int]) -> dict[str, Any]:
    fields = {
        "step": answer.step,
        "query": answer.query,
        "text": answer.text if answer.text != text else None,
        "raw": answer.raw,
        "problems": answer.problems,
        "tokens_cut": answer.tokens_cut,
    }
    labels = label_lists.setdefault(answer.labels, len(label_lists))
    return {"labels": labels} | {name: value for name, value in fields.items() if value}


_NOT_IN_SCRIPT = re.compile("[<>&\x7f-\x9f\u2028\u2029\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def _embedded(value: object) -> Markup:
    """JSON that can stand in a script element: no `<`, no lone surrogate and no control character but as an escape."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(_NOT_IN_SCRIPT.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
