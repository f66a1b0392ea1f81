"""Which labels a record offers: subsets, distractors from other domains, and no set that another family ever shows."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, MutableSequence, Sequence
from typing import TypeVar

from seqgpt_jax.synthesis.content import FAMILIES, Domain, FamilyContent
from seqgpt_jax.synthesis.inventory import label_sets
from seqgpt_jax.synthesis.numerals import Draw

T = TypeVar("T")
_MOST_OPTIONS = 10
_DISTRACTOR_SHARE = 0.5  # of the records whose options are not the domain's inventory


class LabelSets:
    """Chooses the label sets of one training family.

    A set that is no inventory of the family itself may be none of the other families' inventories, and its checksum
    must have the family's parity: so the sets that two families draw at random never coincide either.
    """

    def __init__(self, content: FamilyContent, rivals: Iterable[FamilyContent]) -> None:
        self._language = content.language
        self._parity = FAMILIES.index(content.family) % 2
        self._own = frozenset(label_sets(content))
        self._foreign = frozenset(labels for rival in rivals for labels in label_sets(rival))
        self._topics = _pool(content.domains, lambda domain: domain.topics)
        self._intents = _pool(content.domains, lambda domain: domain.intent_names)

    def topics(self, domain: Domain, gold: Sequence[str], draw: Draw) -> tuple[str, ...] | None:
        """3 to 10 topics with the gold ones among them; None when the draw gave no set that is allowed."""
        return self._mixed(domain.topics, self._topics, gold, draw)

    def intents(self, domain: Domain, gold: Sequence[str], draw: Draw) -> tuple[str, ...] | None:
        """3 to 10 intents with the gold ones among them; None when the draw gave no set that is allowed."""
        return self._mixed(domain.intent_names, self._intents, gold, draw)

    def settle(self, gold: Sequence[str], others: MutableSequence[str], draw: Draw) -> tuple[str, ...] | None:
        """Gold and other labels, shuffled; others are dropped until the set is allowed, None when none are left."""
        while others or gold:
            labels = [*gold, *others]
            if len(labels) > 1 and self._is_allowed(frozenset(labels)):
                shuffle(labels, draw)
                return tuple(labels)
            if not others:
                return None
            others.pop(int(draw() * len(others)))
        return None

    def _is_allowed(self, labels: frozenset[str]) -> bool:
        if labels in self._own:
            return True
        checksum = zlib.crc32("\n".join(sorted(labels)).encode())
        return checksum % 2 == self._parity and labels not in self._foreign

    def _mixed(
        self, inventory: Sequence[str], everything: Sequence[str], gold: Sequence[str], draw: Draw
    ) -> tuple[str, ...] | None:
        near = [label for label in inventory if label not in gold]
        if draw() < 0.4 and len(inventory) <= _MOST_OPTIONS:
            return self.settle(gold, near, draw)
        num_others = min(2 + int(draw() * (_MOST_OPTIONS - 2)), _MOST_OPTIONS - len(gold))
        num_far = sum(draw() < _DISTRACTOR_SHARE for _ in range(num_others))
        others = sample(near, num_others - num_far, draw)
        for label in sample(everything, num_far, draw):
            if label not in inventory and not any(self._are_alike(label, true) for true in gold):
                others.append(label)
        options = self.settle(gold, others, draw)
        return options if options and len(options) >= 3 else None

    def _are_alike(self, label: str, other: str) -> bool:
        """Whether two labels of different domains may mean the same: they share a word, or two characters in a row."""
        if self._language == "zh":
            return any(label[i : i + 2] in other for i in range(len(label) - 1))
        return not set(label.split()).isdisjoint(other.split())


def _pool(domains: Sequence[Domain], names: Callable[[Domain], tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for domain in domains for name in names(domain)))


def pick(items: Sequence[T], draw: Draw) -> T:
    """One of the items."""
    return items[int(draw() * len(items))]


def sample(items: Sequence[T], count: int, draw: Draw) -> list[T]:
    """At most `count` of the items, each once, in random order."""
    if count * 3 > len(items):
        copy = list(items)
        shuffle(copy, draw)
        return copy[:count]
    places: dict[int, None] = {}
    while len(places) < count:
        places[int(draw() * len(items))] = None
    return [items[place] for place in places]


def shuffle(items: MutableSequence[T], draw: Draw) -> None:
    """Shuffles in place (Fisher and Yates), by `draw` alone."""
    for last in range(len(items) - 1, 0, -1):
        other = int(draw() * (last + 1))
        items[last], items[other] = items[other], items[last]
