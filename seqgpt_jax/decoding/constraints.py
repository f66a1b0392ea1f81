"""What an extraction may say: for each asked label `None`, or spans that are substrings of this very text.

    label: span<TAB>span\n          the strings of a label in the order of their first occurrence, longer first

The automaton works on bytes, so a span may begin and end inside a token of the prompt. Its state is the set of places
where what was written of the current span occurs. A string is known by where it first occurs, hence "in text order" and
"no string twice" are one rule on (start, length), and no memory of what was said is needed. `compile_text` lists on the
host, once a text, every token that may ever come next and from where; `allowed` and `advance` say on the device what
may come now.

`None` is a span too: it stands behind the text in the buffer, may be the first span of a label, and ends the line.

Shapes: N places in the buffer (bytes of the text, a gap, `None`), E edges, U distinct tokens of the edges.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from seqgpt_jax.atomic import NONE
from seqgpt_jax.prompt import TAB

# How a token goes on: within a span; behind "label:" with the space before a span; behind a span with the tab before
# the next; to the end of the line.
INSIDE, SPACED, TABBED, ENDED = range(4)
FORCED = -1  # a token that is no choice: label names, colons
_NONE, _TAB, _SPACE, _LINE_END = NONE.encode(), TAB.encode(), b" ", b"\n"
_ANSWER, _STOP = -1, -2  # in a stream of forced tokens: the model answers here; nothing more is to be said


Array: TypeAlias = jax.Array | np.ndarray


class TokenBytes:
    """The tokens of a vocabulary by the bytes that they stand for."""

    def __init__(self, token_bytes: Sequence[bytes | None]) -> None:
        self.ids = {token: token_id for token_id, token in enumerate(token_bytes) if token}
        self._longest: dict[bytes, int] = {}
        self.line_ends = {token[:-1]: token_id for token, token_id in self.ids.items() if token.endswith(_LINE_END)}
        for token in self.ids:
            self._longest[token[:2]] = max(self._longest.get(token[:2], 0), len(token))
        self._longest_line_end = max(map(len, self.line_ends), default=0)

    def starting(self, data: bytes, place: int, end: int, before: bytes = b"") -> Iterator[tuple[int, int]]:
        """(k, id) of the tokens that are `before` and then k bytes of data[place:end]."""
        ahead = before + data[place : min(place + 2, end)]
        longest = self._longest.get(ahead[:2], 1)
        for k in range(0 if before else 1, min(longest - len(before), end - place) + 1):
            token_id = self.ids.get(before + data[place : place + k])
            if token_id is not None:
                yield k, token_id

    def ending_a_line(self, data: bytes, place: int, end: int) -> Iterator[tuple[int, int]]:
        """(k, id) of the tokens that are k bytes of data[place:end] and then the line break."""
        for k in range(min(self._longest_line_end, end - place) + 1):
            token_id = self.line_ends.get(data[place : place + k])
            if token_id is not None:
                yield k, token_id


class TextTables(NamedTuple):
    """What a text allows, as arrays; rows of a batch are stacked in front."""

    tokens_U: Array  # ids, ascending
    edge_place_E: Array  # INSIDE and ENDED: where the span under way has got to; else where the next one starts
    edge_bytes_E: Array  # bytes of the text that the token takes; -1 where there is no edge
    edge_kind_E: Array
    edge_token_E: Array  # index into tokens_U
    ends_through_N: Array  # how many places up to this one a span may end at
    min_bytes_N: Array  # of a span that starts here: a shorter string occurs earlier, and means that place
    region_end_N: Array  # the last place that a span from here may reach; -1 where none may start
    says_none_N: Array  # whether the four bytes from here are "None", which is no span
    guess_N: Array  # the token, as an index into tokens_U, that goes on or ends a span most likely
    first_guess_N: Array  # the same where the span starts here
    none_start: Array  # scalar: where the buffer's own `None` starts
    none_guess: Array  # scalar: the token that starts it


def compile_text(text: str, tokens: TokenBytes) -> TextTables:
    """The tables of one text. It holds no tab and no line break, and no lone surrogate (atomic.py sees to that)."""
    written = text.encode()
    data = written + b"\0" + _NONE
    none_start, size = len(written) + 1, len(data)
    starts, ends = _span_edges(text, len(written))
    min_bytes = _first_occurrences(written, starts, size)
    min_bytes[none_start] = len(_NONE)
    region_end = np.full(size + 1, -1, np.int32)
    region_end[starts] = len(written)
    region_end[none_start] = size
    may_end = np.zeros(size + 1, bool)
    may_end[ends] = True
    may_end[size] = True

    edges: list[tuple[int, int, int, int]] = []  # (id, place, bytes, kind)
    for place in itertools.chain(range(len(written)), range(none_start, size)):
        stop = len(written) if place < none_start else size
        edges += ((token, place, k, INSIDE) for k, token in tokens.starting(data, place, stop))
    for place in (*starts, none_start):
        stop = len(written) if place < none_start else size
        edges += ((token, place, k, SPACED) for k, token in tokens.starting(data, place, stop, _SPACE))
        if place != none_start:
            edges += ((token, place, k, TABBED) for k, token in tokens.starting(data, place, stop, _TAB))
    for place in itertools.chain(range(1, len(written) + 1), range(none_start + 1, size + 1)):
        stop = len(written) if place < none_start else size
        found = tokens.ending_a_line(data, place, stop)
        edges += ((token, place, k, ENDED) for k, token in found if may_end[place + k])
    edges.sort()
    ids_E, place_E, bytes_E, kind_E = (np.asarray(column, np.int32) for column in zip(*edges, strict=True))
    tokens_U, token_E = np.unique(ids_E, return_inverse=True)

    longest = _longest_by_place(place_E, bytes_E, token_E, kind_E == INSIDE, size + 1)
    line_end = np.int32(np.searchsorted(tokens_U, tokens.ids[_LINE_END]))
    guess = np.where(may_end & _word_ends(text, size), line_end, longest)
    from_none = (kind_E == SPACED) & (place_E == none_start)
    return TextTables(
        tokens_U.astype(np.int32),
        place_E,
        bytes_E,
        kind_E,
        token_E.astype(np.int32),
        np.cumsum(may_end).astype(np.int32),
        min_bytes,
        region_end,
        np.asarray([data[place : place + 4] == _NONE and place < none_start for place in range(size + 1)]),
        guess.astype(np.int32),
        longest.astype(np.int32),
        np.asarray(none_start, np.int32),
        _longest_by_place(np.zeros_like(place_E), bytes_E, token_E, from_none, 1)[0].astype(np.int32),
    )


def _span_edges(text: str, num_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """The places where a span may start, and where it may end: at no white space, and not within a character."""
    sizes = np.asarray([len(character.encode()) for character in text], np.int32)
    stops = np.cumsum(sizes)
    is_space = np.asarray([character.isspace() for character in text], bool)
    return (stops - sizes)[~is_space], stops[~is_space]


def _first_occurrences(data: bytes, starts: np.ndarray, size: int) -> np.ndarray:
    """int32 [size + 1]: how long a string from each start must be to occur nowhere earlier; too long where none is."""
    min_bytes = np.full(size + 1, size + 1, np.int32)
    length, last = 1, 0
    for start in starts.tolist():
        length = max(1, length - (start - last))  # one byte less of a string that was new is new a byte further on, or
        last = start  # one more is needed
        while start + length <= len(data) and data.find(data[start : start + length]) < start:
            length += 1
        min_bytes[start] = length
    return min_bytes


def _longest_by_place(
    place_E: np.ndarray, bytes_E: np.ndarray, token_E: np.ndarray, chosen_E: np.ndarray, size: int
) -> np.ndarray:
    """The token of the longest of the chosen edges at each place; 0 where there is none."""
    found = np.zeros(size, np.int64)
    order = np.argsort(bytes_E[chosen_E], kind="stable")
    found[place_E[chosen_E][order]] = token_E[chosen_E][order]  # the last one stays: the longest
    return found


def _word_ends(text: str, size: int) -> np.ndarray:
    """bool [size + 1]: whether a run of characters of one kind ends here. It only guides guesses."""
    ends = np.ones(size + 1, bool)
    place = 0
    for character, following in itertools.pairwise(text):
        place += len(character.encode())
        ends[place] = _script(character) != _script(following)
    return ends


def _script(character: str) -> int:
    return 0 if not character.isalnum() else 1 if character < "\u2e80" else 2


def pad_tables(tables: TextTables, num_places: int, num_edges: int, num_tokens: int) -> TextTables:
    """The tables in larger arrays, in which nothing more is allowed."""
    sizes = {"U": num_tokens, "E": num_edges, "N": num_places}
    fills = {"edge_bytes_E": -1, "region_end_N": -1, "ends_through_N": tables.ends_through_N[-1]}
    grown = []
    for name, array in tables._asdict().items():
        if array.ndim:
            missing = sizes[name[-1]] - len(array)
            array = np.pad(array, (0, missing), constant_values=fills.get(name, 0))
        grown.append(array)
    return TextTables(*grown)


def answer_stream(label_tokens: Sequence[Sequence[int]]) -> list[int]:
    """The forced tokens of an answer, label by label, with marks where the model answers and where all is said."""
    stream: list[int] = []
    for tokens in label_tokens:
        stream += [*tokens, _ANSWER]
    return [*stream, _STOP]


# --- on the device: one row; callers vmap over rows -------------------------------------------------------------------


class State(NamedTuple):
    """Where an answer stands. Next comes stream[place_in_stream], unless that is a mark for the model's own words."""

    stream_place: jax.Array
    in_span: jax.Array  # bool: behind a label's colon and its space, or behind a tab
    alive_N: jax.Array  # bool: starts of the spans that may be under way
    num_bytes: jax.Array  # written of them
    last_start: jax.Array  # of the label's span before, -1 where there is none: the next one must not come before it,
    last_bytes: jax.Array  # and be shorter where it starts there too
    num_chosen: jax.Array  # tokens that were chosen, not forced


