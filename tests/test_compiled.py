"""Where compiled programs are kept, and when they are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from seqgpt_jax.compiled import OFF, keep_compiled
from seqgpt_jax.predictor import SeqGPT

NAMES = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
)


@pytest.fixture(autouse=True)
def as_a_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No cache yet, and nothing is left behind."""
    monkeypatch.delenv(OFF, raising=False)
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = {name: getattr(jax.config, name) for name in NAMES}
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()  # a test before this one may have had a folder
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_loading_a_model_keeps_programs_though_some_were_compiled_before(model_dir: Path, tmp_path: Path) -> None:
    jax.jit(lambda x: x + 1)(jnp.zeros(3)).block_until_ready()
    SeqGPT.from_pretrained(model_dir)
    folder = tmp_path / "cache" / "seqgpt_jax" / "compiled"
    assert jax.config.jax_compilation_cache_dir == str(folder)
    before = set(folder.glob("*-cache"))
    jax.jit(lambda x: x * 3 + 2)(jnp.zeros(5)).block_until_ready()  # takes less than the second that JAX asks for
    assert set(folder.glob("*-cache")) > before


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(OFF, "1")
    assert keep_compiled() is None
    monkeypatch.delenv(OFF)
    jax.config.update("jax_enable_compilation_cache", False)
    assert keep_compiled() is None
    jax.config.update("jax_enable_compilation_cache", True)
    assert jax.config.jax_compilation_cache_dir is None
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_a_folder_that_cannot_be_made_does_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None
