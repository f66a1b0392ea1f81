"""Every attention backend against softmax written out in float64; the kernels run interpreted, on tiny shapes."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from seqgpt_jax.errors import UserError
from seqgpt_jax.models import attention, flash
from seqgpt_jax.models.attention import BACKENDS, KERNELS, TokenLayout, alibi_slopes, attend
from seqgpt_jax.training.partitioning import make_mesh

HERE = [*BACKENDS, "splash", "flash"]  # cuDNN cannot be interpreted


@pytest.fixture(autouse=True)
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "INTERPRET", True)
    monkeypatch.setattr(attention, "_QUERY_BLOCK", 4)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 4, 6, 8, 12, 14, 16, 32, 112])
def test_slopes_equal_transformers(num_heads: int) -> None:
    alibi = build_alibi_tensor(torch.ones(1, 2), num_heads, torch.float32)
    np.testing.assert_allclose(alibi_slopes(num_heads), alibi[:, 0, 1].numpy(), rtol=1e-6)


def _packed(heads: int, kv_heads: int, length: int = 11, seed: int = 0) -> tuple[list[np.ndarray], TokenLayout]:
    """Query, key, value of two rows: two documents and padding at the end; one document after padding."""
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal((2, length, num, 8)).astype(np.float32) for num in (heads, kv_heads, kv_heads)]
    segments = np.asarray([[1] * 4 + [2] * (length - 6) + [0] * 2, [0] * 3 + [1] * (length - 3)], np.int32)
    positions = np.asarray([[*range(4), *range(length - 6), 0, 0], [0, 0, 0, *range(length - 3)]], np.int32)
    return arrays, TokenLayout(segments, segments, positions, np.arange(length, dtype=np.int32)[None])


def _written_out(arrays: list[np.ndarray], layout: TokenLayout, slopes: np.ndarray | None) -> np.ndarray:
    """Softmax over the visible keys of q.k/sqrt(H) - slope * distance, one query at a time; padding queries give 0."""
    query, key, value = (array.astype(np.float64) for array in arrays)
    segments, positions = layout.key_segments_BK, layout.key_positions_BK
    attended = np.zeros_like(query)
    for b, t, n in np.ndindex(query.shape[:3]):
        g = n // (query.shape[2] // key.shape[2])
        seen = [k for k in range(t + 1) if segments[b, k] == segments[b, t] != 0]
        if seen:
            scores = key[b, seen, g] @ query[b, t, n] / np.sqrt(query.shape[-1])
            if slopes is not None:
                scores = scores - slopes[n] * (positions[b, t] - positions[b, seen])
            weights = np.exp(scores - scores.max())
            attended[b, t, n] = weights @ value[b, seen, g] / weights.sum()
    return attended


@pytest.mark.parametrize("backend", HERE)
@pytest.mark.parametrize(("heads", "kv_heads", "alibi"), [(3, 3, True), (4, 2, True), (4, 1, False)])
def test_attention_equals_the_paper_written_out(backend: str, heads: int, kv_heads: int, alibi: bool) -> None:
    arrays, layout = _packed(heads, kv_heads)
    slopes = alibi_slopes(heads) if alibi else None
    found = np.asarray(jax.jit(lambda *arrays: attend(*arrays, layout, slopes, backend))(*arrays))
    real = layout.key_segments_BK != 0
    np.testing.assert_allclose(found[real], _written_out(arrays, layout, slopes)[real], atol=2e-6)
    assert np.isfinite(found).all()  # the padding too


@pytest.mark.parametrize("backend", [name for name in HERE if name != "reference"])
def test_gradients_equal_those_of_the_formula(backend: str) -> None:
    arrays, layout = _packed(4, 2)
    real_BT11 = (layout.key_segments_BK != 0)[..., None, None]

    def gradients(backend: str) -> list[jax.Array]:
        def total(*arrays: jax.Array) -> jax.Array:
            attended = attend(*arrays, layout, alibi_slopes(4), backend)
            return jnp.sum(jnp.where(real_BT11, jnp.sin(3 * attended), 0.0))

        return jax.jit(jax.grad(total, (0, 1, 2)))(*arrays)

    for found, expected in zip(gradients(backend), gradients("reference"), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("backend", HERE)
def test_a_document_does_not_leak_into_its_neighbours(backend: str) -> None:
    """Outputs of the others, and their gradients, stay equal to the bit when one document changes."""
    arrays, layout = _packed(2, 2)
    changed = [array.copy() for array in arrays]
    for array in changed:
        array[0, :4] += 1

    @jax.jit
    def run(*arrays: jax.Array) -> tuple[jax.Array, ...]:
        attended, pull = jax.vjp(lambda *arrays: attend(*arrays, layout, alibi_slopes(2), backend), *arrays)
        return attended, *pull(jnp.ones_like(attended))

    for before, after in zip(run(*arrays), run(*changed), strict=True):
        np.testing.assert_array_equal(before[0, 4:9], after[0, 4:9])
        np.testing.assert_array_equal(before[1, 3:], after[1, 3:])
        assert np.isfinite(after).all()
    assert (np.asarray(run(*arrays)[0])[0, :4] != np.asarray(run(*changed)[0])[0, :4]).any(axis=(-1, -2)).all()


@pytest.mark.parametrize("backend", HERE)
def test_equal_positions_are_ordered_by_slot(backend: str) -> None:
    """Two branches of a label trie share a depth: neither sees a later slot."""
    rng = np.random.default_rng(1)
    query, key, value = rng.standard_normal((3, 1, 4, 1, 4)).astype(np.float32)
    segments, positions = np.ones((1, 4), np.int32), np.asarray([[0, 1, 1, 2]], np.int32)
    layout = TokenLayout(segments, segments, positions, np.arange(4, dtype=np.int32)[None])
    run = jax.jit(lambda value: attend(query, key, value, layout, alibi_slopes(1), backend))
    before = np.asarray(run(value))
    value[0, 2] += 1
    after = np.asarray(run(value))
    np.testing.assert_array_equal(before[0, :2], after[0, :2])
    assert (before[0, 2:] != after[0, 2:]).all()


@pytest.mark.parametrize(("num_heads", "scale"), [(8, 1.0), (16, 64**-0.5), (12, 128**-0.5), (14, 80**-0.5)])
def test_folded_alibi_is_slope_times_position(num_heads: int, scale: float) -> None:
    """The extra products, added up in float64, for every position of a long row; also past 4,096, in bfloat16."""
    slopes = alibi_slopes(num_heads)
    for dtype, length, tolerance in (
        ("float32", 4096, 2.0**-22),
        ("bfloat16", 4096, 2.0**-16),
        ("bfloat16", 9000, 2.0**-16),
    ):
        nothing = jnp.zeros((1, length, num_heads, 0), dtype)
        query, key = flash.fold_alibi(nothing, nothing, jnp.arange(length)[None], slopes, scale)
        assert query.shape[-1] <= flash.num_extra_dims(query.dtype, length, slopes)
        added = scale * np.einsum("NE,TNE->NT", np.asarray(query, np.float64)[0, 0], np.asarray(key, np.float64)[0])
        np.testing.assert_allclose(added, np.outer(slopes.astype(np.float64), np.arange(length)), rtol=tolerance)
    digits = np.asarray(flash.fold_alibi(nothing, nothing, jnp.arange(length)[None], slopes)[1], np.float64)
    num_parts = digits.shape[-1] // 3
    np.testing.assert_array_equal(digits[0, :, 0].sum(-1), num_parts * np.arange(length))  # exact to the bit


def test_slopes_that_are_powers_of_two_take_two_dims() -> None:
    nothing = jnp.zeros((1, 300, 8, 0), jnp.bfloat16)
    query, key = flash.fold_alibi(nothing, nothing, jnp.arange(300)[None], alibi_slopes(8))
    np.testing.assert_array_equal(np.asarray(query[0, 0, 0], np.float32), [0.5, 0.5])
    np.testing.assert_array_equal(np.asarray(key[0, 299, 0], np.float32), [288, 11])


@pytest.mark.parametrize("backend", ["blocks", "splash", "flash"])
def test_bfloat16_kernels_are_as_close_as_the_formula(backend: str) -> None:
    arrays, layout = _packed(6, 6, length=150)
    exact = _written_out(arrays, layout, alibi_slopes(6))
    halves = [jnp.asarray(array, jnp.bfloat16) for array in arrays]
    real = layout.key_segments_BK != 0

    def error(backend: str) -> float:
        attended = jax.jit(lambda *halves: attend(*halves, layout, alibi_slopes(6), backend))(*halves)
        assert attended.dtype == jnp.bfloat16
        return float(np.abs(np.asarray(attended, np.float64) - exact)[real].max())

    assert error(backend) < 1.5 * error("reference") < 0.05


@pytest.mark.parametrize("backend", ["splash", "flash"])
def test_kernels_run_on_each_device_of_a_mesh(backend: str) -> None:
    mesh = make_mesh(1, 2, 2, jax.devices()[:4])
    arrays, layout = _packed(4, 2)

    def total(*arrays: jax.Array) -> jax.Array:
        return jnp.square(attend(*arrays, layout, alibi_slopes(4), backend)[:, 3:9]).sum()

    def on_mesh(*arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.value_and_grad(total)(*arrays)

    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "fsdp"), None, "tensor"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    run = jax.jit(on_mesh, in_shardings=(place,) * 3, out_shardings=(whole, place))
    (found, slope), (expected, expected_slope) = run(*arrays), jax.jit(jax.value_and_grad(total))(*arrays)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-5)
    assert "all-gather" not in run.lower(*arrays).compile().as_text()


@pytest.mark.parametrize("backend", ["reference", "blocks", "xla"])
def test_some_queries_of_a_row_equal_those_of_all(backend: str) -> None:
    """What a cached step asks, each row for slots of its own."""
    arrays, layout = _packed(4, 2)
    slots = np.asarray([[9, 3, 5], [0, 10, 4]], np.int32)
    some = layout._replace(query_segments_BT=np.take_along_axis(layout.key_segments_BK, slots, 1), query_slots_BT=slots)
    queries = np.take_along_axis(arrays[0], slots[..., None, None], 1)
    found = attend(queries, *arrays[1:], some, alibi_slopes(4), backend)
    expected = np.take_along_axis(_written_out(arrays, layout, alibi_slopes(4)), slots[..., None, None], 1)
    real = some.query_segments_BT != 0
    np.testing.assert_allclose(np.asarray(found)[real], expected[real], atol=2e-6)


def _fails(match: str, call: Callable[[], object]) -> None:
    with pytest.raises(UserError, match=match):
        call()


def test_user_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, layout = _packed(2, 2)
    slopes = alibi_slopes(2)
    _fails(
        "'fast' is unknown .*blocks, xla, splash, flash",
        lambda: attend(*arrays, layout, slopes, "fast"),
    )
    cached = layout._replace(query_segments_BT=layout.query_segments_BT[:, -1:], query_slots_BT=np.full((2, 1), 10))
    for backend in KERNELS:
        _fails("whole rows alone", lambda: attend(arrays[0][:, -1:], *arrays[1:], cached, slopes, backend))  # noqa: B023
    _fails("bfloat16 and float16 alone, not float32 .choose flash", lambda: attend(*arrays, layout, slopes, "cudnn"))
    halves = [jnp.asarray(array, jnp.bfloat16) for array in arrays]
    _fails("even length alone, not 11", lambda: attend(*halves, layout, slopes, "cudnn"))
    wide = jnp.zeros((1, 4, 2, 128), jnp.bfloat16)
    assert flash.cudnn_refuses(wide, None) is None
    assert flash.cudnn_refuses(wide, slopes) == "takes head dimensions up to 128 on this GPU, not 132"
    monkeypatch.setattr(flash, "INTERPRET", False)
    _fails("runs on a TPU, and this is a CPU", lambda: attend(*arrays, layout, slopes, "splash"))
    _fails("runs on a GPU, and this is a CPU", lambda: attend(*arrays, layout, slopes, "flash"))


@pytest.mark.parametrize(
    ("platform", "length", "dtype", "expected"),
    [
        ("tpu", 2048, "bfloat16", "splash"),
        ("tpu", 128, "bfloat16", "xla"),
        ("gpu", 2048, "bfloat16", "cudnn"),
        ("gpu", 2048, "float32", "xla"),
        ("cpu", 2048, "float32", "blocks"),
    ],
)
def test_auto_takes_what_the_device_has(
    platform: str, length: int, dtype: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash, "platform", lambda: platform)
    monkeypatch.setitem(BACKENDS if expected in BACKENDS else KERNELS, expected, lambda *_: "taken")
    segments = np.ones((1, length), np.int32)
    layout = TokenLayout(segments, segments, segments, np.arange(length, dtype=np.int32)[None])
    array = jnp.zeros((1, length, 2, 64), dtype)
    with jax.sharding.use_abstract_mesh(make_mesh().abstract_mesh):
        assert attend(array, array, array, layout, alibi_slopes(2)) == "taken"
    cached = layout._replace(query_segments_BT=segments.copy())
    plain = "blocks" if platform == "cpu" else "xla"
    monkeypatch.setitem(BACKENDS, plain, lambda *_: "plain")
    assert attend(array, array, array, cached, alibi_slopes(2)) == "plain"
