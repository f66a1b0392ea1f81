"""Demonstrations: solved examples before the text, each a complete prompt with its answer and EOS.

An example is (text, gold), where gold is what a result's `to_dict()` holds, or shorter:

    classify        label, or [labels]; beside a second sentence or a target: (text, that, labels)
    extract         {label: [strings]}
    relations       {"entities": {type: [strings]}, "relations": [(head, label, tail)]}
    events          [{"type": ..., "trigger": string, "arguments": {role: [strings]}}]
    answer          string, [strings] or None; of options: the option
    type_entities   (text, words of the span, [types])

A question is shown examples of the same step, about its own labels. Of more than there is room for, those whose text
is most like the question's are taken, the most alike next to the question: BM25 (Robertson and Zaragoza, 2009) with k1
1.5 and b 0.75 over words and pairs of neighbouring Han characters, the weight of a term being log(1 + (N - n + 0.5) /
(n + 0.5)), which is never negative.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from seqgpt_jax.atomic import AtomicExample, decompose
from seqgpt_jax.errors import UserError
from seqgpt_jax.input_checks import as_text
from seqgpt_jax.negatives import ask_only
from seqgpt_jax.occurrences import locate, normalise_string
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    Relation,
    RelationRecord,
    Span,
    Target,
)
from seqgpt_jax.schema import Request

_K1, _B = 1.5, 0.75
_TERM = re.compile(r"[\u3400-\u9fff]+|[^\W\u3400-\u9fff]+")


class Demonstrations:
    """The examples of one call, ready to be chosen from."""

    def __init__(self, like: Record, meta: DatasetMeta, examples: Sequence[Any], most: int) -> None:
        """like: a record of the kind that the examples solve, with its labels. UserError for what is no example."""
        if isinstance(examples, str | Mapping) or not isinstance(examples, Sequence):
            raise UserError(f"examples is {examples!r} (give a list of (text, answer))")
        self.most = min(most, len(examples))
        self._by_record: list[list[AtomicExample]] = []
        for index, example in enumerate(examples):
            try:
                record = read_example(like, example)
                self._by_record.append(decompose(replace(record, id=f"example {index}"), meta))
            except UserError as error:
                raise UserError(f"examples[{index}]: {error}") from None
            except (KeyError, TypeError, ValueError, AttributeError):
                remedy = "give (text, answer), the answer as a result's to_dict() has it"
                raise UserError(f"examples[{index}] is {example!r:.60} ({remedy})") from None
        self._index = BM25([example[0] for example in examples])

    def before(self, question: AtomicExample) -> list[AtomicExample]:
        """At most `most` solved questions of the same step, the most alike first."""
        chosen: list[AtomicExample] = []
        for place in self._index.ranked(question.text):
            step, query = question.source.step, question.source.query
            alike = [e for e in self._by_record[place] if e.source.step == step]
            if step == "argument":
                alike = [e for e in alike if e.source.query == query]
            if alike and len(chosen) < self.most:
                chosen.append(ask_only(max(alike, key=lambda each: bool(each.answer)), question.labels))
        return chosen


def pools_of(requests: Sequence[Request], examples: Sequence[Any], most: int) -> list[Demonstrations | None]:
    """The examples for each request: its own, or those for all; one pool for all that ask the same in one language."""
    if most < 1:
        raise UserError(f"max_examples is {most} (it must be at least 1; leave out examples to give none)")
    made: dict[tuple[object, ...], Demonstrations | None] = {}
    pools = []
    for request in requests:
        given = request.examples or examples
        key = (id(given), id(request.meta), request.record.kind)
        if key not in made:
            made[key] = Demonstrations(request.record, request.meta, given, most) if given else None
        pools.append(made[key])
    return pools


# --- which are most alike --------------------------------------------------------------------------------------------


class BM25:
    """Ranks texts by their likeness to another."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._counts = [Counter(terms(text)) for text in texts]
        lengths = [sum(counts.values()) for counts in self._counts]
        mean = sum(lengths) / max(len(lengths), 1) or 1.0
        self._norms = [_K1 * (1 - _B + _B * length / mean) for length in lengths]
        self._holding = Counter(term for counts in self._counts for term in counts)

    def scores(self, text: str) -> list[float]:
        weights = {term: self._weight(term) for term in set(terms(text)) if term in self._holding}
        return [
            sum(w * counts[t] * (_K1 + 1) / (counts[t] + norm) for t, w in weights.items() if t in counts)
            for counts, norm in zip(self._counts, self._norms, strict=True)
        ]

    def ranked(self, text: str) -> list[int]:
        """Places of all texts, the most alike first, equals in the order given."""
        scores = self.scores(text)
        return sorted(range(len(scores)), key=lambda place: -scores[place])

    def _weight(self, term: str) -> float:
        holding = self._holding[term]
        return math.log(1 + (len(self._counts) - holding + 0.5) / (holding + 0.5))


