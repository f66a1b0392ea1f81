"""The content that the package ships: its amounts, and that families share nothing but single words and labels."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import pytest

from seqgpt_jax.atomic import decompose, recompose
from seqgpt_jax.records import (
    TASKS,
    ClassificationRecord,
    EventRecord,
    ExtractionRecord,
    Record,
    RelationRecord,
    check_record,
    record_from_dict,
    record_to_dict,
)
from seqgpt_jax.synthesis import (
    dataset_names,
    families,
    generate_mixture,
    generated_dataset_metas,
    mixture_datasets,
    record_meta,
)
from seqgpt_jax.synthesis.check import overlaps, rendering_faults, shortfalls
from seqgpt_jax.synthesis.content import FAMILIES, LANGUAGES, FamilyContent
from seqgpt_jax.synthesis.inventory import composed_values, known_label_share, task_templates
from seqgpt_jax.synthesis.reader import read_family

NUM_QUICK, NUM_FULL = 20_000, 100_000


@pytest.fixture(scope="module")
def contents() -> dict[tuple[str, str], FamilyContent]:
    found = {}
    for language, family in itertools.product(LANGUAGES, FAMILIES):
        found[language, family], faults = read_family(language, family)
        assert not faults, "\n".join(str(fault) for fault in faults)
    return found


@pytest.fixture(scope="module")
def mixtures() -> dict[str, list[Record]]:
    return {family: list(generate_mixture(family, NUM_QUICK)) for family in families()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_content_is_sound_and_keeps_its_amounts(contents: dict[tuple[str, str], FamilyContent], language: str) -> None:
    problems = []
    for family in FAMILIES:
        problems += shortfalls(contents[language, family])
        problems += [str(f) for domain in contents[language, family].domains for f in rendering_faults(domain)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("language", LANGUAGES)
def test_amounts_of_the_issue(contents: dict[tuple[str, str], FamilyContent], language: str) -> None:
    domains = [domain for family in FAMILIES for domain in contents[language, family].domains]
    assert len({label for domain in domains for label in domain.types}) >= 300
    assert len({name for domain in domains for name in (*domain.intent_names, *domain.topics)}) >= 150
    values = [composed_values(contents[language, family]) for family in FAMILIES]
    assert sum(len(found) for found in values) >= 10_000
    for family in FAMILIES:
        templates = task_templates(contents[language, family])
        assert set(templates) == set(TASKS)
        assert min(len(found) for found in templates.values()) >= 40


@pytest.mark.parametrize("language", LANGUAGES)
def test_families_share_no_template_value_domain_or_label_set(
    contents: dict[tuple[str, str], FamilyContent], language: str
) -> None:
    assert list(overlaps({family: contents[language, family] for family in FAMILIES})) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_most_single_label_names_of_the_held_out_family_are_known(
    contents: dict[tuple[str, str], FamilyContent], language: str
) -> None:
    share, unknown = known_label_share({family: contents[language, family] for family in FAMILIES})
    assert share >= 0.85, unknown


def test_all_tasks_in_both_languages() -> None:
    for family in families():
        metas = generated_dataset_metas(family)
        assert {(meta.language, meta.task) for meta in metas} == set(itertools.product(LANGUAGES, TASKS))
        assert len({meta.name for meta in metas}) == len(metas)
        assert tuple(meta.name for meta in metas) == dataset_names(family)
    assert len(dataset_names("synthetic")) == len(dataset_names("mini_real")) == 22
    assert len(dataset_names("mini_held_out")) == 88


def test_mixtures(mixtures: dict[str, list[Record]]) -> None:
    assert set(mixture_datasets("mini_real_zh_mrc_se")) == {"mini_real_zh_mrc_se"}
    assert set(mixture_datasets("synthetic_ner")) == {"synthetic_en_ner", "synthetic_zh_ner"}
    assert len(mixture_datasets("mini_held_out_en")) == 44 and len(mixture_datasets("mini_held_out_en_re")) == 4
    counts = Counter(record.id.split("-")[0] for record in mixtures["synthetic"])
    assert max(counts.values()) - min(counts.values()) <= 1
    assert {record.id.split("-")[1] for record in mixtures["mini_held_out"]} == {"test"}
    assert list(generate_mixture("synthetic", 50)) == mixtures["synthetic"][:50]


def test_records_are_valid(mixtures: dict[str, list[Record]]) -> None:
    for family, records in mixtures.items():
        metas = {meta.name: meta for meta in generated_dataset_metas(family)}
        for record in records[:8_000]:
            assert record_from_dict(record_to_dict(record)) == record
            meta = metas[record.id.split("-")[0]]
            check_record(record, meta)
            check_record(record, record_meta(meta, record))
            if isinstance(record, EventRecord):
                assert len({event.type for event in record.events}) == len(record.events)


def test_gold_answers_give_the_record_back(mixtures: dict[str, list[Record]]) -> None:
    """Span strings alone, as a model answers them, restore every offset, pair and event."""
    for family, records in mixtures.items():
        metas = {meta.name: meta for meta in generated_dataset_metas(family)}
        for record in records[:5_000]:
            meta = record_meta(metas[record.id.split("-")[0]], record)
            restored = recompose(record, meta, decompose(record, meta))
            assert _gist(restored) == _gist(record)


def _gist(record: Record) -> object:
    """What is to be restored; the order of labels, relations and arguments says nothing."""
    match record:
        case ClassificationRecord():
            return set(record.labels)
        case ExtractionRecord():
            return [(span.start, span.end) if record.task == "MRC-SE" else span for span in record.spans]
        case RelationRecord():
            return record.entities, set(record.relations)
        case EventRecord():
            return {(event.type, event.trigger, frozenset(event.arguments)) for event in record.events}


def test_texts_are_distinct_and_short(mixtures: dict[str, list[Record]]) -> None:
    for family, records in mixtures.items():
        assert len({record.text for record in records}) >= 0.99 * len(records)
        assert max(len(record.text) for record in records) < 500, family


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_distinct_in_100_000_records(family: str) -> None:
    texts = {record.text for record in generate_mixture(family, NUM_FULL)}
    assert len(texts) >= 0.99 * NUM_FULL


def test_splits_share_next_to_no_text() -> None:
    for family in families():
        splits = [
            {record.text for record in generate_mixture(family, 5_000, split=split)}
            for split in ("train", "validation", "test")
        ]
        for one, two in itertools.combinations(splits, 2):
            assert len(one & two) <= 5


def test_records_of_two_families_share_no_text_value_or_label_set(mixtures: dict[str, list[Record]]) -> None:
    metas = {meta.name: meta for family in families() for meta in generated_dataset_metas(family)}
    for one, two in itertools.combinations(families(), 2):
        assert not {r.text for r in mixtures[one]} & {r.text for r in mixtures[two]}
        shared = _values(mixtures[one]) & _values(mixtures[two])
        assert not shared, sorted(shared)[:10]
        sets = [
            {(metas[r.id.split("-")[0]].language, labels) for r in mixtures[family] if (labels := _labels(r, metas))}
            for family in (one, two)
        ]
        assert not sets[0] & sets[1], list(sets[0] & sets[1])[:3]


def _values(records: Iterable[Record]) -> set[str]:
    found: set[str] = set()
    for record in records:
        match record:
            case ExtractionRecord():
                found.update(span.text for span in record.spans)
            case RelationRecord():
                found.update(entity.text for entity in record.entities)
            case EventRecord():
                found.update(argument.text for event in record.events for argument in event.arguments)
            case ClassificationRecord(task="ET") if record.target:
                found.add(record.target.text)
            case ClassificationRecord(task="MRC-MC"):
                found.update(record.label_set or ())
    return found


def _labels(record: Record, metas: dict) -> frozenset[str] | None:
    """The label set that the record is asked with; None for reading tasks, whose labels are the question or values."""
    if record.task.startswith("MRC"):
        return None
    meta = record_meta(metas[record.id.split("-")[0]], record)
    own = getattr(record, "label_set", None)
    return frozenset(own or meta.labels)
