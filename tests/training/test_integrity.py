"""Damaged checkpoints: each kind is recognised, kept aside, and training makes again what was lost."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from seqgpt_jax.errors import UserError
from seqgpt_jax.training.checkpoints import (
    StageCheckpoints,
    StageInfo,
    checkpoint_folder,
    load_run,
    restore_params,
    saved_steps,
)
from seqgpt_jax.training.finished import Finished, read_finished, write_finished
from seqgpt_jax.training.integrity import find_damage, move_aside
from seqgpt_jax.training.partitioning import params_of
from seqgpt_jax.training.recovery import clear_damage
from seqgpt_jax.vocabulary import train_tokenizer
from tests.training.toy import CONFIG, TOY_MUON, packed_batch, start

STAGES = ("one", "two")


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, int], Any]]:
    """A run of two stages with steps 2 and 4 each, and the parameters of each checkpoint."""
    run_dir, params = tmp_path_factory.mktemp("saved") / "run", {}
    train_tokenizer(["some text"], 300).save(run_dir / "tokenizer")
    state, step, _ = start(TOY_MUON)
    for index, stage in enumerate(STAGES):
        with StageCheckpoints(run_dir, StageInfo(stage, index, CONFIG)) as checkpoints:
            for number in (2, 4):
                state, _ = step(state, packed_batch())
                checkpoints.save(number, state)
                params[stage, number] = jax.tree.map(np.array, jax.device_get(state.params))
            checkpoints.finish(Finished(4, None, {"steps": 4}))
    return run_dir, params


@pytest.fixture
def run_dir(saved_run: tuple[Path, Any], tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved_run[0], tmp_path / "run"))


def largest(folder: Path) -> Path:
    return max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


def truncate(folder: Path) -> None:
    os.truncate(largest(folder), 100)


def flip_a_bit(folder: Path) -> None:
    file = largest(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (truncate, "has 100 bytes instead of "),
    "flipped": (flip_a_bit, "has other bytes than were written"),
    "missing data": (lambda folder: largest(folder).unlink(), "is missing"),
    "missing metadata": (lambda folder: (folder / "params" / "_METADATA").unlink(), "params/_METADATA is missing"),
    "no sums": (lambda folder: (folder / "checksums.json").unlink(), "checksums.json is missing"),
    "half a sum": (lambda folder: os.truncate(folder / "checksums.json", 30), "checksums.json cannot be read"),
    "empty": (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "checksums.json is missing"),
    "a file in place of an item": (
        lambda folder: (shutil.rmtree(folder / "params"), (folder / "params").write_text("")),
        "cannot be read",
    ),
}


def test_the_sums_are_those_of_the_files(run_dir: Path) -> None:
    folder = checkpoint_folder(run_dir, "one") / "4"
    sums = json.loads((folder / "checksums.json").read_text())
    assert {name.split("/")[0] for name in sums} == {"params", "opt_state"}
    assert sum(name.endswith("_METADATA") for name in sums) == 2
    for name, (size, crc) in sums.items():
        content = (folder / name).read_bytes()
        assert (len(content), zlib.crc32(content)) == (size, crc)
    assert find_damage(folder) is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_recognised(run_dir: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = DAMAGES[damage]
    folder = checkpoint_folder(run_dir, "two")
    change(folder / "4")
    assert message in str(find_damage(folder / "4"))
    clear_damage(run_dir, STAGES)
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {folder / '4'}: damaged checkpoint: ")
    assert message in warning
    assert warning.endswith("; moved to 4.damaged\n")
    assert saved_steps(folder) == [2]
    assert (folder / "4.damaged").is_dir()
    assert read_finished(folder) is None
    assert read_finished(checkpoint_folder(run_dir, "one")) is not None
    clear_damage(run_dir, STAGES)
    assert capsys.readouterr().err == ""


def test_orbax_does_not_notice_a_changed_byte(run_dir: Path, saved_run: tuple[Path, Any]) -> None:
    """Why the checksums are there: when this fails, they may go."""
    want = saved_run[1]["two", 4]
    flip_a_bit(checkpoint_folder(run_dir, "two") / "4" / "params")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), want)
    read = restore_params(checkpoint_folder(run_dir, "two"), abstract, 4)
    equal = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), jax.device_get(read), want)
    assert not all(jax.tree.leaves(equal))


def test_a_stage_without_a_sound_checkpoint_starts_again(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint_folder(run_dir, "two")
    for step in ("2", "4"):
        flip_a_bit(folder / step)
    flip_a_bit(checkpoint_folder(run_dir, "one") / "2")  # nothing goes on from it
    clear_damage(run_dir, STAGES)
    assert f"warning: {folder}: no sound checkpoint is left; stage 'two' starts again" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["2.damaged", "4.damaged"]
    assert saved_steps(checkpoint_folder(run_dir, "one")) == [2, 4]


def test_the_best_checkpoint_is_looked_at_too(run_dir: Path) -> None:
    folder = checkpoint_folder(run_dir, "two")
    write_finished(folder, Finished(4, 2, {"steps": 4}))
    clear_damage(run_dir, STAGES)
    assert read_finished(folder) is not None
    flip_a_bit(folder / "2")
    clear_damage(run_dir, STAGES)
    assert saved_steps(folder) == [4]
    assert read_finished(folder) is None


def test_twice_damaged_is_kept_twice(run_dir: Path) -> None:
    folder = checkpoint_folder(run_dir, "two")
    assert [move_aside(folder / step, "bad").name for step in ("2", "4")] == ["2.damaged", "4.damaged"]
    (folder / "2").mkdir()
    assert move_aside(folder / "2", "bad").name == "2.damaged-2"


def test_a_model_is_loaded_from_what_is_sound(
    run_dir: Path, saved_run: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    params = saved_run[1]

    def assert_loaded(stage: str, step: int) -> None:
        jax.tree.map(
            np.testing.assert_array_equal, jax.device_get(params_of(load_run(run_dir)[0])), params[stage, step]
        )

    flip_a_bit(checkpoint_folder(run_dir, "two") / "4" / "opt_state")  # which no model is made of
    assert_loaded("two", 4)
    assert capsys.readouterr().err == ""
    flip_a_bit(checkpoint_folder(run_dir, "two") / "4" / "params")
    assert_loaded("two", 2)
    assert "; the one before it is used" in capsys.readouterr().err
    assert (checkpoint_folder(run_dir, "two") / "4").is_dir()  # reading changes nothing
    truncate(checkpoint_folder(run_dir, "two") / "2" / "params")
    assert_loaded("one", 4)
    for step in ("2", "4"):
        shutil.rmtree(checkpoint_folder(run_dir, "one") / step / "params")
    with pytest.raises(UserError, match="every checkpoint in it is damaged"):
        load_run(run_dir)
