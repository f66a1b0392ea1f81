"""Greedy decoding with a KV cache: many prompts in, the tokens of their answers out.

Prompts are sorted by length and padded behind their end to one of few lengths, so that a handful of compiled programs
serves any input; each row goes on in the cache where its own prompt ended. Long prompts go in smaller batches, so that
memory has a bound: the scores of attention grow with the square of the length. One program runs the prompts and then
decodes until every row is done; nothing returns to Python between tokens.

Shapes: B batch, T prompt tokens, A answer tokens.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental.multihost_utils import assert_equal

from seqgpt_jax.decoding.batching import bucket, next_batch, on_host, padded, power_of_two
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import Decoder, KVCache, init_cache


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
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    _check(model, prompts, limits, batch_size)
    graph, params = nnx.split(model)
    if not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(params)):
        assert_equal(np.uint32(zlib.crc32(repr((prompts, limits)).encode())), "the processes have different prompts")
    lengths = [len(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), limits[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    num_done = 0
    while num_done < len(order):
        indices = next_batch(order[num_done:], lengths, batch_size)
        num_done += len(indices)
        rows = _padded([prompts[i] for i in indices], [limits[i] for i in indices], pad_id)
        num_new = bucket(max(limits[i] for i in indices))
        tokens_BA = on_host(_decode(graph, params, rows, num_new, eos_id, pad_id))
        for i, tokens_A in zip(indices, tokens_BA, strict=False):  # the batch may hold rows of padding at its end
            answers[i] = _up_to_eos(tokens_A[: limits[i]].tolist(), eos_id)
        if progress is not None:
            progress(num_done, len(order))
    return answers


class _Rows(NamedTuple):
    tokens_BT: np.ndarray
    lengths_B: np.ndarray  # 0 for a row that fills the batch
    limits_B: np.ndarray


def _padded(prompts: Sequence[Sequence[int]], limits: Sequence[int], pad_id: int) -> _Rows:
    num_rows, num_columns = power_of_two(len(prompts)), bucket(max(map(len, prompts)))
    tokens_BT = padded(prompts, num_rows, num_columns, pad_id)
    lengths_B, limits_B = np.zeros((2, num_rows), np.int32)
    lengths_B[: len(prompts)] = [len(prompt) for prompt in prompts]
    limits_B[: len(prompts)] = limits
    return _Rows(tokens_BT, lengths_B, limits_B)


def _up_to_eos(tokens: list[int], eos_id: int) -> list[int]:
    return tokens[: tokens.index(eos_id) + 1] if eos_id in tokens else tokens


class _DecodeState(NamedTuple):
    step: jax.Array
    next_B: jax.Array  # chosen, not yet written
    done_B: jax.Array
    answers_BA: jax.Array
    cache: KVCache


@functools.partial(jax.jit, static_argnames=("graph", "num_new"))
def _decode(
    graph: nnx.GraphDef[Decoder], params: nnx.State, rows: _Rows, num_new: int, eos_id: jax.Array, pad_id: jax.Array
) -> jax.Array:
    model = nnx.merge(graph, params)
    tokens_BT, lengths_B, limits_B = (jnp.asarray(x) for x in rows)
    num_rows, num_columns = tokens_BT.shape
    columns_BT = jnp.broadcast_to(jnp.arange(num_columns, dtype=jnp.int32), tokens_BT.shape)
    segment_ids_BT = (columns_BT < lengths_B[:, None]).astype(jnp.int32)
    last_B1 = jnp.maximum(lengths_B - 1, 0)[:, None]
    empty = init_cache(model.config, num_rows, num_columns + num_new)
    hidden_B1D, cache = model(tokens_BT, columns_BT, segment_ids_BT, empty, outputs_BS=last_B1)
    assert cache is not None

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
        cache=cache._replace(lengths_B=lengths_B),
    )
    return jax.lax.while_loop(lambda state: ~state.done_B.all(), step, start).answers_BA


def _check(model: Decoder, prompts: Sequence[Sequence[int]], limits: Sequence[int], batch_size: int) -> None:
    if len(limits) != len(prompts):
        raise UserError(f"{len(limits)} values of max_new_tokens for {len(prompts)} prompts (give one, or one each)")
    if batch_size < 1 or any(limit < 0 for limit in limits):
        raise UserError("batch_size must be at least 1 and max_new_tokens at least 0")
    vocab_size = model.config.vocab_size
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {i} is empty (a prompt ends with [GEN], so it has at least one token)")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise UserError(f"prompt {i} has an id outside 0 .. {vocab_size - 1} (use the model's own tokenizer)")