def terms(text: str) -> list[str]:
    """("Ada's 北京大学")  ->  ["ada", "s", "北京", "京大", "大学"]; a Han character between others stands alone."""
    found = []
    for run in _TERM.findall(text.casefold()):
        if "\u3400" <= run[0] <= "\u9fff" and len(run) > 1:
            found += [run[i : i + 2] for i in range(len(run) - 1)]
        else:
            found.append(run)
    return found


# --- examples as records ---------------------------------------------------------------------------------------------


def read_example(like: Record, example: Any) -> Record:
    """The record that an example solves, with its gold. UserError for words that are not in the text."""
    text, *beside, gold = example
    as_text(text, "text")
    match like:
        case ClassificationRecord():
            record = replace(like, text=text, labels=tuple(_strings(_field(gold, "labels"))))
            if like.text_pair is not None:
                (pair,) = beside
                return replace(record, text_pair=as_text(pair, "text_pair"))
            if like.target is not None:
                (target,) = beside
                return replace(record, target=Target(as_text(target, "target")))
            if beside:
                raise ValueError
            return record
        case ExtractionRecord(question=None):
            return replace(like, text=text, spans=_spans(text, _field(gold, "spans")))
        case ExtractionRecord():
            strings = _strings(_field(gold, "answer"))
            return replace(like, text=text, spans=_spans(text, {"answer": strings}, once=True))
        case RelationRecord():
            return _relations(like, text, gold)
        case EventRecord():
            events = []
            for each in _field(gold, "events"):
                (trigger,) = _spans(text, {each["type"]: _strings(each["trigger"])}, once=True)
                arguments = each.get("arguments", {})
                if not isinstance(arguments, Mapping):
                    arguments = [{**argument, "label": argument["role"]} for argument in arguments]
                events.append(Event(each["type"], trigger, _spans(text, arguments, once=True)))
            return replace(like, text=text, events=tuple(events))


def _relations(like: RelationRecord, text: str, gold: Mapping[str, Any]) -> RelationRecord:
    entities = _spans(text, gold["entities"], once=True)
    places: dict[str, int] = {}
    for place, entity in enumerate(entities):
        places.setdefault(normalise_string(entity.text), place)
    relations = []
    for given in gold["relations"]:
        head, label, tail = (given["head"], given["label"], given["tail"]) if isinstance(given, Mapping) else given
        ends = [normalise_string(*_strings(end)) for end in (head, tail)]
        for end in ends:
            if end not in places:
                raise UserError(f"{end!r} is related, but no entity (name it among the entities)")
        relations.append(Relation(label, places[ends[0]], places[ends[1]]))
    return replace(like, text=text, entities=entities, relations=tuple(relations))


def _field(gold: Any, name: str) -> Any:
    """What a result's to_dict() holds under its name, or the short form itself."""
    return gold[name] if isinstance(gold, Mapping) and name in gold and not isinstance(gold[name], str) else gold


def _strings(given: Any) -> list[str]:
    """None, a string, {"text": string} or a list of those, as a list."""
    if given is None:
        return []
    if isinstance(given, Mapping):
        return _strings(given["text"])
    if isinstance(given, str):
        return [given]
    return [string for one in given for string in _strings(one)]


def _spans(text: str, given: Any, once: bool = False) -> tuple[Span, ...]:
    """Of {label: [strings]}, or of a result's list of spans, of which the words alone count."""
    wanted: dict[str, list[str]] = {}
    if isinstance(given, Mapping):
        wanted = {label: _strings(strings) for label, strings in given.items()}
    else:
        for span in given:
            wanted.setdefault(span["label"], []).append(span["text"])
    written = {label: [normalise_string(string) for string in strings] for label, strings in wanted.items()}
    spans = locate(text, written, once=once)
    for label, strings in written.items():
        for string in strings:
            if not any(span.label == label and normalise_string(span.text) == string for span in spans):
                raise UserError(f"{string!r} is not in the text (copy it from there)")
    return spans
