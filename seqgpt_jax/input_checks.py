"""What a user gives is checked before anything is asked: texts, what stands beside them, and labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from seqgpt_jax.atomic import check_labels
from seqgpt_jax.errors import UserError
from seqgpt_jax.fields import show

Labels: TypeAlias = Sequence[str] | Mapping[str, str | None]  # names, or name -> the words that stand for it


def as_text(text: Any, name: str) -> str:
    """The text; UserError for one that is empty, no string, or no Unicode text."""
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{name} is empty or no string: {_show(text)} (give it some words)")
    check_unicode(text, name)
    return text


def as_texts(text: Any, name: str) -> list[str]:
    """One text or several as a list, each checked."""
    if isinstance(text, str):
        return [as_text(text, name)]
    if isinstance(text, bytes | Mapping) or not isinstance(text, Iterable):
        raise UserError(f"{name} is {_show(text)} (give a string, or a list of strings)")
    return [as_text(one, f"{name} {index}") for index, one in enumerate(text)]


def as_labels(labels: Any, name: str = "labels") -> tuple[tuple[str, ...], dict[str, str]]:
    """The names, and name -> description for those that have one.

    UserError for labels that are no list or mapping of strings, or that cannot be asked (`check_labels`).
    """
    if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
        raise UserError(f"{name} is {_show(labels)} (give a list of strings)")
    given = dict(labels) if isinstance(labels, Mapping) else {}
    names = tuple(labels)
    if not names:
        raise UserError(f"{name} is empty (give at least one label)")
    descriptions = {label: words for label, words in given.items() if words is not None}
    for position, one in enumerate((*names, *descriptions.values())):
        if not isinstance(one, str):
            where = f"{name}[{position}]" if position < len(names) else f"a description in {name}"
            raise UserError(f"{where} is {_show(one)}, no string (give a list of strings)")
        check_unicode(one, f"{name}: {one!a}")
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(label for label in names if label in seen or seen.add(label))  # type: ignore[func-returns-value]
        raise UserError(f"{name} holds {show(twice)} twice (ask it once)")
    check_labels(names)
    if descriptions:
        check_labels(descriptions.get(label, label) for label in names)
    return names, descriptions


def as_parallel(given: Any, name: str, num_texts: int) -> Sequence[str | None]:
    """One string a text, or None for each where nothing was given; UserError where the numbers differ."""
    if given is None:
        return [None] * num_texts
    values = as_texts(given, name)
    if len(values) != num_texts:
        raise UserError(f"{num_texts} texts but {len(values)} of {name} (give one a text)")
    return values


def check_unicode(text: str, name: str) -> None:
    """UserError, with the place, for half of a surrogate pair: no encoding of it exists."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = f"U+{ord(text[error.start]):04X}"
        raise UserError(
            f"{name} has a lone surrogate ({code}) at position {error.start}, which is no character "
            "(text.encode('utf-8', 'replace').decode('utf-8') puts '?' in its place)"
        ) from None


def _show(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
