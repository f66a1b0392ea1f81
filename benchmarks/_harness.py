"""What every benchmark does alike: its flags, and the JSON object on its last line (also in the file of --json)."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def make_parser(description: str | None, quick: str) -> argparse.ArgumentParser:
    """A parser with --json and --quick; the first line of the description is its help."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the JSON object to this file")
    parser.add_argument("--quick", action="store_true", help=quick)
    return parser


def finish(
    options: argparse.Namespace,
    *,
    ratios: Mapping[str, float],
    figures: Mapping[str, Any],
    settings: Mapping[str, Any],
    device: str,
) -> None:
    """Prints the result as one JSON object. ratios: ours over theirs, above 1 is better."""
    result = {
        "ratios": dict(ratios),
        "figures": dict(figures),
        "settings": dict(settings),
        "device": device,
        "command": shlex.join(["python", *sys.argv]),
    }
    line = json.dumps(result)
    if options.json:
        options.json.write_text(line + "\n", encoding="utf-8")
    print(line)


def machine() -> str:
    """x86_64 Linux, 2 cores of Some CPU, Python 3.11.4"""
    return f"{platform.machine()} {platform.system()}, {_cpu()}Python {platform.python_version()}"


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} cores of {models[0]}, " if models else ""
