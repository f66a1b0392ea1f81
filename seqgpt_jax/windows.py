"""Texts that are too long for one prompt: cut into windows, each asked on its own.

Windows are cut where sentences end (。！？；… and line breaks; . ! ? before white space); a sentence that is too long
for that is cut before a word, or else before a token. Each begins with the last sentences of the one before, up to an
eighth of a window, so that what stands at an edge is read whole once. Nothing is left out. merging.py puts together
what is found.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from seqgpt_jax.atomic import decompose
from seqgpt_jax.errors import UserError
from seqgpt_jax.negatives import evaluation_questions
from seqgpt_jax.occurrences import normalise_text
from seqgpt_jax.prompt import PromptFormat
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    RelationRecord,
    Span,
)
from seqgpt_jax.schema import Request
from seqgpt_jax.vocabulary import Vocabulary

MIN_WINDOW = 16  # tokens; where labels leave less, cutting the text to pieces would make no sense
_OVERLAP = 8  # an eighth of a window
_MENTION_TOKENS = 32  # what two mentions in a later question may take
_EDGE_TOKENS = 2  # a piece of a text may have a token more at each edge than it has within the text

_SENTENCE_END = re.compile("(?:[。！？；…]+|[.!?]+(?=[\"'”’)\\]」』）】]*\\s)|(?=[\r\n]))[\"'”’)\\]」』）】]*\\s*")


@dataclass(frozen=True, slots=True)
class Window:
    """The characters start to end of a text, and about how many tokens they are."""

    start: int
    end: int
    num_tokens: int


def cut(text: str, starts: np.ndarray, room: int) -> tuple[Window, ...]:
    """Windows of at most `room` tokens, in text order; starts: where each token of the text begins.

    ("A b. C d. E f.", room for 6 tokens, overlap of 3)  ->  "A b. C d. ", "C d. E f."
    """
    room -= _EDGE_TOKENS
    overlap = max(room // _OVERLAP, 1)
    edges = _edges(text, starts, room - overlap, overlap)
    places = np.searchsorted(starts, edges)  # tokens before each edge
    windows = []
    first = 0
    while True:
        last = int(np.searchsorted(places, places[first] + room, side="right")) - 1
        windows.append(Window(int(edges[first]), int(edges[last]), int(places[last] - places[first])))
        if last == len(edges) - 1:
            return tuple(window for window in windows if not text[window.start : window.end].isspace())
        back = int(np.searchsorted(places, places[last] - overlap))
        first = max(back, first + 1)


def head(text: str, starts: np.ndarray, room: int) -> Window:
    """As much of the start of a text as fits, cut at a token's edge."""
    num_tokens = room - _EDGE_TOKENS
    return Window(0, int(starts[num_tokens]), num_tokens)


def _edges(text: str, starts: np.ndarray, most: int, piece: int) -> np.ndarray:
    """Places where a window may begin or end, 0 and the text's end among them, never more than `most` tokens apart."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if match.end()]
    edges = [0]
    for end in [*ends, len(text)]:
        before, after = np.searchsorted(starts, [edges[-1], end])
        while after - before > most:
            edges.append(_inner_edge(text, starts, int(before), piece))
            before = np.searchsorted(starts, edges[-1])
        if end > edges[-1]:
            edges.append(end)
    return np.array(edges)


def _inner_edge(text: str, starts: np.ndarray, before: int, piece: int) -> int:
    """A place at most `piece` tokens on, before a word if there is one in the last half of them."""
    candidates = [int(starts[k]) for k in range(before + piece, before + piece // 2, -1)]
    first = int(starts[before])
    for place in candidates:
        if place > first and (text[place].isspace() or text[place - 1].isspace()):
            return place
    return next(
        (place for place in candidates if place > first), int(starts[np.searchsorted(starts, first, side="right")])
    )


# --- how a request is read -------------------------------------------------------------------------------------------

Long: TypeAlias = Literal["chunk", "truncate", "error"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The windows that a text is read in, and the tokens that are in none of them."""

    windows: tuple[Window, ...]
    tokens_cut: int = 0


