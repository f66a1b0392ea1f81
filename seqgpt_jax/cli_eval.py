"""`seqgpt eval`, `compare`, `explain` and `calibrate`: what they take."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqgpt_jax.analysis.error_kinds import ERROR_KINDS
from seqgpt_jax.analysis.legacy_scorers import LEGACY_SCORERS
from seqgpt_jax.cli_arguments import add_command, add_model, count, share, whole_number
from seqgpt_jax.errors import UserError
from seqgpt_jax.systems.options import add_system, given_options
from seqgpt_jax.whole import write_json

if TYPE_CHECKING:
    from seqgpt_jax.averages import Evaluation
    from seqgpt_jax.data.datasets import Dataset
    from seqgpt_jax.recipe import EvaluationSettings

_SPLITS = ("train", "validation", "test")


def add_eval_commands(commands: Any) -> None:
    """Adds the four to the `seqgpt` command."""
    evaluate = add_command(
        commands, "eval", _eval, "score a model on a mixture or on folders of records",
        "seqgpt eval --model runs/quickstart --mixture mini_held_out --limit 50 --out scores",
    )  # fmt: skip
    add_system(evaluate)
    data = _add_data(evaluate)
    data.add_argument("gin", nargs="?", metavar="FILE.gin", help="an evaluation, such as gin/eval/held_out.gin")
    evaluate.add_argument("--split", choices=_SPLITS, help="default: test, or that of FILE.gin")
    evaluate.add_argument("--limit", type=count, metavar="N", help="records a dataset, the same ones for every model")
    evaluate.add_argument("--seed", type=whole_number, metavar="N", help="which records these are (default: 0)")
    evaluate.add_argument(
        "--out", type=Path, metavar="DIR", help="write report.html, .md and .json, ids.json, predictions/ and figures/"
    )
    evaluate.add_argument(
        "--scorer", choices=sorted(LEGACY_SCORERS), metavar="NAME",
        help=f"also count as a published system does, into DIR/NAME.json: {', '.join(sorted(LEGACY_SCORERS))}",
    )  # fmt: skip
    evaluate.add_argument(
        "--num_unconstrained", type=whole_number, default=20, metavar="N",
        help="records a dataset that a model of ours is asked about again without constraints (default: 20)",
    )  # fmt: skip
    evaluate.add_argument(
        "--loss", action="store_true", help="also the loss of the gold answers, in nats a token, of a model of ours"
    )

    compare = add_command(
        commands, "compare", _compare, "set evaluations of the same records side by side, with paired intervals",
        "seqgpt compare scores/report.json other_scores/report.json",
    )  # fmt: skip
    compare.add_argument(
        "reports", nargs="+", type=Path, metavar="REPORT.json",
        help="of `seqgpt eval --out`, or eval/<name>.json of a run; all are compared with the first",
    )  # fmt: skip
    compare.add_argument("--json", action="store_true", help="print one JSON object, with every dataset")

    explain = add_command(
        commands, "explain", _explain, "list the records behind a score, prediction by prediction",
        "seqgpt explain scores/report.json mini_held_out_en_ner_tennis --errors boundary --limit 5",
    )  # fmt: skip
    explain.add_argument("report", type=Path, metavar="REPORT.json", help="of `seqgpt eval --out`, or a run's eval/")
    explain.add_argument("dataset", metavar="DATASET", help="its name in the report")
    explain.add_argument(
        "--errors", choices=ERROR_KINDS, metavar="KIND", help=f"records with: {', '.join(ERROR_KINDS)}"
    )
    explain.add_argument("--label", metavar="LABEL", help="records with an item of this label, gold or predicted")
    explain.add_argument("--limit", type=count, metavar="N", help="show so many of them")

    calibrate = add_command(
        commands, "calibrate", _calibrate, "fit how far a model's probabilities can be trusted, and keep it beside it",
        "seqgpt calibrate --model runs/quickstart --mixture mini_held_out --precision 0.9",
    )  # fmt: skip
    add_model(calibrate)
    _add_data(calibrate)
    calibrate.add_argument("--split", default="validation", choices=_SPLITS, help="default: validation")
    calibrate.add_argument("--limit", type=count, metavar="N", help="records a dataset")
    calibrate.add_argument(
        "--precision", type=share, metavar="SHARE", help="also find what to leave out, so that so much is right"
    )


def _add_data(parser: argparse.ArgumentParser) -> Any:
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--mixture", metavar="NAME", help="such as mini_held_out, held_out, held_in_zh, held_out_en_ner")
    data.add_argument(
        "--data", type=Path, metavar="FOLDER", help="one dataset folder (meta.json inside), or a tree of them"
    )
    return data


def _datasets(folder: Path | None, mixture: str) -> list[Dataset]:
    from seqgpt_jax.data.mixtures import find_folder_datasets, resolve_mixture

    return find_folder_datasets(folder) if folder else resolve_mixture(mixture, None)


def _settings(options: argparse.Namespace) -> EvaluationSettings:
    """What is evaluated: the file's settings where there is one, and what was given on top."""
    from dataclasses import replace

    from seqgpt_jax.configuration import load_evaluation
    from seqgpt_jax.recipe import EvaluationSettings

    name = options.mixture or (options.data and options.data.resolve().name)
    settings = load_evaluation(options.gin) if options.gin else EvaluationSettings(name, name)
    given = {key: getattr(options, key) for key in ("split", "limit", "seed")}
    return replace(settings, **{key: value for key, value in given.items() if value is not None})


