"""The generator's content read from TOML, with every fault collected instead of the first one raised.

Files: content/<language>/<family>/_pools.toml (raw material of values) and content/<language>/<family>/<domain>.toml.
"""

from __future__ import annotations

import functools
import itertools
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqgpt_jax.errors import UserError
from seqgpt_jax.synthesis.content import (
    ASPECT,
    FAMILIES,
    POLARITIES,
    Domain,
    EventRule,
    Fact,
    FamilyContent,
    Intent,
    Slot,
    Template,
    Trigger,
)
from seqgpt_jax.synthesis.grammar import Grammar, GrammarCompiler, check_pool_names

CONTENT_DIR = Path(__file__).parent / "content"

_PIECE = re.compile(r"\{([^{}]*)\}|\[([^\[\]]*)\]")
_SLUG = re.compile(r"[a-z][a-z0-9_]*")
_CHECK_COMMAND = "python -m seqgpt_jax.synthesis.check"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong in the content: which file, which table, what."""

    file: str
    table: str
    problem: str

    def __str__(self) -> str:
        return f"{self.file}: {self.table}: {self.problem}"


@functools.lru_cache
def load_family(language: str, family: str, root: Path = CONTENT_DIR) -> FamilyContent:
    """The content of one language and family; UserError names the first faults when there are any."""
    content, faults = read_family(language, family, root)
    if not content.domains:
        faults.append(Fault(f"{root}/{language}/{family}", "folder", "has no domain"))
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise UserError(f"generator content: {faults[0]}{more}; `{_CHECK_COMMAND} {language}` lists every fault")
    return content


def read_family(language: str, family: str, root: Path = CONTENT_DIR) -> tuple[FamilyContent, list[Fault]]:
    """What can be read of one language and family, and every fault; a domain with faults is left out."""
    folder = root / language / family
    faults: list[Fault] = []
    pools = _read_pools(folder / "_pools.toml", root, faults)
    compiler = GrammarCompiler(pools, language, FAMILIES.index(family))
    for name in pools:
        try:
            compiler.compile_pool(name)
        except ValueError as error:
            faults.append(Fault(_place(folder / "_pools.toml", root), f"[pools] {name}", str(error)))
    compiler.used.clear()
    domains = []
    for path in sorted(folder.glob("*.toml")):
        if path.name != "_pools.toml":
            reader = _DomainReader(path, root, language, family, compiler)
            domain = reader.read()
            faults += reader.faults
            if domain is not None and not reader.faults:
                domains.append(domain)
    inner = {name for texts in pools.values() for text in texts for name in re.findall(r"\{([^{}]*)\}", text)}
    unused = tuple(name for name in pools if name not in compiler.used and name not in inner)
    return FamilyContent(language, family, tuple(domains), pools, unused), faults


def content_files(root: Path = CONTENT_DIR) -> list[Path]:
    """Every TOML file of the content, in a fixed order."""
    return sorted(root.glob("*/*/*.toml"))


def _read_pools(path: Path, root: Path, faults: list[Fault]) -> dict[str, tuple[str, ...]]:
    table = _read_toml(path, root, faults).get("pools", {})
    pools: dict[str, tuple[str, ...]] = {}
    faults += [Fault(_place(path, root), "[pools]", problem) for problem in check_pool_names(list(table))]
    for name, entries in table.items():
        if not _are_strings(entries):
            faults.append(Fault(_place(path, root), f"[pools] {name}", "must be a list of non-empty strings"))
            continue
        repeated = sorted({entry for entry in entries if entries.count(entry) > 1})
        if repeated:
            faults.append(Fault(_place(path, root), f"[pools] {name}", f"entries occur twice: {', '.join(repeated)}"))
        pools[name] = tuple(entries)
    return pools


def _read_toml(path: Path, root: Path, faults: list[Fault]) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        faults.append(Fault(_place(path, root), "file", "is missing"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        faults.append(Fault(_place(path, root), "file", f"is not TOML: {error}"))
    return {}


def _place(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _are_strings(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, str) and item.strip() for item in value)


class _DomainReader:
    """Reads one domain file; `faults` holds what is wrong with it."""

    def __init__(self, path: Path, root: Path, language: str, family: str, compiler: GrammarCompiler) -> None:
        self._path, self._root, self._language, self._family, self._compiler = path, root, language, family, compiler
        self.faults: list[Fault] = []

    def read(self) -> Domain | None:
        table = _read_toml(self._path, self._root, self.faults)
        if self.faults:
            return None
        self._check_keys("file", table, {"name", "types", "facts", "utterances", "opinions"}, {"name", "types"})
        if not _SLUG.fullmatch(self._path.stem):
            self._fault("file", "the file name must be lower-case ASCII: letters, digits and _")
        name = table.get("name", "")
        self._check_label("name", name)
        types = self._read_types(table.get("types", {}))
        facts = [self._read_fact(i, item, types) for i, item in enumerate(self._tables(table, "facts"), start=1)]
        intents: dict[str, list[Template]] = {}
        for i, item in enumerate(self._tables(table, "utterances"), start=1):
            self._read_utterances(i, item, types, intents)
        aspects, opinions = self._read_opinions(table.get("opinions"), types)
        self._check_labels("[[facts]]", [fact.topic for fact in facts if fact])
        self._check_labels("[[utterances]]", list(intents))
        return Domain(
            self._language,
            self._family,
            self._path.stem,
            name,
            types,
            tuple(fact for fact in facts if fact is not None),
            tuple(Intent(label, tuple(templates)) for label, templates in intents.items()),
            aspects,
            opinions,
        )

    def _fault(self, table: str, problem: str) -> None:
        self.faults.append(Fault(_place(self._path, self._root), table, problem))

    def _tables(self, table: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
        items = table.get(key, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            self._fault(key, f"must be written as [[{key}]] tables")
            return []
        return items

    def _check_keys(self, place: str, table: Mapping[str, Any], allowed: set[str], needed: set[str]) -> None:
        for key in table.keys() - allowed:
            self._fault(place, f"unknown key '{key}' (known: {', '.join(sorted(allowed))})")
        for key in sorted(needed - table.keys()):
            self._fault(place, f"key '{key}' is missing")

    def _check_label(self, place: str, label: object) -> None:
        problem = None
        if not isinstance(label, str) or not label.strip():
            problem = "must be a non-empty string"
        elif label != " ".join(label.split()):
            problem = "has white space at an end or twice in a row"
        elif label.lower() == "none":
            problem = "may not be None"
        elif found := sorted(set(label) & set(",，:：\t\n#{}[]")):
            problem = f"may not contain {' '.join(found)!r}"
        if problem:
            self._fault(place, f"label {label!r} {problem}")

    def _check_labels(self, place: str, labels: Iterable[str]) -> None:
        """Labels of one set must stay different after lower-casing."""
        seen: dict[str, str] = {}
        for label in dict.fromkeys(labels):
            if label.lower() in seen:
                self._fault(place, f"labels '{seen[label.lower()]}' and '{label}' differ by case alone")
            seen[label.lower()] = label

    def _read_types(self, table: Mapping[str, Any]) -> dict[str, Grammar]:
        types: dict[str, Grammar] = {}
        self._check_labels("[types]", table)
        for label, alternatives in table.items():
            place = f"[types] {label}"
            self._check_label(place, label)
            if not _are_strings(alternatives):
                self._fault(place, "must be a list of non-empty strings")
                continue
            if len(set(alternatives)) < len(alternatives):
                self._fault(place, "an alternative occurs twice")
            try:
                types[label] = self._compiler.compile(alternatives)
            except ValueError as error:
                self._fault(place, str(error))
        return types

    def _read_templates(
        self, place: str, texts: object, types: Mapping[str, Grammar], least: int, *, aspect: bool = False
    ) -> list[Template]:
        if not _are_strings(texts):
            self._fault(place, "text must be a list of non-empty strings")
            return []
        assert isinstance(texts, list)
        if len(set(texts)) < least:
            self._fault(place, f"has {len(set(texts))} different texts, needs {least}")
        if len(set(texts)) < len(texts):
            self._fault(place, "a text occurs twice")
        return [template for text in texts if (template := self._read_template(place, text, types, aspect=aspect))]

    def _read_template(
        self, place: str, text: str, types: Mapping[str, Grammar], *, aspect: bool = False
    ) -> Template | None:
        pieces: list[str | Slot | Trigger] = []
        slots: list[Slot] = []
        triggers: list[Trigger] = []
        end, before = 0, len(self.faults)
        if text != text.strip() or re.search(r"[\t\n\r]|  ", text):
            self._fault(place, f"white space at an end, twice in a row, or a tab or line break in '{text}'")
        for match in _PIECE.finditer(text):
            if match.start() > end:
                pieces.append(text[end : match.start()])
            end = match.end()
            if match[2] is not None:
                triggers.append(Trigger(match[2]))
                pieces.append(triggers[-1])
                continue
            slot = Slot(match[1])
            if slot.type not in types and not (aspect and slot.key == ASPECT):
                self._fault(place, f"{{{match[1]}}} is not a type of the domain, in '{text}'")
            elif "#" in slot.key and not re.fullmatch(r"[^#]+#[2-9]", slot.key):
                self._fault(place, f"{{{match[1]}}}: a second value is written {{{slot.type}#2}}")
            if slot in slots:
                self._fault(place, f"{{{slot.key}}} occurs twice in '{text}'")
            slots.append(slot)
            pieces.append(slot)
        if text[end:]:
            pieces.append(text[end:])
        if any(character in piece for piece in pieces if isinstance(piece, str) for character in "{}[]"):
            self._fault(place, f"unbalanced bracket in '{text}'")
        if len(triggers) > 1 or any(not t.text.strip() or t.text != t.text.strip() for t in triggers):
            self._fault(place, f"needs one [trigger] at most, without white space at its ends, in '{text}'")
        self._check_edges(place, text, pieces)
        if len(self.faults) > before:
            return None
        return Template(text, tuple(pieces), tuple(slots), triggers[0] if triggers else None)

    def _check_edges(self, place: str, text: str, pieces: list[str | Slot | Trigger]) -> None:
        """A value may not run into a Latin word: spans that cut a word cannot be read back."""
        for left, right in itertools.pairwise(pieces):
            ends = isinstance(left, str) and re.search(r"[A-Za-z0-9]$", left)
            starts = isinstance(right, str) and re.match(r"[A-Za-z0-9]", right)
            if ends or starts:
                self._fault(place, f"a letter or digit touches a slot or trigger in '{text}'")

    def _read_fact(self, number: int, table: Mapping[str, Any], types: Mapping[str, Grammar]) -> Fact | None:
        topic = table.get("topic", "")
        place = f"[[facts]] {number} '{topic}'"
        before = len(self.faults)
        self._check_keys(place, table, {"topic", "text", "relations", "event", "questions"}, {"topic", "text"})
        self._check_label(place, topic)
        templates = self._read_templates(place, table.get("text", []), types, 2)
        keys = {slot.key for slot in templates[0].slots} if templates else set()
        for template in templates:
            if {slot.key for slot in template.slots} != keys:
                self._fault(place, f"'{template.source}' has other slots than '{templates[0].source}'")
        if not keys:
            self._fault(place, "texts need a slot")
        relations = self._read_relations(place, table.get("relations", []), keys)
        event = self._read_event(place, table.get("event"), keys)
        for template in templates:
            if (template.trigger is None) == (event is not None):
                self._fault(place, f"a [trigger] and an event need each other: '{template.source}'")
        questions = self._read_questions(place, table.get("questions", {}), types, keys)
        if len(self.faults) > before:
            return None
        return Fact(topic, tuple(templates), relations, event, questions)

    def _read_relations(self, place: str, rows: object, keys: set[str]) -> tuple[tuple[str, str, str], ...]:
        relations = []
        for row in rows if isinstance(rows, list) else [rows]:
            if not (isinstance(row, list) and len(row) == 3 and all(isinstance(item, str) for item in row)):
                self._fault(place, f"relation {row!r} must be [label, head slot, tail slot]")
                continue
            label, head, tail = row
            self._check_label(place, label)
            for key in (head, tail):
                if key not in keys:
                    self._fault(place, f"relation '{label}': '{key}' is not a slot of the texts")
            if head == tail:
                self._fault(place, f"relation '{label}': head and tail are one slot")
            relations.append((label, head, tail))
        return tuple(relations)

    def _read_event(self, place: str, table: object, keys: set[str]) -> EventRule | None:
        if table is None:
            return None
        if not isinstance(table, dict) or not isinstance(table.get("roles", {}), dict):
            self._fault(place, "event must be { type = ..., roles = { role = slot } }")
            return None
        self._check_keys(f"{place} event", table, {"type", "roles"}, {"type", "roles"})
        self._check_label(place, table.get("type", ""))
        roles = table.get("roles", {})
        for role, key in roles.items():
            self._check_label(place, role)
            if key not in keys:
                self._fault(place, f"role '{role}': '{key}' is not a slot of the texts")
        if not roles:
            self._fault(place, "an event needs a role")
        return EventRule(str(table.get("type")), tuple(roles.items()))

    def _read_questions(
        self, place: str, table: object, types: Mapping[str, Grammar], keys: set[str]
    ) -> tuple[tuple[str, Template], ...]:
        questions: list[tuple[str, Template]] = []
        if not isinstance(table, dict):
            self._fault(place, "questions must be { slot = [question, ...] }")
            return ()
        for key, texts in table.items():
            where = f"{place} questions '{key}'"
            if key not in keys:
                self._fault(where, "is not a slot of the texts")
                continue
            for template in self._read_templates(where, texts, types, 1):
                used = {slot.key for slot in template.slots}
                if key in used or used - keys or template.trigger:
                    self._fault(where, f"may hold other slots of the fact only, and no [ ]: '{template.source}'")
                if re.search(r"[:：]", template.source):
                    self._fault(where, f"a question may not contain a colon: '{template.source}'")
                questions.append((key, template))
        return tuple(questions)

    def _read_utterances(
        self, number: int, table: Mapping[str, Any], types: Mapping[str, Grammar], intents: dict[str, list[Template]]
    ) -> None:
        label = table.get("intent", "")
        place = f"[[utterances]] {number} '{label}'"
        self._check_keys(place, table, {"intent", "text"}, {"intent", "text"})
        self._check_label(place, label)
        templates = self._read_templates(place, table.get("text", []), types, 3)
        for template in templates:
            if not template.slots or template.trigger:
                self._fault(place, f"needs a slot, and no [ ]: '{template.source}'")
        intents.setdefault(label, []).extend(templates)

    def _read_opinions(
        self, table: object, types: Mapping[str, Grammar]
    ) -> tuple[tuple[str, ...], dict[str, tuple[Template, ...]]]:
        if table is None:
            return (), {}
        if not isinstance(table, dict):
            self._fault("[opinions]", "must be a table")
            return (), {}
        self._check_keys("[opinions]", table, {"aspects", *POLARITIES}, {"aspects", *POLARITIES})
        aspects = table.get("aspects", [])
        if not _are_strings(aspects) or len(set(aspects)) < 8:
            self._fault("[opinions]", "aspects needs at least 8 different strings")
            aspects = []
        opinions: dict[str, tuple[Template, ...]] = {}
        for polarity in POLARITIES:
            place = f"[opinions] {polarity}"
            templates = self._read_templates(place, table.get(polarity, []), types, 4, aspect=True)
            for template in templates:
                keys = [slot.key for slot in template.slots]
                if ASPECT not in keys or len(keys) < 2 or template.trigger:
                    self._fault(place, f"needs {{aspect}} and another slot, and no [ ]: '{template.source}'")
            opinions[polarity] = tuple(templates)
        return tuple(aspects), opinions
