"""`seqgpt data`: what each of its subcommands takes, and which room of data/ does the work."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from seqgpt_jax.cli_arguments import EXIT_USER_ERROR, add_command, count
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import LANGUAGES, TASKS


def add_data_command(commands: Any) -> None:
    """Adds `data` and its subcommands to the `seqgpt` command."""
    summary = "look at, check and convert datasets"
    parser: argparse.ArgumentParser = commands.add_parser("data", help=summary, description=f"{summary.capitalize()}.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    convert = add_command(
        commands, "convert", _convert, "make a dataset folder of files of other tools, or those of a dataset folder",
        "seqgpt data convert --from doccano exported.jsonl my_dataset --task SF",
    )  # fmt: skip
    _add_convert(convert)

    validate = add_command(
        commands, "validate", _validate, "print every fault of a dataset folder, with file and line",
        "seqgpt data validate my_dataset",
    )  # fmt: skip
    validate.add_argument("folder", type=Path, metavar="FOLDER", help="a folder with meta.json, or a tree of them")


def _add_convert(convert: argparse.ArgumentParser) -> None:
    formats = "conll, bio-json, doccano, labelstudio, csv or brat"
    convert.add_argument("source", type=Path, metavar="IN", help="a file; or a folder with train, dev and test files")
    convert.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    convert.add_argument(
        "--from", dest="source_format", metavar="FORMAT", help=f"{formats}, or records (default: found out)"
    )
    convert.add_argument(
        "--to", dest="out_format", default="records", metavar="FORMAT",
        help="records (default), doccano, labelstudio or brat",
    )  # fmt: skip

    dataset = convert.add_argument_group("the dataset that is made")
    dataset.add_argument("--name", help="default: the name of OUT")
    dataset.add_argument("--task", choices=TASKS, help="default: NER, RE, EE, CLS or NLI, by what there is")
    dataset.add_argument("--language", choices=LANGUAGES, help="default: that of the script")
    dataset.add_argument("--labels", nargs="+", metavar="LABEL", help="all of them (default: those that occur)")
    dataset.add_argument("--split", choices=("train", "validation", "test"), help="default: by file name, else train")
    dataset.add_argument(
        "--split_by", type=_shares, metavar="0.8,0.1,0.1", help="shares of train, validation and test of one file"
    )

    file = convert.add_argument_group("what a file does not say of itself")
    file.add_argument(
        "--offsets",
        choices=("code_points", "utf16", "graphemes"),
        help="what offsets count, where it matters",
    )
    file.add_argument("--token_column", type=count, metavar="N", help="conll: the token's column (default: 1)")
    file.add_argument("--tag_column", type=count, metavar="N", help="conll: the tag's column (default: the last)")
    file.add_argument("--text_column", metavar="NAME|N", help="csv: the text's column; labelstudio: its field of data")
    file.add_argument("--label_column", metavar="NAME|N", help="csv: the label's column; labelstudio: the choices")
    file.add_argument("--pair_column", metavar="NAME|N", help="csv: the second text's column")
    file.add_argument("--question_column", metavar="NAME|N", help="csv: the question's column")
    file.add_argument("--target_column", metavar="NAME|N", help="csv: the column of what is asked about")
    file.add_argument("--separator", metavar="STRING", help="csv: what stands between several labels in a cell")
    file.add_argument("--quotes", choices=("none",), help="csv: quotation marks are characters like others")
    file.add_argument(
        "--discontinuous", choices=("pieces",), help="brat: a span in pieces gives several (default: it is refused)"
    )


def _convert(options: argparse.Namespace) -> None:
    from dataclasses import fields

    from seqgpt_jax.data.convert import Description, from_records, to_records
    from seqgpt_jax.data.importers.documents import ReadOptions

    given = {name: value for name, value in vars(options).items() if value is not None}
    described = {field.name: given[field.name] for field in fields(Description) if field.name in given}
    if "labels" in described:
        described["labels"] = tuple(described["labels"])
    # the language is the dataset's; whoever reads a file is told it then
    reading = {f.name: given[f.name] for f in fields(ReadOptions) if f.name in given and f.name != "language"}
    source_format, out_format = options.source_format, options.out_format
    if out_format != "records":
        if source_format not in (None, "records"):
            raise UserError("--from and --to are both of other tools (convert to records first, and those then)")
        if described:
            raise UserError(f"--{next(iter(described))} is said of records that are made (leave it out with --to)")
        done = from_records(options.source, options.out, out_format, ReadOptions(**reading))
        print(f"{done}; wrote {options.out}")
        return
    if source_format == "records":
        raise UserError("records are to be made of records (give --to doccano, labelstudio or brat)")
    done = to_records(options.source, options.out, source_format, Description(**described), ReadOptions(**reading))
    if done.notes.counts:
        print(done.notes, file=sys.stderr)
    print(f"{done}; wrote {options.out}")


def _shares(text: str) -> tuple[float, ...]:
    """ "0.8,0.1,0.1" -> (0.8, 0.1, 0.1)"""
    try:
        values = tuple(map(float, text.split(",")))
    except ValueError:
        values = ()
    if len(values) != 3 or min(values) < 0 or not 0 < sum(values) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not three shares such as 0.8,0.1,0.1")
    return values


def _validate(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seqgpt_jax.data.validate import Validation

    validation = Validation(options.folder)
    for finding in validation:
        tqdm.write(str(finding))  # keeps clear of the progress bar
    print(validation.summary())
    return EXIT_USER_ERROR if validation.faults else 0
