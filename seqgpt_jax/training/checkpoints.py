"""Checkpoints of a stage by Orbax: asynchronous, at absolute steps, the newest few kept.

    run/checkpoints/<stage>/stage.json     which stage this is, the model's sizes, and the code's version
    run/checkpoints/<stage>/config.gin     the config that it was trained with
    run/checkpoints/<stage>/<step>/        params, opt_state and perhaps averaged, each to be read alone
    run/checkpoints/<stage>/<step>.damaged it was not what had been written, and is not read (integrity.py, recovery.py)
    run/checkpoints/<stage>/finished.json  the stage is over, and which step counts (finished.py)

A step's folder gets its name when it is complete, checksums included, so a half-written one is never read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint.options import MultiprocessingOptions

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.architectures import config_from_dict, config_to_dict, make_model
from seqgpt_jax.models.decoder import Decoder, DecoderConfig
from seqgpt_jax.training.code_version import code_version
from seqgpt_jax.training.finished import Finished, read_finished, remove_finished, write_finished
from seqgpt_jax.training.hosts import is_main
from seqgpt_jax.training.integrity import ChecksummedPath, find_damage, warn_of_damage
from seqgpt_jax.training.partitioning import Params, make_skeleton, place
from seqgpt_jax.training.step import TrainState
from seqgpt_jax.vocabulary import Vocabulary
from seqgpt_jax.whole import write_json, write_text

_STAGE_FILE = "stage.json"


@dataclass(frozen=True)
class StageInfo:
    """What stage.json says. index: place of the stage in its recipe."""

    name: str
    index: int
    model: DecoderConfig
    pretrained: str | None = None  # the weights that the run started from
    steps: int | None = None  # its length
    frozen_layers: tuple[int, ...] = ()  # blocks that it leaves as they are, counted from 0


_INFO_FIELDS = {entry.name for entry in fields(StageInfo)}


def checkpoint_folder(run_dir: Path, stage: str) -> Path:
    return run_dir / "checkpoints" / stage


@dataclass
class _Retention:
    """Orbax's question which checkpoints stay: the newest few, those at multiples, and the best one so far."""

    keep: int
    keep_every: int | None
    best_step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest, every = set(steps[-self.keep :]), self.keep_every
        return [step in newest or step == self.best_step or (every is not None and step % every == 0) for step in steps]


class StageCheckpoints:
    """The checkpoints of one stage of a run; use it as a context manager, which waits for the last save.

    The newest `keep` stay, those at multiples of keep_every, and the best one that save() was told of.
    """

    def __init__(
        self, run_dir: Path, info: StageInfo, config_text: str = "", keep: int = 2, keep_every: int | None = None
    ) -> None:
        folder = checkpoint_folder(run_dir, info.name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if is_main():
            write_text(folder / "config.gin", config_text)
            said = {**asdict(info), "model": config_to_dict(info.model), "code": code_version()}
            write_json(folder / _STAGE_FILE, said)
        self._folder, self._retention = folder, _Retention(keep, keep_every)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._retention,
            create=False,
            cleanup_tmp_directories=True,  # what a run that was killed had half written
            enable_async_checkpointing=True,
            temporary_path_class=ChecksummedPath,
        )
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
        steps_done = place(np.asarray(step, np.int32), abstract.step.sharding)
        return TrainState(steps_done, **{name: restored[name] for name in items})

    def wait(self) -> None:
        """Returns when all that was saved is complete on disk."""
        self._manager.wait_until_finished()

    def reopen(self) -> None:
        """Takes the mark of the stage's end away, because it trains on."""
        if is_main():
            remove_finished(self._folder)

    def finish(self, finished: Finished) -> None:
        """Waits for the last save, then marks the stage as over."""
        self.wait()
        if is_main():
            write_finished(self._folder, finished)


def _items(state: TrainState) -> dict[str, Any]:
    """The parts that a checkpoint keeps apart."""
    items = {"params": state.params, "opt_state": state.opt_state, "averaged": state.averaged}
    return {name: item for name, item in items.items() if item is not None}


def restore_params(folder: Path, abstract: Params, step: int | None = None, alone: bool = False) -> Params:
    """The parameters alone of a stage's checkpoint folder, placed as `abstract` says; averaged ones where there are.

    step: default what finished.json names, else the newest. alone: of several processes this one reads, and the others
    do something else.
    """
    step = result_step(folder) if step is None else step
    own = jax.process_index()
    readers = MultiprocessingOptions(own, {own}, f"process-{own}") if alone else MultiprocessingOptions()
    item = folder.absolute() / str(step) / "averaged"
    with ocp.StandardCheckpointer(multiprocessing_options=readers) as checkpointer:
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
            said = json.loads(file.read_text("utf-8"))
            known = {name: said[name] for name in _INFO_FIELDS & said.keys()}
            known["frozen_layers"] = tuple(known.get("frozen_layers", ()))
            found.append(StageInfo(**{**known, "model": config_from_dict(said["model"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{file}: not a stage description ({error}; train into another --run_dir)") from error
    return sorted(found, key=lambda info: info.index)


def newest_stage(run_dir: Path) -> StageInfo:
    """The last stage of a run that has a checkpoint; UserError where none has."""
    stages = saved_stages(run_dir)
    if not stages:
        raise UserError(f"{run_dir}: no checkpoint in it (give the directory that `seqgpt train` wrote)")
    return stages[-1]


def sound_result(run_dir: Path) -> tuple[StageInfo, int]:
    """The last stage of a run and the step that is its result, or the newest before it that is not damaged.

    Raises UserError where there is no checkpoint, or no sound one.
    """
    newest_stage(run_dir)
    for info in reversed(saved_stages(run_dir)):
        folder = checkpoint_folder(run_dir, info.name)
        result = result_step(folder)
        for step in (result, *(step for step in reversed(saved_steps(folder)) if step != result)):
            problem = find_damage(folder / str(step), without="opt_state")
            if problem is None:
                return info, step
            warn_of_damage(folder / str(step), f"{problem}; the one before it is used")
    raise UserError(f"{run_dir}: every checkpoint in it is damaged (train again; what can be mended, training mends)")


def load_run(run_dir: Path) -> tuple[Decoder, Vocabulary]:
    """The model and tokenizer of a run, from the result of its last stage. Parameters lie on one device.

    Of several processes, one can read a run without the others. Raises UserError where there is no checkpoint that is
    sound.
    """
    stage, step = sound_result(run_dir)
    config = stage.model
    skeleton = make_skeleton(lambda: make_model(config, rngs=nnx.Rngs(0)))
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), skeleton.shapes)
    alone = jax.process_count() > 1
    params = restore_params(checkpoint_folder(run_dir, stage.name), abstract, step, alone)
    return skeleton.merge(params), Vocabulary.from_pretrained(run_dir / "tokenizer")
