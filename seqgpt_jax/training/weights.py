"""Where the weights of a stage come from. In this order:

a checkpoint of this stage > stage.init > the end of the previous stage > model.pretrained > random weights

What model.lora adds is random, whichever weights it is added to, unless they bring it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flax import nnx
from jax.sharding import Mesh

from seqgpt_jax.models.architectures import make_model
from seqgpt_jax.models.decoder import Decoder, DecoderConfig
from seqgpt_jax.recipe import Recipe
from seqgpt_jax.training.checkpoints import StageCheckpoints, checkpoint_folder, restore_params, result_step
from seqgpt_jax.training.hosts import from_main
from seqgpt_jax.training.initial import check_init, load_init
from seqgpt_jax.training.optimizers import Optimizer
from seqgpt_jax.training.partitioning import ModelSkeleton, Params, abstract_params, make_skeleton
from seqgpt_jax.training.start import StartingPoint, stage_skeleton
from seqgpt_jax.training.step import TrainState, abstract_state, init_params, init_state


@dataclass(frozen=True)
class WeightSource:
    """All that the weights of a run's stages depend on."""

    recipe: Recipe
    run_dir: Path
    mesh: Mesh
    start: StartingPoint
    skeleton: ModelSkeleton

    def check(self) -> None:
        """UserError, before anything is trained, for a stage.init or stage.frozen that cannot be."""
        for stage in self.recipe.stages:
            stage_skeleton(self.skeleton, stage, self.recipe.seed)
            if stage.init is not None:
                check_init(stage.init, self.start.vocabulary, self.skeleton)

    def first_state(
        self,
        index: int,
        skeleton: ModelSkeleton,
        checkpoints: StageCheckpoints,
        optimizer: Optimizer,
        shardings: TrainState,
    ) -> tuple[TrainState, int]:
        """The state that a stage goes on from, and the steps done. skeleton: that of the stage, which may freeze."""
        done = from_main(checkpoints.latest_step)
        if done is not None:
            return checkpoints.restore(done, abstract_state(skeleton, optimizer, shardings)), done
        return init_state(skeleton, self._first_params(index), optimizer, shardings), 0

    def _first_params(self, index: int) -> Params:
        init = self.recipe.stages[index].init
        if init is None and index > 0:
            return self.restored_params(self.recipe.stages[index - 1].name)
        given = None
        if init is not None:
            given = load_init(init, self.skeleton, self.mesh)
        elif self.start.load_params is not None:
            given = self.start.load_params()
        return init_params(model_maker(self.start.config, self.recipe.seed), self.skeleton, self.mesh, given)

    def restored_params(self, stage: str) -> Params:
        """The parameters at the end of a stage, placed on the mesh."""
        folder = checkpoint_folder(self.run_dir, stage)
        step = from_main(lambda: result_step(folder))
        return restore_params(folder, abstract_params(self.skeleton, self.mesh), step)


def skeleton_of(start: StartingPoint, seed: int) -> ModelSkeleton:
    return make_skeleton(model_maker(start.config, seed))


def model_maker(config: DecoderConfig, seed: int) -> Callable[[], Decoder]:
    return lambda: make_model(config, rngs=nnx.Rngs(seed))
