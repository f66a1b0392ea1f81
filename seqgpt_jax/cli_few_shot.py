"""`seqgpt fewshot`: what it takes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqgpt_jax.cli_arguments import add_bindings, add_command, count, folder, positive
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import LANGUAGES

if TYPE_CHECKING:
    from seqgpt_jax.data.datasets import Dataset
    from seqgpt_jax.few_shot.partitions import Partition


def add_few_shot_command(commands: Any) -> None:
    few_shot = add_command(
        commands, "fewshot", _few_shot, "tune a model with and without upstream training on few examples each",
        "seqgpt fewshot --model models/bloomz --upstream runs/real --partition random --out runs/few_shot",
    )  # fmt: skip
    few_shot.add_argument("--model", metavar="PATH", help="the model without upstream training")
    few_shot.add_argument("--upstream", metavar="PATH", help="the same model after upstream training")
    few_shot.add_argument("--out", type=folder, metavar="DIR", help="what is done there is gone on with")
    data = few_shot.add_argument_group("what is learnt").add_mutually_exclusive_group(required=True)
    data.add_argument("--partition", metavar="NAME", help="held-out datasets by task, such as random or without_ner")
    data.add_argument("--mixture", metavar="NAME", help="such as held_out_en_ner")
    data.add_argument("--data", type=Path, metavar="FOLDER", help="one dataset folder, or a tree of them")
    few_shot.add_argument("--language", choices=LANGUAGES, help="with --partition: datasets of this one alone")
    few_shot.add_argument(
        "--show_upstream", action="store_true", help="print the mixture to train on for --partition, and end"
    )
    samples = few_shot.add_argument_group("the samples")
    samples.add_argument("--per_class", type=count, default=16, metavar="N", help="of one-class datasets (default: 16)")
    samples.add_argument("--others", type=count, default=32, metavar="N", help="of all other datasets (default: 32)")
    samples.add_argument(
        "--seeds", type=int, nargs="+", metavar="SEED", help="one sample each (default: 100 13 21 42 87)"
    )
    samples.add_argument("--limit", type=count, metavar="N", help="test records a dataset, the same ones for all")
    tuning = few_shot.add_argument_group("the tuning")
    tuning.add_argument(
        "--learning_rates", type=positive, nargs="+", metavar="RATE",
        help="peaks, of which validation chooses (default: one, by the model's width)",
    )  # fmt: skip
    tuning.add_argument("--epochs", type=positive, metavar="N", help="at most (default: 10)")
    tuning.add_argument("--keep_runs", action="store_true", help="keep every tuned model")
    add_bindings(tuning)


def _few_shot(options: argparse.Namespace) -> None:
    from seqgpt_jax.few_shot.partitions import check_upstream, find_partition, upstream_mixture
    from seqgpt_jax.few_shot.protocol import Settings, run_few_shot
    from seqgpt_jax.few_shot.sampling import SEEDS, Shots
    from seqgpt_jax.training.signals import SignalWatch

    partition = find_partition(options.partition) if options.partition else None
    if options.show_upstream:
        if partition is None:
            raise UserError("--show_upstream is that of a partition (give --partition NAME)")
        print(upstream_mixture(partition))
        return
    missing = [f"--{name}" for name in ("model", "upstream", "out") if getattr(options, name) is None]
    if missing:
        raise UserError(f"{', '.join(missing)} is missing (give --model, --upstream and --out)")
    if options.language and partition is None:
        raise UserError("--language goes with --partition (a mixture has its own name: held_out_en)")
    datasets = _datasets(options, partition)
    check_upstream(_trained_on(Path(options.upstream)), datasets, partition)
    settings = Settings(
        models=(options.model, options.upstream),
        shots=Shots(options.per_class, options.others),
        seeds=tuple(dict.fromkeys(options.seeds or SEEDS)),
        learning_rates=tuple(options.learning_rates or (None,)),
        epochs=options.epochs,
        test_limit=options.limit,
        bindings=tuple(options.gin),
    )
    with SignalWatch():
        run_few_shot(datasets, settings, options.out, keep_runs=options.keep_runs)
    print((options.out / "few_shot.md").read_text("utf-8"))


def _datasets(options: argparse.Namespace, partition: Partition | None) -> list[Dataset]:
    from seqgpt_jax.data.mixtures import find_folder_datasets, resolve_mixture
    from seqgpt_jax.few_shot.partitions import downstream_datasets

    if partition is not None:
        return downstream_datasets(partition, options.language)
    found = find_folder_datasets(options.data) if options.data else resolve_mixture(options.mixture)
    return [dataset.opened() for dataset in found]


def _trained_on(model: Path) -> dict[str, str]:
    """Dataset -> task of what a run's stages were trained on, the generator's datasets left out."""
    from seqgpt_jax.synthesis.generator import families
    from seqgpt_jax.training.stage_data import read_stage_data

    stages = [read_stage_data(model, file.stem) for file in sorted((model / "data").glob("*.json"))]
    if not stages:
        print(
            f"warning: {model} does not say what it was trained on, so it is not checked that its datasets are others",
            file=sys.stderr,
        )
    datasets = [each for stage in stages if stage is not None for each in stage.datasets]
    return {each.name: each.task for each in datasets if not each.name.startswith(tuple(families()))}
