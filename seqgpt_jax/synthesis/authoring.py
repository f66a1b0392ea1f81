"""One record of each task, written from a domain's facts, utterances and opinions.

A maker returns None when what it drew cannot be used (a value stands twice in the text, no label set is left, ...); the
generator then lets it draw again, so that a record is still a function of its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from seqgpt_jax.records import (
    ClassificationRecord,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    Relation,
    RelationRecord,
    Span,
    Target,
)
from seqgpt_jax.synthesis.content import ASPECT, Domain, Fact, FamilyContent, Slot, Template
from seqgpt_jax.synthesis.numerals import Draw
from seqgpt_jax.synthesis.options import LabelSets, pick, sample, shuffle
from seqgpt_jax.synthesis.rendering import Place, Rendered, compose_values, fill, is_readable
from seqgpt_jax.synthesis.wordings import NLI_WORDINGS, SENTIMENT_WORDINGS, Wording

ANSWER_LABELS = {"en": "answer", "zh": "答案"}
_SENTENCE_ENDS = tuple(".!?。！？")
_AND = {  # between two requests in one utterance
    ("en", "synthetic"): (" and ", ", and then ", ", also "),
    ("en", "mini_real"): (", then ", ", and also ", " and please "),
    ("zh", "synthetic"): ("，还有", "，另外", "，再"),
    ("zh", "mini_real"): ("，然后", "，并且", "，同时"),
}
_NO_LABEL_SHARE = 0.04  # training records none of whose labels occurs in the text
_TWO_FACTS_SHARE = 0.15  # training records with a second fact in the text
_TWO_INTENTS_SHARE = 0.1
_UNANSWERABLE_SHARE = 0.1
_PLAIN_SHARE = 0.1  # texts without relation or event, in RE and EE
_TARGET_SHARE = 0.4
_CONTRAST_SHARE = 0.2  # of the training texts with a target: another aspect is judged too


@dataclass(frozen=True, slots=True)
class _Scene:
    """A text of one or two facts, and where the slots of each stand in it."""

    text: str
    parts: tuple[tuple[Fact, Rendered], ...]

    def spans(self) -> tuple[Span, ...]:
        """All slots, labelled with their types, in text order."""
        places = [(place, Slot(key).type) for _, part in self.parts for key, place in part.places.items()]
        return tuple(_span(self.text, place, label) for place, label in sorted(places))


class Author:
    """Writes records of one language and family; `label_sets` is None where label sets are fixed (mini_held_out)."""

    def __init__(self, content: FamilyContent, label_sets: LabelSets | None) -> None:
        self.language, self.family, self.label_sets = content.language, content.family, label_sets
        self.sentiments = SENTIMENT_WORDINGS[content.language, content.family]
        self.inferences = NLI_WORDINGS[content.language, content.family]
        self._places = {domain.slug: place for place, domain in enumerate(content.domains)}

    def write(self, task: str, domain: Domain, record_id: str, draw: Draw) -> Record | None:
        """A record of the task, or None when this draw cannot be used."""
        return _MAKERS[task](self, domain, record_id, draw)

    def wording(self, wordings: Sequence[Wording], domain: Domain, draw: Draw) -> Wording:
        """A random wording in training; the domain's own one where label sets are fixed."""
        if self.label_sets is None:
            return wordings[self._places[domain.slug] % len(wordings)]
        return pick(wordings, draw)

    def options(self, labels: Iterable[str], draw: Draw) -> tuple[str, ...] | None:
        """A complete small label set: shuffled in training, None (the dataset's own) where label sets are fixed."""
        if self.label_sets is None:
            return None
        shuffled = list(labels)
        shuffle(shuffled, draw)
        return tuple(shuffled)

    def scene(self, domain: Domain, fact: Fact, draw: Draw, second: Fact | None = None) -> _Scene | None:
        """A text that states the fact (and a second one), every span of it readable; else None."""
        parts = [(fact, self._state(domain, fact, draw))]
        if second is not None:
            parts.append((second, self._state(domain, second, draw)))
            if draw() < 0.5:
                parts.reverse()
            (one, first), (two, last) = parts
            text, offset = join_sentences(first.text, last.text, self.language)
            parts = [(one, first.shifted(0, text)), (two, last.shifted(offset, text))]
        text = parts[0][1].text
        places: list[Place] = []
        for _, part in parts:
            places += part.places.values()
            if part.trigger is not None:
                places.append(part.trigger)
        return _Scene(text, tuple(parts)) if is_readable(text, places) else None

    def _state(self, domain: Domain, fact: Fact, draw: Draw) -> Rendered:
        return fill(pick(fact.templates, draw), compose_values(fact.slots, domain.types, draw))

    def second_fact(self, domain: Domain, fact: Fact, draw: Draw, share: float = _TWO_FACTS_SHARE) -> Fact | None:
        """Now and then another fact of the domain, for the same text."""
        if self.label_sets is None or draw() >= share:
            return None
        other = pick(domain.facts, draw)
        return None if other is fact else other

    def absent_types(self, domain: Domain, spans: Sequence[Span]) -> list[str]:
        """Types of the domain that the text does not hold; not the kind of one that it holds (city, departure city)."""
        found = {span.label for span in spans}
        found.update(*[domain.kinds[label] for label in found])
        return [label for label in domain.types if label not in found]


