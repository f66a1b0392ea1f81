"""SeqGPT in JAX: one decoder model for open-domain understanding of English and Chinese text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqgpt_jax.predictor import SeqGPT

__all__ = ["SeqGPT"]


def __getattr__(name: str) -> object:
    """`from seqgpt_jax import SeqGPT` loads jax; importing a module that needs no jax does not."""
    if name == "SeqGPT":
        from seqgpt_jax.predictor import SeqGPT

        return SeqGPT
    raise AttributeError(f"module 'seqgpt_jax' has no attribute '{name}'")
