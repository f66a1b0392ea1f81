"""What the content of a family holds, counted and compared: templates per task, label sets, values, words."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from seqgpt_jax.synthesis.content import Domain, FamilyContent, Template
from seqgpt_jax.synthesis.grammar import Grammar
from seqgpt_jax.synthesis.wordings import NLI_WORDINGS, SENTIMENT_WORDINGS

_NUM_SAMPLES = 300  # values of a type, beside those that are listed in full


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
    return sum(grammar.num_values for grammar in _grammars(content).values())


def composed_values(content: FamilyContent) -> dict[str, str]:
    """Values that the family composes -> a type that they have: all without a builtin, and a sample of the others.

    Builtins need no full list: every value of theirs carries a number of the family's residue class.
    """
    draw = random.Random(0).random
    places: dict[str, str] = {}
    for label, grammar in _grammars(content).items():
        for value in itertools.chain(grammar.closed_values(), (grammar.compose(draw) for _ in range(_NUM_SAMPLES))):
            places.setdefault(value, label)
    return places


def _grammars(content: FamilyContent) -> dict[str, Grammar]:
    """The family's different value grammars, each under the first type that has it."""
    grammars: dict[object, tuple[str, Grammar]] = {}
    for domain in content.domains:
        for label, grammar in domain.types.items():
            grammars.setdefault(_shape(grammar), (f"{domain.slug}/{label}", grammar))
    return dict(grammars.values())


def _shape(grammar: Grammar) -> object:
    """Equal for types with the same alternatives: pools are compiled once, so parts compare by identity."""
    return tuple(tuple(part if isinstance(part, str) else id(part) for part in parts) for parts in grammar.alternatives)


def known_label_share(families: Mapping[str, FamilyContent]) -> tuple[float, dict[str, list[str]]]:
    """The share of held-out label names that a training family holds as the same kind, and the others by kind."""
    held_out = _names_by_kind([families["mini_held_out"]])
    known = _names_by_kind([families["synthetic"], families["mini_real"]])
    unknown = {kind: sorted(name for name in names if not known[kind][name]) for kind, names in held_out.items()}
    total = sum(len(names) for names in held_out.values())
    missing = sum(len(names) for names in unknown.values())
    return (1 - missing / total if total else 0.0), {kind: names for kind, names in unknown.items() if names}


def label_names(families: Mapping[str, FamilyContent]) -> dict[str, int]:
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
