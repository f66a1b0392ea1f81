"""Scorers that count as published systems do, so that a number of ours can stand beside a number of theirs.

    LEGACY_SCORERS["gollie"](gold records, predicted records, meta) -> {"spans/f1-score": 0.61, ...}

Each follows the evaluation code that its authors published, named in its docstring together with what it does
otherwise than metrics.py, the definitions of record. Metrics keep their authors' names; all are fractions in 0..1, also
where the authors print percentages. Strings are compared without Unicode normalisation. A kind of record that a system
has no measure for gives an empty mapping. What a system does to its model's raw output before it counts (mending
brackets, mapping strings to places) is its parsing, not its counting, and is not repeated: the records are given.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeAlias, TypeVar

from seqgpt_jax.metrics import accepted_answers, joined_answer, options_vary, squad_f1, squad_normalise
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

Scorer: TypeAlias = Callable[[Sequence[Record], Sequence[Record], DatasetMeta], Mapping[str, float]]
_R = TypeVar("_R", bound=Record)
_Items: TypeAlias = Iterable[Hashable]


def _pairs(gold: Sequence[Record], predicted: Sequence[Record], kind: type[_R]) -> list[tuple[_R, _R]]:
    """Gold beside prediction, where both are of the kind."""
    return [(g, p) for g, p in zip(gold, predicted, strict=True) if isinstance(g, kind) and isinstance(p, kind)]


def _micro(pairs: Iterable[tuple[_Items, _Items]]) -> tuple[float, float, float]:
    """Precision, recall and F1 over multisets (of sets: over sets): an item is right as often as gold has it too."""
    true_positives = num_predicted = num_gold = 0
    for gold, predicted in pairs:
        gold_counts, predicted_counts = Counter(gold), Counter(predicted)
        true_positives += (gold_counts & predicted_counts).total()
        num_gold += gold_counts.total()
        num_predicted += predicted_counts.total()
    precision = true_positives / num_predicted if num_predicted else 0.0
    recall = true_positives / num_gold if num_gold else 0.0
    f1 = 2 * true_positives / (num_predicted + num_gold) if num_predicted + num_gold else 0.0
    return precision, recall, f1


def _is_reading(meta: DatasetMeta) -> bool:
    return meta.task == "MRC-SE"


def _asked(record: ExtractionRecord, meta: DatasetMeta) -> frozenset[str]:
    return frozenset(meta.labels if record.label_set is None else record.label_set)


def _asked_spans(spans: Iterable[Span], asked: Iterable[str]) -> list[Span]:
    """Those whose label is asked; all, where nothing says what is."""
    asked = frozenset(asked)
    return [span for span in spans if not asked or span.label in asked]


# --- InstructUIE -----------------------------------------------------------------------------------------------------

_AROUND_MARKS = re.compile(r"\s*([,:().;_'-])\s*")
_RUNS = re.compile(r",+|\.+|;+")


def _instructuie_form(text: str) -> str:
    """Lower case; no white space around marks and no braces; `,,` is `,`, `’` is `'`, and 'location' is 'located'."""
    text = _AROUND_MARKS.sub(r"\1", " ".join(text.split())).lower().replace("{", "").replace("}", "")
    return _RUNS.sub(lambda run: run[0][0], text).replace("’", "'").replace("location", "located")


def _instructuie_items(statements: Iterable[str]) -> set[str]:
    """The parts at `;` of an answer as that system writes it: 'person: Ada; city: Rome', or 'None'."""
    answer = _instructuie_form("; ".join(statements) or "None")
    return {_instructuie_form(part) for part in answer.split(";")}


def instructuie(gold: Sequence[Record], predicted: Sequence[Record], meta: DatasetMeta) -> dict[str, float]:
    """InstructUIE: micro-F1 of NER, RE and event arguments (EEA), accuracy of triggers (EET).

    Otherwise than metrics.py:
    * Places count for nothing: a record is a set of strings 'label: span', 'relation: head, tail' or, for arguments,
      'span: role' without their event. An entity named twice counts once.
    * Strings are written alike before they are compared: _instructuie_form.
    * NER: no entity is the string 'none', so that finding nothing where there is nothing is a true positive.
    * EET: one answer 'type: trigger; ...' for all triggers of a text, right or wrong as a whole and in this order.
    Nothing is filtered. Its EEA is asked about one event whose type is given; here a text's events stand together.
    Source: BeyonderXX/InstructUIE, src/evaluation/evaluator.py (EvaluatorNER, RE, EET, EEA), answers as written by
    src/uie_dataset.py. Its rule for relations called NA never applies to answers of that form, and is left out.
    """
    if extractions := _pairs(gold, predicted, ExtractionRecord):
        if _is_reading(meta):
            return {}
        written = ([[f"{span.label}: {span.text}" for span in r.spans] for r in pair] for pair in extractions)
        return _named("", _micro((_instructuie_items(g), _instructuie_items(p)) for g, p in written))
    if relations := _pairs(gold, predicted, RelationRecord):
        return _named("", _micro((_instructuie_triples(g), _instructuie_triples(p)) for g, p in relations))
    events = _pairs(gold, predicted, EventRecord)
    if not events:
        return {}
    right = [_instructuie_triggers(g) == _instructuie_triggers(p) for g, p in events]
    arguments = _micro((_instructuie_arguments(g), _instructuie_arguments(p)) for g, p in events)
    return {"EET accuracy": sum(right) / len(right), **_named("EEA ", arguments)}


def _named(prefix: str, scores: tuple[float, float, float]) -> dict[str, float]:
    precision, recall, f1 = scores
    return {f"{prefix}f1": f1, f"{prefix}precision": precision, f"{prefix}recall": recall}


def _instructuie_triples(record: RelationRecord) -> set[str]:
    texts = [entity.text for entity in record.entities]
    written = (f"{relation.label}: {texts[relation.head]}, {texts[relation.tail]}" for relation in record.relations)
    return {item for item in _instructuie_items(written) if ":" in item}


def _instructuie_arguments(record: EventRecord) -> set[str]:
    written = (f"{argument.text}: {argument.label}" for event in record.events for argument in event.arguments)
    return {item for item in _instructuie_items(written) if ":" in item}


def _instructuie_triggers(record: EventRecord) -> str:
    return _instructuie_form("; ".join(f"{event.type}: {event.trigger.text}" for event in record.events) or "None")


# --- GoLLIE ----------------------------------------------------------------------------------------------------------


def gollie(gold: Sequence[Record], predicted: Sequence[Record], meta: DatasetMeta) -> dict[str, float]:
    """GoLLIE: precision, recall and F1 of spans (entities), relations, events (by trigger) and arguments.

    Otherwise than metrics.py:
    * Places count for nothing; records are multisets: an entity named twice in gold has to be named twice.
    * Predictions are filtered first, and what is dropped is no false positive: labels that were not asked, spans that
      are not in the text (case aside), and, of spans and of events, what a text names more often than it has the
      string, whatever the label. So two labels for a string that occurs once leave the first.
    * The strings of spans and triggers compare in lower case; relations and arguments as they are.
    * Relations have no entity types, and count only their strings. An argument counts where its event's type and
      trigger are right, as (role, string).
    Source: hitz-zentroa/GoLLIE, src/tasks/utils_scorer.py, src/tasks/utils_typing.py (filter_hallucinations).
    """
    if extractions := _pairs(gold, predicted, ExtractionRecord):
        if _is_reading(meta):
            return {}
        spans = [(_gollie_spans(g, meta), _gollie_filtered(_gollie_spans(p, meta), p.text)) for g, p in extractions]
        return _gollie_named("spans", _micro(spans))
    if relations := _pairs(gold, predicted, RelationRecord):
        return _gollie_named("relations", _micro((_triples(g, meta), _gollie_triples(p, meta)) for g, p in relations))
    events = _pairs(gold, predicted, EventRecord)
    if not events:
        return {}
    kept = [(_gollie_events(g, meta), _gollie_kept_events(p, meta)) for g, p in events]
    triggers = _micro(([_gollie_key(e) for e in g], [_gollie_key(e) for e in p]) for g, p in kept)
    arguments = _micro((_gollie_arguments(g), _gollie_arguments(p)) for g, p in kept)
    return {**_gollie_named("events", triggers), **_gollie_named("arguments", arguments)}


def _gollie_named(name: str, scores: tuple[float, float, float]) -> dict[str, float]:
    precision, recall, f1 = scores
    return {f"{name}/f1-score": f1, f"{name}/precision": precision, f"{name}/recall": recall}


def _gollie_spans(record: ExtractionRecord, meta: DatasetMeta) -> list[tuple[str, str]]:
    """(label, string in lower case) of the labels that are asked."""
    return [(span.label, span.text.lower().strip()) for span in _asked_spans(record.spans, _asked(record, meta))]


def _gollie_filtered(named: Sequence[tuple[str, str]], text: str) -> list[tuple[str, str]]:
    """Without what is not in the text, or not so often: ("per", "rome"), ("city", "rome") -> the first alone."""
    kept, seen, text = [], Counter[str](), text.lower()
    for label, string in named:
        if string in text:
            seen[string] += 1
            if seen[string] <= text.count(string):
                kept.append((label, string))
    return kept


def _triples(record: RelationRecord, meta: DatasetMeta) -> list[tuple[str, str, str]]:
    """(relation, head, tail) of the relations that are asked."""
    texts = [entity.text for entity in record.entities]
    return [(r.label, texts[r.head], texts[r.tail]) for r in record.relations if r.label in meta.labels]


def _gollie_triples(record: RelationRecord, meta: DatasetMeta) -> list[tuple[str, str, str]]:
    text = record.text.lower()
    return [t for t in _triples(record, meta) if t[1].lower() in text and t[2].lower() in text]


def _gollie_events(record: EventRecord, meta: DatasetMeta) -> list[Event]:
    return [event for event in record.events if event.type in meta.labels]


def _gollie_key(event: Event) -> tuple[str, str]:
    return event.type, event.trigger.text.lower()


def _gollie_kept_events(record: EventRecord, meta: DatasetMeta) -> list[Event]:
    """Without events that the text cannot have, and without arguments that are not in it or have a role not asked."""
    events, text = _gollie_events(record, meta), record.text.lower()
    allowed = Counter(_gollie_filtered([_gollie_key(event) for event in events], text))
    kept = []
    for event in events:
        allowed[_gollie_key(event)] -= 1
        if allowed[_gollie_key(event)] >= 0:
            roles = meta.roles if meta.event_schema is None else meta.event_schema.get(event.type, ())
            inside = [a for a in event.arguments if a.text.lower() in text and (not roles or a.label in roles)]
            kept.append(Event(event.type, event.trigger, tuple(inside)))
    return kept


def _gollie_arguments(events: Sequence[Event]) -> list[Hashable]:
    """(type, trigger, which of the events of that trigger, role, string): the first goes with the first."""
    seen = Counter[tuple[str, str]]()
    found: list[Hashable] = []
    for event in events:
        key = _gollie_key(event)
        found += [(key, seen[key], argument.label, argument.text) for argument in event.arguments]
        seen[key] += 1
    return found


# --- GNER ------------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+|[^\w\s]")


def gner(gold: Sequence[Record], predicted: Sequence[Record], meta: DatasetMeta) -> dict[str, float]:
    """GNER: micro-F1 of entities that are read off one BIO label a word.

    Otherwise than metrics.py:
    * A span is the words that it touches, so that its edges are those of words. A word has one label: of spans that
      overlap the one that starts first stays, and of those the longest.
    * What is not in the text and labels that were not asked have no word to stand at: they are dropped, not false.
    * Places count for nothing: a text is a set of (words, label), both in lower case without ASCII punctuation and
      articles (squad_normalise). An entity named twice counts once.
    Its data come in words; ours are cut here into Chinese characters, runs of other letters and digits, and marks.
    Source: yyDing1/GNER, src/gner_evaluator.py (extract_predictions, parser, NEREvaluator), without its 1e-10.
    """
    extractions = _pairs(gold, predicted, ExtractionRecord)
    if not extractions or _is_reading(meta):
        return {}
    return _named("", _micro((_gner_entities(g, meta), _gner_entities(p, meta)) for g, p in extractions))


def _gner_entities(record: ExtractionRecord, meta: DatasetMeta) -> set[tuple[str, str]]:
    words = [(match.start(), match.end()) for match in _WORD.finditer(record.text)]
    taken: set[int] = set()
    entities = set()
    asked = _asked_spans(record.spans, _asked(record, meta))
    for span in sorted(asked, key=lambda span: (span.start, -span.end)):
        touched = [i for i, (start, end) in enumerate(words) if start < span.end and span.start < end]
        if span.in_text and touched and taken.isdisjoint(touched):
            taken.update(touched)
            said = " ".join(record.text[slice(*words[i])] for i in touched)
            entities.add((squad_normalise(said), squad_normalise(span.label)))
    return entities


# --- UIE -------------------------------------------------------------------------------------------------------------


def uie(gold: Sequence[Record], predicted: Sequence[Record], meta: DatasetMeta) -> dict[str, float]:
    """UIE: F1 of entities, relations (strict: with entity types; boundary: without), event triggers and roles.

    Each twice, by strings (string-) and by places (offset-); spot-F1 is that of entities or triggers by strings, and
    asoc-F1 that of (head's type, relation, tail) or (event type, role, argument). Otherwise than metrics.py:
    * Multisets ("normal" matching): a string that gold has twice has to be said twice.
    * Labels and roles that were not asked are dropped, and are no false positives.
    * By places, what is not in the text is dropped too, an event with its trigger, a relation with either end. By
      strings it counts as false.
    * Relations: by places there are no two alike. Triples of metrics.py have no entity types.
    Its model writes strings, which get places afterwards (first or closest match); here spans have their own.
    Source: universal-ie/UIE, uie/extraction/scorer.py; predict_parser/spotasoc_predict_parser.py for spot and asoc.
    """
    if extractions := _pairs(gold, predicted, ExtractionRecord):
        if _is_reading(meta):
            return {}
        spans = [[_asked_spans(r.spans, _asked(r, meta)) for r in pair] for pair in extractions]
        return _uie_spots("ent", spans)
    if relations := _pairs(gold, predicted, RelationRecord):
        return _uie_relations(relations, meta)
    events = _pairs(gold, predicted, EventRecord)
    return _uie_events(events, meta) if events else {}


def _strings(spans: Iterable[Span]) -> list[Hashable]:
    return [(span.label, span.text) for span in spans]


def _places(spans: Iterable[Span]) -> list[Hashable]:
    return [(span.label, span.start, span.end) for span in spans if span.in_text]


def _uie_named(name: str, pairs: Iterable[tuple[_Items, _Items]]) -> dict[str, float]:
    precision, recall, f1 = _micro(pairs)
    return {f"{name}-F1": f1, f"{name}-P": precision, f"{name}-R": recall}


def _uie_spots(name: str, spans: Sequence[Sequence[Sequence[Span]]]) -> dict[str, float]:
    strings = _uie_named(f"string-{name}", ((_strings(g), _strings(p)) for g, p in spans))
    places = _uie_named(f"offset-{name}", ((_places(g), _places(p)) for g, p in spans))
    return {**strings, **places, "spot-F1": strings[f"string-{name}-F1"]}


def _uie_relations(pairs: Sequence[tuple[RelationRecord, RelationRecord]], meta: DatasetMeta) -> dict[str, float]:
    entities = [[_asked_spans(r.entities, meta.entity_labels) for r in pair] for pair in pairs]
    ends = [[_uie_ends(record, meta) for record in pair] for pair in pairs]
    scores: dict[str, float] = {}
    for name, typed in (("strict", True), ("boundary", False)):
        strings = [[[_uie_key(r, h, t, typed) for r, h, t in each] for each in pair] for pair in ends]
        places = [[_uie_places(each, typed) for each in pair] for pair in ends]
        scores |= _uie_named(f"string-rel-{name}", ((g, p) for g, p in strings))
        scores |= _uie_named(f"offset-rel-{name}", ((g, p) for g, p in places))
    asocs = [[[(head.label, relation, tail.text) for relation, head, tail in each] for each in pair] for pair in ends]
    scores |= _uie_spots("ent", entities)
    return scores | {"asoc-F1": _micro((g, p) for g, p in asocs)[2]}


def _uie_ends(record: RelationRecord, meta: DatasetMeta) -> list[tuple[str, Span, Span]]:
    """(relation, head, tail) of the relations and the types of entities that are asked."""
    asked = [(r.label, record.entities[r.head], record.entities[r.tail]) for r in record.relations]
    types = frozenset(meta.entity_labels)
    return [
        (label, head, tail)
        for label, head, tail in asked
        if label in meta.labels and (not types or {head.label, tail.label} <= types)
    ]


def _uie_key(relation: str, head: Span, tail: Span, typed: bool) -> Hashable:
    return (relation, head.label, head.text, tail.label, tail.text) if typed else (relation, head.text, tail.text)


def _uie_places(ends: Iterable[tuple[str, Span, Span]], typed: bool) -> set[Hashable]:
    return {
        (relation, *((head.label, tail.label) if typed else ()), head.start, head.end, tail.start, tail.end)
        for relation, head, tail in ends
        if head.in_text and tail.in_text
    }


def _uie_events(pairs: Sequence[tuple[EventRecord, EventRecord]], meta: DatasetMeta) -> dict[str, float]:
    asked = [[[event for event in record.events if event.type in meta.labels] for record in pair] for pair in pairs]
    placed = [[[event for event in events if event.trigger.in_text] for events in pair] for pair in asked]
    roles = {*meta.roles, *(role for roles in (meta.event_schema or {}).values() for role in roles)}
    triggers = [
        [[Span(e.type, e.trigger.start, e.trigger.end, e.trigger.text) for e in events] for events in pair]
        for pair in asked
    ]
    strings = [[_uie_roles(events, roles, _strings) for events in pair] for pair in asked]
    places = [[_uie_roles(events, roles, _places) for events in pair] for pair in placed]
    spots = _uie_spots("evt-trigger", triggers)
    by_string = _uie_named("string-evt-role", ((g, p) for g, p in strings))
    by_place = _uie_named("offset-evt-role", ((g, p) for g, p in places))
    return {**spots, **by_string, **by_place, "asoc-F1": by_string["string-evt-role-F1"]}


def _uie_roles(
    events: Iterable[Event], roles: Iterable[str], form: Callable[[Iterable[Span]], list[Hashable]]
) -> list[Hashable]:
    """(event type, (role, string or place)) of all arguments, whatever their trigger."""
    return [(event.type, item) for event in events for item in form(_asked_spans(event.arguments, roles))]


# --- CrossFit --------------------------------------------------------------------------------------------------------


def crossfit(gold: Sequence[Record], predicted: Sequence[Record], meta: DatasetMeta) -> dict[str, float]:
    """CrossFit: ACC and Classification-F1 of classification with one label; EM and QA-F1 of span reading.

    Otherwise than metrics.py:
    * ACC compares in lower case. An answer of several labels is one string, 'a, b'.
    * Classification-F1 is the mean over every string in gold or predictions, as they are (scikit-learn's macro
      average): a label that was not asked, and saying nothing, are classes of their own, whose F1 is 0.
    * EM and QA-F1 normalise as SQuAD does, in Chinese too, where an answer without spaces is one word. QA-F1 is 0
      where nothing is said and nothing is right, or only articles and marks.
    Datasets where several labels may hold, and the other kinds, have no measure there. Each of its datasets is judged
    by one of these alone.
    Source: INK-USC/CrossFit, dataloader/metrics.py.
    """
    if classified := _pairs(gold, predicted, ClassificationRecord):
        if any(len(g.labels) != 1 for g, _ in classified):
            return {}
        said = [(g.labels[0], ", ".join(p.labels)) for g, p in classified]
        scores = {"ACC": _mean(g.lower() == p.lower() for g, p in said)}
        if not options_vary([g for g, _ in classified], meta):
            classes = {string for pair in said for string in pair}
            scores["Classification-F1"] = _mean(_class_f1(said, name) for name in classes)
        return scores
    if not _is_reading(meta):
        return {}
    read = _pairs(gold, predicted, ExtractionRecord)
    answers = [(accepted_answers(g, meta.language), joined_answer(p, meta.language)) for g, p in read]
    return {
        "EM": _mean(max(squad_normalise(each) == squad_normalise(p) for each in accepted) for accepted, p in answers),
        "QA-F1": _mean(max(_qa_f1(each, p) for each in accepted) for accepted, p in answers),
    }


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def _class_f1(said: Sequence[tuple[str, str]], name: str) -> float:
    return 2 * sum(g == p == name for g, p in said) / sum((g == name) + (p == name) for g, p in said)


def _qa_f1(gold: str, given: str) -> float:
    return squad_f1(gold, given) if squad_normalise(gold) else 0.0


LEGACY_SCORERS: Mapping[str, Scorer] = {
    "instructuie": instructuie,
    "gollie": gollie,
    "gner": gner,
    "uie": uie,
    "crossfit": crossfit,
}
