"""`seqgpt train` and `seqgpt finetune`: what they take."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqgpt_jax.cli_arguments import add_bindings, add_command, add_model, add_recipe, count, folder, positive, share
from seqgpt_jax.records import LANGUAGES, TASKS


def add_train_command(commands: Any) -> None:
    train = add_command(
        commands, "train", _train, "train the stages of a recipe, evaluate, report, export",
        "seqgpt train gin/recipes/quickstart.gin --run_dir runs/try --gin 'recipe.seed=1'",
    )  # fmt: skip
    add_recipe(train)
    add_bindings(train)
    train.add_argument(
        "--run_dir", type=folder, metavar="DIR", help="where all results go (default: runs/<recipe name>)"
    )
    _add_run(train)


def add_finetune_command(commands: Any) -> None:
    finetune = add_command(
        commands, "finetune", _finetune, "train a model on data of your own, and score it before and after",
        "seqgpt finetune my_data.jsonl --model runs/quickstart --out runs/mine",
    )  # fmt: skip
    finetune.add_argument(
        "data", type=Path, metavar="DATA", help="a dataset folder, a file, or a folder with train, dev and test files"
    )
    add_model(finetune)
    finetune.add_argument("--out", dest="run_dir", type=folder, required=True, metavar="DIR", help="the run directory")
    data = finetune.add_argument_group("the data", "`seqgpt data convert` makes a folder of what needs more words")
    data.add_argument("--from", dest="source_format", metavar="FORMAT", help="default: found out")
    data.add_argument("--task", choices=TASKS, help="default: NER, RE, EE, CLS or NLI, by what there is")
    data.add_argument("--language", choices=LANGUAGES, help="default: that of the script")
    data.add_argument("--labels", nargs="+", metavar="LABEL", help="all of them (default: those that occur)")
    data.add_argument(
        "--validation_share", type=share, default=0.1, metavar="SHARE",
        help="of the training texts, where there is no validation split (default: 0.1)",
    )  # fmt: skip
    training = finetune.add_argument_group("the training")
    training.add_argument("--epochs", type=positive, metavar="N", help="at most (default: 10)")
    training.add_argument("--learning_rate", type=positive, metavar="RATE", help="peak (default: by the model's width)")
    training.add_argument("--lora", type=count, metavar="RANK", help="train a LoRA of this rank alone")
    add_bindings(training)
    _add_run(finetune)


def _add_run(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with the run that the directory holds (default), or refuse a directory that holds one",
    )
    run.add_argument(
        "--allow_changed_config", action="store_true", help="go on with a run whose config was another one"
    )
    run.add_argument(
        "--profile",
        metavar="START:STOP",
        help="record these steps of the first stage that is trained, into DIR/profile",
    )
    run.add_argument("--wandb", metavar="PROJECT", help="send the metrics to this project of Weights & Biases too")
    group = parser.add_argument_group("several hosts", "SLURM, GKE, TPU pods and mpirun are recognised without these")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="the host of process 0, and a free port there")
    group.add_argument("--num_processes", type=int, metavar="N", help="processes in all")
    group.add_argument("--process_id", type=int, metavar="I", help="which one this is, from 0 to N-1")


@contextlib.contextmanager
def _running(options: argparse.Namespace, run_dir: Path) -> Iterator[dict[str, Any]]:
    """What is asked of a run, for pipeline.run_recipe; faults and signals of the whole block are handled."""
    from seqgpt_jax.training.hosts import joined
    from seqgpt_jax.training.launchers import processes_of_flags

    with joined(processes_of_flags(options.coordinator, options.num_processes, options.process_id)):
        from seqgpt_jax.compiled import keep_compiled
        from seqgpt_jax.training.faults import full_disk_explained
        from seqgpt_jax.training.profiler import ProfileWindow
        from seqgpt_jax.training.signals import SignalWatch

        keep_compiled()
        with full_disk_explained(run_dir), SignalWatch():  # training watches itself; what is around it takes long too
            yield {
                "profile": ProfileWindow.parse(options.profile) if options.profile else None,
                "wandb_project": options.wandb,
                "allow_changed_config": options.allow_changed_config,
                "resume": options.resume,
            }


def _train(options: argparse.Namespace) -> None:
    run_dir = options.run_dir or Path("runs") / Path(options.recipe).stem
    with _running(options, run_dir) as asked:
        from seqgpt_jax.configuration import load_recipe
        from seqgpt_jax.pipeline import run_recipe

        run_recipe(load_recipe(options.recipe, options.gin), run_dir, **asked)


def _finetune(options: argparse.Namespace) -> None:
    with _running(options, options.run_dir) as asked:
        from seqgpt_jax.data.convert import Description
        from seqgpt_jax.data.own import OwnData, prepare_own_data
        from seqgpt_jax.finetune import Choices, finetune
        from seqgpt_jax.training.hosts import first_alone, is_main

        labels = tuple(options.labels) if options.labels else None
        description = Description(task=options.task, language=options.language, labels=labels)

        def prepare() -> OwnData:
            folder, held_back = options.run_dir / "dataset", options.validation_share
            return prepare_own_data(options.data, folder, held_back, options.source_format, description)

        own = first_alone("own data", is_main(), prepare)
        if is_main():
            print(*filter(None, [own.notes]), own, sep="\n", file=sys.stderr)
        choices = Choices(options.epochs, options.learning_rate, options.lora, options.gin)
        finetune(own, options.model, options.run_dir, choices, **asked)
