"""Records as atomic tasks and back: 11 tasks become two, choosing labels (classify) and copying spans (extract).

    record, meta --decompose--> questions with the gold answers              (training, and scoring stage by stage)
    record, meta --ask_next--> questions --model--> answers --recompose--> predicted record         (prediction)

``_FORMS`` is the one table: a row a form. Between the two directions stand ``_Answers``: what is known of a record, by
question, in the dataset's own label names. They come from the gold record or from a model, and the rest of the module
does not care which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias

from seqgpt_jax.errors import UserError
from seqgpt_jax.occurrences import gap, normalise_string, normalise_text, read_spans
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
)

NONE = "None"
STEPS = ("classify", "extract", "entities", "relation", "trigger", "event_type", "argument")

Kind: TypeAlias = Literal["classify", "extract"]
Answer: TypeAlias = tuple[str, ...] | Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where an example comes from.

    query: what it is about: (head, tail) for relation, (trigger,) for event_type, (event type,) for argument.
    """

    dataset: str
    split: str
    record_id: str
    task: str
    language: str
    step: str
    query: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AtomicExample:
    """One question to the model with its answer (empty until it is given); text and labels are normalised.

    classify: the answer is the chosen labels in the order asked. extract: label -> strings, for labels that have any;
    strings in text order (by start, longer first), each once.
    """

    text: str
    kind: Kind
    labels: tuple[str, ...]
    answer: Answer
    source: Source


# --- normalisation ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1 << 16)
def normalise_label(label: str) -> str:
    """Returns the label as the prompt writes it: white space runs are one space, the full-width comma is ','."""
    return " ".join(label.replace("，", ",").split())


