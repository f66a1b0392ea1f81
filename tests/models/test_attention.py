"""ALiBi slopes against transformers, and that the bias is relative although it counts from the segment's start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from seqgpt_jax.models.attention import BACKENDS, TokenLayout, alibi_slopes, attend


@pytest.mark.parametrize("num_heads", [1, 2, 3, 4, 6, 8, 12, 14, 16, 32, 112])
def test_slopes_equal_transformers(num_heads: int) -> None:
    alibi = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)
    np.testing.assert_allclose(alibi_slopes(num_heads), alibi[:, 0, 1].numpy(), rtol=1e-6)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_attention_equals_the_paper_written_out(backend: str) -> None:
    """Softmax over the visible keys of q.k/sqrt(H) - slope * distance, in float64, one query at a time."""
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 1, 7, 2, 4)).astype(np.float32)
    segments = np.asarray([[1, 1, 1, 2, 2, 2, 0]], np.int32)
    positions = np.asarray([[0, 1, 2, 0, 1, 2, 0]], np.int32)
    layout = TokenLayout(segments, segments, positions, np.arange(7, dtype=np.int32)[None])
    slopes = alibi_slopes(2)
    found = np.asarray(attend(query, key, value, layout, slopes, backend))
    for t in range(6):
        for n in range(2):
            seen = [k for k in range(t + 1) if segments[0, k] == segments[0, t]]
            scores = np.array(
                [query[0, t, n].astype(np.float64) @ key[0, k, n] / 2 - slopes[n] * (t - k) for k in seen]
            )
            weights = np.exp(scores - scores.max())
            expected = weights @ value[0, seen, n] / weights.sum()
            np.testing.assert_allclose(found[0, t, n], expected, atol=1e-6)
    assert np.isfinite(found).all()  # the padding too


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_equal_positions_are_ordered_by_slot(backend: str) -> None:
    """Two branches of a label trie share a depth: neither sees a later slot."""
    rng = np.random.default_rng(1)
    query, key, value = rng.standard_normal((3, 1, 4, 1, 4)).astype(np.float32)
    segments, positions = np.ones((1, 4), np.int32), np.asarray([[0, 1, 1, 2]], np.int32)
    layout = TokenLayout(segments, segments, positions, np.arange(4, dtype=np.int32)[None])
    before = np.asarray(attend(query, key, value, layout, alibi_slopes(1), backend))
    value[0, 2] += 1
    after = np.asarray(attend(query, key, value, layout, alibi_slopes(1), backend))
    np.testing.assert_array_equal(before[0, :2], after[0, :2])
    assert (before[0, 2:] != after[0, 2:]).all()
