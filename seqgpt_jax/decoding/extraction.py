"""Constrained extraction: greedy among what constraints.py allows, many tokens a forward pass, the text read once.

    texts ----prefill, once each----> cache --a copy a chunk of labels--> prefill of labels and of "None" throughout
                                                                             |
    blocks of the tokens that most likely come next <--until all is said-----'

Every pass runs a block of tokens that are guessed: label names are certain, a label is guessed to be absent, a span to
go on as the text does and to end with its word. The guesses are the greedy choices as far as they agree with them
(speculative decoding with exact acceptance, Leviathan et al. 2023, arXiv 2211.17192, where the text is the draft, as in
prompt lookup decoding), so block = 1, one token a pass, writes the same answers up to rounding.

Shapes: R rows (prompts), P texts, T tokens, K cache slots, A answer tokens, W tokens of a block; constraints.py has
N places, E edges, U tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgpt_jax.decoding.batching import MAX_BATCH_TOKENS, on_host, padded, power_of_two
from seqgpt_jax.decoding.constraints import (
    ENDED,
    FORCED,
    TABBED,
    State,
    TextTables,
    TokenBytes,
    advance,
    allowed,
    answer_stream,
    compile_text,
    first_state,
    guess,
    is_choice,
    is_over,
    pad_tables,
)
from seqgpt_jax.models.decoder import Decoder, KVCache, init_cache


@dataclass(frozen=True, slots=True)
class ExtractionPrompt:
    """ids end in [GEN]; the first num_text_ids are shared by the prompts about one text.

    labels: each label as the answer writes it, with its colon, in tokens. limit: chosen tokens after which no further
    span begins.
    """

    ids: Sequence[int]
    num_text_ids: int
    text: str
    labels: Sequence[Sequence[int]]
    limit: int


@dataclass(frozen=True, slots=True)
class Copied:
    """tokens: the whole answer, without EOS. spans: (string, probability) of each label in turn, `None` among them.

    The probability is that of exactly this string at this point of the constrained answer. num_passes and num_tokens:
    what the model ran for this row after its text, passes of a batch counting for each of its rows.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    num_passes: int
    num_tokens: int


class _Rows(NamedTuple):
    """What does not change while a batch is decoded. A row that fills the batch has nothing to say."""

    tables: TextTables  # with a leading axis P
    text_R: np.ndarray
    stream_RF: np.ndarray
    limit_R: np.ndarray
    wanted_RA: np.ndarray | None  # tokens that win where they are allowed; -1 for none


class _Progress(NamedTuple):
    """What changes."""

    cache: KVCache
    state: State
    next_R: jax.Array  # written last; no pass has seen it
    written: _Written
    num_written_R: jax.Array
    num_passes_R: jax.Array
    done_R: jax.Array


class _Written(NamedTuple):
    """Of each token of the answers: its kind, its log-probability, and that of anything that ends the span before."""

    tokens_RA: jax.Array
    kinds_RA: jax.Array
    log_probs_RA: jax.Array
    end_log_probs_RA: jax.Array