def _eval(options: argparse.Namespace) -> None:
    from seqgpt_jax.analysis.html_report import write_html
    from seqgpt_jax.evaluation import evaluate
    from seqgpt_jax.report import write_evaluation
    from seqgpt_jax.sections import section_to_text
    from seqgpt_jax.systems.open_system import open_system

    if options.out is not None and options.out.suffix == ".json":
        raise UserError(f"--out {options.out}: name a folder, not a file (its report.json holds the scores)")
    if options.scorer is not None and options.out is None:
        raise UserError(f"--scorer {options.scorer} reads the predictions that --out writes (add --out DIR)")
    settings = _settings(options)
    datasets = _datasets(options.data, settings.mixture)
    system = open_system(options.model, datasets, **given_options(options))
    predictions = None if options.out is None else options.out / "predictions"
    evaluation = evaluate(
        system, datasets, settings.split, settings.limit, predictions,
        num_unconstrained=options.num_unconstrained, seed=settings.seed, name=options.model, loss=options.loss,
    )  # fmt: skip
    print(section_to_text(settings.name, evaluation))
    for reason, number in evaluation.system.get("unanswered", {}).items():
        print(f"  {number} questions without an answer: {reason}")
    if options.out is not None:
        write_evaluation(options.out, settings.name, evaluation)
        write_html(options.out)
        if options.scorer is not None:
            _count_as(options.scorer, datasets, evaluation, options.out)
        print(f"wrote {options.out}")


def _count_as(scorer: str, datasets: Sequence[Dataset], evaluation: Evaluation, folder: Path) -> None:
    """Prints what the scorer makes of each dataset that it has a measure for, and writes it to <scorer>.json."""
    from seqgpt_jax.predictions import read_predictions
    from seqgpt_jax.tables import text_table

    metas = {(dataset.meta.language, dataset.meta.name): dataset.meta for dataset in datasets}
    found: dict[str, dict[str, float]] = {}
    for each in evaluation.datasets:
        assert each.predictions is not None
        records = read_predictions(each.predictions)
        sides = [record.gold for record in records], [record.predicted for record in records]
        metrics = LEGACY_SCORERS[scorer](*sides, metas[each.language, each.name])
        found[f"{each.language}/{each.name}"] = {name: round(value, 6) for name, value in metrics.items()}
    write_json(folder / f"{scorer}.json", {"scorer": scorer, "datasets": found})
    rows = [[name, *(f"{metric} {value:.3f}" for metric, value in metrics.items())] for name, metrics in found.items()]
    width = max(map(len, rows), default=0)
    print(f"counted as {scorer} does (no measure: no numbers)")
    for line in text_table([row + [""] * (width - len(row)) for row in rows], num_left=width) if rows else ():
        print(f"  {line}")


def _compare(options: argparse.Namespace) -> None:
    from seqgpt_jax.analysis.compare import compare, comparison_to_dict, comparison_to_text
    from seqgpt_jax.analysis.report_files import read_evaluation

    if len(options.reports) < 2:
        raise UserError("seqgpt compare needs two reports or more (of `seqgpt eval --out`)")
    comparison = compare([read_evaluation(path) for path in options.reports])
    if options.json:
        print(json.dumps(comparison_to_dict(comparison), ensure_ascii=False))
    else:
        print(comparison_to_text(comparison))


def _explain(options: argparse.Namespace) -> None:
    from seqgpt_jax.analysis.explain import explain
    from seqgpt_jax.analysis.report_files import read_evaluation

    report = read_evaluation(options.report)
    for line in explain(report, options.dataset, options.errors, options.label, options.limit):
        print(line)


def _calibrate(options: argparse.Namespace) -> None:
    from seqgpt_jax.calibration_fit import calibrate
    from seqgpt_jax.predictor import SeqGPT, model_directory

    datasets = _datasets(options.data, options.mixture)
    directory = model_directory(Path(options.model))
    predictor = SeqGPT.from_pretrained(directory)
    print(calibrate(predictor, datasets, directory, options.split, options.limit, options.precision))
    print(f"wrote calibration.json and calibration.png into {directory}")