def first_state(num_places: int) -> State:
    zero = jnp.zeros((), jnp.int32)
    return State(zero, zero > 0, jnp.zeros(num_places, bool), zero, zero - 1, zero, zero)


class Allowed(NamedTuple):
    """What may come next."""

    forced: jax.Array  # the token that must come, or a mark
    edges_E: jax.Array  # bool
    tokens_U: jax.Array  # bool
    ends_span_U: jax.Array  # bool: tokens before which the span under way ends
    ended_start: jax.Array  # where that span first occurs, -1 where it may not end here


def is_choice(forced: jax.Array) -> jax.Array:
    return forced == _ANSWER


def is_over(forced: jax.Array) -> jax.Array:
    return forced == _STOP


def allowed(tables: TextTables, stream_F: Array, state: State, limit: Array) -> Allowed:
    """limit: chosen tokens after which a span ends where it can, and no further one begins."""
    places_N = jnp.arange(tables.min_bytes_N.shape[0])
    may_end_N = state.alive_N & _is_span(tables, places_N, state.num_bytes, state)
    can_end = state.in_span & (state.num_bytes > 0) & may_end_N.any()
    ended_start = jnp.where(can_end, jnp.argmax(may_end_N), -1)
    tight = state.num_chosen >= limit

    kind_E, place_E, bytes_E = tables.edge_kind_E, tables.edge_place_E, tables.edge_bytes_E
    goes_on_E = (kind_E == INSIDE) | (kind_E == ENDED)
    start_E = jnp.where(goes_on_E, place_E - state.num_bytes, place_E)
    total_E = jnp.where(goes_on_E, state.num_bytes, 0) + bytes_E
    in_buffer_E = start_E >= 0
    alive_E = in_buffer_E & state.alive_N[jnp.maximum(start_E, 0)]
    is_none_E = start_E == tables.none_start
    tabbed_E = kind_E == TABBED
    after = _Bound(
        jnp.where(tabbed_E, ended_start, state.last_start), jnp.where(tabbed_E, state.num_bytes, state.last_bytes)
    )
    can_grow_E = _can_become_span(tables, start_E, total_E, after)
    inside_E = (kind_E == INSIDE) & alive_E & can_grow_E & ~(tight & can_end)
    ended_E = (kind_E == ENDED) & alive_E & _is_span(tables, start_E, total_E, state)
    next_E = tabbed_E & can_end & ~tight & (ended_start < tables.none_start) & can_grow_E
    spaced_E = (kind_E == SPACED) & can_grow_E & (~tight | is_none_E)
    forced = stream_F[state.stream_place]
    ok_E = jnp.where(state.in_span, inside_E | ended_E | next_E, spaced_E) & (bytes_E >= 0) & (forced == _ANSWER)
    none_U = jnp.zeros(tables.tokens_U.shape, bool)
    ends_E = ok_E & (tabbed_E | ((kind_E == ENDED) & (bytes_E == 0)))
    return Allowed(
        forced,
        ok_E,
        none_U.at[tables.edge_token_E].max(ok_E),
        none_U.at[tables.edge_token_E].max(ends_E),
        ended_start,
    )


