"""Weights that a stage takes from elsewhere (stage.init): the result of another run, or a Hugging Face directory."""

from __future__ import annotations

from pathlib import Path

import jax
from flax import nnx
from jax.sharding import Mesh

from seqgpt_jax import hf
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.architectures import make_model
from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.training.checkpoints import checkpoint_folder, newest_stage, restore_params
from seqgpt_jax.training.partitioning import (
    ModelSkeleton,
    Params,
    abstract_params,
    make_skeleton,
    params_of,
    path_name,
)
from seqgpt_jax.vocabulary import Vocabulary


def check_init(init: str, vocabulary: Vocabulary, skeleton: ModelSkeleton) -> None:
    """UserError unless a run of this tokenizer and model can start a stage from the weights in the directory `init`."""
    if not Path(init).is_dir():
        raise UserError(f"stage.init: there is no directory {init} (give a run or a Hugging Face directory)")
    tokenizer = Path(init) / "tokenizer" if _is_run(init) else Path(init)
    given = Vocabulary.from_pretrained(tokenizer)
    if given.fingerprint() != vocabulary.fingerprint():
        raise UserError(
            f"stage.init: the tokenizer of {init}, with {given.size} ids, is not that of this run, which has "
            f"{vocabulary.size} (set tokenizer.path='{tokenizer}', in a new run directory)"
        )
    theirs = _sizes(make_skeleton(lambda: make_model(_config_of(init), rngs=nnx.Rngs(0))).shapes)
    ours = _sizes(_part_given(init, skeleton, skeleton.shapes))
    wrong = [name for name in sorted(theirs | ours) if theirs.get(name) != ours.get(name)]
    if wrong:
        raise UserError(
            f"stage.init: parameter {wrong[0]} is {theirs.get(wrong[0], 'not')} in {init}, and "
            f"{ours.get(wrong[0], 'not')} in this run (make the model settings those of its weights)"
        )


def load_init(init: str, skeleton: ModelSkeleton, mesh: Mesh) -> Params:
    """The weights of a directory that check_init let pass. Those of a model without LoRA may be less than ours."""
    if not _is_run(init):
        return params_of(hf.load_model(init, param_dtype=jax.tree.leaves(skeleton.shapes)[0].dtype.name)[0])
    folder = checkpoint_folder(Path(init), newest_stage(Path(init)).name)
    return restore_params(folder, _part_given(init, skeleton, abstract_params(skeleton, mesh)))


def _is_run(init: str) -> bool:
    return (Path(init) / "checkpoints").is_dir()


def _config_of(init: str) -> DecoderConfig:
    return newest_stage(Path(init)).model if _is_run(init) else hf.read_config(init)


def _part_given(init: str, skeleton: ModelSkeleton, tree: Params) -> Params:
    """Of a tree like our parameters all but a LoRA that only this run has, beside which everything is frozen."""
    return tree if _config_of(init).lora is not None else skeleton.frozen(tree) or tree


def _sizes(shapes: Params) -> dict[str, tuple[int, ...]]:
    return {path_name(path): leaf.shape for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)}
