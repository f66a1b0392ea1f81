"""The training loss: cross entropy of the answer tokens alone, as a sum with its count.

Only about 15% of the tokens are supervised, so hidden states are gathered at those positions before the head runs.
Sums, not means: the caller divides by the count of the whole global step, so that splitting a step into microbatches
or packing it differently leaves the gradient alone.

Logits are the largest array of a step (8 x 256 tokens of 250,880 words: 2 GB, and again for their gradient). Above a
limit they are made a chunk of the vocabulary at a time, twice: forward for log Z, backward for the gradients, each
chunk's written into its place. The table may be split over devices by vocabulary; its parts are chunked side by side,
so that each device works on its own part and only sums over the vocabulary travel.

Shapes: B batch, T tokens, S supervised positions, D width, V vocabulary, P parts of the vocabulary, C words of a
chunk of one part.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from seqgpt_jax.checked import Checked
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.models.layers import accumulated


@dataclass(frozen=True)
class LossConfig(Checked):
    """[loss] What the loss adds, and what it may hold in memory."""

    section = "loss"
    z_loss: float = 0.0  # times log(Z)^2 a token is added (PaLM, arXiv 2204.02311, section 5)
    logits_mib: int = 256  # float32 logits up to this size a device are made at once, larger ones in chunks

    def check(self) -> None:
        self.at_least(1, "logits_mib")
        if self.z_loss < 0:
            raise UserError(f"loss.z_loss is {self.z_loss} (it must be at least 0)")


DEFAULT_LOSS = LossConfig()
_NO_WORD = jnp.iinfo(jnp.int32).max


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


class TokenScores(NamedTuple):
    """What the loss needs of a token's logits, float32 [B, S]."""

    log_z_BS: jax.Array  # log of the sum of exp(logit)
    target_logits_BS: jax.Array
    correct_BS: jax.Array  # 1 where the target is the argmax (the first of equals), else 0


