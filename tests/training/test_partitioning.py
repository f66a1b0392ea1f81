"""The mesh, the rules table, and the refusal to replicate what should be split."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.presets import PRESETS
from seqgpt_jax.training.optimizers import make_optimizer
from seqgpt_jax.training.partitioning import (
    RULES,
    check_rows,
    devices_for_rows,
    join_params,
    make_mesh,
    make_skeleton,
    param_shardings,
    partition_spec,
    path_name,
)
from seqgpt_jax.training.step import init_params, state_shardings
from tests.training.toy import CONFIG, SKELETON, TOY_MUON, host_params, make_model


def test_mesh_sizes() -> None:
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(2, -1, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    for sizes in ((3, 1, 1), (-1, -1, 1), (0, 1, 1), (-1, 3, 1), (4, 4, 1)):
        with pytest.raises(UserError, match="does not fit 8 devices"):
            make_mesh(*sizes)


def test_specs_of_the_rules() -> None:
    mesh = make_mesh(1, 2, 4)
    assert partition_spec(("layers", "embed", "mlp"), (4, 192, 768), mesh) == PartitionSpec(None, "fsdp", "tensor")
    assert partition_spec(("vocab", "embed"), (64, 32), mesh) == PartitionSpec("tensor", "fsdp")
    assert partition_spec(("vocab", "embed"), (63, 32), mesh) == PartitionSpec(None, "fsdp")  # 4 does not divide 63


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_splits_over_eight_ways_of_each_axis(name: str) -> None:
    skeleton = make_skeleton(lambda: make_model(PRESETS[name]))
    assert set(jax.tree.leaves(skeleton.axes)) <= set(RULES)
    param_shardings(skeleton, make_mesh(1, 8, 1))
    param_shardings(skeleton, make_mesh(1, 2, 4))


def test_large_parameter_that_stays_whole_is_an_error() -> None:
    odd = make_skeleton(lambda: make_model(dataclasses.replace(CONFIG, vocab_size=67, num_heads=2)))
    with pytest.raises(UserError, match=r"parameter .*kernel .* would stay whole over mesh axis tensor=8"):
        param_shardings(odd, make_mesh(1, 1, 8), large=256)
    param_shardings(odd, make_mesh(1, 1, 8))  # all of it is small
    with pytest.raises(UserError, match=r"parameter embedding \{'vocab': 67"):
        param_shardings(odd, make_mesh(1, 4, 2), large=256)


def test_parameters_are_made_where_they_lie_and_do_not_depend_on_it() -> None:
    mesh = make_mesh(2, 2, 2)
    params = init_params(make_model, SKELETON, mesh)
    embedding = params["embedding"]
    assert embedding.sharding.spec == PartitionSpec("tensor", "fsdp")
    assert embedding.addressable_shards[0].data.shape == (CONFIG.vocab_size // 2, CONFIG.width // 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jax.device_get(params), host_params())


def test_optimizer_moments_lie_with_their_parameters() -> None:
    mesh = make_mesh(1, 4, 2)
    shardings = state_shardings(SKELETON, make_optimizer(TOY_MUON, 10, SKELETON), mesh)
    moments = [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf.spec)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shardings.opt_state)
    ]
    kernels = [spec for name, spec in moments if name.endswith("up/kernel")]
    assert kernels == [PartitionSpec(None, "fsdp", "tensor")]  # muon's momentum
    embeddings = [spec for name, spec in moments if name.endswith("embedding")]
    assert embeddings == [PartitionSpec("tensor", "fsdp")] * 2  # adam's two
    assert all(spec == PartitionSpec() for name, spec in moments if "count" in name)


def test_rows_choose_the_devices_where_the_recipe_leaves_them_open() -> None:
    assert len(devices_for_rows(16, 1, 1)) == len(devices_for_rows(16, 2, 2)) == 8
    with pytest.warns(UserWarning, match="12 rows a step use 6 of 8 devices; all .* divided by 8"):
        assert len(devices_for_rows(12, 1, 1)) == 6
    with pytest.warns(UserWarning, match="use 4 of 8"):
        assert len(devices_for_rows(12, 1, 2, num_microbatches=6)) == 4
    with pytest.raises(UserError, match="7 rows a step do not divide by 16"):
        check_rows(7, make_mesh(-1, 2, 1, devices_for_rows(7, 2, 1)), 2)
    assert len(devices_for_rows(12, 3, 1)) == 8  # make_mesh will refuse it


def test_rows_must_divide_by_devices_and_microbatches() -> None:
    check_rows(16, make_mesh(2, 2, 2), 4)
    with pytest.raises(UserError, match="16 rows a step do not divide by 32"):
        check_rows(16, make_mesh(), 4)


def test_what_is_frozen_is_named_by_patterns() -> None:
    skeleton = SKELETON.freezing(("embedding", "blocks/*norm/*", "*/bias"))
    frozen = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(skeleton.frozen(skeleton.shapes))}
    norms = {f"blocks/{norm}_norm/{kind}" for norm in ("attention", "mlp") for kind in ("scale", "bias")}
    biases = {f"blocks/{name}/bias" for name in ("query", "key_value", "out", "up", "down")}
    assert frozen == {"embedding", "embedding_norm/bias", "final_norm/bias"} | norms | biases
    both = join_params(skeleton.frozen(skeleton.axes), skeleton.trained(skeleton.axes))
    assert both == SKELETON.axes and not SKELETON.frozen(SKELETON.axes)
    for patterns, message in (
        (("embeding",), "stage.frozen: 'embeding' is no parameter .did you mean embedding"),
        (("blocks",), r"'blocks' is no parameter .did you mean blocks/\*"),
        (("*",), "leaves nothing to train"),
    ):
        with pytest.raises(UserError, match=message):
            SKELETON.freezing(patterns)


def test_what_is_given_is_not_made() -> None:
    given = {"embedding": host_params()["embedding"] + 1.0, "final_norm": host_params()["final_norm"]}
    params = jax.device_get(init_params(make_model, SKELETON, make_mesh(), given))
    np.testing.assert_array_equal(params["embedding"], given["embedding"])
    np.testing.assert_allclose(params["blocks"]["up"]["kernel"], host_params()["blocks"]["up"]["kernel"], rtol=1e-6)
    assert jax.tree.structure(params) == jax.tree.structure(host_params())