def check_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the labels normalised; UserError where one is empty or `None`, or two become equal."""
    return _check_labels(tuple(labels))


@lru_cache(maxsize=1 << 12)
def _check_labels(labels: tuple[str, ...]) -> tuple[str, ...]:
    seen: dict[str, str] = {}
    for label in labels:
        written = normalise_label(label)
        if not written or written == NONE:
            why = "`None` is the empty answer" if written else "it is empty"
            raise UserError(f"label {label!r} cannot be asked: {why} (rename it)")
        if written in seen:
            both = f"labels {seen[written]!r} and {label!r}"
            raise UserError(f"{both} are both written {written!r} in a prompt (rename one)")
        seen[written] = label
    return tuple(seen)


# --- the table of forms ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Form:
    """One row: how a step of a record is asked. Wordings are (en, zh), or one for both.

    names: the dataset's names of the labels that are asked, given (record, meta, query).
    query: what the parts of ``Source.query`` are called in the wordings.
    """

    step: str
    kind: Kind
    names: Callable[[Any, DatasetMeta, tuple[str, ...]], tuple[str, ...]]
    text: tuple[str, ...] = ("{text}",)
    label: tuple[str, ...] = ("{label}",)
    query: tuple[str, ...] = ()
    when: Callable[[Any], bool] = lambda record: True


def _options(record: ClassificationRecord, meta: DatasetMeta, query: tuple[str, ...]) -> tuple[str, ...]:
    """A record's own option `None` is not asked: it is the format's empty answer, which ``recompose`` maps back."""
    if record.label_set is None:
        return meta.labels
    return tuple(label for label in record.label_set if normalise_label(label) != NONE)


def _labels(record: Record, meta: DatasetMeta, query: tuple[str, ...]) -> tuple[str, ...]:
    own = record.label_set if isinstance(record, ExtractionRecord) else None
    return meta.labels if own is None else own


def _roles(record: Record, meta: DatasetMeta, query: tuple[str, ...]) -> tuple[str, ...]:
    return meta.roles if meta.event_schema is None else tuple(meta.event_schema.get(query[0], ()))


_ASK_TYPE = ("what is the type of {target} in {text}?", "{text}中{target}的类型是什么？")
_ASK_SENTIMENT = ("what is the sentiment towards {target} in {text}?", "{text}对{target}的情感是什么？")
_ASK_RELATION = ("what is the relation between {head} and {tail} in {text}?", "{text}{head}和{tail}的关系是什么？")
_ASK_EVENT_TYPE = ("what is the event type of {trigger} in {text}?", "{text}中{trigger}的事件类型是什么？")

_FORMS = (  # of a step's rows, the first that applies
    _Form("classify", "classify", _options, ("{text}\t{text_pair}",), when=lambda r: r.text_pair is not None),
    _Form("classify", "classify", _options, ("{text}\t{question}",), when=lambda r: bool(r.question)),
    _Form("classify", "classify", _options, _ASK_TYPE, when=lambda r: r.target is not None and r.task == "ET"),
    _Form("classify", "classify", _options, _ASK_SENTIMENT, when=lambda r: r.target is not None and r.task == "SA"),
    _Form("classify", "classify", _options, ("{text}\t{target}",), when=lambda r: r.target is not None),
    _Form("classify", "classify", _options),
    _Form("extract", "extract", lambda r, m, q: m.labels[:1], label=("{question}",), when=lambda r: bool(r.question)),
    _Form("extract", "extract", _labels),
    _Form("entities", "extract", lambda record, meta, query: meta.entity_labels),
    _Form("relation", "classify", _labels, _ASK_RELATION, query=("head", "tail")),
    _Form("trigger", "extract", _labels, label=("{label} event", "{label}事件")),
    _Form("event_type", "classify", _labels, _ASK_EVENT_TYPE, query=("trigger",)),
    _Form("argument", "extract", _roles, label=("{label} of {type} event", "事件{type}的{label}"), query=("type",)),
)


def _form(record: Record, step: str) -> _Form:
    return next(form for form in _FORMS if form.step == step and form.when(record))


def _wording(wordings: tuple[str, ...], language: str) -> str:
    return wordings[-1] if language == "zh" else wordings[0]


def _write_text(record: Record, meta: DatasetMeta, form: _Form, query: tuple[str, ...]) -> str:
    text, wording = normalise_text(record.text), _wording(form.text, meta.language)
    if wording == "{text}":
        return text
    if wording.endswith("{text}?") and text.endswith((".", "。", "?", "？")):
        text = text[:-1]
    fields = {"text": text, **dict(zip(form.query, query, strict=True))}
    if isinstance(record, ClassificationRecord):
        fields["text_pair"] = normalise_text(record.text_pair or "")
        fields["question"] = normalise_text(record.question or "")
        fields["target"] = normalise_string(record.target.text) if record.target else ""
    return wording.format_map(fields)


def asked_names(record: Record, meta: DatasetMeta, source: Source) -> Mapping[str, str]:
    """Returns label as the prompt of a question about the record writes it -> name in the dataset, in order."""
    return _asked(record, meta, _form(record, source.step), source.query)


def _asked(record: Record, meta: DatasetMeta, form: _Form, query: tuple[str, ...]) -> Mapping[str, str]:
    """Returns label as it is written in the prompt -> name in the dataset, in the order asked."""
    names = form.names(record, meta, query)
    words = tuple(meta.descriptions.get(name, name) for name in names) if meta.descriptions else names
    fields = [("question", record.question or "")] if isinstance(record, ExtractionRecord) else []
    if form.query == ("type",):
        fields.append(("type", meta.descriptions.get(query[0], query[0])))
    try:
        return _written_names(names, words, _wording(form.label, meta.language), tuple(fields))
    except UserError as error:
        raise UserError(f"dataset {meta.name}, record {record.id}: {error}") from None


@lru_cache(maxsize=1 << 12)
def _written_names(
    names: tuple[str, ...], words: tuple[str, ...], wording: str, fields: tuple[tuple[str, str], ...]
) -> Mapping[str, str]:
    if not names:
        raise UserError("there are no labels to ask (give them in meta.json, or as the record's label_set)")
    written = words if wording == "{label}" else (wording.format(label=word, **dict(fields)) for word in words)
    return dict(zip(check_labels(written), names, strict=True))


# --- what is known of a record ---------------------------------------------------------------------------------------

_Key: TypeAlias = tuple[str, tuple[str, ...]]  # (step, query)


@dataclass
class _Answers:
    """Answers by question, in the dataset's label names: chosen labels, and label -> strings."""

    choices: dict[_Key, list[str]] = field(default_factory=dict)
    strings: dict[_Key, dict[str, list[str]]] = field(default_factory=dict)

    def __contains__(self, key: _Key) -> bool:
        return key in self.choices or key in self.strings

    def choose(self, key: _Key, labels: Iterable[str]) -> None:
        chosen = self.choices.setdefault(key, [])
        chosen += [label for label in dict.fromkeys(labels) if label not in chosen]

    def extract(self, key: _Key, label_strings: Iterable[tuple[str, str]]) -> None:
        found = self.strings.setdefault(key, {})
        for label, string in label_strings:
            if string not in found.setdefault(label, []):
                found[label].append(string)

    def extract_spans(self, key: _Key, spans: Iterable[Span]) -> None:
        in_order = sorted(spans, key=lambda span: (span.start, -span.end))
        pairs = ((span.label, normalise_string(span.text)) for span in in_order)
        self.extract(key, ((label, string) for label, string in pairs if string not in ("", NONE)))

    def event_types(self, trigger: str, extracted: Sequence[str]) -> Sequence[str]:
        """The types that a trigger was extracted under, or what was said when asked to decide."""
        return self.choices.get(("event_type", (trigger,)), extracted)


