"""What can be asked of a text: a request is a record to fill in, with the labels to ask for.

A schema names several things to find out about one text, each by one of six words:

    {"sentiment": {"classify": ["good", "bad"]},
     "topics":    {"classify": ["food", "service"], "multi_label": True},
     "names":     {"extract": {"person": None, "place": "a city or a country"}},
     "facts":     {"relations": ["works for"], "entities": ["person", "company"]},
     "happened":  {"events": {"purchase": ["buyer", "goods"]}},
     "when":      {"answer": "When was it?"},            (with "options": [...] one of them is chosen)
     "kinds":     {"types": ["river", "bank"], "spans": ["Thames"]}}

Labels are a list, or {name: the words that stand for it in the prompt}; results carry the names. Beside any of the six
may stand "examples": demonstrations, as demonstrations.py shows them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from seqgpt_jax.errors import UserError
from seqgpt_jax.input_checks import Labels, as_labels, as_text
from seqgpt_jax.occurrences import locate, normalise_string
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    EventRecord,
    ExtractionRecord,
    Record,
    RelationRecord,
    Span,
    Target,
)
from seqgpt_jax.results import Classification, Result, TypedSpan, Types


@dataclass(frozen=True, slots=True)
class Request:
    """A record without answers, and what may be answered. examples: demonstrations of its own (demonstrations.py)."""

    record: Record
    meta: DatasetMeta
    examples: Sequence[Any] = ()

    @property
    def multi_label(self) -> bool:
        """Several labels may hold, or none."""
        return bool(self.meta.multi_label)


Ask: TypeAlias = Callable[[str], Request]


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to find out about a text: the requests that it takes, and the result that theirs make."""

    requests: Callable[[str], list[Request]]
    combine: Callable[[Sequence[Request], Sequence[Result]], Result]


GivenSpan: TypeAlias = str | tuple[int, int] | Span

_HAN = re.compile(r"[\u3400-\u9fff]")


def language_of(text: str) -> str:
    """Which wording a question takes where there are two: Chinese where the text has any Han character."""
    return "zh" if _HAN.search(text) else "en"


# --- the six words ---------------------------------------------------------------------------------------------------


def classify(
    labels: Labels, multi_label: bool = False, task: Literal["SA", "ET"] | None = None
) -> Callable[[str, str | None, str | None], Request]:
    """(text, second sentence, target) -> which of the labels hold. task: how a target is asked about."""
    names, descriptions = as_labels(labels)
    metas = _metas(task or "CLS", names, descriptions, multi_label=multi_label)
    pair_metas = _metas("NLI", names, descriptions, multi_label=multi_label)

    def ask(text: str, text_pair: str | None = None, target: str | None = None) -> Request:
        meta = (metas if text_pair is None else pair_metas)[language_of(text)]
        about = None if target is None else Target(target)
        record = ClassificationRecord("0", meta.task, text, (), names, text_pair=text_pair, target=about)
        return Request(record, meta)

    return ask


def extract(labels: Labels) -> Ask:
    names, descriptions = as_labels(labels)
    metas = _metas("NER", names, descriptions)
    return lambda text: Request(ExtractionRecord("0", "NER", text, (), names), metas[language_of(text)])


def relations(entity_types: Labels, relation_types: Labels) -> Ask:
    entities, entity_words = as_labels(entity_types, "entity_types")
    names, words = as_labels(relation_types, "relation_types")
    metas = _metas("RE", names, _joined(entity_words, words), entity_labels=entities)
    return lambda text: Request(RelationRecord("0", "RE", text, (), ()), metas[language_of(text)])


def events(schema: Mapping[str, Labels]) -> Ask:
    if not isinstance(schema, Mapping):
        raise UserError(f"schema is {schema!r} (give {{event type: [its roles]}})")
    names, _ = as_labels(list(schema), "event types")
    roles: dict[str, tuple[str, ...]] = {}
    words: dict[str, str] = {}
    for type_, given in schema.items():
        roles[type_], own = as_labels(given, f"roles of {type_!r}") if given else ((), {})
        words = _joined(words, own)
    metas = _metas("EE", names, words, event_schema=roles)
    return lambda text: Request(EventRecord("0", "EE", text, ()), metas[language_of(text)])


def answer(question: str, options: Labels | None = None) -> Ask:
    as_text(question, "question")
    if options is None:
        metas = _metas("MRC-SE", ("answer",), {})
        return lambda text: Request(
            ExtractionRecord("0", "MRC-SE", text, (), question=question), metas[language_of(text)]
        )
    names, words = as_labels(options, "options")
    metas = _metas("MRC-MC", names, words, multi_label=False)
    return lambda text: Request(
        ClassificationRecord("0", "MRC-MC", text, (), names, question=question), metas[language_of(text)]
    )


def type_spans(spans: Iterable[GivenSpan], types: Labels, multi_label: bool = True) -> Part:
    """A request for each span. A span is its words (their first place), (start, end), or anything with those.

    UserError for a span that is not in the text.
    """
    names, words = as_labels(types, "types")
    metas = _metas("ET", names, words, multi_label=multi_label)
    if isinstance(spans, str) or not isinstance(spans, Iterable):
        raise UserError(f"spans is {spans!r} (give a list of strings or of (start, end))")
    given = list(spans)

    def ask(text: str) -> list[Request]:
        targets = (_target(text, span) for span in given)
        return [
            Request(ClassificationRecord("0", "ET", text, (), names, target=target), metas[language_of(text)])
            for target in targets
        ]

    return Part(ask, _typed)


