"""The `seqgpt` command: what each subcommand takes, and which room does the work.

Exit codes: 0 done; 2 the user's input was wrong (one line says what, and how to mend it); 75 stopped by a signal with
everything saved, run again to go on; 1 our own fault, with a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import absl.logging

from seqgpt_jax.cli_arguments import add_command, byte_size, count, positive, share
from seqgpt_jax.cli_data import add_data_command
from seqgpt_jax.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from seqgpt_jax.host_memory import keep_freed_memory
from seqgpt_jax.records import LANGUAGES, TASKS
from seqgpt_jax.whole import write_json


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns the exit code."""
    options = build_parser().parse_args(arguments)
    keep_freed_memory()
    absl.logging.set_verbosity(absl.logging.FATAL)  # orbax warns of what we asked it to do, and raises errors
    from seqgpt_jax.training.signals import Interrupted

    try:
        return options.run(options) or 0
    except UserError as error:
        print(f"seqgpt: error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as stop:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # launchers send it twice; our exit code is to be seen
        print(f"seqgpt: {stop}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seqgpt",
        description="SeqGPT in JAX: train, evaluate and use one decoder model for open-domain language understanding.",
        epilog="Each command has its own help with an example: seqgpt train --help",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = add_command(
        commands, "train", _train, "train the stages of a recipe, evaluate, report, export",
        "seqgpt train gin/recipes/quickstart.gin --run_dir runs/try --gin 'recipe.seed=1'",
    )  # fmt: skip
    _add_recipe(train)
    _add_bindings(train)
    train.add_argument("--run_dir", type=Path, metavar="DIR", help="where all results go (default: runs/<recipe name>)")
    train.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with the run that the directory holds (default), or refuse a directory that holds one",
    )
    train.add_argument(
        "--allow_changed_config", action="store_true", help="go on with a run whose config was another one"
    )
    train.add_argument(
        "--profile",
        metavar="START:STOP",
        help="record these steps of the first stage that is trained, into DIR/profile",
    )
    train.add_argument("--wandb", metavar="PROJECT", help="send the metrics to this project of Weights & Biases too")
    _add_processes(train)

    finetune = add_command(
        commands, "finetune", _finetune, "train a model on data of your own, and score it before and after",
        "seqgpt finetune my_data.jsonl --model runs/quickstart --out runs/mine",
    )  # fmt: skip
    _add_finetune(finetune)

    plan = add_command(
        commands, "plan", _plan, "compile the train step for chips that are not there: memory, FLOPs, collectives",
        "seqgpt plan gin/recipes/quickstart.gin --topology v5e:2x2",
    )  # fmt: skip
    _add_recipe(plan)
    _add_bindings(plan)
    plan.add_argument("--topology", required=True, metavar="KIND:SHAPE", help="such as v5e:16x16, v5p:4x4x4 or cpu:8")
    plan.add_argument("--stage", metavar="NAME", help="the stage whose step it is (default: the first)")
    plan.add_argument("--json", action="store_true", help="print one JSON object")

    evaluate = add_command(
        commands, "eval", _eval, "score a model on a mixture or on folders of records",
        "seqgpt eval --model runs/quickstart --mixture mini_held_out --limit 50 --out scores.json",
    )  # fmt: skip
    _add_model(evaluate)
    data = evaluate.add_mutually_exclusive_group(required=True)
    data.add_argument("--mixture", metavar="NAME", help="such as mini_held_out, held_out, held_in_zh, held_out_en_ner")
    data.add_argument(
        "--data", type=Path, metavar="FOLDER", help="one dataset folder (meta.json inside), or a tree of them"
    )
    evaluate.add_argument("--split", default="test", choices=("train", "validation", "test"), help="default: test")
    evaluate.add_argument("--limit", type=count, metavar="N", help="records a dataset, the same ones for every model")
    evaluate.add_argument("--out", type=Path, metavar="FILE.json", help="write the scores here too")

    predict = add_command(
        commands, "predict", _predict, "classify a text, or extract spans from it",
        "seqgpt predict --model runs/quickstart --extract person city -- 'Ada Park moved to Norford.'",
    )  # fmt: skip
    _add_model(predict)
    task = predict.add_mutually_exclusive_group(required=True)
    task.add_argument("--classify", nargs="+", metavar="LABEL", help="choose from these labels")
    task.add_argument("--extract", nargs="+", metavar="LABEL", help="find the spans of each of these labels")
    predict.add_argument(
        "text",
        nargs="*",
        metavar="TEXT",
        help="one or more texts; put them first, or after a lone -- behind the labels",
    )
    predict.add_argument("--input", type=Path, metavar="FILE.jsonl", help='one JSON object with a "text" a line')

    export = add_command(
        commands, "export", _export, "write a trained run as a Hugging Face directory",
        "seqgpt export --run runs/quickstart --out exported",
    )  # fmt: skip
    export.add_argument("--run", dest="run_dir", type=Path, required=True, metavar="DIR", help="a run directory")
    _add_out(export, "float32")
    export.add_argument("--adapter", action="store_true", help="write the run's LoRA alone, in PEFT's format")

    import_ = add_command(
        commands, "import", _import, "write somebody's BLOOM, Llama or Qwen with the [GEN] token that training needs",
        "seqgpt import --from bigscience/bloomz-560m --out models/bloomz",
    )  # fmt: skip
    import_.add_argument(
        "--from", dest="source", required=True, metavar="DIR|ID", help="a Hugging Face directory, or a hub id"
    )
    _add_out(import_, None)

    trim = add_command(
        commands, "trim", _trim, "leave out the vocabulary that a corpus does not need",
        "seqgpt trim --model exported --text corpus.txt --out trimmed",
    )  # fmt: skip
    _add_model(trim)
    corpus = trim.add_mutually_exclusive_group(required=True)
    corpus.add_argument("--mixture", metavar="NAME", help="the training questions and answers of a mixture")
    corpus.add_argument("--text", type=Path, nargs="+", metavar="FILE.txt", help="plain texts, one a line")
    trim.add_argument("--min_count", type=count, default=1, metavar="N", help="keep tokens used N times (default: 1)")
    trim.add_argument("--out", type=Path, required=True, metavar="DIR", help="a directory that does not exist yet")

    add_data_command(commands)

    generate = add_command(
        commands, "generate", _generate, "write records of the built-in generator",
        "seqgpt generate --mixture synthetic_en --num 1000 --out records.jsonl",
    )  # fmt: skip
    generate.add_argument(
        "--mixture",
        required=True,
        metavar="NAME",
        help="synthetic, mini_real or mini_held_out; also _en, _zh, _ner ...",
    )
    generate.add_argument("--num", type=count, required=True, metavar="N", help="records in all")
    generate.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl", help="FILE.jsonl or FILE.jsonl.gz")

    add_command(
        commands, "doctor", _doctor, "check versions, devices and a tiny training step", "seqgpt doctor",
    )  # fmt: skip
    return parser


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE.gin", help="a gin file, such as gin/recipes/quickstart.gin")


def _add_bindings(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="'name=value'",
        help="a binding that overrides the file; repeatable",
    )


def _add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several hosts", "SLURM, GKE, TPU pods and mpirun are recognised without these")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="the host of process 0, and a free port there")
    group.add_argument("--num_processes", type=int, metavar="N", help="processes in all")
    group.add_argument("--process_id", type=int, metavar="I", help="which one this is, from 0 to N-1")


def _add_finetune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="a dataset folder, a file, or a folder with train, dev and test files",
    )
    _add_model(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run; one that was cut off goes on")
    data = parser.add_argument_group("the data (`seqgpt data convert` reads what needs more words)")
    data.add_argument("--from", dest="source_format", metavar="FORMAT", help="default: found out")
    data.add_argument("--task", choices=TASKS, help="default: NER, RE, EE, CLS or NLI, by what there is")
    data.add_argument("--language", choices=LANGUAGES, help="default: that of the script")
    data.add_argument("--labels", nargs="+", metavar="LABEL", help="all of them (default: those that occur)")
    data.add_argument(
        "--validation_share", type=share, default=0.1, metavar="SHARE",
        help="of the training texts, where there is no validation split (default: 0.1)",
    )  # fmt: skip
    training = parser.add_argument_group("the training")
    training.add_argument("--epochs", type=positive, metavar="N", help="at most (default: 10)")
    training.add_argument("--learning_rate", type=positive, metavar="RATE", help="default: by the model's size")
    training.add_argument("--lora", type=count, metavar="RANK", help="train a LoRA of this rank alone")
    _add_bindings(training)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="PATH", help="a run directory, a Hugging Face directory, or a hub id"
    )


