"""MFU, model FLOPs utilisation (PaLM, arXiv 2204.02311, appendix B): how much of the devices' peak the training uses.

    MFU = training FLOPs that the tokens of a step need / (seconds of the step * peak FLOP/s of all devices)
    training FLOPs = 3 * (2 * entries of the blocks' matrices * tokens + 4 * L * N * H * row tokens * tokens
                          + 2 * D * V * supervised tokens)                            (models/flops.py)

Only real tokens count, so padding lowers it, as waiting for data does; so does what rematerialisation computes twice,
and the optimiser. Frozen parameters count as if they were trained. The peak is that of dense bfloat16 products
(chips.py), whatever the model computes in. Shapes: L layers, N heads, H head dim, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from jax.sharding import Mesh

from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.models.flops import train_flops
from seqgpt_jax.training.chips import peak_flops


@dataclass(frozen=True)
class Mfu:
    """The MFU of steps of one model on devices whose peak FLOP/s are known."""

    config: DecoderConfig
    peak: float  # FLOP/s of all devices together

    def of_step(self, tokens: int, targets: int, row_tokens: int, seconds: float) -> float:
        """tokens without padding, targets the supervised ones among them."""
        return train_flops(self.config, tokens, targets, row_tokens) / (seconds * self.peak)


def mfu_on(mesh: Mesh, config: DecoderConfig) -> Mfu | None:
    """None where nobody states the peak of the mesh's devices, as for a CPU."""
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    return None if peak is None else Mfu(config, peak * mesh.size)