def _typed(requests: Sequence[Request], results: Sequence[Result]) -> Types:
    spans = []
    for request, found in zip(requests, results, strict=True):
        record = request.record
        assert isinstance(record, ClassificationRecord) and isinstance(found, Classification)
        target = record.target
        assert target is not None and target.start is not None and target.end is not None
        spans.append(TypedSpan(target.start, target.end, target.text, found.labels, found.probabilities))
    return Types(
        tuple(spans),
        document=results[0].document if results else "",
        num_windows=max((result.num_windows for result in results), default=1),
        tokens_cut=max((result.tokens_cut for result in results), default=0),
        num_examples=min((r.num_examples for r in results if r.num_examples is not None), default=None),
    )


def _target(text: str, given: GivenSpan) -> Target:
    if isinstance(given, str):
        string = normalise_string(given)
        places = locate(text, {"": [string]}, once=True)
        if not places:
            raise UserError(f"span {given!r} is not in the text (give words of it, or (start, end))")
        start, end = places[0].start, places[0].end
    else:
        try:
            start, end = (given.start, given.end) if isinstance(given, Span) else given
        except (TypeError, ValueError):
            raise UserError(f"span {given!r} is no place (give its words, or (start, end))") from None
        if not (type(start) is type(end) is int and 0 <= start < end <= len(text) and text[start:end].strip()):
            raise UserError(f"span {start!r}:{end!r} is no words of a text of {len(text)} characters (count from 0)")
    return Target(text[start:end], start, end)


def _metas(
    task: str, labels: tuple[str, ...], descriptions: Mapping[str, str], **fields: Any
) -> dict[str, DatasetMeta]:
    """By language. One object for all texts, so that what depends on the labels alone is made once."""
    return {
        language: DatasetMeta("input", task, language, labels, descriptions=descriptions, **fields)
        for language in ("en", "zh")
    }


def _joined(words: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    for label in words.keys() & more.keys():
        if words[label] != more[label]:
            raise UserError(f"label {label!r} is described twice, as {words[label]!r} and {more[label]!r} (rename one)")
    return {**words, **more}


# --- a schema --------------------------------------------------------------------------------------------------------

_WORDS: dict[str, tuple[str, ...]] = {  # the word that says what to do -> what may stand beside it
    "classify": ("multi_label", "target", "task", "text_pair"),
    "extract": (),
    "relations": ("entities",),
    "events": (),
    "answer": ("options",),
    "types": ("spans", "multi_label"),
}


def read_schema(schema: Any) -> dict[str, Part]:
    """Its parts by name; UserError for anything that is no schema."""
    if not isinstance(schema, Mapping) or not schema:
        raise UserError(f"schema is {schema!r} (give {{name: {{'classify': [labels]}}, ...}})")
    return {str(name): _read_part(str(name), part) for name, part in schema.items()}


def is_single(schema: Any) -> bool:
    """Whether it is one part without a name, such as {"extract": [...]}."""
    return isinstance(schema, Mapping) and any(
        word in schema and not (isinstance(schema[word], Mapping) and _words_of(schema[word])) for word in _WORDS
    )


def _words_of(part: Any) -> list[str]:
    return [word for word in _WORDS if word in part]


def _read_part(name: str, part: Any) -> Part:
    words = _words_of(part) if isinstance(part, Mapping) else []
    if len(words) != 1:
        raise UserError(f"schema part {name!r} is {part!r} (it must have exactly one of {', '.join(_WORDS)})")
    (word,) = words
    unknown = [str(field) for field in part if field not in (word, "examples", *_WORDS[word])]
    if unknown:
        allowed = ", ".join(_WORDS[word]) or "nothing"
        raise UserError(f"schema part {name!r}: {unknown[0]!r} does not go with {word!r} ({allowed} does)")
    try:
        return _with_examples(_PARTS[word](part), part.get("examples", ()))
    except UserError as error:
        raise UserError(f"schema part {name!r}: {error}") from None


def single(ask: Ask) -> Part:
    """What one request finds out."""
    return Part(lambda text: [ask(text)], lambda requests, results: results[0])


def _with_examples(part: Part, examples: Sequence[Any]) -> Part:
    return Part(lambda text: [replace(request, examples=examples) for request in part.requests(text)], part.combine)


def _classify_part(part: Mapping[str, Any]) -> Part:
    pair, target, task = part.get("text_pair"), part.get("target"), part.get("task")
    check_beside(pair, target, task)
    for name, given in (("text_pair", pair), ("target", target)):
        if given is not None:
            as_text(given, name)
    ask = classify(part["classify"], part.get("multi_label", False), task)
    return single(lambda text: ask(text, pair, target))


_PARTS: dict[str, Callable[[Mapping[str, Any]], Part]] = {
    "classify": _classify_part,
    "extract": lambda part: single(extract(part["extract"])),
    "relations": lambda part: single(relations(part.get("entities", ()), part["relations"])),
    "events": lambda part: single(events(part["events"])),
    "answer": lambda part: single(answer(part["answer"], part.get("options"))),
    "types": lambda part: type_spans(part.get("spans", ()), part["types"], part.get("multi_label", True)),
}


def check_beside(text_pair: object, target: object, task: object) -> None:
    """UserError where a second sentence, a target and how the target is asked about do not go together."""
    if text_pair is not None and target is not None:
        raise UserError("both text_pair and target were given (give one of them)")
    if task is not None and (task not in ("SA", "ET") or target is None):
        raise UserError(f"task={task!r} does not fit (it is 'SA' or 'ET', and only beside a target)")