def extract(
    model: Decoder,
    prompts: Sequence[ExtractionPrompt],
    tokens: TokenBytes,
    *,
    pad_id: int = 0,
    batch_size: int = 64,
    block: int = 8,
    wanted: Sequence[Sequence[int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Copied]:
    """The constrained answer to each prompt, in the order given. Ties between logits go to the smaller id.

    block: tokens of a pass; 1 is plain greedy decoding. wanted: answers in tokens that win wherever they are allowed,
    for measurements of speed. progress(done, total) is called after each batch. Where the model lies on several
    processes, all of them call this with the same prompts.
    """
    graph, params = nnx.split(model)
    copied: list[Copied | None] = [None] * len(prompts)
    num_done = 0
    for batch in _batches(prompts, batch_size):
        answers = _Batch(
            [prompts[i] for i in batch], None if wanted is None else [wanted[i] for i in batch], tokens, pad_id, block
        ).run(graph, params)
        for i, answer in zip(batch, answers, strict=True):
            copied[i] = answer
        num_done += len(batch)
        if progress is not None:
            progress(num_done, len(prompts))
    return [answer for answer in copied if answer is not None]


def _batches(prompts: Sequence[ExtractionPrompt], batch_size: int) -> list[list[int]]:
    """Prompts about one text stay together, texts of about the same length come together, and memory has a bound."""
    texts: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        texts.setdefault(tuple(prompt.ids[: prompt.num_text_ids]), []).append(i)
    batches: list[list[int]] = [[]]
    for group in sorted(texts.values(), key=lambda group: max(len(prompts[i].ids) for i in group)):
        longest = max(len(prompts[i].ids) for i in group)
        num_together = max(1, min(batch_size, MAX_BATCH_TOKENS // longest))
        for start in range(0, len(group), num_together):
            part = group[start : start + num_together]
            if len(batches[-1]) + len(part) > num_together:
                batches.append([])
            batches[-1] += part
    return [batch for batch in batches if batch]


class _Batch:
    """Prompts that are decoded together."""

    def __init__(
        self,
        prompts: list[ExtractionPrompt],
        wanted: list[Sequence[int]] | None,
        tokens: TokenBytes,
        pad_id: int,
        block: int,
    ) -> None:
        self.pad_id, self.block, self.num_prompts = pad_id, block, len(prompts)
        num_rows = power_of_two(len(prompts))
        heads = [tuple(prompt.ids[: prompt.num_text_ids]) for prompt in prompts]
        texts = {head: prompt.text for head, prompt in zip(heads, prompts, strict=True)}
        self.shared = len(texts) < len(prompts)  # else a pass of its own for the texts saves nothing
        streams = [answer_stream(prompt.labels) for prompt in prompts]
        streams += [answer_stream([])] * (num_rows - len(prompts))
        self.rows = _Rows(
            _stacked([compile_text(text, tokens) for text in texts.values()]),
            _column([list(texts).index(head) for head in heads], num_rows),
            padded(streams, num_rows, power_of_two(max(map(len, streams))), 0),
            _column([prompt.limit for prompt in prompts], num_rows),
            None if wanted is None else padded(wanted, num_rows, power_of_two(1 + max(map(len, wanted))), -1),
        )
        self.texts = list(texts)
        self.tails = [list(p.ids[p.num_text_ids :] if self.shared else p.ids) for p in prompts]
        # "label: None\n" throughout: a mark in the stream stands for ` None` and the line's end
        none_throughout = max(
            len(stream) + len(prompt.labels) for stream, prompt in zip(streams, prompts, strict=False)
        )
        self.num_first = 1 if block == 1 else min(_steps(none_throughout), _MAX_FIRST)

    def run(self, graph: nnx.GraphDef[Decoder], params: nnx.State) -> list[Copied]:
        progress = self._start(graph, params)
        answers: dict[int, Copied] = {}
        prompt_R = np.arange(len(self.rows.text_R))
        while True:
            done_R = on_host(progress.done_R)
            rows = [row for row in np.flatnonzero(done_R) if prompt_R[row] < self.num_prompts]
            answers |= self._answers(progress, rows, prompt_R)
            left = np.flatnonzero(~done_R)
            if not len(left):
                return [answers[i] for i in range(self.num_prompts)]
            size = power_of_two(len(left))
            if size < len(prompt_R):
                kept = np.resize(left, size)
                progress, self.rows = _take_rows(progress, kept, len(left)), _rows_at(self.rows, kept)
                prompt_R = np.where(np.arange(size) < len(left), prompt_R[kept], self.num_prompts)
            if int(on_host(progress.cache.lengths_B).max()) + self.block > progress.cache.positions_BK.shape[1]:
                progress = _grow(progress)
            progress = _run(graph, params, self.rows, progress, self.block, self.pad_id)

    def _start(self, graph: nnx.GraphDef[Decoder], params: nnx.State) -> _Progress:
        num_rows = len(self.rows.text_R)
        tail_lengths = _column([len(tail) for tail in self.tails], num_rows)
        tails = padded(self.tails, num_rows, _steps(int(tail_lengths.max()) + self.num_first - 1), self.pad_id)
        cache, num_text_slots = None, 0
        if self.shared:
            lengths = _column([len(text) for text in self.texts], power_of_two(len(self.texts)))
            num_text_slots = _steps(int(lengths.max()))
            texts = padded(self.texts, len(lengths), num_text_slots, self.pad_id)
            cache = _read_texts(graph, params, texts, lengths)
        num_slots = _steps(num_text_slots + tails.shape[1] + 3 * self.block)
        return _first(graph, params, self.rows, cache, tails, tail_lengths, num_slots, self.num_first, self.pad_id)

    def _answers(self, progress: _Progress, rows: Sequence[int], prompt_R: np.ndarray) -> dict[int, Copied]:
        written = _Written(*(on_host(array) for array in progress.written))
        lengths, passes = on_host(progress.num_written_R), on_host(progress.num_passes_R)
        answers = {}
        for row in rows:
            prompt, end = int(prompt_R[row]), int(lengths[row])
            of_row = _Written(*(array[row, :end] for array in written))
            tokens = len(self.tails[prompt]) + self.num_first - 1 + int(passes[row]) * self.block
            answers[prompt] = Copied(
                tuple(of_row.tokens_RA.tolist()), _span_probabilities(of_row), 1 + int(passes[row]), tokens
            )
        return answers


_MAX_FIRST = 96  # guessed tokens behind a prompt


def _steps(length: int) -> int:
    """The next multiple of 16, above 128 of an eighth of the next power of two."""
    step = max(16, power_of_two(length) // 8)
    return -(-length // step) * step


def _column(values: Sequence[int], num_rows: int) -> np.ndarray:
    return np.asarray([*values, *[0] * (num_rows - len(values))], np.int32)


def _stacked(tables: list[TextTables]) -> TextTables:
    """Every table in arrays of one size, repeated up to a power of two."""
    sizes = (max(len(getattr(table, name)) for table in tables) for name in ("min_bytes_N", "edge_kind_E", "tokens_U"))
    num_places, num_edges, num_tokens = map(power_of_two, sizes)
    grown = [pad_tables(table, num_places, num_edges, num_tokens) for table in tables]
    grown += [grown[0]] * (power_of_two(len(grown)) - len(grown))
    return TextTables(*(np.stack(arrays) for arrays in zip(*grown, strict=True)))


def _rows_at(rows: _Rows, kept: np.ndarray) -> _Rows:
    return rows._replace(
        text_R=rows.text_R[kept],
        stream_RF=rows.stream_RF[kept],
        limit_R=rows.limit_R[kept],
        wanted_RA=None if rows.wanted_RA is None else rows.wanted_RA[kept],
    )


def _span_probabilities(written: _Written) -> tuple[float, ...]:
    """Of each span of one row: the product over its tokens, and over what ended it, whatever that was."""
    probabilities, total = [], 0.0
    for kind, log_prob, end_log_prob in zip(*written[1:], strict=True):
        if kind in (TABBED, ENDED):
            ends_before = end_log_prob > -math.inf  # else the token takes the last piece of the span along
            probabilities.append(math.exp(total + float(end_log_prob if ends_before else log_prob)))
            total = 0.0
        elif kind != FORCED:
            total += float(log_prob)
    return tuple(probabilities)


# --- on the device ---------------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="graph")
def _read_texts(graph: nnx.GraphDef[Decoder], params: nnx.State, tokens_PT: jax.Array, lengths_P: jax.Array) -> KVCache:
    model = nnx.merge(graph, params)
    cache = init_cache(model.config, *tokens_PT.shape)
    columns_PT = jnp.broadcast_to(jnp.arange(tokens_PT.shape[1], dtype=jnp.int32), tokens_PT.shape)
    _, cache = model(tokens_PT, columns_PT, _within(columns_PT, lengths_P), cache, jnp.zeros_like(tokens_PT[:, :1]))
    assert cache is not None
    return cache._replace(lengths_B=jnp.asarray(lengths_P))


def _within(columns_RT: jax.Array, lengths_R: jax.Array) -> jax.Array:
    """Segment ids: 1 for the tokens of a row, 0 for what fills it."""
    return (columns_RT < lengths_R[:, None]).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("graph", "num_slots", "num_first"))
def _first(
    graph: nnx.GraphDef[Decoder],
    params: nnx.State,
    rows: _Rows,
    text_cache: KVCache | None,
    tails_RT: jax.Array,
    tail_lengths_R: jax.Array,
    num_slots: int,
    num_first: int,
    pad_id: jax.Array,
) -> _Progress:
    """Reads the rest of each prompt, and behind it the first guesses."""
    model = nnx.merge(graph, params)
    num_rows = tails_RT.shape[0]
    cache = init_cache(model.config, num_rows, num_slots)
    if text_cache is not None:
        cache = _copied_to_rows(text_cache, rows.text_R, cache)
    num_places = rows.tables.min_bytes_N.shape[1]
    state = jax.tree.map(lambda x: jnp.broadcast_to(x, (num_rows, *x.shape)), first_state(num_places))
    ahead = _look_ahead(_of_rows(rows), rows, state, num_first, pad_id)
    columns_RT = jnp.broadcast_to(jnp.arange(tails_RT.shape[1], dtype=jnp.int32), tails_RT.shape)
    behind_RT = columns_RT - tail_lengths_R[:, None]
    guessed_RT = jnp.take_along_axis(ahead.tokens_RW, jnp.clip(behind_RT, 0, num_first - 1), axis=1)
    tokens_RT = jnp.where(behind_RT < 0, tails_RT, guessed_RT)
    starts_R = cache.lengths_B
    wanted_RW = jnp.maximum(tail_lengths_R - 1, 0)[:, None] + jnp.arange(num_first)[None, :]
    hidden_RWD, cache = model(
        tokens_RT,
        starts_R[:, None] + columns_RT,
        _within(columns_RT, tail_lengths_R + num_first - 1),
        cache,
        outputs_BS=wanted_RW,
    )
    assert cache is not None
    empty_RA = jnp.zeros((num_rows, num_slots))
    progress = _Progress(
        cache,
        state,
        jnp.zeros(num_rows, jnp.int32),
        _Written(empty_RA.astype(jnp.int32), empty_RA.astype(jnp.int32), empty_RA, empty_RA),
        jnp.zeros(num_rows, jnp.int32),
        jnp.zeros(num_rows, jnp.int32),
        jnp.zeros(num_rows, bool),
    )
    return _accept(model, rows, progress, ahead, hidden_RWD, starts_R + tail_lengths_R - 1)


def _copied_to_rows(text_cache: KVCache, text_R: jax.Array, empty: KVCache) -> KVCache:
    num_slots = text_cache.positions_BK.shape[1]
    return KVCache(
        empty.keys_LBGKH.at[:, :, :, :num_slots].set(text_cache.keys_LBGKH[:, text_R]),
        empty.values_LBGKH.at[:, :, :, :num_slots].set(text_cache.values_LBGKH[:, text_R]),
        empty.positions_BK.at[:, :num_slots].set(text_cache.positions_BK[text_R]),
        empty.segment_ids_BK.at[:, :num_slots].set(text_cache.segment_ids_BK[text_R]),
        text_cache.lengths_B[text_R],
    )


@functools.partial(jax.jit, static_argnames=("graph", "block"), donate_argnames="progress")
def _run(
    graph: nnx.GraphDef[Decoder], params: nnx.State, rows: _Rows, progress: _Progress, block: int, pad_id: jax.Array
) -> _Progress:
    """Blocks until half of the rows are done, or the cache is full."""
    model = nnx.merge(graph, params)
    num_rows, num_slots = progress.cache.positions_BK.shape
    tables = _of_rows(rows)

    def go_on(progress: _Progress) -> jax.Array:
        room_R = progress.done_R | (progress.cache.lengths_B + block <= num_slots)
        return ((~progress.done_R).sum() > num_rows // 2) & room_R.all()

    def step(progress: _Progress) -> _Progress:
        ahead = _look_ahead(tables, rows, progress.state, block, pad_id)
        tokens_RW = jnp.concatenate([progress.next_R[:, None], ahead.tokens_RW[:, :-1]], axis=1)
        starts_R = progress.cache.lengths_B
        positions_RW = starts_R[:, None] + jnp.arange(block, dtype=jnp.int32)[None, :]
        hidden_RWD, cache = model(tokens_RW, positions_RW, jnp.ones_like(tokens_RW), progress.cache)
        assert cache is not None
        progress = progress._replace(cache=cache, num_passes_R=progress.num_passes_R + ~progress.done_R)
        return _accept(model, rows, progress, ahead, hidden_RWD, starts_R)

    return jax.lax.while_loop(go_on, step, progress)


def _of_rows(rows: _Rows) -> TextTables:
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


def _look_ahead(tables: TextTables, rows: _Rows, state: State, width: int, pad_id: jax.Array) -> _Ahead:
    def of_row(tables: TextTables, stream_F: jax.Array, limit: jax.Array, state: State) -> _Ahead:
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
    model: Decoder,
    rows: _Rows,
    progress: _Progress,
    ahead: _Ahead,
    hidden_RWD: jax.Array,
    first_slots_R: jax.Array,
) -> _Progress:
    """Writes the guesses up to the first that is not the greedy choice, and that choice.

    hidden_RWD[:, i] is that of the token before guess i; first_slots_R is where the first of them lies in the cache.
    """
    tables = _of_rows(rows)
    width = hidden_RWD.shape[1]
    places_1W = jnp.arange(width)[None, :]
    table_RUD = model.head_rows(tables.tokens_U)
    logits_RWU = jnp.einsum("RWD,RUD->RWU", hidden_RWD, table_RUD, preferred_element_type=_accumulated(hidden_RWD))
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

    state, best_R = jax.tree.map(at_last, ahead.states_RW), at_last(best_RW)

    def finish(tables: TextTables, stream_F: jax.Array, limit: jax.Array, state: State, best: jax.Array):
        return advance(tables, state, allowed(tables, stream_F, state, limit), best)

    state, kind_R = jax.vmap(finish)(tables, rows.stream_RF, rows.limit_R, state, best_R)
    tokens_RW = jnp.where(choice_RW, jnp.take_along_axis(tables.tokens_U, best_RW, axis=1), ahead.forced_RW)
    kinds_RW = jnp.where(places_1W == last_R1, kind_R[:, None], ahead.kinds_RW)
    said_RW = (places_1W <= last_R1) & ~is_over(ahead.forced_RW) & ~progress.done_R[:, None]
    num_slots = progress.written.tokens_RA.shape[1]
    slots_RW = jnp.where(said_RW, progress.num_written_R[:, None] + places_1W, num_slots)
    rows_R1 = jnp.arange(len(rows.text_R))[:, None]
    new = _Written(tokens_RW, kinds_RW, log_probs_RW, end_log_probs_RW)
    return progress._replace(
        cache=progress.cache._replace(
            lengths_B=jnp.where(progress.done_R, first_slots_R, first_slots_R + last_R1[:, 0] + 1).astype(jnp.int32)
        ),
        state=state,
        next_R=at_last(tokens_RW),
        written=_Written(
            *(old.at[rows_R1, slots_RW].set(x, mode="drop") for old, x in zip(progress.written, new, strict=True))
        ),
        num_written_R=progress.num_written_R + said_RW.sum(axis=1),
        done_R=jax.vmap(lambda stream_F, place: is_over(stream_F[place]))(
            jnp.asarray(rows.stream_RF), state.stream_place
        ),
    )


def _accumulated(x: jax.Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


@functools.partial(jax.jit, donate_argnames="progress")
def _take_rows(progress: _Progress, kept: jax.Array, num_left: jax.Array) -> _Progress:
    """The rows that are kept, in their order; those from num_left on fill the batch."""
    cache = progress.cache
    taken = jax.tree.map(lambda x: x[kept], progress._replace(cache=None))
    return taken._replace(
        cache=KVCache(
            cache.keys_LBGKH[:, kept],
            cache.values_LBGKH[:, kept],
            cache.positions_BK[kept],
            cache.segment_ids_BK[kept],
            cache.lengths_B[kept],
        ),
        done_R=jnp.arange(len(kept)) >= num_left,
    )


@jax.jit
def _grow(progress: _Progress) -> _Progress:
    """Twice as many slots, and room for as many more tokens of the answers."""

    def doubled(x: jax.Array, axis: int) -> jax.Array:
        return jnp.pad(x, [(0, x.shape[axis] if i == axis else 0) for i in range(x.ndim)])

    cache = progress.cache
    return progress._replace(
        cache=KVCache(
            doubled(cache.keys_LBGKH, 3),
            doubled(cache.values_LBGKH, 3),
            doubled(cache.positions_BK, 1),
            doubled(cache.segment_ids_BK, 1),
            cache.lengths_B,
        ),
        written=_Written(*(doubled(x, 1) for x in progress.written)),
    )
