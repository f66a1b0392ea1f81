"""The built-in generator in SeqIO's registries: synthetic, mini_real, mini_held_out, by language and by task."""

from __future__ import annotations

from seqgpt_jax.data.mixtures import mixture_names
from seqgpt_jax.synthesis.generator import families
from tasks.mixtures import TaskSettings, register


def register_all(settings: TaskSettings) -> list[str]:
    """Registers every mixture of the generator and its tasks; returns the names of the mixtures."""
    names = [name for family in families() for name in mixture_names(family)]
    for name in names:
        register(name, settings=settings)
    return names
