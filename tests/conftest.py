"""Test set-up: eight virtual CPU devices, strict rank promotion, and where the shared data lies.

What one test has compiled serves all others, in whatever process they run, until the session ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

# Must stand before anything imports jax.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SEQGPT_NO_COMPILATION_CACHE", "1")
os.environ.setdefault("SEQGPT_TESTS_PID", str(os.getpid()))  # workers of pytest-xdist have their parent's
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", f"{tempfile.gettempdir()}/seqgpt-programs-{os.environ['SEQGPT_TESTS_PID']}"
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import pytest
from hypothesis import settings

jax.config.update("jax_numpy_rank_promotion", "raise")
settings.register_profile("seqgpt", deadline=None)
settings.load_profile("seqgpt")

REPO = Path(__file__).resolve().parent.parent
SHARED = REPO.parent / "shared"


def pytest_unconfigure() -> None:
    if os.environ["SEQGPT_TESTS_PID"] == str(os.getpid()):
        shutil.rmtree(f"{tempfile.gettempdir()}/seqgpt-programs-{os.getpid()}", ignore_errors=True)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real datasets; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("SEQGPT_DATA_DIR", SHARED / "data")).resolve()  # tests change the working directory
    if not (folder / "partitions.json").is_file():
        pytest.skip(f"real datasets not found at {folder}; set SEQGPT_DATA_DIR to a folder of records")
    return folder


@pytest.fixture(scope="session")
def golden_file() -> Path:
    """Golden prompts and targets of seqgpt_v1, one JSON object a line."""
    path = SHARED / "seqgpt_v1_examples.jsonl"
    if not path.is_file():
        pytest.skip(f"golden prompts not found at {path}")
    return path


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face directory of a tiny model with random weights and a tokenizer of its own."""
    from flax import nnx

    from seqgpt_jax.hf import export_model
    from seqgpt_jax.models.bloom import Bloom, BloomConfig
    from seqgpt_jax.synthesis.generator import generate_mixture
    from seqgpt_jax.vocabulary import train_tokenizer

    vocabulary = train_tokenizer((record.text for record in generate_mixture("synthetic", 300)), 600)
    config = BloomConfig(vocab_size=vocabulary.size, num_layers=2, width=32, num_heads=2)
    return export_model(Bloom(config, rngs=nnx.Rngs(0)), vocabulary, tmp_path_factory.mktemp("model") / "tiny")
