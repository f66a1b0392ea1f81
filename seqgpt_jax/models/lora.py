"""LoRA (Hu et al. 2021, arXiv 2106.09685): which matrices get a low-rank addition, and how it is merged into them.

The addition itself is part of `Linear` (layers.py). Its parameters are named lora_a and lora_b; where a model has any,
training changes them alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqgpt_jax.checked import Checked
from seqgpt_jax.errors import UserError

if TYPE_CHECKING:
    from seqgpt_jax.models.decoder import Decoder

TARGETS = ("query", "key_value", "out", "up", "gate_up", "down")


@dataclass(frozen=True)
class LoraConfig(Checked):
    """[lora] Rank, scale and targets of the additions."""

    section = "lora"
    rank: int
    alpha: float = 16.0  # an addition is scaled by alpha / rank
    targets: tuple[str, ...] = ("query", "key_value")  # names of a block's matrices

    def check(self) -> None:
        self.at_least(1, "rank")
        if not self.alpha > 0:
            raise UserError(f"lora.alpha is {self.alpha} (it must be above 0)")
        unknown = sorted(set(self.targets) - set(TARGETS))
        if unknown or not self.targets:
            named = ", ".join(map(repr, unknown)) or "empty"
            raise UserError(f"lora.targets: {named} (choose from {', '.join(TARGETS)})")

    def of(self, target: str, in_size: int, out_size: int) -> tuple[int, float] | None:
        """(rank, scale) for a matrix of this name and these sizes; None where it is no target."""
        if target not in self.targets:
            return None
        if self.rank > min(in_size, out_size):
            raise UserError(
                f"lora.rank is {self.rank}, but '{target}' is a matrix of {in_size} x {out_size} "
                f"(choose a rank of at most {min(in_size, out_size)})"
            )
        return self.rank, self.scale

    @property
    def scale(self) -> float:
        """What an addition is multiplied with."""
        return self.alpha / self.rank


def is_lora(path: tuple[Any, ...]) -> bool:
    """Whether the parameter at this path of names belongs to a LoRA."""
    return path[-1] in ("lora_a", "lora_b")


def merged(model: Decoder) -> dict[tuple[Any, ...], jax.Array]:
    """The parameters by path, every LoRA added into its kernel (in float32, then in the kernel's dtype).

    Blocks are stacked: kernel [L, *in, *out] + scale * lora_a [L, *in, R] @ lora_b [L, R, *out]. UserError for weights
    of int8, from which the parameters cannot be had back.
    """
    flat = {path: variable[...] for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    if any(value.dtype == jnp.int8 for value in flat.values()):
        raise UserError("weights of int8 are for inference alone (take the model that they were made from)")
    whole = {path: value for path, value in flat.items() if not is_lora(path)}
    for path, b in flat.items():
        if path[-1] != "lora_b":
            continue
        assert model.config.lora is not None
        a, kernel = flat[(*path[:-1], "lora_a")], whole[(*path[:-1], "kernel")]
        num_layers, rank = b.shape[:2]
        a, b = a.reshape(num_layers, -1, rank), b.reshape(num_layers, rank, -1)
        added = model.config.lora.scale * jnp.matmul(a, b, preferred_element_type=jnp.float32).reshape(kernel.shape)
        whole[(*path[:-1], "kernel")] = (kernel + added).astype(kernel.dtype)
    return whole
