"""Compiled programs are kept from one process to the next (JAX's persistent compilation cache).

A first answer needs programs that take seconds to compile. The next process finds them in the user's cache folder, by
a key that JAX makes of the program, its own version, the flags and the device.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

OFF = "SEQGPT_NO_COMPILATION_CACHE"
_MAX_BYTES = 2**30  # what was used longest ago goes first


def keep_compiled() -> Path | None:
    """From now on programs are kept in $XDG_CACHE_HOME/seqgpt_jax, or ~/.cache/seqgpt_jax; returns the folder.

    None, and nothing changes, where the user chose already (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE or
    jax.config), where SEQGPT_NO_COMPILATION_CACHE is set, and where no such folder can be written to.
    """
    config: Any = jax.config
    if os.environ.get(OFF) or config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return None
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "seqgpt_jax" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in (
        ("jax_persistent_cache_min_compile_time_secs", 0.0),
        ("jax_compilation_cache_max_size", _MAX_BYTES),
    ):
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX looks for a folder once, when it first compiles
    return folder