def advance(tables: TextTables, state: State, allowed: Allowed, chosen: jax.Array) -> tuple[State, jax.Array]:
    """The state after the token with that index in tokens_U, or after the forced one; and the kind of the token."""
    taken_E = allowed.edges_E & (tables.edge_token_E == chosen)
    kind = jnp.where(taken_E, tables.edge_kind_E, FORCED).max()
    num_bytes = jnp.where(taken_E, tables.edge_bytes_E, 0).max()
    start_E = tables.edge_place_E - jnp.where(kind == INSIDE, state.num_bytes, 0)
    alive_N = jnp.zeros(state.alive_N.shape, bool).at[start_E].max(taken_E, mode="drop")
    tabbed, line_over = kind == TABBED, kind == ENDED
    spoken = State(
        stream_place=state.stream_place + line_over,
        in_span=~line_over,
        alive_N=alive_N & ~line_over,
        num_bytes=jnp.where(line_over, 0, num_bytes + jnp.where(kind == INSIDE, state.num_bytes, 0)),
        last_start=jnp.where(line_over, -1, jnp.where(tabbed, allowed.ended_start, state.last_start)),
        last_bytes=jnp.where(line_over, 0, jnp.where(tabbed, state.num_bytes, state.last_bytes)),
        num_chosen=state.num_chosen + 1,
    )
    said = state._replace(stream_place=state.stream_place + ~is_over(allowed.forced))
    choice = is_choice(allowed.forced)

    def either(spoken: jax.Array, said: jax.Array, before: jax.Array) -> jax.Array:
        return jnp.where(choice, spoken, said).astype(before.dtype)

    return jax.tree.map(either, spoken, said, state), jnp.where(choice, kind, FORCED)


