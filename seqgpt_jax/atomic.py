"""Records as atomic tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

from seqgpt_jax.errors import UserError

NONE = "None"
STEPS = ("classify", "extract", "entities", "relation", "trigger", "event_type", "argument")

Kind: TypeAlias = Literal["classify", "extract"]
Answer: TypeAlias = tuple[str, ...] | Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where an example comes from. query: what it is about, e.g. (head, tail), (trigger,) or (event type,)."""

    dataset: str
    split: str
    record_id: str
    task: str
    language: str
    step: str
    query: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AtomicExample:
    """One question to the model with its answer; text and labels are normalised.

    classify: the answer is the chosen labels in the order asked. extract: label -> strings, for labels that have any;
    strings in text order (by start, longer first), each once.
    """

    text: str
    kind: Kind
    labels: tuple[str, ...]
    answer: Answer
    source: Source


_LINE_BREAK = re.compile("[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def normalise_text(text: str) -> str:
    """Returns the text with each tab and line break as one space (offsets stay true) and no trailing white space."""
    return _LINE_BREAK.sub(" ", text).rstrip()


@lru_cache(maxsize=1 << 16)
def normalise_label(label: str) -> str:
    """Returns the label as the prompt writes it: white space runs are one space, the full-width comma is ','."""
    return " ".join(label.replace("，", ",").split())


def check_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the labels normalised; UserError where one is empty or `None`, or two become equal."""
    return _checked(tuple(labels))


@lru_cache(maxsize=1 << 12)
def _checked(labels: tuple[str, ...]) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for label in labels:
        written = normalise_label(label)
        if not written or written == NONE:
            why = "`None` is the empty answer" if written else "it is empty"
            raise UserError(f"label {label!r} cannot be asked: {why} (rename it)")
        if written in seen:
            both = f"labels {seen[written]!r} and {label!r}"
            raise UserError(f"{both} are both written {written!r} in a prompt (rename one)")
        seen[written] = label
    return tuple(seen)
