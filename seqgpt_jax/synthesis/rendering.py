"""Templates filled with values: the text, where each slot and the trigger stand, and whether spans can be read back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from seqgpt_jax.synthesis.content import ASPECT, Slot, Template
from seqgpt_jax.synthesis.grammar import Grammar
from seqgpt_jax.synthesis.numerals import Draw

Place = tuple[int, int]  # start and end (exclusive) in code points


@dataclass(frozen=True, slots=True)
class Rendered:
    """A filled template: `places` by slot key, and the place of the trigger."""

    text: str
    places: Mapping[str, Place]
    trigger: Place | None

    def string(self, key: str) -> str:
        start, end = self.places[key]
        return self.text[start:end]

    def shifted(self, offset: int, text: str) -> Rendered:
        """The same slots where this text begins at `offset` of a longer `text`."""
        places = {key: (start + offset, end + offset) for key, (start, end) in self.places.items()}
        trigger = None if self.trigger is None else (self.trigger[0] + offset, self.trigger[1] + offset)
        return Rendered(text, places, trigger)


def compose_values(slots: Iterable[Slot], types: Mapping[str, Grammar], draw: Draw) -> dict[str, str]:
    """A fresh value for every slot, by slot key."""
    return {slot.key: types[slot.type].compose(draw) for slot in slots if slot.key != ASPECT}


def fill(template: Template, values: Mapping[str, str]) -> Rendered:
    """The template with its values in place."""
    texts: list[str] = []
    places: dict[str, Place] = {}
    trigger: Place | None = None
    end = 0
    for piece in template.pieces:
        start = end
        if isinstance(piece, str):
            texts.append(piece)
            end += len(piece)
        elif isinstance(piece, Slot):
            value = values[piece.key]
            texts.append(value)
            end += len(value)
            places[piece.key] = (start, end)
        else:
            texts.append(piece.text)
            end += len(piece.text)
            trigger = (start, end)
    return Rendered("".join(texts), places, trigger)


def is_readable(text: str, places: Iterable[Place]) -> bool:
    """Whether each span is the only occurrence of its string (so none lies inside another) and cuts no Latin word.

    Then span strings alone, as a model answers them, give the offsets back.
    """
    for start, end in places:
        string = text[start:end]
        if text.find(string) != start or text.find(string, start + 1) != -1:
            return False
        if start and _is_latin(text[start - 1]) and _is_latin(text[start]):
            return False
        if end < len(text) and _is_latin(text[end - 1]) and _is_latin(text[end]):
            return False
    return True


def _is_latin(character: str) -> bool:
    return character < "\u0250" and character.isalnum()
