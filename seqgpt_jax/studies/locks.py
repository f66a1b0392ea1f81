"""Locks on files (flock) that die with the last process that holds them; shared file systems honour them too."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from seqgpt_jax.errors import UserError


@contextlib.contextmanager
def study_lock(folder: Path, shared: bool) -> Iterator[None]:
    """The lock of a study's folder; UserError where it is taken.

    shared: for single cells, of which several may run in one folder, but none beside a whole study.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = take_lock(folder / "lock", shared)
    if lock is None:
        raise UserError(f"{folder}: a study runs here already (wait for it, or choose another --out)")
    try:
        yield
    finally:
        os.close(lock)


def take_lock(file: Path, shared: bool = False) -> int | None:
    """The descriptor that holds the lock until it, and each copy that a child was given, is closed; None if taken."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
