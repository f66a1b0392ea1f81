"""`seqgpt data`: what each of its subcommands takes, and which room of data/ does the work."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from seqgpt_jax.cli_arguments import add_command, count
from seqgpt_jax.errors import UserError


def add_data_command(commands: Any) -> None:
    """Adds `data` and its subcommands to the `seqgpt` command."""
    summary = "look at, check and convert datasets"
    parser: argparse.ArgumentParser = commands.add_parser("data", help=summary, description=f"{summary.capitalize()}.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    roundtrip = add_command(
        commands, "roundtrip", _roundtrip, "send gold through the text format and back, and count what is lost",
        "seqgpt data roundtrip held_in_zh --split test --json losses.json",
    )  # fmt: skip
    roundtrip.add_argument(
        "mixture", metavar="MIXTURE", help="such as synthetic, held_in, held_in_en_ner, or one dataset"
    )
    roundtrip.add_argument("--split", choices=("train", "validation", "test"), help="default: all that may be read")
    roundtrip.add_argument("--limit", type=count, metavar="N", help="records a split, the same ones each time")
    roundtrip.add_argument("--json", type=Path, metavar="FILE.json", help="write all counts here too")

    add_command(
        commands, "validate", _validate, "print every fault of a dataset folder, with file and line",
        "seqgpt data validate my_dataset",
    )  # fmt: skip


def _roundtrip(options: argparse.Namespace) -> None:
    from seqgpt_jax.data.datasets import resolve_mixture
    from seqgpt_jax.data.roundtrip import round_trip, round_trip_json, round_trip_table

    results = round_trip(resolve_mixture(options.mixture), options.split, options.limit)
    print(round_trip_table(results))
    if options.json is not None:
        text = json.dumps(round_trip_json(results), indent=1, ensure_ascii=False)
        options.json.write_text(text + "\n", "utf-8")


def _validate(options: argparse.Namespace) -> None:
    raise UserError("not there yet")