def _add_out(parser: argparse.ArgumentParser, dtype: str | None) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a directory that does not exist yet")
    parser.add_argument(
        "--dtype",
        default=dtype,
        choices=("float32", "bfloat16", "float16"),
        help=f"of the weights written (default: {dtype or 'as they are'})",
    )
    parser.add_argument(
        "--max_shard_size", type=byte_size, default="5GB", metavar="SIZE", help="of one weights file (default: 5GB)"
    )


def _train(options: argparse.Namespace) -> None:
    from seqgpt_jax.training.hosts import joined
    from seqgpt_jax.training.launchers import processes_of_flags

    with joined(processes_of_flags(options.coordinator, options.num_processes, options.process_id)):
        from seqgpt_jax.configuration import load_recipe
        from seqgpt_jax.pipeline import run_recipe
        from seqgpt_jax.training.faults import full_disk_explained
        from seqgpt_jax.training.profiler import ProfileWindow
        from seqgpt_jax.training.signals import SignalWatch

        recipe = load_recipe(options.recipe, options.gin)
        run_dir = options.run_dir or Path("runs") / Path(options.recipe).stem
        with full_disk_explained(run_dir), SignalWatch():  # training watches itself; what follows it takes long too
            run_recipe(
                recipe,
                run_dir,
                profile=ProfileWindow.parse(options.profile) if options.profile else None,
                wandb_project=options.wandb,
                allow_changed_config=options.allow_changed_config,
                resume=options.resume,
            )