def _gold_answers(record: Record) -> _Answers:
    answers = _Answers()
    match record:
        case ClassificationRecord():
            answers.choose(("classify", ()), (label for label in record.labels if normalise_label(label) != NONE))
        case ExtractionRecord():
            answers.extract_spans(("extract", ()), record.spans)
        case RelationRecord():
            answers.extract_spans(("entities", ()), record.entities)
            mentions = [normalise_string(entity.text) for entity in record.entities]
            for relation in record.relations:
                answers.choose(("relation", (mentions[relation.head], mentions[relation.tail])), [relation.label])
        case EventRecord():
            answers.extract_spans(("trigger", ()), (event.trigger for event in record.events))
            for event in record.events:
                answers.choose(("event_type", (normalise_string(event.trigger.text),)), [event.type])
            for type_ in dict.fromkeys(event.type for event in record.events):
                arguments = (argument for e in record.events if e.type == type_ for argument in e.arguments)
                answers.extract_spans(("argument", (type_,)), arguments)
    return answers


def gold_choices(record: Record) -> Mapping[tuple[str, tuple[str, ...]], Sequence[str]]:
    """Returns (step, query) -> the labels that hold, in the dataset's names, for each choice of which gold says any.

    That of a classification is always there, and may be empty.
    """
    return _gold_answers(record).choices


def _given_answers(record: Record, meta: DatasetMeta, answered: Sequence[AtomicExample]) -> _Answers:
    """Merges the chunks of each question. A label that was not asked stays as it is: scoring counts it as wrong."""
    answers = _Answers()
    for example in answered:
        step, query = example.source.step, example.source.query
        names = _asked(record, meta, _form(record, step), query)
        if isinstance(example.answer, tuple):
            answers.choose((step, query), (names.get(label, label) for label in example.answer))
        else:
            items = example.answer.items()
            answers.extract((step, query), ((names.get(label, label), s) for label, strings in items for s in strings))
    return answers


def _stages(record: Record, meta: DatasetMeta, answers: _Answers, training: bool) -> Iterator[list[_Key]]:
    """Yields the questions of a record, stage by stage; a stage reads the answers of the stages before it."""
    match record:
        case ClassificationRecord():
            yield [("classify", ())]
        case ExtractionRecord():
            yield [("extract", ())]
        case RelationRecord():
            yield [("entities", ())]
            yield [("relation", pair) for pair in _mention_pairs(record, meta, answers)]
        case EventRecord():
            yield [("trigger", ())]
            triggers = _by_string(record, answers.strings[("trigger", ())])
            unsure = [t for t, types in triggers.items() if training or len({*types} & {*meta.labels}) > 1]
            yield [("event_type", (trigger,)) for trigger in unsure]
            types = {type_ for string in triggers for type_ in answers.event_types(string, triggers[string])}
            yield [("argument", (type_,)) for type_ in meta.labels if type_ in types and _roles(record, meta, (type_,))]


