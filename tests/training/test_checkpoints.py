"""Checkpoints: what is read back is what was saved, on any mesh, and only what is complete."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from importlib import metadata
from pathlib import Path

import jax
import numpy as np
import pytest

from seqgpt_jax.errors import UserError
from seqgpt_jax.training.checkpoints import (
    StageCheckpoints,
    StageInfo,
    checkpoint_folder,
    load_run,
    result_step,
    saved_stages,
    saved_steps,
)
from seqgpt_jax.training.finished import Finished, write_finished
from seqgpt_jax.training.optimizers import OptimizerConfig, make_optimizer
from seqgpt_jax.training.partitioning import make_mesh
from seqgpt_jax.training.step import TrainState, abstract_state, state_shardings
from seqgpt_jax.vocabulary import train_tokenizer
from tests.conftest import REPO
from tests.training.toy import CONFIG, SKELETON, TOY_MUON, packed_batch, skeleton_of, start

INFO = StageInfo("first", 0, CONFIG)


def test_saved_while_training_goes_on_and_read_on_another_mesh(tmp_path: Path) -> None:
    state, step, _ = start(TOY_MUON)
    with StageCheckpoints(tmp_path, INFO, "# the config", keep=2) as checkpoints:
        assert checkpoints.latest_step() is None
        for number in range(1, 7):
            state, _ = step(state, packed_batch())
            if number in (2, 4, 5):
                saved = jax.tree.map(np.array, jax.device_get(state))
                checkpoints.save(number, state)  # the next step takes these buffers at once
        checkpoints.save(5, state)  # is there already: stays as it is
    folder = checkpoint_folder(tmp_path, "first")
    assert sorted(child.name for child in folder.iterdir() if child.is_dir()) == ["4", "5"]
    assert (folder / "config.gin").read_text() == "# the config"

    mesh, optimizer = make_mesh(2, 2, 2), make_optimizer(TOY_MUON, 20, SKELETON)
    abstract = abstract_state(SKELETON, optimizer, state_shardings(SKELETON, optimizer, mesh))
    with StageCheckpoints(tmp_path, INFO) as checkpoints:
        assert checkpoints.latest_step() == 5
        restored = checkpoints.restore(5, abstract)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(restored), saved)
    assert restored.params["embedding"].sharding.mesh.shape == mesh.shape


def test_what_is_kept(tmp_path: Path) -> None:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tiny = TrainState(*jax.device_put((np.int32(0), {"w": np.ones(3)}, {"m": np.ones(3)}), device))
    folder = checkpoint_folder(tmp_path, "first")
    with StageCheckpoints(tmp_path, INFO, keep=1, keep_every=4) as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, tiny, best_step=2)
        checkpoints.wait()
        assert saved_steps(folder) == [2, 4, 6]
        checkpoints.save(7, tiny, best_step=6)
        checkpoints.save(8, tiny, best_step=6)
    assert saved_steps(folder) == [4, 6, 8]


def test_the_code_version_is_beside_the_checkpoints(tmp_path: Path) -> None:
    StageCheckpoints(tmp_path, INFO).__exit__()
    code = json.loads((checkpoint_folder(tmp_path, "first") / "stage.json").read_text())["code"]
    assert code["version"] == metadata.version("seqgpt_jax")
    if (REPO / ".git").exists():
        head = subprocess.run(["git", "-C", REPO, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        assert code["commit"] == head.stdout.strip()
        assert code["dirty"] in (True, False)


def test_factored_moments_and_the_average_are_kept(tmp_path: Path) -> None:
    wide = dataclasses.replace(CONFIG, width=128, num_heads=2, vocab_size=256)
    skeleton, config = skeleton_of(wide), OptimizerConfig(name="adafactor", ema_decay=0.9)
    optimizer, mesh = make_optimizer(config, 20, skeleton), make_mesh(2, 2, 2)
    abstract = abstract_state(skeleton, optimizer, state_shardings(skeleton, optimizer, mesh))
    rng, info = np.random.default_rng(0), StageInfo("first", 0, wide)

    def filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(rng.integers(1, 99, leaf.shape).astype(leaf.dtype), leaf.sharding)

    state = dataclasses.replace(
        jax.tree.map(filled, abstract), step=jax.device_put(np.int32(4), abstract.step.sharding)
    )
    with StageCheckpoints(tmp_path, info) as checkpoints:
        checkpoints.save(4, state)
    one_device = state_shardings(skeleton, optimizer, make_mesh(1, 1, 1, jax.devices()[:1]))
    with StageCheckpoints(tmp_path, info) as checkpoints:
        restored = checkpoints.restore(4, abstract_state(skeleton, optimizer, one_device))
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((restored, state)))
    train_tokenizer(["some text"], 300).save(tmp_path / "tokenizer")
    model, _ = load_run(tmp_path)  # what a stage hands on is the average
    assert state.averaged is not None and not np.array_equal(state.averaged["embedding"], state.params["embedding"])
    np.testing.assert_array_equal(model.embedding[...], state.averaged["embedding"])


def test_half_written_checkpoints_are_not_seen(tmp_path: Path) -> None:
    state, _, _ = start(TOY_MUON)
    with StageCheckpoints(tmp_path, INFO) as checkpoints:
        checkpoints.save(3, state)
    folder = checkpoint_folder(tmp_path, "first")
    (folder / "7.orbax-checkpoint-tmp").mkdir()
    with StageCheckpoints(tmp_path, INFO) as checkpoints:
        assert checkpoints.latest_step() == 3


def test_a_run_is_loaded_from_its_last_stage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint in it"):
        load_run(tmp_path)
    train_tokenizer(["some text"], 300).save(tmp_path / "tokenizer")
    state, step, _ = start(TOY_MUON)
    for info in (INFO, StageInfo("a_later_one", 1, CONFIG)):
        state, _ = step(state, packed_batch())
        with StageCheckpoints(tmp_path, info) as checkpoints:
            checkpoints.save(1, state)
    StageCheckpoints(tmp_path, StageInfo("not_begun", 2, CONFIG)).__exit__()
    assert [info.name for info in saved_stages(tmp_path)] == ["first", "a_later_one"]
    model, vocabulary = load_run(tmp_path)
    assert model.config == CONFIG
    assert vocabulary.size <= 300
    np.testing.assert_array_equal(model.embedding[...], state.params["embedding"])

    folder, before = checkpoint_folder(tmp_path, "a_later_one"), np.array(state.params["embedding"])
    state, _ = step(state, packed_batch())
    with StageCheckpoints(tmp_path, StageInfo("a_later_one", 1, CONFIG)) as checkpoints:
        checkpoints.save(2, state)
    assert result_step(folder) == 2  # the newest, until the stage's end says otherwise
    write_finished(folder, Finished(2, 1, {"steps": 2}))
    np.testing.assert_array_equal(load_run(tmp_path)[0].embedding[...], before)
    (folder / "finished.json").write_text("{")
    with pytest.raises(UserError, match=r"finished\.json: not the end of a stage .*remove the file"):
        load_run(tmp_path)

    damaged = checkpoint_folder(tmp_path, "first") / "stage.json"
    damaged.write_text(json.dumps({"name": "first"}))
    with pytest.raises(UserError, match=r"stage\.json: not a stage description"):
        saved_stages(tmp_path)
