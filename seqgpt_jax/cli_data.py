"""`seqgpt data`: what each of its subcommands takes, and which room of data/ does the work."""

from __future__ import annotations

import argparse
from typing import Any

from seqgpt_jax.cli_arguments import add_command
from seqgpt_jax.errors import UserError


def add_data_command(commands: Any) -> None:
    """Adds `data` and its subcommands to the `seqgpt` command."""
    summary = "look at, check and convert datasets"
    parser: argparse.ArgumentParser = commands.add_parser("data", help=summary, description=f"{summary.capitalize()}.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    add_command(
        commands, "validate", _validate, "print every fault of a dataset folder, with file and line",
        "seqgpt data validate my_dataset",
    )  # fmt: skip


def _validate(options: argparse.Namespace) -> None:
    raise UserError("not there yet")
