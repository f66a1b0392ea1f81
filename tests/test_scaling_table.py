"""benchmarks/scaling_table.py in its quick version: it fills the table of a page, and takes up plans that it kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_quick_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- table of benchmarks/scaling_table.py -->\nold\n<!-- end of the table -->\nafter\n", "utf-8"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "benchmarks/scaling_table.py", "--quick", "--into", str(page), "--keep", str(tmp_path)]
    for _ in range(2):  # the second time it compiles nothing
        done = subprocess.run(
            command, cwd=REPO, env={**environment, "PYTHONPATH": str(REPO)}, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-2000:]
        result = json.loads(done.stdout.splitlines()[-1])
        assert {"ratios", "figures", "settings", "device", "command"} == set(result)
        assert result["figures"]["bloom_nano@cpu:4"]["memory"]["total"] > 0
    lines = page.read_text("utf-8").splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert lines[4].startswith("| bloom_nano | cpu:4 | fsdp=4 |")
    assert "old" not in lines
