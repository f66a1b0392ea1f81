"""The decoder against transformers' BloomForCausalLM, and against itself with a cache, packed, rematerialised."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from flax.core.spmd import logical_axis_rules

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.attention import BACKENDS
from seqgpt_jax.models.bloom import Bloom, BloomConfig
from seqgpt_jax.models.decoder import NewCache, init_cache
from seqgpt_jax.models.presets import PRESETS, get_preset
from tests.models.tiny import ONE_HEAD, SIX_HEADS, TINY, random_model, torch_logits, torch_twin, whole_rows

TOLERANCE = 1e-4


def _logits(model: Bloom, tokens_BT, positions_BT, segment_ids_BT) -> np.ndarray:
    hidden_BTD, _ = nnx.jit(lambda model, *batch: model(*batch))(model, tokens_BT, positions_BT, segment_ids_BT)
    return np.asarray(model.head(hidden_BTD))


@pytest.mark.parametrize(
    ("config", "layer_loop"), [(TINY, "scan"), (SIX_HEADS, "scan"), (SIX_HEADS, "unroll"), (ONE_HEAD, "unroll")]
)
def test_logits_equal_transformers(config: BloomConfig, layer_loop: str) -> None:
    model = random_model(dataclasses.replace(config, layer_loop=layer_loop))
    twin = torch_twin(model)
    tokens_BT = np.random.default_rng(0).integers(0, config.vocab_size, (3, 37))
    with torch.no_grad():
        expected = twin(torch.tensor(tokens_BT)).logits.numpy()
    assert np.abs(expected).max() > 1  # the comparison is of something
    np.testing.assert_allclose(_logits(model, *whole_rows(tokens_BT)), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("config", "backend"), [(TINY, "reference"), *((SIX_HEADS, name) for name in BACKENDS)])
def test_left_padded_logits_equal_transformers(config: BloomConfig, backend: str) -> None:
    model = random_model(dataclasses.replace(config, attention=backend))
    twin = torch_twin(model)
    rng = np.random.default_rng(1)
    mask_BT = np.ones((3, 20), np.int32)
    mask_BT[1, :7] = mask_BT[2, :19] = 0
    tokens_BT = np.where(mask_BT == 1, rng.integers(0, config.vocab_size, mask_BT.shape), 3)
    with torch.no_grad():
        expected = twin(torch.tensor(tokens_BT), attention_mask=torch.tensor(mask_BT)).logits.numpy()
    positions_BT = (np.cumsum(mask_BT, 1) - 1) * mask_BT
    found = _logits(model, tokens_BT.astype(np.int32), positions_BT.astype(np.int32), mask_BT)
    np.testing.assert_allclose(found[mask_BT == 1], expected[mask_BT == 1], atol=TOLERANCE, rtol=0)


def _packed(documents: list[np.ndarray], num_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    tokens, positions, segments = np.full((3, 1, num_tokens), 0, np.int32)
    start = 0
    for number, document in enumerate(documents, 1):
        place = (0, slice(start, start + len(document)))
        tokens[place], positions[place], segments[place] = document, np.arange(len(document)), number
        start += len(document)
    return tokens, positions, segments


@pytest.mark.parametrize(("config", "backend"), [(TINY, "reference"), *((SIX_HEADS, name) for name in BACKENDS)])
def test_packed_documents_equal_transformers_on_each_alone(config: BloomConfig, backend: str) -> None:
    model = random_model(dataclasses.replace(config, attention=backend))
    twin = torch_twin(model)
    rng = np.random.default_rng(2)
    documents = [rng.integers(0, config.vocab_size, length) for length in (11, 1, 17, 6)]
    found = _logits(model, *_packed(documents, 40))[0]
    start = 0
    for document in documents:
        expected = torch_logits(twin, document)
        np.testing.assert_allclose(found[start : start + len(document)], expected, atol=TOLERANCE, rtol=0)
        start += len(document)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_a_document_does_not_leak_into_its_neighbours(backend: str) -> None:
    model = random_model(dataclasses.replace(TINY, attention=backend))
    rng = np.random.default_rng(3)
    documents = [rng.integers(0, TINY.vocab_size, length) for length in (10, 12, 9)]
    before = _logits(model, *_packed(documents, 40))[0]
    documents[1] = rng.integers(0, TINY.vocab_size, 12)
    after = _logits(model, *_packed(documents, 40))[0]
    outside = np.r_[0:10, 22:31]
    np.testing.assert_array_equal(before[outside], after[outside])
    assert (before[10:22] != after[10:22]).any(axis=-1).all()


@pytest.mark.parametrize("layer_loop", ["scan", "unroll"])
@pytest.mark.parametrize("cuts", [(0, 5, 6, 7, 16), tuple(range(17))], ids=["mixed", "single"])
def test_cached_steps_equal_the_whole(layer_loop: str, cuts: tuple[int, ...]) -> None:
    config = dataclasses.replace(SIX_HEADS, layer_loop=layer_loop)
    model = random_model(config)
    rng = np.random.default_rng(4)
    segments_BT = np.ones((2, 16), np.int32)
    segments_BT[1, :3] = 0  # left padding
    positions_BT = ((np.cumsum(segments_BT, 1) - 1) * segments_BT).astype(np.int32)
    tokens_BT = rng.integers(0, config.vocab_size, (2, 16)).astype(np.int32)
    step = nnx.jit(lambda model, *batch: model(*batch))
    whole, _ = step(model, tokens_BT, positions_BT, segments_BT)
    cache, parts = init_cache(config, 2, 21), []
    for start, end in itertools.pairwise(cuts):
        span = (slice(None), slice(start, end))
        hidden, cache = step(model, tokens_BT[span], positions_BT[span], segments_BT[span], cache)
        parts.append(hidden)
    assert cache.lengths_B.tolist() == [16, 16]
    real = segments_BT == 1
    np.testing.assert_allclose(np.concatenate(parts, 1)[real], np.asarray(whole)[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer_loop", ["scan", "unroll"])
def test_wanted_outputs_equal_those_picked_from_all(layer_loop: str) -> None:
    model = random_model(dataclasses.replace(TINY, layer_loop=layer_loop))
    rng = np.random.default_rng(5)
    batch = _packed([rng.integers(0, 96, 14), rng.integers(0, 96, 9)], 24)
    outputs_BS = np.asarray([[22, 3, 3, 14]], np.int32)  # any order, also twice
    run = nnx.jit(lambda model, *batch, **wanted: model(*batch, **wanted)[0])
    whole, wanted = run(model, *batch), run(model, *batch, outputs_BS=outputs_BS)
    np.testing.assert_allclose(wanted, np.asarray(whole)[:, outputs_BS[0]], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("remat", "layer_loop"), [("dots", "unroll"), ("full", "scan")])
def test_remat_leaves_the_gradient_alone_and_recomputes(remat: str, layer_loop: str) -> None:
    config = dataclasses.replace(TINY, layer_loop=layer_loop, num_layers=2)
    batch = whole_rows(np.random.default_rng(6).integers(0, 96, (2, 16)))

    def gradient(config: BloomConfig):
        graph, params = nnx.split(random_model(config))
        function = jax.grad(lambda params: jnp.square(nnx.merge(graph, params)(*batch)[0]).sum())
        return jax.jit(function)(params), str(jax.make_jaxpr(function)(params)).count("tanh")

    (plain, plain_tanh), (again, again_tanh) = gradient(config), gradient(dataclasses.replace(config, remat=remat))
    assert again_tanh > plain_tanh
    for left, right in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4 * float(jnp.abs(left).max()))


def test_bfloat16_compute_keeps_float32_parameters_and_logits() -> None:
    model = random_model(dataclasses.replace(TINY, compute_dtype="bfloat16"), spread=0.02)
    batch = whole_rows(np.random.default_rng(7).integers(0, 96, (2, 16)))
    hidden_BTD, _ = nnx.eval_shape(lambda model: model(*batch), model)
    assert hidden_BTD.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    logits, exact = _logits(model, *batch), _logits(random_model(TINY, spread=0.02), *batch)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, exact, atol=0.1, rtol=0)
    assert (logits != exact).any()


def test_every_parameter_names_its_axes() -> None:
    shapes = nnx.state(nnx.eval_shape(lambda: Bloom(TINY, rngs=nnx.Rngs(0))))
    rules = (("vocab", "tensor"), ("embed", "fsdp"), ("heads", "tensor"), ("mlp", "tensor"))
    rest = tuple((name, None) for name in ("layers", "kv", "head_dim", "norm"))
    with logical_axis_rules(rules + rest):
        specs = nnx.to_pure_dict(nnx.get_partition_spec(shapes))
    expected = jax.sharding.PartitionSpec
    assert specs["embedding"] == expected("tensor", "fsdp")
    assert specs["blocks"]["key_value"]["kernel"] == expected(None, "fsdp", None, "tensor", None)
    assert specs["blocks"]["down"]["kernel"] == expected(None, "tensor", "fsdp")
    for _, variable in nnx.to_flat_state(shapes):
        assert len(variable.get_metadata("out_sharding")) == len(variable.shape)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("bloom_nano", 3.35),
        ("bloom_560m", 559.2),
        ("bloom_1b1", 1065.3),
        ("bloom_1b7", 1722.4),
        ("bloom_3b", 3002.6),
        ("bloom_7b1", 7069.0),
    ],
)
def test_presets_have_the_released_sizes(name: str, millions: float) -> None:
    """The figures of the released ones are those of their model cards."""
    shapes = nnx.state(nnx.eval_shape(lambda: Bloom(PRESETS[name], rngs=nnx.Rngs(0))))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert round(count / 1e6, 2 if millions < 10 else 1) == millions


def test_user_errors() -> None:
    with pytest.raises(UserError, match="bloom_nano"):
        get_preset("bloom_nan")
    with pytest.raises(UserError, match="multiple of num_heads"):
        BloomConfig(vocab_size=8, num_layers=1, width=10, num_heads=3)
    with pytest.raises(UserError, match="remat"):
        BloomConfig(vocab_size=8, num_layers=1, width=8, num_heads=2, remat="some")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="attention backend 'fast'"):
        random_model(dataclasses.replace(TINY, attention="fast"))(*whole_rows(np.zeros((1, 4), np.int32)))


def test_rows_of_the_head_give_single_logits() -> None:
    model = random_model(TINY)
    hidden_BD = jnp.asarray(np.random.default_rng(0).standard_normal((2, TINY.width)), jnp.float32)
    ids_BC = jnp.asarray([[3, 95, 0], [7, 7, 11]])
    chosen_BC = jnp.einsum("BD,BCD->BC", hidden_BD, model.head_rows(ids_BC))
    np.testing.assert_allclose(chosen_BC, jnp.take_along_axis(model.head(hidden_BD), ids_BC, axis=1), rtol=1e-5)


@pytest.mark.parametrize("num_slots", [8, 12, 20])
@pytest.mark.parametrize("tree", [False, True])
def test_a_new_cache_is_as_an_empty_one(num_slots: int, tree: bool) -> None:
    """Also where the tokens that fill a row lie past its end, and where every second token is not seen."""
    model, (tokens_BT, positions_BT, segments_BT) = random_model(TINY, seed=8), whole_rows(np.arange(24).reshape(2, 12))
    visible_BTK = None
    if tree:
        slots_TK = np.arange(12)[:, None] - np.arange(num_slots)[None]
        visible_BTK = np.broadcast_to((slots_TK >= 0) & (slots_TK % 2 == 0), (2, 12, num_slots))
    found, cache = model(tokens_BT, positions_BT, segments_BT, NewCache(num_slots), visible_BTK=visible_BTK)
    empty = init_cache(model.config, 2, num_slots)
    expected, filled = model(tokens_BT, positions_BT, segments_BT, empty, visible_BTK=visible_BTK)
    np.testing.assert_allclose(found[:, :num_slots], expected[:, :num_slots], atol=1e-5)
    assert cache is not None and filled is not None
    for new, old in zip(cache, filled, strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)