def answer_loss(
    model: Decoder,
    batch: SupervisedBatch,
    z_loss: float = 0.0,
    logits_mib: int = LossConfig.logits_mib,
    vocab_parts: int = 1,
    num_devices: int = 1,
) -> LossSums:
    """Sum of token losses (nats), number of targets, number of targets that are the argmax.

    z_loss and logits_mib: as in LossConfig. vocab_parts: over how many devices the head's table is split by
    vocabulary, if V divides by it (else it lies whole); num_devices: over how many the logits lie, by rows and words.
    """
    hidden_BSD, _ = model(
        batch.tokens_BT, batch.positions_BT, batch.segment_ids_BT, outputs_BS=batch.target_positions_BS
    )
    table_VD = model.head_table()
    parts = vocab_parts if table_VD.shape[0] % vocab_parts == 0 else 1
    chunk = chunk_size(batch.targets_BS.size * parts, table_VD.shape[0] // parts, logits_mib * num_devices)
    scores = token_scores(hidden_BSD, table_VD, batch.targets_BS, chunk, parts)
    mask_BS = batch.target_mask_BS.astype(jnp.float32)
    loss_BS = scores.log_z_BS - scores.target_logits_BS
    if z_loss:
        loss_BS = loss_BS + z_loss * jnp.square(scores.log_z_BS)
    return LossSums((loss_BS * mask_BS).sum(), mask_BS.sum(), (scores.correct_BS * mask_BS).sum())


def chunk_size(num_rows: int, num_words: int, mib: int) -> int:
    """Words of a part to score at once: all of them, or a multiple of 128 whose float32 logits fit in half of `mib`.

    Half, because the gradient of a chunk's logits lies beside them. A divisor of the part is taken where one is more
    than half of what fits, so that all chunks are equal.
    """
    if 4 * num_rows * num_words <= mib * 2**20:
        return num_words
    most = min(num_words, max(128, mib * 2**20 // (8 * num_rows) // 128 * 128))
    return next((size for size in range(most, most // 2, -128) if num_words % size == 0), most)


def token_scores(
    hidden_BSD: jax.Array, table_VD: jax.Array, targets_BS: jax.Array, chunk: int, vocab_parts: int = 1
) -> TokenScores:
    """log Z, target logit and correctness of every token, from logits of `chunk` words of each part at a time.

    The table is used in the dtype of the hidden states; logits and sums are float32. With chunk = V/P all logits
    exist at once, and the backward pass keeps them; with less they are made again.
    """
    assert table_VD.shape[0] % vocab_parts == 0, (table_VD.shape, vocab_parts)
    table_PVD = table_VD.reshape(vocab_parts, -1, table_VD.shape[1])
    if chunk >= table_PVD.shape[1]:
        return _scores_of_chunks(hidden_BSD, table_PVD, targets_BS, table_PVD.shape[1])
    return _chunked_scores(hidden_BSD, table_PVD, targets_BS, chunk)


class _Running(NamedTuple):
    """Over the chunks so far of each part, [P, B, S]."""

    max: jax.Array
    sum: jax.Array  # of exp(logit - max)
    argmax: jax.Array  # int32, an id of the vocabulary
    target: jax.Array  # the target's logit, 0 where it lies elsewhere


def _scores_of_chunks(hidden_BSD: jax.Array, table_PVD: jax.Array, targets_BS: jax.Array, chunk: int) -> TokenScores:
    targets_1BS1, dtype = targets_BS[None, ..., None], accumulated(hidden_BSD)
    shape = (table_PVD.shape[0], *targets_BS.shape)

    def add(start: Any, size: int, running: _Running) -> _Running:
        logits_PBSC = _logits(hidden_BSD, table_PVD, start, size)
        words_P11C = _words(table_PVD, start, size)
        highest = jax.lax.stop_gradient(logits_PBSC.max(-1))
        first = jnp.where(logits_PBSC == highest[..., None], words_P11C, _NO_WORD).min(-1)
        best = jnp.maximum(running.max, highest)
        scale = jnp.exp(running.max - best)
        return _Running(
            best,
            running.sum * scale + jnp.exp(logits_PBSC - best[..., None]).sum(-1),
            jnp.where(highest > running.max, first, running.argmax),
            running.target + jnp.where(words_P11C == targets_1BS1, logits_PBSC, 0).sum(-1),
        )

    lowest = jnp.full(shape, jnp.finfo(dtype).min, dtype)
    nothing = _Running(lowest, jnp.zeros(shape, dtype), jnp.zeros(shape, jnp.int32), jnp.zeros(shape, dtype))
    parts = _over_chunks(add, table_PVD.shape[1], chunk, nothing)
    best_1BS = parts.max.max(0, keepdims=True)
    log_z_BS = best_1BS[0] + jnp.log((parts.sum * jnp.exp(parts.max - best_1BS)).sum(0))
    argmax_BS = jnp.where(parts.max == best_1BS, parts.argmax, _NO_WORD).min(0)
    return TokenScores(log_z_BS, parts.target.sum(0), (argmax_BS == targets_BS).astype(jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _chunked_scores(hidden_BSD: jax.Array, table_PVD: jax.Array, targets_BS: jax.Array, chunk: int) -> TokenScores:
    return _scores_of_chunks(hidden_BSD, table_PVD, targets_BS, chunk)


def _chunked_forward(hidden_BSD: jax.Array, table_PVD: jax.Array, targets_BS: jax.Array, chunk: int) -> Any:
    scores = _scores_of_chunks(hidden_BSD, table_PVD, targets_BS, chunk)
    return scores, (hidden_BSD, table_PVD, targets_BS, scores.log_z_BS)


def _chunked_backward(chunk: int, kept: Any, slopes: TokenScores) -> Any:
    """A logit's gradient: its probability times the slope of log Z; at the target, that of its logit is added."""
    hidden_BSD, table_PVD, targets_BS, log_z_BS = kept
    per_token = (targets_BS, log_z_BS, slopes.log_z_BS, slopes.target_logits_BS)
    targets_1BS1, log_z_1BS1, log_z_slope_1BS1, target_slope_1BS1 = (array[None, ..., None] for array in per_token)
    dtype = accumulated(hidden_BSD)

    def add(start: Any, size: int, gradients: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden_PBSD, written_PVD = gradients
        logits_PBSC = _logits(hidden_BSD, table_PVD, start, size)
        is_target_PBSC = _words(table_PVD, start, size) == targets_1BS1
        slope_PBSC = jnp.exp(logits_PBSC - log_z_1BS1) * log_z_slope_1BS1
        slope_PBSC = slope_PBSC + jnp.where(is_target_PBSC, target_slope_1BS1, 0)
        slope_PBSC = slope_PBSC.astype(hidden_BSD.dtype)
        table_PCD = _slice(table_PVD, start, size).astype(hidden_BSD.dtype)
        product = functools.partial(jnp.einsum, preferred_element_type=dtype)
        slope_PCD = product("PBSC,BSD->PCD", slope_PBSC, hidden_BSD).astype(table_PVD.dtype)
        return (
            hidden_PBSD + product("PBSC,PCD->PBSD", slope_PBSC, table_PCD),
            jax.lax.dynamic_update_slice_in_dim(written_PVD, slope_PCD, start, axis=1),
        )

    start = (jnp.zeros((table_PVD.shape[0], *hidden_BSD.shape), dtype), jnp.zeros_like(table_PVD))
    hidden_PBSD, slope_PVD = _over_chunks(add, table_PVD.shape[1], chunk, start)
    return hidden_PBSD.sum(0).astype(hidden_BSD.dtype), slope_PVD, None


_chunked_scores.defvjp(_chunked_forward, _chunked_backward)


def _over_chunks(add: Any, num_words: int, chunk: int, carry: Any) -> Any:
    """add(start, size, carry) over the chunks of a part in order; the first one may be smaller.

    (A smaller last one, outside of the loop, would make XLA copy what the loop wrote.)
    """
    num_chunks, rest = divmod(num_words, chunk)
    carry = add(0, rest, carry) if rest else carry
    if num_chunks == 1:
        return add(rest, chunk, carry)
    return jax.lax.fori_loop(0, num_chunks, lambda index, carry: add(rest + index * chunk, chunk, carry), carry)


def _logits(hidden_BSD: jax.Array, table_PVD: jax.Array, start: Any, size: int) -> jax.Array:
    table_PCD = _slice(table_PVD, start, size).astype(hidden_BSD.dtype)
    return jnp.einsum("BSD,PCD->PBSC", hidden_BSD, table_PCD, preferred_element_type=accumulated(hidden_BSD))


def _slice(table_PVD: jax.Array, start: Any, size: int) -> jax.Array:
    return table_PVD if size == table_PVD.shape[1] else jax.lax.dynamic_slice_in_dim(table_PVD, start, size, axis=1)


def _words(table_PVD: jax.Array, start: Any, size: int) -> jax.Array:
    """int32 [P, 1, 1, C]: the ids of the words of a chunk."""
    parts, part_size, _ = table_PVD.shape
    part_starts_P111 = jnp.arange(parts, dtype=jnp.int32)[:, None, None, None] * part_size
    return part_starts_P111 + start + jnp.arange(size, dtype=jnp.int32)[None, None, None, :]
