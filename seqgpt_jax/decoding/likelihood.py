"""How probable given answers are: what the model loses on each, in nats, without letting it write anything.

Shapes: B rows, T tokens of prompt and answer, S answer tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgpt_jax.decoding.batching import (
    bucket,
    check_same_on_all_processes,
    max_read_tokens,
    next_batch,
    on_host,
    padded,
    power_of_two,
)
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.models.loss import LossConfig, chunk_size, token_scores


def answer_losses(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    pad_id: int,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """-log P(answers[i] | prompts[i]) in nats, summed over the answer's tokens, in the order given.

    Neither may be empty. Where the model lies on several processes, all of them call this with the same arguments.
    """
    graph, params = nnx.split(model)
    check_same_on_all_processes(params, (prompts, answers), "the processes have different answers")
    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    order = sorted(range(len(prompts)), key=lambda i: (lengths[i], len(answers[i])))
    losses = [0.0] * len(prompts)
    num_done = 0
    while num_done < len(order):
        indices = next_batch(order[num_done:], lengths, batch_size, max_read_tokens())
        num_done += len(indices)
        found_B = on_host(_losses(graph, params, *_rows(prompts, answers, indices, pad_id)))
        for i, loss in zip(indices, found_B.tolist(), strict=False):  # the batch may hold rows of padding at its end
            losses[i] = loss
        if progress is not None:
            progress(num_done, len(order))
    return losses


def _rows(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], indices: Sequence[int], pad_id: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """tokens_BT, their segment (0: padding), the answers' tokens targets_BS, and where each is predicted (-1: padding).

    The last token of an answer predicts nothing, so it is left out of the row.
    """
    wholes = [[*prompts[i], *answers[i][:-1]] for i in indices]
    num_rows, num_columns = power_of_two(len(indices)), bucket(max(map(len, wholes)))
    num_targets = bucket(max(len(answers[i]) for i in indices))
    tokens_BT = padded(wholes, num_rows, num_columns, pad_id)
    segments_BT = padded([[1] * len(whole) for whole in wholes], num_rows, num_columns, 0)
    targets_BS = padded([answers[i] for i in indices], num_rows, num_targets, pad_id)
    places = [range(len(prompts[i]) - 1, len(prompts[i]) - 1 + len(answers[i])) for i in indices]
    return tokens_BT, segments_BT, targets_BS, padded([list(place) for place in places], num_rows, num_targets, -1)


@functools.partial(jax.jit, static_argnames="graph")
def _losses(
    graph: nnx.GraphDef[Decoder],
    params: nnx.State,
    tokens_BT: jax.Array,
    segments_BT: jax.Array,
    targets_BS: jax.Array,
    places_BS: jax.Array,
) -> jax.Array:
    """float32 [B]; places of -1 count nothing."""
    model = nnx.merge(graph, params)
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1], dtype=jnp.int32), tokens_BT.shape)
    hidden_BSD, _ = model(tokens_BT, positions_BT, segments_BT, outputs_BS=jnp.maximum(places_BS, 0))
    table_VD = model.head_table()
    chunk = chunk_size(targets_BS.size, table_VD.shape[0], LossConfig.logits_mib)
    scores = token_scores(hidden_BSD, table_VD, targets_BS, chunk)
    return jnp.where(places_BS >= 0, scores.log_z_BS - scores.target_logits_BS, 0).sum(axis=1)
