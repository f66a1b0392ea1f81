"""The Beam form of the cache build: the bytes of the local build, and its errors, from two worker processes."""

from __future__ import annotations

import gzip
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.data.cache import CacheSpec, ensure_cache
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.questions import training_texts
from seqgpt_jax.data.task_cache import SHARD_RECORDS
from seqgpt_jax.vocabulary import train_tokenizer
from tests.conftest import REPO
from tests.tiny_data import write_data

pytestmark = [
    pytest.mark.slow,  # each starts TensorFlow in four processes
    pytest.mark.skipif(
        importlib.util.find_spec("apache_beam") is None,
        reason="Apache Beam is not installed (pip install 'seqgpt_jax[beam]')",
    ),
]

TWO_WORKERS = ("--runner=DirectRunner", "--direct_num_workers=2", "--direct_running_mode=multi_processing")
BUILD = """
import sys
from pathlib import Path
from seqgpt_jax.data.cache import CacheSpec
from tasks.beam import build_with_beam
print(build_with_beam(CacheSpec.from_json(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
"""


def make_spec(folder: Path, mixture: str, sizes: dict[str, int], **settings: Any) -> CacheSpec:
    root = write_data(folder / "data", sizes)
    texts = training_texts(resolve_mixture("held_in", root), "train", 20)
    train_tokenizer(texts, 600).save(folder / "tokenizer")
    return CacheSpec(mixture, str(folder / "tokenizer"), data_dir=str(root), **settings)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(REPO), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, cwd=REPO)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_same_bytes(spec: CacheSpec, folder: Path, num_tasks: int) -> list[str]:
    """Builds in both ways; returns the files that there are."""
    built = run("-c", BUILD, spec.to_json(), str(folder / "beam"), *TWO_WORKERS)
    assert built.returncode == 0, built.stderr[-3_000:]
    assert built.stdout.split()[-1] == str(num_tasks)
    ensure_cache(spec, folder / "local", num_processes=1, progress=False)
    local, with_beam = contents(folder / "local"), contents(folder / "beam")
    assert with_beam == local
    return list(local)


def test_two_workers_give_the_bytes_of_the_local_build(tmp_path: Path) -> None:
    sizes = {"train": 150, "validation": 20, "test": 20}
    spec = make_spec(tmp_path, "held_in", sizes, max_tokens=200, passes=2, seed=1)
    files = check_same_bytes(spec, tmp_path, 8)
    assert sum(file.endswith("meta.json") for file in files) == 8
    again = run("-c", BUILD, spec.to_json(), str(tmp_path / "beam"), *TWO_WORKERS)
    assert again.stdout.split()[-1] == "0", "what is there is not built again"


def test_a_task_of_several_shards_is_shared_by_the_workers(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, "tiny_ner", {"train": 2 * SHARD_RECORDS + 5}, drop_leaks=False)
    files = check_same_bytes(spec, tmp_path, 1)
    assert sum(file.endswith(".array_record") for file in files) == 3


def test_a_wrong_record_is_one_line_from_the_command(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data", {"train": 30})
    file = root / "zh" / "tiny_re" / "train.jsonl.gz"
    lines = gzip.decompress(file.read_bytes()).decode().splitlines()
    bindings = [
        "synthetic/stage.mixture='tiny_topics'", "real/stage.mixture='tiny_ner'", "tokenizer.vocab_size=600",
        f"data.data_dir='{root}'", f"data.cache_dir='{tmp_path}/cache'", "data.drop_leaks=False",
    ]  # fmt: skip
    options = [word for binding in bindings for word in ("--gin", binding)]
    command = ["-m", "tasks.beam", str(REPO / "gin/recipes/real.gin"), "--run_dir", str(tmp_path / "run"), *options]
    built = run(*command, *TWO_WORKERS)
    assert built.returncode == 0 and "real: built the token caches of 1 tasks" in built.stdout, built.stderr[-3_000:]

    file.write_bytes(gzip.compress("\n".join([*lines[:20], "{", *lines[21:]]).encode()))
    command[command.index("real/stage.mixture='tiny_ner'")] = "real/stage.mixture='tiny_re'"
    failed = run(*command, *TWO_WORKERS)
    assert failed.returncode == 2, failed.stderr[-3_000:]
    assert f"tasks.beam: error: {file}:21: not JSON" in failed.stderr
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.startswith((".", "tiny_re"))]
