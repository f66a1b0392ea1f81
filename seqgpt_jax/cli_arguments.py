"""What the `seqgpt` command and its parts share: how a subcommand is declared, and types of arguments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_command(commands: Any, name: str, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE.gin", help="a gin file, such as gin/recipes/quickstart.gin")


def add_bindings(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="'name=value'",
        help="a binding that overrides the file; repeatable",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", required=True, metavar="PATH", help="a run directory, a Hugging Face directory, or a hub id"
    )


def byte_size(text: str) -> int:
    """ "5GB" -> 5_000_000_000, as the hub counts."""
    number, unit = text[:-2], text[-2:].upper()
    scale = {"KB": 10**3, "MB": 10**6, "GB": 10**9}.get(unit)
    if scale is None or not number.strip().isdecimal() or int(number) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 500MB or 5GB")
    return int(number) * scale


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def folder(text: str) -> Path:
    """A path; an address such as gs://bucket/run is none, and would become a folder of that name here."""
    if "://" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no path (results need a file system: give one that is mounted, such as a shared disk)"
        )
    return Path(text)


def positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share between 0 and 1, such as 0.1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
