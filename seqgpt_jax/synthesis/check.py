"""The content's checker: faults with file and table, amounts that fall short, overlaps of families, statistics.

    python -m seqgpt_jax.synthesis.check [en|zh] [--content DIR] [--words N]

Exit code 0 when nothing is wrong, 2 otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from seqgpt_jax.synthesis.content import ASPECT, FAMILIES, LANGUAGES, Domain, FamilyContent, Template
from seqgpt_jax.synthesis.inventory import (
    composed_values,
    known_label_share,
    label_names,
    label_sets,
    literal_words,
    num_values,
    task_templates,
    template_forms,
)
from seqgpt_jax.synthesis.reader import CONTENT_DIR, Fault, read_family
from seqgpt_jax.synthesis.rendering import compose_values, fill, is_readable

_NUM_TRIES = 40  # renderings a template is tried with
_NUM_SHOWN = 8  # examples in a message
_LEAST_TEMPLATES = 40  # per task, language and family
_LEAST_VALUES = 10_000  # per language
_LEAST_KNOWN = 0.85  # share of held-out label names that the training families hold
# what a family needs: domains, types, intents and topics
_LEAST = {"synthetic": (16, 300, 150), "mini_real": (6, 0, 0), "mini_held_out": (4, 0, 0)}
# what a domain of a family needs: facts, with relations, with an event, topics, intents, (least and most types)
_LEAST_OF_DOMAIN = {
    "synthetic": (6, 3, 3, 4, 5, (1, 999)),
    "mini_real": (6, 3, 3, 4, 5, (1, 999)),
    "mini_held_out": (4, 3, 3, 4, 4, (8, 14)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the report of the languages asked for and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m seqgpt_jax.synthesis.check", description=__doc__.split("\n")[0])
    parser.add_argument("language", nargs="?", choices=LANGUAGES, help="one language alone (default: both)")
    parser.add_argument("--content", type=Path, default=CONTENT_DIR, help="another content folder")
    parser.add_argument("--words", type=int, default=60, help="how many unknown words of mini_held_out to list")
    options = parser.parse_args(arguments)
    num_problems = 0
    for language in [options.language] if options.language else LANGUAGES:
        num_problems += _report(language, options.content, options.words)
    print(f"\n{num_problems} problems" if num_problems else "\nno problems")
    return 2 if num_problems else 0


def _report(language: str, root: Path, num_words: int) -> int:
    families: dict[str, FamilyContent] = {}
    problems: list[str] = []
    for family in FAMILIES:
        families[family], faults = read_family(language, family, root)
        problems += [f"fault: {fault}" for fault in faults]
        problems += [f"fault: {fault}" for domain in families[family].domains for fault in rendering_faults(domain)]
        problems += [f"short: {language}/{family}: {problem}" for problem in shortfalls(families[family])]
    problems += [f"overlap: {language}: {problem}" for problem in overlaps(families)]
    share, unknown = known_label_share(families)
    if unknown and share < _LEAST_KNOWN:
        found = f"{share:.0%} of label names are known"
        problems.append(f"short: {language}/mini_held_out: {found}, needs {_LEAST_KNOWN:.0%}")
    print(f"\n======== {language} ========")
    for problem in problems:
        print(problem)
    for family in FAMILIES:
        _print_statistics(families[family])
    values = sum(num_values(families[family]) for family in FAMILIES)
    if values < _LEAST_VALUES:
        problems.append(f"short: {language}: {values} values, needs {_LEAST_VALUES}")
        print(problems[-1])
    print(f"\nmini_held_out label names that the training families know: {share:.1%}")
    for kind, names in unknown.items():
        print(f"  unknown {kind}: {', '.join(names)}")
    _print_unknown_words(families, language, num_words)
    return len(problems)


def rendering_faults(domain: Domain) -> Iterator[Fault]:
    """Values with bad characters, and templates whose spans are hardly ever readable."""
    draw = random.Random(0).random
    place = f"{domain.language}/{domain.family}/{domain.slug}.toml"
    for label, grammar in domain.types.items():
        for _ in range(_NUM_TRIES):
            value = grammar.compose(draw)
            if value != " ".join(value.split()) or any(character in value for character in "，\t\n{}[]#"):
                yield Fault(place, f"[types] {label}", f"composes the bad value {value!r}")
                break
    for template in _all_templates(domain):
        failures, example = 0, ""
        for _ in range(_NUM_TRIES):
            values = compose_values(template.slots, domain.types, draw)
            if any(slot.key == ASPECT for slot in template.slots):
                values[ASPECT] = domain.aspects[int(draw() * len(domain.aspects))]
            filled = fill(template, values)
            places = [*filled.places.values(), *([filled.trigger] if filled.trigger else [])]
            if not is_readable(filled.text, places):
                failures, example = failures + 1, filled.text
        if failures > _NUM_TRIES // 2:
            problem = f"a value (or the trigger) stands twice in the text or cuts a word in {failures} of {_NUM_TRIES}"
            yield Fault(place, f"text '{template.source}'", f"{problem}, as in '{example}'")


def _all_templates(domain: Domain) -> Iterator[Template]:
    for fact in domain.facts:
        yield from fact.templates
    for intent in domain.intents:
        yield from intent.templates
    for templates in domain.opinions.values():
        yield from templates


def shortfalls(content: FamilyContent) -> Iterator[str]:
    """What the family lacks of the amounts."""
    domains, types, names = _LEAST[content.family]
    yield from _short("domains", len(content.domains), domains)
    yield from _short("distinct types", len({label for domain in content.domains for label in domain.types}), types)
    found = {name for domain in content.domains for name in (*domain.topics, *domain.intent_names)}
    yield from _short("distinct intents and topics", len(found), names)
    for task, templates in task_templates(content).items():
        yield from _short(f"templates for {task}", len(templates), _LEAST_TEMPLATES)
    facts, related, events, topics, intents, (least_types, most_types) = _LEAST_OF_DOMAIN[content.family]
    for domain in content.domains:
        counts = [
            ("facts", len(domain.facts), facts),
            ("facts with relations", sum(bool(fact.relations) for fact in domain.facts), related),
            ("facts with an event", sum(fact.event is not None for fact in domain.facts), events),
            ("topics", len(domain.topics), topics),
            ("intents", len(domain.intents), intents),
            ("types", len(domain.types), least_types),
            ("opinions (a table)", bool(domain.opinions), 1),
        ]
        for what, count, least in counts:
            yield from _short(f"{domain.slug}: {what}", count, least)
        if len(domain.types) > most_types:
            yield f"{domain.slug}: {len(domain.types)} types, at most {most_types}"
        for number, fact in enumerate(domain.facts, start=1):
            asked = {key for key, _ in fact.questions}
            yield from _short(f"{domain.slug}: [[facts]] {number} '{fact.topic}': slots with questions", len(asked), 2)
        for label in domain.types:
            if label not in domain.fact_types and label not in domain.utterance_types:
                opinions = [slot.type for templates in domain.opinions.values() for t in templates for slot in t.slots]
                if label not in opinions:
                    yield f"{domain.slug}: [types] {label}: no text uses it"
    if content.unused_pools:
        yield f"_pools.toml: nothing uses {', '.join(content.unused_pools)}"


def _short(what: str, count: int, least: int) -> Iterator[str]:
    if count < least:
        yield f"{what}: {count}, needs {least}"


def overlaps(families: Mapping[str, FamilyContent]) -> Iterator[str]:
    """What two families share and may not: domain names, templates, label sets, values."""
    values = {name: composed_values(content) for name, content in families.items()}
    for first, second in itertools.combinations(families, 2):
        found = _shared(families[first], families[second], values[first], values[second])
        yield from (f"{first} and {second} share {what}" for what in found)


def _shared(
    one: FamilyContent, two: FamilyContent, our_values: Mapping[str, str], their_values: Mapping[str, str]
) -> Iterator[str]:
    yield from (f"the domain name '{name}'" for name in sorted(_domain_names(one) & _domain_names(two)))
    ours, theirs = template_forms(one), template_forms(two)
    yield from (f"a template: '{ours[form]}', '{theirs[form]}'" for form in sorted(ours.keys() & theirs.keys()))
    our_sets, their_sets = label_sets(one), label_sets(two)
    for labels in sorted(our_sets.keys() & their_sets.keys(), key=sorted):
        yield f"a label set: {our_sets[labels]} and {their_sets[labels]}: {', '.join(sorted(labels))}"
    by_types: dict[str, list[str]] = {}
    for value in sorted(our_values.keys() & their_values.keys()):
        by_types.setdefault(f"{our_values[value]}; {their_values[value]}", []).append(value)
    for types, found in by_types.items():
        yield f"{len(found)} values ({types}): {', '.join(found[:_NUM_SHOWN])}"


def _domain_names(content: FamilyContent) -> set[str]:
    return {domain.name for domain in content.domains} | {domain.slug for domain in content.domains}


def _print_statistics(content: FamilyContent) -> None:
    domains = content.domains
    types = {label for domain in domains for label in domain.types}
    topics = {label for domain in domains for label in domain.topics}
    intents = {label for domain in domains for label in domain.intent_names}
    relations = {label for domain in domains for label in domain.relation_names}
    events = {label for domain in domains for label in domain.event_schema}
    roles = {role for domain in domains for found in domain.event_schema.values() for role in found}
    slugs = ", ".join(domain.slug for domain in domains)
    print(f"\n-------- {content.language} {content.family}: {len(domains)} domains: {slugs}")
    print(f"types {len(types)}, topics {len(topics)}, intents {len(intents)}, both {len(topics | intents)}")
    print(f"relations {len(relations)}, event types {len(events)}, roles {len(roles)}")
    counts = {task: len(templates) for task, templates in task_templates(content).items()}
    print("templates: " + ", ".join(f"{task} {count}" for task, count in counts.items()))
    print("pools: " + ", ".join(f"{name} {len(entries)}" for name, entries in content.pools.items()))
    print(f"values possible: {num_values(content):,}")
    thin = Counter({f"{domain.slug}/{label}": g.num_values for domain in domains for label, g in domain.types.items()})
    low = [f"{label} {count}" for label, count in sorted(thin.items(), key=lambda item: item[1]) if count < 30]
    if low:
        print(f"types with fewer than 30 values ({len(low)}): {', '.join(low[:40])}")


def _print_unknown_words(families: Mapping[str, FamilyContent], language: str, num_words: int) -> None:
    """Words of the held-out texts (not of values) that no training text or label holds: the model cannot know them."""
    known = literal_words([families["synthetic"], families["mini_real"]])
    held_out = literal_words([families["mini_held_out"]])
    if not held_out:
        return
    unknown = Counter({word: count for word, count in held_out.items() if not known[word]})
    once = sum(count for word, count in held_out.items() if known[word] == 1)
    total = sum(held_out.values())
    unit = "characters" if language == "zh" else "words"
    never = sum(unknown.values()) / total
    print(f"mini_held_out {unit} never seen in training texts: {never:.1%}; once: {once / total:.1%}")
    print("  " + " ".join(word for word, _ in unknown.most_common(num_words)))
    rare = sorted((name for name, count in label_names(families).items() if count < 2))
    if rare:
        print(f"held-out label names in fewer than 2 training domains ({len(rare)}): {', '.join(rare[:num_words])}")


if __name__ == "__main__":
    sys.exit(main())
