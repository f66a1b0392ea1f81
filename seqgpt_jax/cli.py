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

import absl.logging

from seqgpt_jax.cli_arguments import add_bindings, add_command, add_model, add_recipe, byte_size, count
from seqgpt_jax.cli_data import add_data_command
from seqgpt_jax.cli_eval import add_eval_commands
from seqgpt_jax.cli_predict import add_predict_command
from seqgpt_jax.cli_study import add_study_command
from seqgpt_jax.cli_train import add_finetune_command, add_train_command
from seqgpt_jax.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR, UserError
from seqgpt_jax.host_memory import keep_freed_memory


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

    add_train_command(commands)
    add_finetune_command(commands)

    plan = add_command(
        commands, "plan", _plan, "compile the train step for chips that are not there: memory, FLOPs, collectives",
        "seqgpt plan gin/recipes/quickstart.gin --topology v5e:2x2",
    )  # fmt: skip
    add_recipe(plan)
    add_bindings(plan)
    plan.add_argument("--topology", required=True, metavar="KIND:SHAPE", help="such as v5e:16x16, v5p:4x4x4 or cpu:8")
    plan.add_argument("--stage", metavar="NAME", help="the stage whose step it is (default: the first)")
    plan.add_argument("--json", action="store_true", help="print one JSON object")

    add_eval_commands(commands)
    add_study_command(commands)
    add_predict_command(commands)

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
    add_model(trim)
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


def _plan(options: argparse.Namespace) -> None:
    from seqgpt_jax.configuration import load_recipe
    from seqgpt_jax.training.ahead import make_plan
    from seqgpt_jax.training.ahead_report import plan_to_dict, plan_to_text
    from seqgpt_jax.training.chips import parse_topology

    topology = parse_topology(options.topology)
    plan = make_plan(load_recipe(options.recipe, options.gin), topology, options.stage)
    print(json.dumps(plan_to_dict(plan)) if options.json else plan_to_text(plan))


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
