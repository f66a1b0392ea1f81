"""Checkpoints of a stage by Orbax: asynchronous, at absolute steps, the newest few kept.

    run/checkpoints/<stage>/stage.json     which stage this is, and the model's sizes
    run/checkpoints/<stage>/config.gin     the config that it was trained with
    run/checkpoints/<stage>/<step>/        params, opt_state and perhaps averaged, each to be read alone
    run/checkpoints/<stage>/finished.json  the stage is over, and which step counts (finished.py)

A step's folder gets its name when it is complete, so a half-written one is never read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.architectures import config_from_dict, config_to_dict, make_model
from seqgpt_jax.models.decoder import Decoder, DecoderConfig
from seqgpt_jax.training.finished import Finished, read_finished, remove_finished, write_finished
from seqgpt_jax.training.partitioning import Params, make_skeleton
from seqgpt_jax.training.step import TrainState
from seqgpt_jax.vocabulary import Vocabulary
from seqgpt_jax.whole import write_text

_STAGE_FILE = "stage.json"


@dataclasses.dataclass(frozen=True)
class StageInfo:
    """What stage.json says. index: place of the stage in its recipe."""

    name: str
    index: int
    model: DecoderConfig
    pretrained: str | None = None  # the weights that the run started from
    steps: int | None = None  # its length
    frozen_layers: tuple[int, ...] = ()  # blocks that it leaves as they are, counted from 0


_INFO_FIELDS = {entry.name for entry in dataclasses.fields(StageInfo)}


def checkpoint_folder(run_dir: Path, stage: str) -> Path:
    return run_dir / "checkpoints" / stage


@dataclasses.dataclass
class _Retention:
    """Orbax's question which checkpoints stay: the newest few, and the best one so far."""

    num_newest: int
    best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest = {info.step for info in checkpoints[-self.num_newest :]}
        return [info.step in newest or info.step == self.best_step for info in checkpoints]


class StageCheckpoints:
    """The checkpoints of one stage of a run; use it as a context manager, which waits for the last save."""

    def __init__(self, run_dir: Path, info: StageInfo, config_text: str = "", keep: int = 2) -> None:
        folder = checkpoint_folder(run_dir, info.name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            write_text(folder / "config.gin", config_text)
            write_text(
                folder / _STAGE_FILE,
                json.dumps({**dataclasses.asdict(info), "model": config_to_dict(info.model)}, indent=2) + "\n",
            )
        self._retention = _Retention(keep)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._retention, create=False, enable_async_checkpointing=True
        )
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder, options=options, item_names=("params", "opt_state", "averaged"))

    def __enter__(self) -> StageCheckpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.wait_until_finished()
        self._manager.close()

    def latest_step(self) -> int | None:
        """Steps done at the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, best_step: int | None = None) -> None:
        """Starts to save the state after `step` steps; returns when the state may be changed again.

        best_step: a checkpoint that stays even when it is no longer among the newest.
        """
        self._retention.best_step = best_step
        if step in self._manager.all_steps():
            return
        items = {name: ocp.args.StandardSave(item) for name, item in _items(state).items()}
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, step: int, abstract: TrainState) -> TrainState:
        """The state after `step` steps, placed as `abstract` says, which may be another mesh than it was saved on."""
        items = {name: ocp.args.StandardRestore(item) for name, item in _items(abstract).items()}
        restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        steps_done = jax.device_put(jnp.asarray(step, jnp.int32), abstract.step.sharding)
        return TrainState(steps_done, **{name: restored[name] for name in items})

    def wait(self) -> None:
        """Returns when all that was saved is complete on disk."""
        self._manager.wait_until_finished()

    def reopen(self) -> None:
        """Takes the mark of the stage's end away, because it trains on."""
        if jax.process_index() == 0:
            remove_finished(self._folder)

    def finish(self, finished: Finished) -> None:
        """Waits for the last save, then marks the stage as over."""
        self.wait()
        if jax.process_index() == 0:
            write_finished(self._folder, finished)


def _items(state: TrainState) -> dict[str, Any]:
    """The parts that a checkpoint keeps apart."""
    items = {"params": state.params, "opt_state": state.opt_state, "averaged": state.averaged}
    return {name: item for name, item in items.items() if item is not None}


def restore_params(folder: Path, abstract: Params, step: int | None = None) -> Params:
    """The parameters alone of a stage's checkpoint folder, placed as `abstract` says; averaged ones where there are.

    step: default what finished.json names, else the newest.
    """
    step = result_step(folder) if step is None else step
    item = folder.absolute() / str(step) / "averaged"
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(item if item.is_dir() else item.with_name("params"), abstract)


def result_step(folder: Path) -> int:
    """The step whose checkpoint is the result of a stage so far; the folder has at least one."""
    steps, finished = saved_steps(folder), read_finished(folder)
    return finished.result_step if finished is not None and finished.result_step in steps else steps[-1]


def saved_steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints of a stage's folder, ascending."""
    steps = (int(child.name) for child in folder.iterdir() if child.name.isdecimal())
    return sorted(step for step in steps if ocp.utils.is_checkpoint_finalized(folder.absolute() / str(step)))


def saved_stages(run_dir: Path) -> list[StageInfo]:
    """Stages of a run that have a checkpoint, in the order of the recipe. UserError for a damaged stage.json."""
    found = []
    for file in sorted((run_dir / "checkpoints").glob(f"*/{_STAGE_FILE}")):
        if not saved_steps(file.parent):
            continue
        try:
            fields = json.loads(file.read_text("utf-8"))
            fields = {name: fields[name] for name in _INFO_FIELDS & fields.keys()}
            fields["frozen_layers"] = tuple(fields.get("frozen_layers", ()))
            found.append(StageInfo(**{**fields, "model": config_from_dict(fields["model"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file}: not a stage description ({error}; train into another --run_dir)") from error
    return sorted(found, key=lambda info: info.index)


def newest_stage(run_dir: Path) -> StageInfo:
    """The last stage of a run that has a checkpoint; UserError where none has."""
    stages = saved_stages(run_dir)
    if not stages:
        raise UserError(f"{run_dir}: no checkpoint in it (give the directory that `seqgpt train` wrote)")
    return stages[-1]


def load_run(run_dir: Path) -> tuple[Decoder, Vocabulary]:
    """The model and tokenizer of a run, from the result of its last stage. Parameters lie on one device.

    Raises UserError where there is no checkpoint.
    """
    stage = newest_stage(run_dir)
    config = stage.model
    skeleton = make_skeleton(lambda: make_model(config, rngs=nnx.Rngs(0)))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), skeleton.shapes)
    params = restore_params(checkpoint_folder(run_dir, stage.name), abstract)
    return skeleton.merge(params), Vocabulary.from_pretrained(run_dir / "tokenizer")
