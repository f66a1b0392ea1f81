"""The generator's content as data: domains with their types, facts, utterances and opinions.

A slot in a text is {type label}; {type label#2} is a second, different value of the type; what stands in [ ] is the
trigger of the fact's event. reader.py makes these from the TOML files.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from seqgpt_jax.synthesis.grammar import Grammar

LANGUAGES = ("en", "zh")
FAMILIES = ("synthetic", "mini_real", "mini_held_out")  # the place in this tuple is the family's residue class
POLARITIES = ("positive", "negative", "neutral")
ASPECT = "aspect"  # the slot of an opinion that its [opinions] table fills


@dataclass(frozen=True)
class Slot:
    key: str  # "person#2"

    @functools.cached_property
    def type(self) -> str:
        return self.key.split("#")[0]


@dataclass(frozen=True, slots=True)
class Trigger:
    text: str


@dataclass(frozen=True)
class Template:
    """A text with slots: literal strings, slots and at most one trigger, in order."""

    source: str
    pieces: tuple[str | Slot | Trigger, ...]
    slots: tuple[Slot, ...]  # in text order, each once
    trigger: Trigger | None


@dataclass(frozen=True, slots=True)
class EventRule:
    type: str
    roles: tuple[tuple[str, str], ...]  # (role, slot key)


@dataclass(frozen=True)
class Fact:
    """One statement in several wordings with the same slots, and what is true of the slots."""

    topic: str
    templates: tuple[Template, ...]
    relations: tuple[tuple[str, str, str], ...]  # (label, head slot key, tail slot key)
    event: EventRule | None
    questions: tuple[tuple[str, Template], ...]  # (slot key that answers it, question)

    @property
    def slots(self) -> tuple[Slot, ...]:
        return self.templates[0].slots


@dataclass(frozen=True)
class Intent:
    name: str
    templates: tuple[Template, ...]


@dataclass(frozen=True)
class Domain:
    """One domain of one language and family."""

    language: str
    family: str
    slug: str
    name: str
    types: Mapping[str, Grammar]
    facts: tuple[Fact, ...]
    intents: tuple[Intent, ...]
    aspects: tuple[str, ...]
    opinions: Mapping[str, tuple[Template, ...]]  # polarity -> texts; empty where the domain has none

    @functools.cached_property
    def topics(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(fact.topic for fact in self.facts))

    @functools.cached_property
    def intent_names(self) -> tuple[str, ...]:
        return tuple(intent.name for intent in self.intents)

    @functools.cached_property
    def relation_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label for fact in self.facts for label, _, _ in fact.relations))

    @functools.cached_property
    def event_schema(self) -> dict[str, tuple[str, ...]]:
        schema: dict[str, dict[str, None]] = {}
        for fact in self.facts:
            if fact.event is not None:
                schema.setdefault(fact.event.type, {}).update((role, None) for role, _ in fact.event.roles)
        return {event: tuple(roles) for event, roles in schema.items()}

    @functools.cached_property
    def fact_types(self) -> tuple[str, ...]:
        """Types that occur in facts, in the order of the [types] table."""
        return self._types_in(template for fact in self.facts for template in fact.templates)

    @functools.cached_property
    def utterance_types(self) -> tuple[str, ...]:
        """Types that occur in utterances, in the order of the [types] table."""
        return self._types_in(template for intent in self.intents for template in intent.templates)

    @functools.cached_property
    def kinds(self) -> dict[str, frozenset[str]]:
        """Type -> the types that name its kind: departure city -> {city}."""
        return {
            special: frozenset(general for general in self.types if is_kind(general, special, self.language))
            for special in self.types
        }

    def _types_in(self, templates: Iterable[Template]) -> tuple[str, ...]:
        found = {slot.type for template in templates for slot in template.slots}
        return tuple(label for label in self.types if label in found)


def is_kind(general: str, special: str, language: str) -> bool:
    """Whether a label names the kind of another by its last words: city and departure city, 城市 and 出发城市."""
    return special != general and special.endswith(general if language == "zh" else f" {general}")


@dataclass(frozen=True)
class FamilyContent:
    """All domains of one language and family, ordered by slug."""

    language: str
    family: str
    domains: tuple[Domain, ...]
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unused_pools: tuple[str, ...] = ()