def _finetune(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.convert import Description
    from seqgpt_jax.data.own import prepare_own_data
    from seqgpt_jax.finetune import Choices, finetune

    labels = tuple(options.labels) if options.labels else None
    description = Description(task=options.task, language=options.language, labels=labels)
    own = prepare_own_data(
        options.data, options.out / "dataset", options.validation_share, options.source_format, description
    )
    if own.notes:
        print(own.notes, file=sys.stderr)
    print(own)
    choices = Choices(options.epochs, options.learning_rate, options.lora, options.gin)
    finetune(own, options.model, options.out, choices)


def _plan(options: argparse.Namespace) -> None:
    from seqgpt_jax.configuration import load_recipe
    from seqgpt_jax.training.ahead import make_plan
    from seqgpt_jax.training.ahead_report import plan_to_dict, plan_to_text
    from seqgpt_jax.training.chips import parse_topology

    topology = parse_topology(options.topology)
    plan = make_plan(load_recipe(options.recipe, options.gin), topology, options.stage)
    print(json.dumps(plan_to_dict(plan)) if options.json else plan_to_text(plan))


def _eval(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.mixtures import find_folder_datasets, resolve_mixture
    from seqgpt_jax.evaluation import evaluate
    from seqgpt_jax.predictor import SeqGPT
    from seqgpt_jax.report import section_to_dict, section_to_text

    datasets = find_folder_datasets(options.data) if options.data else resolve_mixture(options.mixture, None)
    predictor = SeqGPT.from_pretrained(options.model)
    evaluation = evaluate(predictor, datasets, options.split, options.limit)
    print(section_to_text(options.mixture or str(options.data), evaluation))
    if options.out:
        write_json(options.out, section_to_dict(evaluation))


def _predict(options: argparse.Namespace) -> None:
    from seqgpt_jax.predictor import SeqGPT

    texts = list(_texts_to_predict(options))
    predictor = SeqGPT.from_pretrained(options.model)
    labels = options.classify or options.extract
    answers: list[Any] = (predictor.classify if options.classify else predictor.extract)(texts, labels)
    for text, answer in zip(texts, answers, strict=True):
        print(json.dumps({"text": text, **answer.to_dict()}, ensure_ascii=False))


def _texts_to_predict(options: argparse.Namespace) -> Iterator[str]:
    if options.text and options.input:
        raise UserError("both TEXT and --input were given (give one of them)")
    if options.text:
        yield from options.text
        return
    if not options.input:
        raise UserError("there is no text (give TEXT before the labels or after a lone --, or --input FILE.jsonl)")
    if not options.input.is_file():
        raise UserError(f"{options.input}: no such file (--input takes a file with one JSON object a line)")
    with options.input.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                text = json.loads(line)["text"]
            except (ValueError, TypeError, KeyError):
                text = None
            if not isinstance(text, str):
                raise UserError(f'{options.input}:{number}: no text (each line is an object such as {{"text": "..."}})')
            yield text


def _export(options: argparse.Namespace) -> None:
    from seqgpt_jax.pipeline import export_run, export_run_adapter

    if options.adapter:
        if options.dtype != "float32":
            raise UserError(f"--dtype {options.dtype} does not go with --adapter (a LoRA is written in float32)")
        export_run_adapter(options.run_dir, options.out)
    else:
        export_run(options.run_dir, options.out, options.dtype, options.max_shard_size)
    print(f"wrote {options.out}")


def _import(options: argparse.Namespace) -> None:
    from seqgpt_jax import hf

    hf.import_model(options.source, options.out, dtype=options.dtype, max_shard_bytes=options.max_shard_size)
    print(f"wrote {options.out}")


def _trim(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.mixtures import resolve_mixture
    from seqgpt_jax.data.questions import training_texts
    from seqgpt_jax.predictor import model_directory
    from seqgpt_jax.trimming import trim

    def texts() -> Iterator[str]:
        for path in options.text or ():
            if not path.is_file():
                raise UserError(f"{path}: no such file (--text takes files of plain text)")
            with path.open(encoding="utf-8") as lines:
                yield from lines
        if options.mixture:
            yield from training_texts(resolve_mixture(options.mixture, None), "train", None)

    before, after = trim(model_directory(Path(options.model)), texts(), options.out, options.min_count)
    print(f"kept {after:,} of {before:,} tokens; wrote {options.out}")


def _generate(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.datasets import generated_records
    from seqgpt_jax.records import write_records

    options.out.parent.mkdir(parents=True, exist_ok=True)
    number = write_records(options.out, generated_records(options.mixture, options.num))
    print(f"wrote {number} records to {options.out}")


def _doctor(options: argparse.Namespace) -> int:
    from seqgpt_jax.doctor import examine

    worst = 0
    for finding in examine():
        print(finding, flush=True)
        worst = max(worst, EXIT_USER_ERROR if finding.status == "error" else 0)
    return worst


if __name__ == "__main__":
    sys.exit(main())
