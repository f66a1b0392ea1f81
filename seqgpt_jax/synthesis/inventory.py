"""What the content of a family holds, counted and compared: templates per task, label sets, values, words."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from seqgpt_jax.synthesis.content import Domain, FamilyContent, Template
from seqgpt_jax.synthesis.grammar import Grammar
from seqgpt_jax.synthesis.wordings import NLI_WORDINGS, SENTIMENT_WORDINGS

_ENUMERATE_LIMIT = 20_000  # values of a type that are listed in full; beyond, a sample is taken
_NUM_SAMPLES = 1_000


def task_templates(content: FamilyContent) -> dict[str, set[str]]:
    """Distinct text templates (for reading tasks: of texts that have a question) by task."""
    facts = [fact for domain in content.domains for fact in domain.facts]
    all_facts = {template.source for fact in facts for template in fact.templates}
    asked = {template.source for fact in facts if fact.questions for template in fact.templates}
    utterances = {t.source for domain in content.domains for intent in domain.intents for t in intent.templates}
    return {
        "NER": all_facts,
        "SF": utterances,
        "ID": utterances,
        "SA": {t.source for domain in content.domains for texts in domain.opinions.values() for t in texts},
        "CLS": all_facts,
        "NLI": all_facts,
        "RE": {template.source for fact in facts if fact.relations for template in fact.templates},
        "EE": {template.source for fact in facts if fact.event for template in fact.templates},
        "ET": all_facts,
        "MRC-SE": asked,
        "MRC-MC": asked,
    }


def template_forms(content: FamilyContent) -> dict[str, str]:
    """Every template of the family, texts and questions: its form without slot names and brackets -> the template.

    Two templates of one form differ in the names of their slots alone, so they count as one.
    """
    sources = (template.source for domain in content.domains for template in _templates(domain))
    return {re.sub(r"\{[^}]*\}", "{}", source).replace("[", "").replace("]", ""): source for source in sources}


def _templates(domain: Domain) -> Iterator[Template]:
    for fact in domain.facts:
        yield from fact.templates
        yield from (question for _, question in fact.questions)
    for intent in domain.intents:
        yield from intent.templates
    for texts in domain.opinions.values():
        yield from texts


def label_sets(content: FamilyContent) -> dict[frozenset[str], str]:
    """The family's label inventories, each with the place it comes from."""
    sets: dict[frozenset[str], str] = {}
    for domain in content.domains:
        inventories = {
            "types": tuple(domain.types),
            "types of facts": domain.fact_types,
            "types of utterances": domain.utterance_types,
            "topics": domain.topics,
            "intents": domain.intent_names,
            "relations": domain.relation_names,
            "event types": tuple(domain.event_schema),
        }
        sets.update({frozenset(labels): f"{domain.slug} {kind}" for kind, labels in inventories.items() if labels})
    key = content.language, content.family
    for kind, wordings in (("sentiment", SENTIMENT_WORDINGS[key]), ("NLI", NLI_WORDINGS[key])):
        sets.update({frozenset(wording.values()): f"{kind} wording" for wording in wordings})
    return sets


def num_values(content: FamilyContent) -> int:
    """How many values the family's types can compose: derivations of each distinct grammar, counted once."""
    grammars = {str(_shape(grammar)): grammar for domain in content.domains for grammar in domain.types.values()}
    return sum(grammar.num_values for grammar in grammars.values())


def _shape(grammar: Grammar) -> tuple[object, ...]:
    return tuple(tuple(part if isinstance(part, str) else id(part) for part in parts) for parts in grammar.alternatives)


def values_of(grammar: Grammar) -> Iterable[str]:
    """All values of a small grammar, else a seeded sample."""
    listed = grammar.enumerate(_ENUMERATE_LIMIT)
    if listed is not None:
        return listed
    draw = random.Random(0).random
    return [grammar.compose(draw) for _ in range(_NUM_SAMPLES)]


def shared_values(one: FamilyContent, two: FamilyContent) -> dict[str, tuple[str, str]]:
    """Values that both families compose, with the type in each; complete for small grammars, sampled for others."""
    ours, theirs = _values(one), _values(two)
    return {value: (ours[value], theirs[value]) for value in ours.keys() & theirs.keys()}


def _values(content: FamilyContent) -> dict[str, str]:
    places: dict[str, str] = {}
    for domain in content.domains:
        for label, grammar in domain.types.items():
            for value in values_of(grammar):
                places.setdefault(value, f"{domain.slug}/{label}")
    return places


def known_label_share(families: dict[str, FamilyContent]) -> tuple[float, dict[str, list[str]]]:
    """The share of held-out label names that a training family holds as the same kind, and the others by kind."""
    held_out = _names_by_kind([families["mini_held_out"]])
    known = _names_by_kind([families["synthetic"], families["mini_real"]])
    unknown = {kind: sorted(name for name in names if not known[kind][name]) for kind, names in held_out.items()}
    total = sum(len(names) for names in held_out.values())
    missing = sum(len(names) for names in unknown.values())
    return (1 - missing / total if total else 0.0), {kind: names for kind, names in unknown.items() if names}


def label_names(families: dict[str, FamilyContent]) -> dict[str, int]:
    """Held-out label names ("kind: name") and in how many training domains each occurs as the same kind."""
    held_out = _names_by_kind([families["mini_held_out"]])
    known = _names_by_kind([families["synthetic"], families["mini_real"]])
    return {f"{kind}: {name}": known[kind][name] for kind, names in held_out.items() for name in names}


def _names_by_kind(contents: Iterable[FamilyContent]) -> dict[str, Counter[str]]:
    names: dict[str, Counter[str]] = {k: Counter() for k in ("type", "topic", "intent", "relation", "event", "role")}
    for content in contents:
        for domain in content.domains:
            names["type"].update(list(domain.types))
            names["topic"].update(domain.topics)
            names["intent"].update(domain.intent_names)
            names["relation"].update(domain.relation_names)
            names["event"].update(list(domain.event_schema))
            names["role"].update({role for roles in domain.event_schema.values() for role in roles})
    return names


def literal_words(contents: Iterable[FamilyContent]) -> Counter[str]:
    """Lower-cased Latin words and single Han characters, with how many templates, aspects and labels hold each."""
    words: Counter[str] = Counter()
    for content in contents:
        for domain in content.domains:
            for template in _templates(domain):
                text = " ".join(p if isinstance(p, str) else p.text for p in template.pieces if not hasattr(p, "key"))
                words.update(set(_words(text)))
            labels = (*domain.types, *domain.topics, *domain.intent_names, *domain.relation_names, *domain.event_schema)
            for text in (*labels, *domain.aspects):
                words.update(set(_words(text)))
    return words


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:'[a-z]+)?|[\u4e00-\u9fff]", text.lower())
