"""Synthetic data: the built-in bilingual generator (grammar, content, records of all 11 tasks)."""

from seqgpt_jax.synthesis.generator import (
    dataset_names,
    families,
    fingerprint,
    generate,
    generate_mixture,
    generated_dataset_metas,
    mixture_datasets,
    record_meta,
)

__all__ = [
    "dataset_names",
    "families",
    "fingerprint",
    "generate",
    "generate_mixture",
    "generated_dataset_metas",
    "mixture_datasets",
    "record_meta",
]
