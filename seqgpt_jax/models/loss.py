"""The training loss: cross entropy of the answer tokens alone, as a sum with its count.

Only about 15% of the tokens are supervised, so hidden states are gathered at those positions before the head runs.
Sums, not means: the caller divides by the count of the whole global step, so that splitting a step into microbatches
or packing it differently leaves the gradient alone.

Shapes: B batch, T tokens, S supervised positions, D width, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from seqgpt_jax.models.decoder import Decoder


class SupervisedBatch(Protocol):
    """What the loss reads of a batch (data/loader.py makes them). The hidden state at t predicts token t+1."""

    @property
    def tokens_BT(self) -> jax.Array: ...
    @property
    def positions_BT(self) -> jax.Array: ...
    @property
    def segment_ids_BT(self) -> jax.Array: ...
    @property
    def target_positions_BS(self) -> jax.Array: ...  # index into T of the hidden state that predicts
    @property
    def targets_BS(self) -> jax.Array: ...
    @property
    def target_mask_BS(self) -> jax.Array: ...


class LossSums(NamedTuple):
    """float32 scalars; all three are sums over the supervised tokens of the batch."""

    loss_sum: jax.Array
    num_targets: jax.Array
    num_correct: jax.Array


def answer_loss(model: Decoder, batch: SupervisedBatch, z_loss: float = 0.0) -> LossSums:
    """Sum of token losses (nats), number of targets, number of targets that are the argmax.

    z_loss adds z_loss * log(Z)^2 a token (PaLM, arXiv 2204.02311, section 5).
    """
    hidden_BSD, _ = model(
        batch.tokens_BT, batch.positions_BT, batch.segment_ids_BT, outputs_BS=batch.target_positions_BS
    )
    logits_BSV = model.head(hidden_BSD)
    log_z_BS = jax.nn.logsumexp(logits_BSV, axis=-1)
    target_logits_BS = jnp.take_along_axis(logits_BSV, batch.targets_BS[:, :, None], axis=-1)[..., 0]
    mask_BS = batch.target_mask_BS.astype(jnp.float32)
    loss_BS = log_z_BS - target_logits_BS
    if z_loss:
        loss_BS = loss_BS + z_loss * jnp.square(log_z_BS)
    correct_BS = (jnp.argmax(logits_BSV, axis=-1) == batch.targets_BS) * mask_BS
    return LossSums((loss_BS * mask_BS).sum(), mask_BS.sum(), correct_BS.sum())
