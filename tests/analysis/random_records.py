"""Random records of every kind with predictions: doubled items, empty sets, spans that are not in the text."""

from __future__ import annotations

import random

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

TEXT = "Ada met Bob in Rome, and Bob met Eve."
WORDS = [(0, 3), (8, 11), (15, 19), (25, 28), (33, 36)]
KINDS = [
    (DatasetMeta("one", "CLS", "en", ("a", "b", "c")), "accuracy"),
    (DatasetMeta("several", "ET", "en", ("a", "b", "c")), "micro_f1"),
    (DatasetMeta("spans", "NER", "en", ("a", "b")), "span_f1"),
    (DatasetMeta("reading", "MRC-SE", "en", ("answer",)), "token_f1"),
    (DatasetMeta("zh", "MRC-SE", "zh", ("answer",)), "token_f1"),
    (DatasetMeta("triples", "RE", "en", ("a", "b")), "triple_f1"),
    (DatasetMeta("events", "EE", "en", ("a", "b"), roles=("r", "s")), "argument_c"),
]


def make_record(i: int, meta: DatasetMeta, rng: random.Random) -> Record:
    """Spans that are not in the text, doubled ones and empty sets among them."""

    def spans(labels: tuple[str, ...]) -> tuple[Span, ...]:
        places = rng.choices([*WORDS, (-1, -1)], k=rng.randrange(4))
        return tuple(Span(rng.choice(labels), s, e, TEXT[s:e] if s >= 0 else "Nowhere") for s, e in places)

    if meta.task == "CLS":
        return ClassificationRecord(str(i), "CLS", TEXT, (rng.choice(meta.labels),))
    if meta.task == "ET":
        return ClassificationRecord(str(i), "ET", TEXT, tuple(rng.sample(meta.labels, rng.randrange(3))))
    if meta.task in ("NER", "MRC-SE"):
        return ExtractionRecord(str(i), meta.task, TEXT, spans(meta.labels))
    if meta.task == "RE":
        entities = spans(("x", "y"))
        pairs = [(h, t) for h in range(len(entities)) for t in range(len(entities)) if h != t]
        chosen = rng.sample(pairs, min(len(pairs), 2))
        return RelationRecord(str(i), "RE", TEXT, entities, tuple(Relation(rng.choice("ab"), *pair) for pair in chosen))
    events = [Event(rng.choice("ab"), Span("a", *WORDS[1], "Bob"), spans(("r", "s"))) for _ in range(rng.randrange(3))]
    return EventRecord(str(i), "EE", TEXT, tuple(events))


def make_pairs(meta: DatasetMeta, num: int, seed: int) -> tuple[list[Record], list[Record]]:
    """Every third record is predicted right."""
    rng = random.Random(seed)
    gold = [make_record(i, meta, rng) for i in range(num)]
    return gold, [gold[i] if i % 3 == 1 else make_record(i, meta, rng) for i in range(num)]
