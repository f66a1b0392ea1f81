"""What every benchmark does alike: its flags, its child processes, and the JSON object on its last line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
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


def run_child(job: Any, name: str, **environment: str) -> dict[str, Any]:
    """What `answer_child` prints in a process of its own, on the CPU alone, which is told the job (a dataclass).

    Ends this process where the user's input was wrong, or the child died.
    """
    script = sys.modules["__main__"].__file__
    assert script is not None
    command = [sys.executable, script, "--child", json.dumps(dataclasses.asdict(job))]
    variables = {**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", **environment}
    child = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=variables)
    if child.returncode == 2:
        sys.exit(2)
    if child.returncode:
        sys.exit(f"{name} ended with {child.returncode} (-9: more memory than there is)")
    return json.loads(child.stdout.splitlines()[-1])


def answer_child(run: Callable[[], dict[str, Any]]) -> None:
    """The other end of `run_child`: prints what run gives, or the user's error."""
    from seqgpt_jax.errors import UserError

    try:
        result = run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(json.dumps(result))


def machine() -> str:
    """x86_64 Linux, 2 cores of Some CPU, Python 3.11.4"""
    return f"{platform.machine()} {platform.system()}, {_cpu()}Python {platform.python_version()}"


def _cpu() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} cores of {models[0]}, " if models else ""
