from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]


def test_benchmark_prints_its_figures(tmp_path: Path) -> None:
    """At least 5,000 records a second; a busy machine gets half of it."""
    script = REPO / "benchmarks" / "generator_speed.py"
    command = [sys.executable, str(script), "--quick", "--json", str(tmp_path / "speed.json")]
    environment = os.environ | {"PYTHONPATH": str(REPO)}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    result = json.loads(shown.splitlines()[-1])
    assert json.loads((tmp_path / "speed.json").read_text()) == result
    assert set(result) == {"ratios", "figures", "settings", "device", "command"}
    assert result["figures"]["records_per_s"] >= 2_500
