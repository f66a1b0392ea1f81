"""The passes of constrained extraction: blocks of guessed tokens, kept as far as they are the greedy choices.

extraction.py makes the batches and reads what was written here.

Shapes: R rows (prompts), P texts, T tokens, K cache slots, A answer tokens, W tokens of a block; constraints.py has
N places, E edges, U tokens.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from seqgpt_jax.decoding.constraints import (
    Array,
    State,
    TextTables,
    advance,
    allowed,
    first_state,
    guess,
    is_choice,
    is_over,
)
from seqgpt_jax.decoding.generate import prefill
from seqgpt_jax.models.decoder import Decoder, KVCache, NewCache, resize_cache
from seqgpt_jax.models.layers import accumulated


class Rows(NamedTuple):
    """What does not change while a batch is decoded. A row that fills the batch has nothing to say."""

    tables: TextTables  # with a leading axis P
    text_R: Array
    stream_RF: Array
    limit_R: Array
    wanted_RA: Array | None  # tokens that win where they are allowed; -1 for none


class Progress(NamedTuple):
    """What changes."""

    cache: KVCache
    state: State
    next_R: jax.Array  # written last; no pass has seen it
    written: Written
    num_written_R: jax.Array
    num_passes_R: jax.Array
    done_R: jax.Array


class Written(NamedTuple):
    """Of each token of the answers: its kind, its log-probability, and that of anything that ends the span before."""

    tokens_RA: jax.Array
    kinds_RA: jax.Array
    log_probs_RA: jax.Array
    end_log_probs_RA: jax.Array


@functools.partial(jax.jit, static_argnames=("graph", "num_slots"))
def read_texts(
    graph: nnx.GraphDef[Decoder], params: nnx.State, tokens_PT: jax.Array, lengths_P: jax.Array, num_slots: int
) -> KVCache:
    return prefill(nnx.merge(graph, params), tokens_PT, lengths_P, num_slots)[1]


def _within(columns_RT: jax.Array, lengths_R: jax.Array) -> jax.Array:
    """Segment ids: 1 for the tokens of a row, 0 for what fills it."""
    return (columns_RT < lengths_R[:, None]).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("graph", "num_slots", "num_first"))
def read_rest(
    graph: nnx.GraphDef[Decoder],
    params: nnx.State,
    rows: Rows,
    text_cache: KVCache | None,
    tails_RT: jax.Array,
    tail_lengths_R: jax.Array,
    num_slots: int,
    num_first: int,
    pad_id: jax.Array,
) -> Progress:
    """Reads the rest of each prompt, and behind it the first guesses."""
    model = nnx.merge(graph, params)
    num_rows = tails_RT.shape[0]
    cache: KVCache | NewCache = NewCache(num_slots)
    starts_R = jnp.zeros(num_rows, jnp.int32)
    if text_cache is not None:
        cache = resize_cache(text_cache, jnp.asarray(rows.text_R), num_slots)
        starts_R = cache.lengths_B
    num_places = rows.tables.min_bytes_N.shape[1]
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_rows, *x.shape)), first_state(num_places))
    tables = _of_rows(rows)
    ahead = _look_ahead(tables, rows, state, num_first, pad_id)
    columns_RT = jnp.broadcast_to(jnp.arange(tails_RT.shape[1], dtype=jnp.int32), tails_RT.shape)
    behind_RT = columns_RT - tail_lengths_R[:, None]
    guessed_RT = jnp.take_along_axis(ahead.tokens_RW, jnp.clip(behind_RT, 0, num_first - 1), axis=1)
    tokens_RT = jnp.where(behind_RT < 0, tails_RT, guessed_RT)
    wanted_RW = jnp.maximum(tail_lengths_R - 1, 0)[:, None] + jnp.arange(num_first)[None, :]
    hidden_RWD, filled = model(
        tokens_RT,
        starts_R[:, None] + columns_RT,
        _within(columns_RT, tail_lengths_R + num_first - 1),
        cache,
        outputs_BS=wanted_RW,
    )
    assert filled is not None
    empty_RA = jnp.zeros((num_rows, num_slots), accumulated(hidden_RWD))
    progress = Progress(
        filled,
        state,
        jnp.zeros(num_rows, jnp.int32),
        Written(empty_RA.astype(jnp.int32), empty_RA.astype(jnp.int32), empty_RA, empty_RA),
        jnp.zeros(num_rows, jnp.int32),
        jnp.zeros(num_rows, jnp.int32),
        jnp.zeros(num_rows, bool),
    )
    table_RUD = model.head_rows(jnp.asarray(tables.tokens_U))
    return _accept(tables, table_RUD, rows, progress, ahead, hidden_RWD, starts_R + tail_lengths_R - 1)


@functools.partial(jax.jit, static_argnames=("graph", "block"), donate_argnames="progress")
def run_blocks(
    graph: nnx.GraphDef[Decoder], params: nnx.State, rows: Rows, progress: Progress, block: int, pad_id: jax.Array
) -> Progress:
    """Blocks until half of the rows are done, or the cache is full."""
    model = nnx.merge(graph, params)
    num_rows, num_slots = progress.cache.positions_BK.shape
    tables = _of_rows(rows)
    table_RUD = model.head_rows(jnp.asarray(tables.tokens_U))

    def go_on(progress: Progress) -> jax.Array:
        room_R = progress.done_R | (progress.cache.lengths_B + block <= num_slots)
        return ((~progress.done_R).sum() > num_rows // 2) & room_R.all()

    def step(progress: Progress) -> Progress:
        ahead = _look_ahead(tables, rows, progress.state, block, pad_id)
        tokens_RW = jnp.concatenate([progress.next_R[:, None], ahead.tokens_RW[:, :-1]], axis=1)
        starts_R = progress.cache.lengths_B
        positions_RW = starts_R[:, None] + jnp.arange(block, dtype=jnp.int32)[None, :]
        hidden_RWD, cache = model(tokens_RW, positions_RW, jnp.ones_like(tokens_RW), progress.cache)
        assert cache is not None
        progress = progress._replace(cache=cache, num_passes_R=progress.num_passes_R + ~progress.done_R)
        return _accept(tables, table_RUD, rows, progress, ahead, hidden_RWD, starts_R)

    return jax.lax.while_loop(go_on, step, progress)


def _of_rows(rows: Rows) -> TextTables:
    return jax.tree.map(lambda table: jnp.asarray(table)[rows.text_R], rows.tables)


class _Ahead(NamedTuple):
    """A block of guesses: what was allowed at each, and the state before each."""

    tokens_RW: jax.Array
    chosen_RW: jax.Array  # as indices into tokens_U
    kinds_RW: jax.Array
    forced_RW: jax.Array
    allowed_RWU: jax.Array
    ends_RWU: jax.Array
    states_RW: State


def _look_ahead(tables: TextTables, rows: Rows, state: State, width: int, pad_id: jax.Array) -> _Ahead:
    def of_row(tables: TextTables, stream_F: Array, limit: Array, state: State) -> _Ahead:
        def step(state: State, _: None) -> tuple[State, _Ahead]:
            now = allowed(tables, stream_F, state, limit)
            chosen = guess(tables, state)
            token = jnp.where(is_choice(now.forced), tables.tokens_U[chosen], jnp.maximum(now.forced, 0))
            after, kind = advance(tables, state, now, chosen)
            return after, _Ahead(
                jnp.where(is_over(now.forced), pad_id, token),
                chosen,
                kind,
                now.forced,
                now.tokens_U,
                now.ends_span_U,
                state,
            )

        return jax.lax.scan(step, state, None, length=width)[1]

    return jax.vmap(of_row)(tables, rows.stream_RF, rows.limit_R, state)


def _accept(
    tables: TextTables,
    table_RUD: jax.Array,
    rows: Rows,
    progress: Progress,
    ahead: _Ahead,
    hidden_RWD: jax.Array,
    first_slots_R: jax.Array,
) -> Progress:
    """Writes the guesses up to the first that is not the greedy choice, and that choice.

    table_RUD: the head's rows of the tables' tokens. hidden_RWD[:, i] is that of the token before guess i;
    first_slots_R is where the first of them lies in the cache.
    """
    width = hidden_RWD.shape[1]
    places_1W = jnp.arange(width)[None, :]
    logits_RWU = jnp.einsum("RWD,RUD->RWU", hidden_RWD, table_RUD, preferred_element_type=accumulated(hidden_RWD))
    if rows.wanted_RA is not None:
        written_RW = jnp.minimum(progress.num_written_R[:, None] + places_1W, rows.wanted_RA.shape[1] - 1)
        wanted_RW = jnp.take_along_axis(jnp.asarray(rows.wanted_RA), written_RW, axis=1)
        logits_RWU += 1e4 * (tables.tokens_U[:, None, :] == wanted_RW[:, :, None])
    logits_RWU = jnp.where(ahead.allowed_RWU, logits_RWU, -jnp.inf)
    best_RW = jnp.argmax(logits_RWU, axis=-1)
    log_probs_RWU = jax.nn.log_softmax(logits_RWU, axis=-1)
    log_probs_RW = jnp.take_along_axis(log_probs_RWU, best_RW[:, :, None], axis=-1)[:, :, 0]
    end_log_probs_RW = jax.nn.logsumexp(jnp.where(ahead.ends_RWU, log_probs_RWU, -jnp.inf), axis=-1)

    choice_RW = is_choice(ahead.forced_RW)
    wrong_RW = choice_RW & (best_RW != ahead.chosen_RW)
    last_R1 = jnp.where(wrong_RW, places_1W, width - 1).min(axis=1, keepdims=True)

    def at_last(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, last_R1.reshape(-1, *(1,) * (x.ndim - 1)), axis=1)[:, 0]

    def finish(
        tables: TextTables, stream_F: Array, limit: Array, state: State, best: jax.Array
    ) -> tuple[State, jax.Array, jax.Array]:
        state, kind = advance(tables, state, allowed(tables, stream_F, state, limit), best)
        return state, kind, is_over(jnp.asarray(stream_F)[state.stream_place])

    before = jax.tree.map(at_last, ahead.states_RW)
    state, kind_R, done_R = jax.vmap(finish)(tables, rows.stream_RF, rows.limit_R, before, at_last(best_RW))
    tokens_RW = jnp.where(choice_RW, jnp.take_along_axis(tables.tokens_U, best_RW, axis=1), ahead.forced_RW)
    kinds_RW = jnp.where(places_1W == last_R1, kind_R[:, None], ahead.kinds_RW)
    said_RW = (places_1W <= last_R1) & ~is_over(ahead.forced_RW) & ~progress.done_R[:, None]
    num_slots = progress.written.tokens_RA.shape[1]
    slots_RW = jnp.where(said_RW, progress.num_written_R[:, None] + places_1W, num_slots)
    rows_R1 = jnp.arange(len(rows.text_R))[:, None]
    new = Written(tokens_RW, kinds_RW, log_probs_RW, end_log_probs_RW)
    return progress._replace(
        cache=progress.cache._replace(
            lengths_B=jnp.where(progress.done_R, first_slots_R, first_slots_R + last_R1[:, 0] + 1).astype(jnp.int32)
        ),
        state=state,
        next_R=at_last(tokens_RW),
        written=Written(
            *(old.at[rows_R1, slots_RW].set(x, mode="drop") for old, x in zip(progress.written, new, strict=True))
        ),
        num_written_R=progress.num_written_R + said_RW.sum(axis=1, dtype=jnp.int32),
        done_R=done_R,
    )


@jax.jit
def take_rows(progress: Progress, kept: jax.Array, num_left: jax.Array) -> Progress:
    """The rows that are kept, in their order; those from num_left on fill the batch."""
    cache = progress.cache
    state, written = jax.tree.map(lambda x: x[kept], (progress.state, progress.written))
    return Progress(
        resize_cache(cache, kept, cache.positions_BK.shape[1]),
        state,
        progress.next_R[kept],
        written,
        progress.num_written_R[kept],
        progress.num_passes_R[kept],
        jnp.arange(len(kept)) >= num_left,
    )


@jax.jit
def grow(progress: Progress) -> Progress:
    """Twice as many slots, and room for as many more tokens of the answers."""

    cache, num_slots = progress.cache, progress.cache.positions_BK.shape[1]
    return progress._replace(
        cache=resize_cache(cache, jnp.arange(len(cache.lengths_B)), 2 * num_slots),
        written=Written(*(jnp.pad(x, ((0, 0), (0, num_slots))) for x in progress.written)),
    )
