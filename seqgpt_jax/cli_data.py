"""`seqgpt data`: what each of its subcommands takes, and which room of data/ does the work."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from seqgpt_jax.cli_arguments import EXIT_USER_ERROR, add_command


def add_data_command(commands: Any) -> None:
    """Adds `data` and its subcommands to the `seqgpt` command."""
    summary = "look at, check and convert datasets"
    parser: argparse.ArgumentParser = commands.add_parser("data", help=summary, description=f"{summary.capitalize()}.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    validate = add_command(
        commands, "validate", _validate, "print every fault of a dataset folder, with file and line",
        "seqgpt data validate my_dataset",
    )  # fmt: skip
    validate.add_argument("folder", type=Path, metavar="FOLDER", help="a folder with meta.json, or a tree of them")


def _validate(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from seqgpt_jax.data.validate import Validation

    validation = Validation(options.folder)
    for finding in validation:
        tqdm.write(str(finding))  # keeps clear of the progress bar
    print(validation.summary())
    return EXIT_USER_ERROR if validation.faults else 0
