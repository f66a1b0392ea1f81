"""A model of any size for benchmarks that need no sense in its answers."""

from __future__ import annotations

from collections.abc import Sequence

VOCABULARY = 32_768  # ids of its tokenizer at most


def write_random_model(directory: str, preset: str, vocab_size: int | None, sources: Sequence[str]) -> int:
    """Writes random weights in a preset's shape as a Hugging Face directory; returns the ids of its tokenizer.

    The tokenizer is trained on the validation splits of `sources` (mixtures); the head has the preset's rows.
    """
    from flax import nnx

    from seqgpt_jax import hf
    from seqgpt_jax.data.mixtures import resolve_mixture
    from seqgpt_jax.data.questions import training_texts
    from seqgpt_jax.models.architectures import make_model
    from seqgpt_jax.models.presets import get_preset
    from seqgpt_jax.vocabulary import train_tokenizer

    datasets = [dataset for source in sources for dataset in resolve_mixture(source)]
    readable = [dataset for dataset in datasets if "validation" in dataset.splits]
    config = get_preset(preset, vocab_size)
    vocabulary = train_tokenizer(training_texts(readable, "validation", 300), min(VOCABULARY, config.vocab_size))
    hf.export_model(make_model(config, rngs=nnx.Rngs(0)), vocabulary, directory)
    return vocabulary.size
