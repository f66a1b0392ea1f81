"""Which code a run was trained with: the package's version, and the commit where it runs from a checkout."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path


def code_version() -> dict[str, str | bool]:
    """Returns {"version": "0.1.0"}, in a git checkout also "commit" and "dirty" (tracked files were changed)."""
    try:
        found: dict[str, str | bool] = {"version": metadata.version("seqgpt_jax")}
    except metadata.PackageNotFoundError:  # a checkout on the path that is not installed
        found = {"version": "unknown"}
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / ".git").exists():
        try:
            found["commit"] = _git(checkout, "rev-parse", "HEAD")
            found["dirty"] = bool(_git(checkout, "status", "--porcelain", "--untracked-files=no"))
        except (OSError, subprocess.SubprocessError):
            pass  # no git, or a repository without a commit: the version alone
    return found


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
