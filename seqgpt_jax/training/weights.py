"""Where the weights of a stage come from. In this order:

a checkpoint of this stage > the end of the previous stage > Hugging Face weights > random weights
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
from flax import nnx
from jax.sharding import Mesh

from seqgpt_jax.models.architectures import make_model
from seqgpt_jax.models.decoder import Decoder, DecoderConfig
from seqgpt_jax.recipe import Recipe
from seqgpt_jax.training.checkpoints import StageCheckpoints, checkpoint_folder, restore_params, result_step
from seqgpt_jax.training.hosts import from_main
from seqgpt_jax.training.optimizers import Optimizer
from seqgpt_jax.training.partitioning import ModelSkeleton, Params, make_skeleton, param_shardings
from seqgpt_jax.training.start import StartingPoint
from seqgpt_jax.training.step import TrainState, abstract_state, init_params, init_state


@dataclass(frozen=True)
class WeightSource:
    """All that the weights of a run's stages depend on."""

    recipe: Recipe
    run_dir: Path
    mesh: Mesh
    start: StartingPoint
    skeleton: ModelSkeleton

    def first_state(
        self, index: int, checkpoints: StageCheckpoints, optimizer: Optimizer, shardings: TrainState
    ) -> tuple[TrainState, int]:
        """The state that a stage goes on from, and the steps done."""
        done = from_main(checkpoints.latest_step)
        if done is not None:
            return checkpoints.restore(done, abstract_state(self.skeleton, optimizer, shardings)), done
        if index > 0:
            params = self.restored_params(self.recipe.stages[index - 1].name)
        else:
            pretrained = self.start.load_params() if self.start.load_params is not None else None
            params = init_params(model_maker(self.start.config, self.recipe.seed), self.skeleton, self.mesh, pretrained)
        return init_state(self.skeleton, params, optimizer, shardings), 0

    def restored_params(self, stage: str) -> Params:
        """The parameters at the end of a stage, placed on the mesh."""
        shardings = param_shardings(self.skeleton, self.mesh)
        abstract = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            self.skeleton.shapes,
            shardings,
        )
        folder = checkpoint_folder(self.run_dir, stage)
        return restore_params(folder, abstract, from_main(lambda: result_step(folder)))


def skeleton_of(start: StartingPoint, seed: int) -> ModelSkeleton:
    return make_skeleton(model_maker(start.config, seed))


def model_maker(config: DecoderConfig, seed: int) -> Callable[[], Decoder]:
    return lambda: make_model(config, rngs=nnx.Rngs(seed))
