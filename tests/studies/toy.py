"""A study of four cells whose jobs are the stub's; `python -m tests.studies.toy DIR` runs it in a folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax import cli
from seqgpt_jax.studies import grid, jobs, runner

STUB = (sys.executable, "-S", str(Path(__file__).with_name("stub.py")))


def toy_config() -> dict[str, Any]:
    return {
        "title": "Toy",
        "recipe": "recipes/toy.gin",
        "seeds": [0, 1],
        "shared": {"stage1": {"recipe": "recipes/one.gin"}},
        "axes": [
            {
                "name": "size",
                "values": [
                    {"name": "nano", "gin": ["model.width=8"], "shared": {"stage1": ["model.width=8"]}},
                    {"name": "mini", "gin": ["model.width=16"], "shared": {"stage1": ["model.width=16"]}},
                ],
            },
            {
                "name": "stage 1",
                "values": [
                    {"name": "off"},
                    {"name": "on", "gin": ["START='{stage1}/export'"]},
                ],
            },
        ],
        "baseline": {"stage 1": "off"},
        "evaluation": {"mixture": "held_out", "limit": 40},
    }


def use_stub(patch: pytest.MonkeyPatch, config: dict[str, Any]) -> None:
    """The command then runs the stub's jobs of a config; no recipe is read."""
    patch.setattr(runner, "SEQGPT", STUB)
    patch.setattr(jobs._Jobs, "config", lambda self, recipe, bindings: f"{recipe} {bindings}")
    patch.setattr(grid, "load_config", lambda given: config)


def study(folder: Path, *options: str) -> int:
    return cli.main(["study", "toy.py", "--out", str(folder), *options])


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        use_stub(patch, toy_config())
        sys.exit(study(Path(sys.argv[1]), *sys.argv[2:]))
