"""Greedy decoding with a KV cache: many prompts in, the tokens of their answers out.

Each row goes on in the cache where its own prompt ended. One program runs the prompts of a batch (batching.py) and
then decodes until every row is done; nothing returns to Python between tokens.

Shapes: B batch, T prompt tokens, A answer tokens, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgpt_jax.decoding.batching import Rows, decode_batches
from seqgpt_jax.models.decoder import Decoder, KVCache, NewCache


def generate(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    eos_id: int,
    pad_id: int = 0,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """The greedy answer to each prompt, in the order given, EOS included where the model wrote it.

    An answer without EOS at its end was cut off at max_new_tokens (one for all, or one each). progress(done, total) is
    called after each batch. Ties between logits go to the smaller id. Where the model lies on several processes, all of
    them call this with the same prompts. Raises UserError for an empty prompt, or an id
    that the model has no row for.
    """
    return decode_batches(
        lambda graph, params, rows, num_new: _decode(graph, params, rows, num_new, eos_id, pad_id),
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        batch_size=batch_size,
        progress=progress,
    )


def prefill(
    model: Decoder, tokens_BT: jax.Array | np.ndarray, lengths_B: jax.Array | np.ndarray, num_slots: int
) -> tuple[jax.Array, KVCache]:
    """The hidden state [B, 1, D] of each prompt's last token, and a cache of num_slots that holds the prompts.

    A row's next token goes behind its own prompt.
    """
    lengths_B, tokens_BT = jnp.asarray(lengths_B), jnp.asarray(tokens_BT)
    columns_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1], dtype=jnp.int32), tokens_BT.shape)
    segment_ids_BT = (columns_BT < lengths_B[:, None]).astype(jnp.int32)
    last_B1 = jnp.maximum(lengths_B - 1, 0)[:, None]
    hidden_B1D, cache = model(tokens_BT, columns_BT, segment_ids_BT, NewCache(num_slots), outputs_BS=last_B1)
    assert cache is not None
    return hidden_B1D, cache._replace(lengths_B=lengths_B)


class _DecodeState(NamedTuple):
    step: jax.Array
    next_B: jax.Array  # chosen, not yet written
    done_B: jax.Array
    answers_BA: jax.Array
    cache: KVCache


@functools.partial(jax.jit, static_argnames=("graph", "num_new"))
def _decode(
    graph: nnx.GraphDef[Decoder], params: nnx.State, rows: Rows, num_new: int, eos_id: jax.Array, pad_id: jax.Array
) -> jax.Array:
    model = nnx.merge(graph, params)
    num_rows, num_columns = rows.tokens_BT.shape
    hidden_B1D, cache = prefill(model, rows.tokens_BT, rows.lengths_B, num_columns + num_new)
    lengths_B, limits_B = cache.lengths_B, jnp.asarray(rows.limits_B)

    def choose(hidden_B1D: jax.Array) -> jax.Array:
        return jnp.argmax(model.head(hidden_B1D[:, 0]), axis=-1).astype(jnp.int32)

    def step(state: _DecodeState) -> _DecodeState:
        written_B = jnp.where(state.done_B, pad_id, state.next_B)
        answers_BA = jax.lax.dynamic_update_slice(state.answers_BA, written_B[:, None], (0, state.step))
        done_B = state.done_B | (state.next_B == eos_id) | (state.step + 1 >= limits_B)
        hidden_B1D, cache = model(
            written_B[:, None], (lengths_B + state.step)[:, None], jnp.ones((num_rows, 1), jnp.int32), state.cache
        )
        assert cache is not None
        return _DecodeState(state.step + 1, choose(hidden_B1D), done_B, answers_BA, cache)

    start = _DecodeState(
        step=jnp.zeros((), jnp.int32),
        next_B=choose(hidden_B1D),
        done_B=limits_B <= 0,
        answers_BA=jnp.full((num_rows, num_new), pad_id, jnp.int32),
        cache=cache,
    )
    return jax.lax.while_loop(lambda state: ~state.done_B.all(), step, start).answers_BA
