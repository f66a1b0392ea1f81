"""Real datasets in SeqIO's registries: all of a data folder; held_in and held_out, by language and by task."""

from __future__ import annotations

from pathlib import Path

from seqgpt_jax.data.mixtures import PARTITIONS, known_sources, mixture_names
from tasks.mixtures import TaskSettings, add_tasks, register


def register_all(settings: TaskSettings, data_dir: Path | None = None) -> list[str]:
    """Registers every dataset of the folder (None: SEQGPT_DATA_DIR) and every mixture; returns the mixtures' names."""
    for dataset in known_sources(data_dir)["folder"]:
        add_tasks(dataset, settings)
    names = [name for partition in PARTITIONS for name in mixture_names(partition, data_dir)]
    for name in names:
        register(name, data_dir, settings=settings)
    return names