def guess(tables: TextTables, state: State) -> jax.Array:
    """The token, as an index into tokens_U, that most likely comes next: `None`, the rest of a word, the line's end."""
    place = jnp.argmax(state.alive_N) + state.num_bytes
    inside = jnp.where(state.num_bytes > 0, tables.guess_N[place], tables.first_guess_N[place])
    return jnp.where(state.in_span, inside, tables.none_guess)


class _Bound(NamedTuple):
    last_start: jax.Array
    last_bytes: jax.Array


def _is_span(tables: TextTables, start: jax.Array, num_bytes: jax.Array, bound: _Bound | State) -> jax.Array:
    """Whether the string of so many bytes from start is a span, first occurs there, and comes after the one before."""
    end, safe_start = start + num_bytes, jnp.maximum(start, 0)
    may_end = _num_ends(tables, end, end) > 0
    after = (start > bound.last_start) | ((start == bound.last_start) & (num_bytes < bound.last_bytes))
    whole = (num_bytes >= tables.min_bytes_N[safe_start]) & (end <= tables.region_end_N[safe_start])
    return (start >= 0) & may_end & after & whole & ~(tables.says_none_N[safe_start] & (num_bytes == len(_NONE)))


def _can_become_span(tables: TextTables, start: jax.Array, num_bytes: jax.Array, bound: _Bound) -> jax.Array:
    """Whether so many bytes from start are the beginning of such a string, or one themselves."""
    safe_start = jnp.maximum(start, 0)
    last = tables.region_end_N[safe_start]
    last = jnp.where(start == bound.last_start, jnp.minimum(last, start + bound.last_bytes - 1), last)
    first = safe_start + jnp.maximum(num_bytes, tables.min_bytes_N[safe_start])
    num_ends = _num_ends(tables, first, last)
    none_end = safe_start + len(_NONE)
    says_none = tables.says_none_N[safe_start] & (first <= none_end) & (none_end <= last)
    return (start >= 0) & (start >= bound.last_start) & (first <= last) & (num_ends - says_none > 0)


def _num_ends(tables: TextTables, first: jax.Array, last: jax.Array) -> jax.Array:
    """How many of these places a span may end at; none ends at place 0."""
    top = tables.ends_through_N.shape[0] - 1
    return tables.ends_through_N[jnp.clip(last, 0, top)] - tables.ends_through_N[jnp.clip(first - 1, 0, top)]