def can_write(task: str, domain: Domain) -> bool:
    """Whether the domain has what the task is made of."""
    if task in ("SF", "ID"):
        return bool(domain.intents)
    if task == "SA":
        return bool(domain.opinions)
    if task == "RE":
        return bool(domain.relation_names)
    if task == "EE":
        return bool(domain.event_schema)
    if task in ("MRC-SE", "MRC-MC"):
        return any(fact.questions for fact in domain.facts)
    return len(domain.facts) > 1 if task == "NLI" else bool(domain.facts)


def join_sentences(first: str, second: str, language: str) -> tuple[str, int]:
    """Both texts as one, and where the second begins in it."""
    stop = "" if first.endswith(_SENTENCE_ENDS) else "。" if language == "zh" else "."
    head = first + stop + ("" if language == "zh" else " ")
    return head + second, len(head)


def _span(text: str, place: Place, label: str) -> Span:
    return Span(label, place[0], place[1], text[place[0] : place[1]])


# --- extraction -------------------------------------------------------------------------------------------------------


def _ner(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    fact = pick(domain.facts, draw)
    scene = author.scene(domain, fact, draw, author.second_fact(domain, fact, draw))
    if scene is None:
        return None
    return _extraction(author, domain, record_id, "NER", scene.text, scene.spans(), draw)


def _sf(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    rendered = _utterance(domain, pick(pick(domain.intents, draw).templates, draw), draw)
    if not is_readable(rendered.text, rendered.places.values()):
        return None
    places = sorted((place, Slot(key).type) for key, place in rendered.places.items())
    spans = tuple(_span(rendered.text, place, label) for place, label in places)
    return _extraction(author, domain, record_id, "SF", rendered.text, spans, draw)


def _utterance(domain: Domain, template: Template, draw: Draw) -> Rendered:
    return fill(template, compose_values(template.slots, domain.types, draw))


def _extraction(
    author: Author, domain: Domain, record_id: str, task: str, text: str, spans: tuple[Span, ...], draw: Draw
) -> Record | None:
    if author.label_sets is None:
        return ExtractionRecord(record_id, task, text, spans)
    present = () if draw() < _NO_LABEL_SHARE else tuple(dict.fromkeys(span.label for span in spans))
    label_set = author.label_sets.settle(present, author.absent_types(domain, spans), draw)
    if label_set is None:
        return None
    return ExtractionRecord(record_id, task, text, spans if present else (), label_set)


def _mrc_se(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    fact = pick(domain.facts, draw)
    second = author.second_fact(domain, fact, draw)
    scene = author.scene(domain, fact, draw, second)
    if scene is None:
        return None
    answer_label = ANSWER_LABELS[author.language]
    label_set = None if author.label_sets is None else (answer_label,)
    if draw() < _UNANSWERABLE_SHARE:
        question = _foreign_question(author, domain, scene, draw)
        if question is None:
            return None
        return ExtractionRecord(record_id, "MRC-SE", scene.text, (), label_set, question, ())
    asked = _question(scene, fact, draw)
    if asked is None:
        return None
    question, place = asked
    answer = _span(scene.text, place, answer_label)
    return ExtractionRecord(record_id, "MRC-SE", scene.text, (answer,), label_set, question, (answer.text,))


def _question(scene: _Scene, fact: Fact, draw: Draw) -> tuple[str, Place] | None:
    """A question about the fact which no other fact of the text answers, and the place of its answer."""
    if not fact.questions:
        return None
    key, question = pick(fact.questions, draw)
    for other, _ in scene.parts:
        if other is not fact and any(question.source == asked.source for _, asked in other.questions):
            return None
    part = next(part for stated, part in scene.parts if stated is fact)
    values = {slot.key: part.string(slot.key) for slot in question.slots}
    return fill(question, values).text, part.places[key]


def _foreign_question(author: Author, domain: Domain, scene: _Scene, draw: Draw) -> str | None:
    """A question of another fact, about a type that the text does not hold."""
    other = pick(domain.facts, draw)
    if not other.questions or any(other is fact for fact, _ in scene.parts):
        return None
    key, question = pick(other.questions, draw)
    asked = Slot(key).type
    if asked not in author.absent_types(domain, scene.spans()):
        return None
    for fact, _ in scene.parts:
        if any(question.source == known.source for _, known in fact.questions):
            return None
    return fill(question, compose_values(question.slots, domain.types, draw)).text


# --- classification ---------------------------------------------------------------------------------------------------


def _id(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    intent = pick(domain.intents, draw)
    text = _utterance(domain, pick(intent.templates, draw), draw).text
    if author.label_sets is None:
        return ClassificationRecord(record_id, "ID", text, (intent.name,))
    gold = [intent.name]
    if draw() < _TWO_INTENTS_SHARE:
        other = pick(domain.intents, draw)
        if other is intent:
            return None
        second = _utterance(domain, pick(other.templates, draw), draw).text
        text = _join_requests(text, second, author, draw)
        gold.append(other.name)
    label_set = author.label_sets.intents(domain, gold, draw)
    if label_set is None:
        return None
    return ClassificationRecord(record_id, "ID", text, tuple(o for o in label_set if o in gold), label_set)


def _join_requests(first: str, second: str, author: Author, draw: Draw) -> str:
    if first.endswith(_SENTENCE_ENDS):
        return join_sentences(first, second, author.language)[0]
    if not second.startswith(("I ", "I'")):
        second = second[0].lower() + second[1:]
    return first + pick(_AND[author.language, author.family], draw) + second


def _cls(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    fact = pick(domain.facts, draw)
    scene = author.scene(domain, fact, draw)
    if scene is None:
        return None
    if author.label_sets is None:
        return ClassificationRecord(record_id, "CLS", scene.text, (fact.topic,))
    label_set = author.label_sets.topics(domain, (fact.topic,), draw)
    if label_set is None:
        return None
    return ClassificationRecord(record_id, "CLS", scene.text, (fact.topic,), label_set)


def _et(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    fact = pick(domain.facts, draw)
    scene = author.scene(domain, fact, draw, author.second_fact(domain, fact, draw))
    if scene is None:
        return None
    span = pick(scene.spans(), draw)
    target = Target(span.text, span.start, span.end)
    if author.label_sets is None:
        return ClassificationRecord(record_id, "ET", scene.text, (span.label,), target=target)
    others = [label for label in domain.types if label != span.label and label not in domain.kinds[span.label]]
    label_set = author.label_sets.settle((span.label,), sample(others, 2 + int(draw() * 8), draw), draw)
    if label_set is None:
        return None
    return ClassificationRecord(record_id, "ET", scene.text, (span.label,), label_set, target=target)


def _sa(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    wording = author.wording(author.sentiments, domain, draw)
    polarity = pick(tuple(wording), draw)
    aspect = pick(domain.aspects, draw)
    opinion = _opinion(domain, polarity, aspect, draw)
    label_set = author.options(wording.values(), draw)
    if draw() >= _TARGET_SHARE:
        return ClassificationRecord(record_id, "SA", opinion.text, (wording[polarity],), label_set)
    if author.label_sets is not None and draw() < _CONTRAST_SHARE:
        other = _opinion(domain, pick(tuple(domain.opinions), draw), pick(domain.aspects, draw), draw)
        if draw() < 0.5:
            text, _ = join_sentences(opinion.text, other.text, author.language)
            opinion = opinion.shifted(0, text)
        else:
            text, offset = join_sentences(other.text, opinion.text, author.language)
            opinion = opinion.shifted(offset, text)
    start, end = opinion.places[ASPECT]
    if not is_readable(opinion.text, [(start, end)]):
        return None
    target = Target(aspect, start, end)
    return ClassificationRecord(record_id, "SA", opinion.text, (wording[polarity],), label_set, target=target)


def _opinion(domain: Domain, polarity: str, aspect: str, draw: Draw) -> Rendered:
    template = pick(domain.opinions[polarity], draw)
    return fill(template, compose_values(template.slots, domain.types, draw) | {ASPECT: aspect})


def _nli(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    wording = author.wording(author.inferences, domain, draw)
    label = pick(tuple(wording), draw)
    meaning = label
    if len(wording) == 2 and label == "contradiction" and draw() < 0.5:
        meaning = "neutral"  # a two-way wording has one label for both
    fact = pick(domain.facts, draw)
    values = compose_values(fact.slots, domain.types, draw)
    premise = pick(fact.templates, draw)
    hypothesis = pick(fact.templates, draw)
    others = dict(values)
    if meaning == "entailment":
        if hypothesis is premise:
            return None
    elif meaning == "contradiction":
        slot = pick(fact.slots, draw)
        others[slot.key] = domain.types[slot.type].compose(draw)
        if others[slot.key] in values.values():
            return None
    else:
        fact = pick(domain.facts, draw)
        hypothesis = pick(fact.templates, draw)
        others = compose_values(fact.slots, domain.types, draw)
        if {slot.key for slot in hypothesis.slots} == {slot.key for slot in premise.slots}:
            return None
        if draw() < 0.5:  # the same things, and something else is said of them
            others.update((key, value) for key, value in values.items() if key in others)
    text, text_pair = fill(premise, values).text, fill(hypothesis, others).text
    label_set = author.options(wording.values(), draw)
    return ClassificationRecord(record_id, "NLI", text, (wording[label],), label_set, text_pair=text_pair)


def _mrc_mc(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    fact = pick(domain.facts, draw)
    scene = author.scene(domain, fact, draw, author.second_fact(domain, fact, draw))
    asked = None if scene is None else _question(scene, fact, draw)
    if scene is None or asked is None:
        return None
    question, place = asked
    answer = next(span for span in scene.spans() if (span.start, span.end) == place)
    wrong = [span.text for span in sample(scene.spans(), int(draw() * 3), draw) if span is not answer]
    num_options = 3 + int(draw() * 2)
    for _ in range(2 * num_options):
        if len(wrong) >= num_options - 1:
            break
        value = domain.types[answer.label].compose(draw)
        if value not in scene.text and value not in wrong:
            wrong.append(value)
    options = [answer.text, *wrong[: num_options - 1]]
    if len(options) < 2 or len({option.lower() for option in options}) < len(options):
        return None
    shuffle(options, draw)
    return ClassificationRecord(record_id, "MRC-MC", scene.text, (answer.text,), tuple(options), question=question)


# --- relations and events ---------------------------------------------------------------------------------------------


def _re(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    fact = pick(domain.facts, draw)
    if not fact.relations and draw() >= _PLAIN_SHARE:
        return None
    scene = author.scene(domain, fact, draw, author.second_fact(domain, fact, draw))
    if scene is None:
        return None
    entities = scene.spans()
    index = {span.start: place for place, span in enumerate(entities)}
    relations = [
        Relation(label, index[part.places[head][0]], index[part.places[tail][0]])
        for stated, part in scene.parts
        for label, head, tail in stated.relations
    ]
    return RelationRecord(record_id, "RE", scene.text, entities, tuple(relations))


def _ee(author: Author, domain: Domain, record_id: str, draw: Draw) -> Record | None:
    fact = pick(domain.facts, draw)
    if fact.event is None and draw() >= _PLAIN_SHARE:
        return None
    second = author.second_fact(domain, fact, draw)
    if second is not None and fact.event and second.event and second.event.type == fact.event.type:
        return None  # an argument goes to the nearest trigger of its type, which might be the wrong one
    scene = author.scene(domain, fact, draw, second)
    if scene is None:
        return None
    events = []
    for stated, part in scene.parts:
        if stated.event is not None and part.trigger is not None:
            roles = sorted((part.places[key], role) for role, key in stated.event.roles)
            arguments = tuple(_span(scene.text, place, role) for place, role in roles)
            events.append(Event(stated.event.type, _span(scene.text, part.trigger, stated.event.type), arguments))
    return EventRecord(record_id, "EE", scene.text, tuple(events))


_Maker = Callable[[Author, Domain, str, Draw], Record | None]
_MAKERS: dict[str, _Maker] = {
    "NER": _ner,
    "SF": _sf,
    "ID": _id,
    "SA": _sa,
    "CLS": _cls,
    "NLI": _nli,
    "RE": _re,
    "EE": _ee,
    "ET": _et,
    "MRC-SE": _mrc_se,
    "MRC-MC": _mrc_mc,
}