@dataclass(frozen=True, slots=True)
class _Frame:
    """The longest prompt about a request, but for its text: labels, wordings, what stands beside the text."""

    num_tokens: int
    num_labels: int


@dataclass(frozen=True)
class Planner:
    """Decides how the texts of requests are read."""

    vocabulary: Vocabulary
    format: PromptFormat
    max_prompt_tokens: int
    max_extract_labels: int  # asked in one prompt
    long: Long
    with_examples: bool = False  # then a window takes half of the room, and examples the other half
    _frames: dict[object, _Frame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.long not in ("chunk", "truncate", "error"):
            raise UserError(f"long={self.long!r} is unknown (one of 'chunk', 'truncate', 'error')")

    def plan(self, request: Request) -> Plan:
        """UserError for a text that is too long where that is an error, or that labels leave too little room for."""
        text = request.record.text
        frame = self._frame(request)
        room = self.max_prompt_tokens - frame.num_tokens
        whole = Window(0, len(text), len(text))
        if len(text.encode("utf-8")) <= room:  # a byte-level token is a byte or more
            return Plan((whole,))
        starts = self.vocabulary.token_starts(normalise_text(text))
        if len(starts) <= room:
            return Plan((whole,))
        if self.long == "error":
            raise UserError(
                f"a text has {len(starts)} tokens, and {max(room, 0)} of {self.max_prompt_tokens} are left for it "
                "(ask with long='chunk' or long='truncate', or allow more tokens)"
            )
        if room < MIN_WINDOW:
            raise UserError(
                f"{frame.num_labels} labels take {frame.num_tokens} tokens and leave {max(room, 0)} of "
                f"{self.max_prompt_tokens} for a text of {len(starts)} tokens, and a window of it takes {MIN_WINDOW} "
                "(ask fewer or shorter labels at once, or allow more tokens)"
            )
        if self.with_examples:
            room = max(room // 2, MIN_WINDOW)
        if self.long == "truncate":
            kept = head(text, starts, room)
            return Plan((kept,), len(starts) - kept.num_tokens)
        return Plan(_holding_target(request.record, cut(text, starts, room)))

    def _frame(self, request: Request) -> _Frame:
        record = request.record
        beside = (record.text_pair, record.question, record.target) if isinstance(record, ClassificationRecord) else ()
        key = (id(request.meta), type(record), beside)
        if key not in self._frames:
            questions = evaluation_questions(
                decompose(_probe(record, request.meta), request.meta), self.max_extract_labels
            )
            prompts = self.vocabulary.encode_prompts(self.format, questions)
            lengths = [len(prompt.ids) if prompt else 0 for prompt in prompts]
            longest = int(np.argmax(lengths))
            mentions = _MENTION_TOKENS if isinstance(record, RelationRecord | EventRecord) else 0
            self._frames[key] = _Frame(lengths[longest] - 1 + mentions, len(questions[longest].labels))
        return self._frames[key]


def _probe(record: Record, meta: DatasetMeta) -> Record:
    """The record with the shortest text about which every kind of question is asked."""
    match record:
        case ClassificationRecord() | ExtractionRecord():
            return replace(record, text="x")
        case RelationRecord():
            type_ = meta.entity_labels[0]
            return replace(record, text="x y", entities=(Span(type_, 0, 1, "x"), Span(type_, 2, 3, "y")))
        case EventRecord():
            return replace(record, text="x", events=tuple(Event(t, Span(t, 0, 1, "x")) for t in meta.labels))


def _holding_target(record: Record, windows: tuple[Window, ...]) -> tuple[Window, ...]:
    """Of a target that is somewhere in the text, only the windows that hold it."""
    target = record.target if isinstance(record, ClassificationRecord) else None
    if target is None:
        return windows
    if target.start is not None and target.end is not None:
        holding = (w for w in windows if w.start <= target.start and target.end <= w.end)
    else:
        holding = (w for w in windows if target.text in record.text[w.start : w.end])
    return tuple(holding) or windows


def within(request: Request, window: Window) -> Request:
    """The request about one window of its text."""
    record = request.record
    return replace(request, record=replace(record, text=record.text[window.start : window.end]))