def _mention_pairs(record: Record, meta: DatasetMeta, answers: _Answers) -> list[tuple[str, str]]:
    """Ordered pairs of distinct mention strings; where ``meta.pair_types`` is known, only those types' pairs."""
    mentions = _by_string(record, answers.strings[("entities", ())])
    pairs = ((head, tail) for head in mentions for tail in mentions if head != tail)
    allowed = meta.pair_types
    if allowed is None:
        return list(pairs)
    return [(h, t) for h, t in pairs if any((a, b) in allowed for a in mentions[h] for b in mentions[t])]


def _by_string(record: Record, strings_by_label: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Returns string -> its labels, in text order; a string that is not in the text is not asked about any further."""
    text, labels = normalise_text(record.text), _invert(strings_by_label)
    in_order = sorted((s for s in labels if s in text), key=lambda string: (text.find(string), -len(string)))
    return {string: labels[string] for string in in_order}


def _invert(strings_by_label: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for label, strings in strings_by_label.items():
        for string in strings:
            labels.setdefault(string, []).append(label)
    return labels


# --- records to questions --------------------------------------------------------------------------------------------


def decompose(record: Record, meta: DatasetMeta, split: str = "train") -> list[AtomicExample]:
    """Returns every question about a record with its gold answer, each asking every label of the dataset.

    UserError for labels that cannot be asked (``check_labels``) or gold labels that the dataset does not have.
    """
    gold = _gold_answers(record)
    keys = (key for stage in _stages(record, meta, gold, training=True) for key in stage)
    return [_question(record, meta, split, key, gold=gold) for key in keys]


def ask_next(
    record: Record, meta: DatasetMeta, answered: Sequence[AtomicExample], split: str = "test"
) -> list[AtomicExample]:
    """Returns the next questions about a record (answers empty), given those that are answered; [] when done.

    The record's text, options, question and target are read, never its gold answers.
    """
    answers = _given_answers(record, meta, answered)
    types = _invert(answers.strings.get(("trigger", ()), {}))
    for stage in _stages(record, meta, answers, training=False):
        keys = [key for key in stage if key not in answers]
        if keys:
            # a model is asked for an event type only to decide between those that one trigger came under
            return [
                _question(record, meta, split, key, only=types[key[1][0]] if key[0] == "event_type" else None)
                for key in keys
            ]
    return []


def _question(
    record: Record,
    meta: DatasetMeta,
    split: str,
    key: _Key,
    gold: _Answers | None = None,
    only: Sequence[str] | None = None,
) -> AtomicExample:
    step, query = key
    form = _form(record, step)
    names = _asked(record, meta, form, query)
    labels = tuple(names) if only is None else tuple(label for label, name in names.items() if name in only)
    answer: Answer = () if form.kind == "classify" else {}
    if gold is not None:
        known: Mapping[str, Sequence[str]] | Sequence[str]
        if form.kind == "classify":
            known = gold.choices.get(key, [])
            answer = tuple(label for label in labels if names[label] in known)
        else:
            known = gold.strings.get(key, {})
            answer = {label: tuple(known[names[label]]) for label in labels if names[label] in known}
        if len(answer) < len(known):
            lost = min(set(known).difference(names.values()))
            problem = f"gold label {lost!r} is not among the labels that step {step} asks"
            raise UserError(f"dataset {meta.name}, record {record.id}: {problem} (add it to meta.json)")
    source = Source(meta.name, split, record.id, record.task, meta.language, step, query)
    return AtomicExample(_write_text(record, meta, form, query), form.kind, labels, answer, source)


# --- answers to records ----------------------------------------------------------------------------------------------


def several_may_hold(source: Source, meta: DatasetMeta | None = None) -> bool:
    """Whether several labels of a choice may hold, or none, by what is known without gold.

    That is so for relations and event types, else where the dataset says so (`DatasetMeta.multi_label`); where it says
    nothing, for the types of a mention (ET) alone.
    """
    if source.step == "classify" and meta is not None and meta.multi_label is not None:
        return meta.multi_label
    return source.step != "classify" or source.task == "ET"


def none_options(record: Record) -> tuple[str, ...]:
    """Returns what `None` is called among a record's own options: () where it is none of them."""
    own = record.label_set or () if isinstance(record, ClassificationRecord) else ()
    return tuple(label for label in own if normalise_label(label) == NONE)


def recompose(record: Record, meta: DatasetMeta, answered: Sequence[AtomicExample]) -> Record:
    """Returns the predicted record: the given one with the answers in place of its gold.

    No answer is filtered: a string that is not in the text becomes a span with start = end = -1. Where a string occurs
    several times, an extraction means each of its occurrences (``locate``); reading comprehension and the entities of
    relations, where nothing says that there is more than one, mean the first; events those nearest to one another.
    """
    answers = _given_answers(record, meta, answered)
    match record:
        case ClassificationRecord():
            labels = tuple(answers.choices.get(("classify", ()), ()))
            return replace(record, labels=labels or none_options(record)[:1])
        case ExtractionRecord():
            strings = answers.strings.get(("extract", ()), {})
            return replace(record, spans=read_spans(record.text, strings, once=bool(record.question)))
        case RelationRecord():
            return _recompose_relations(record, answers)
        case EventRecord():
            return _recompose_events(record, answers)


def _recompose_relations(record: RelationRecord, answers: _Answers) -> RelationRecord:
    """A relation holds between two strings; of a string that is answered as several types, the nearest are joined."""
    mentions = answers.strings.get(("entities", ()), {})
    entities = read_spans(record.text, mentions, once=True)
    places: dict[str, list[int]] = {}
    for index, entity in enumerate(entities):
        places.setdefault(normalise_string(entity.text), []).append(index)
    relations = []
    for (step, query), labels in answers.choices.items():
        if step == "relation" and labels and places.keys() >= {*query}:
            pairs = ((h, t) for h in places[query[0]] for t in places[query[1]])
            nearest = min(pairs, key=lambda pair: gap(entities[pair[0]], entities[pair[1]]))
            relations += [Relation(label, *nearest) for label in labels]
    return replace(record, entities=entities, relations=tuple(relations))


def _recompose_events(record: EventRecord, answers: _Answers) -> EventRecord:
    strings_by_type: dict[str, list[str]] = {}
    for string, types in _invert(answers.strings.get(("trigger", ()), {})).items():
        for type_ in answers.event_types(string, types):
            strings_by_type.setdefault(type_, []).append(string)
    triggers: dict[str, list[Span]] = {}
    for trigger in read_spans(record.text, strings_by_type):
        triggers.setdefault(trigger.label, []).append(trigger)
    events: list[Event] = []
    for type_, own in triggers.items():
        arguments = read_spans(record.text, answers.strings.get(("argument", (type_,)), {}))
        events += _join_events(own, arguments)
    return replace(record, events=tuple(sorted(events, key=lambda event: (event.trigger.start, -event.trigger.end))))


def _join_events(triggers: Sequence[Span], arguments: Sequence[Span]) -> list[Event]:
    """The events of one type, of all occurrences of its triggers and arguments.

    A trigger's string means the occurrences that an argument is nearest to, or each if there are none. An argument's
    string means its occurrence nearest to each of these, and goes to whichever of these is nearest to it.
    """
    by_string: dict[tuple[str, str], list[Span]] = {}
    for argument in arguments:
        by_string.setdefault((argument.label, argument.text), []).append(argument)
    pairs = ([(t, a) for t in triggers for a in occurrences] for occurrences in by_string.values())
    used = {min(each, key=lambda pair: gap(*pair))[0] for each in pairs}
    used_strings = {trigger.text for trigger in used}
    kept: dict[Span, list[Span]] = {t: [] for t in triggers if t in used or t.text not in used_strings}
    for occurrences in by_string.values():
        for argument in {min(occurrences, key=lambda each: gap(trigger, each)): None for trigger in kept}:
            kept[min(kept, key=lambda trigger: gap(trigger, argument))].append(argument)
    return [Event(t.label, t, tuple(sorted(found, key=lambda a: (a.start, -a.end)))) for t, found in kept.items()]
