"""Real datasets in SeqIO's registries: held_in and held_out of a data folder, by language and by task."""

from __future__ import annotations

from pathlib import Path

from seqgpt_jax.data.mixtures import PARTITIONS, mixture_names
from tasks.mixtures import TaskSettings, register


def register_all(settings: TaskSettings, data_dir: Path | None = None) -> list[str]:
    """Registers every mixture of the folder (None: SEQGPT_DATA_DIR) and its tasks; returns the mixtures' names."""
    names = [name for partition in PARTITIONS for name in mixture_names(partition, data_dir)]
    for name in names:
        register(name, data_dir, settings=settings)
    return names
