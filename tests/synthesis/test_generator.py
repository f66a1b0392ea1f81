"""Records of the tiny content, whose values tell their type: what a record says is checked against its text alone."""

from __future__ import annotations

import collections
import itertools
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seqgpt_jax.errors import UserError
from seqgpt_jax.records import (
    TASKS,
    ClassificationRecord,
    DatasetMeta,
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
    fingerprint,
    generate,
    generated_dataset_metas,
    record_meta,
)

from .conftest import EN_DOMAIN, write_content

# The type of a value of the tiny content, told by its form.
FORMS = {
    "ferry company": r"Line \w+",
    "port": r"Port \w+",
    "captain": r"Captain \w+",
    "fare": r"[$€£][\d,]+(?:\.\d\d)?(?: million)?|[\d,]+ dollars",
    "travel date": r"(?:[A-Z][a-z]+(?<!Since)(?<!on) \d{1,2}(?:, \d{4})?|\d{1,2} [A-Z][a-z]+(?: \d{4})?)",
}
FAMILIES = ("synthetic", "mini_real", "mini_held_out")


@pytest.fixture(scope="module")
def records(tiny_content: Path) -> dict[str, list[Record]]:
    """300 records of every dataset of the tiny content, by dataset name."""
    names = [name for family in FAMILIES for name in dataset_names(family, tiny_content)]
    return {name: list(itertools.islice(generate(name, "train", root=tiny_content), 300)) for name in names}


def of_task(records: dict[str, list[Record]], task: str, language: str = "en") -> list[Record]:
    return [r for name, found in records.items() if f"_{language}_" in name for r in found if r.task == task]


def values_in(text: str) -> list[tuple[int, int, str]]:
    """Every value in an English text with its type: (start, end, type), in text order."""
    return sorted((m.start(), m.end(), label) for label, form in FORMS.items() for m in re.finditer(form, text))


def test_names_and_families(tiny_content: Path) -> None:
    assert families() == FAMILIES
    assert dataset_names("synthetic", tiny_content)[:3] == ("synthetic_en_ner", "synthetic_en_sf", "synthetic_en_id")
    assert "mini_real_zh_mrc_se" in dataset_names("mini_real", tiny_content)
    assert "mini_held_out_en_ner_ferry" in dataset_names("mini_held_out", tiny_content)
    for family in FAMILIES:
        found = collections.Counter((m.language, m.task) for m in generated_dataset_metas(family, tiny_content))
        assert found == collections.Counter(itertools.product(("en", "zh"), TASKS))


def test_a_record_is_a_function_of_dataset_split_seed_and_index(tiny_content: Path) -> None:
    def take(count: int, start: int = 0, **settings: object) -> list[Record]:
        chosen = {"dataset_name": "synthetic_en_ner", "split": "train", "seed": 0} | settings
        return list(itertools.islice(generate(**chosen, start=start, root=tiny_content), count))

    whole = take(60)
    random.seed(5)  # the global generator plays no part
    assert take(60) == whole
    assert take(20, start=40) == whole[40:]
    assert len({record.id for record in whole}) == 60
    texts = {record.text for record in whole}
    for settings in ({"split": "test"}, {"split": "validation"}, {"seed": 1}, {"dataset_name": "synthetic_en_et"}):
        assert len(texts & {record.text for record in take(60, **settings)}) <= 2


def test_the_hash_seed_of_a_process_plays_no_part(tiny_content: Path) -> None:
    code = (
        "import hashlib, itertools, pathlib, sys; from seqgpt_jax.synthesis import dataset_names, generate\n"
        "root = pathlib.Path(sys.argv[1]); digest = hashlib.sha256()\n"
        "for name in dataset_names('synthetic', root):\n"
        "    records = itertools.islice(generate(name, 'train', root=root), 40)\n"
        "    digest.update(repr(list(records)).encode())\n"
        "print(digest.hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code, str(tiny_content)],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1 and len(digests.pop().strip()) == 64


def test_every_record_is_valid_and_fits_its_dataset(records: dict[str, list[Record]], tiny_content: Path) -> None:
    metas = {meta.name: meta for family in FAMILIES for meta in generated_dataset_metas(family, tiny_content)}
    for name, found in records.items():
        for record in found:
            assert record_from_dict(record_to_dict(record)) == record
            check_record(record, metas[name])
            check_record(record, record_meta(metas[name], record, tiny_content))


def test_spans_and_targets_stand_where_they_say_and_nowhere_else(records: dict[str, list[Record]]) -> None:
    for record in itertools.chain.from_iterable(records.values()):
        places = []
        if isinstance(record, ExtractionRecord):
            places = [(span.text, span.start, span.end) for span in record.spans]
        elif isinstance(record, RelationRecord):
            places = [(span.text, span.start, span.end) for span in record.entities]
        elif isinstance(record, EventRecord):
            spans = [span for event in record.events for span in (event.trigger, *event.arguments)]
            places = [(span.text, span.start, span.end) for span in spans]
        elif record.target is not None:
            places = [(record.target.text, record.target.start, record.target.end)]
        for string, start, end in places:
            assert record.text[start:end] == string
            assert record.text.count(string) == 1, record


@pytest.mark.parametrize("task", ["NER", "SF"])
def test_extraction_finds_exactly_the_values_of_the_types_asked(records: dict[str, list[Record]], task: str) -> None:
    empty = 0
    for record in of_task(records, task):
        asked = record.label_set or list(FORMS)
        expected = [value for value in values_in(record.text) if value[2] in asked]
        assert [(span.start, span.end, span.label) for span in record.spans] == expected, record
        empty += not record.spans
        assert record.label_set is not None or record.id.startswith("mini_held_out")
    assert 0 < empty < 0.12 * len(of_task(records, task))


def test_typing_asks_for_the_type_of_one_mention(records: dict[str, list[Record]]) -> None:
    for record in of_task(records, "ET"):
        place = (record.target.start, record.target.end, record.labels[0])
        assert place in values_in(record.text)


def test_topics_and_intents_are_those_of_the_text(records: dict[str, list[Record]]) -> None:
    topics = {"route": "route launch", "swimmers": "rescue", "ticket": "price rise"}
    for record in of_task(records, "CLS"):
        assert record.labels == tuple(topic for word, topic in topics.items() if word in record.text)
    cues = {"book ferry": r"book a seat|want to sail|cabin to", "ask price": r"charge|how much|price of a ticket"}
    cues["contact captain"] = r"Captain"
    double = 0
    for record in of_task(records, "ID"):
        assert set(record.labels) == {intent for intent, cue in cues.items() if re.search(cue, record.text)}, record
        double += len(record.labels) > 1
        assert len(record.labels) == 1 or not record.id.startswith("mini_held_out")
    assert 0.02 < double / len(of_task(records, "ID")) < 0.15


def test_sentiment_is_that_of_the_aspect_asked(records: dict[str, list[Record]]) -> None:
    words = {"superb": "positive", "awful": "negative", "usual": "neutral"}
    meanings = collections.defaultdict(set)
    targets = 0
    for record in of_task(records, "SA"):
        sentence = record.text
        if record.target is not None:
            targets += 1
            sentence = next(part for part in re.split(r"(?<=[.]) ", record.text) if record.target.text in part)
        (meaning,) = {meaning for word, meaning in words.items() if word in sentence.lower()}
        meanings[record.labels[0]].add(meaning)
    assert all(len(found) == 1 for found in meanings.values()), meanings
    assert meanings["good"] == {"positive"} and meanings["complaint"] == {"negative"}
    assert 0.3 < targets / len(of_task(records, "SA")) < 0.5


def test_inference_labels_are_true(records: dict[str, list[Record]]) -> None:
    topics = {"route": "launch", "swimmers": "rescue", "ticket": "price"}
    meanings = collections.defaultdict(set)
    for record in of_task(records, "NLI"):
        first, second = ([record.text[s:e] for s, e, _ in values_in(record.text)], [])
        second = [record.text_pair[s:e] for s, e, _ in values_in(record.text_pair)]
        same_topic = all((word in record.text) == (word in record.text_pair) for word in topics)
        if not same_topic:
            meaning = "neutral"
        elif sorted(first) == sorted(second):
            meaning = "entailment"
            assert record.text != record.text_pair
        else:
            meaning = "contradiction"
            assert len(set(first) - set(second)) == 1
        meanings[record.labels[0]].add(meaning)
    assert meanings["entailment"] == meanings["true"] == meanings["same meaning"] == {"entailment"}
    assert meanings["contradiction"] == meanings["false"] == {"contradiction"}
    assert meanings["neutral"] == meanings["unrelated"] == {"neutral"}
    assert meanings["different meaning"] == {"neutral", "contradiction"}


ANSWER_TYPES = {
    "Who sails on the new route?": "ferry company",
    "Who helped the swimmers?": "captain",
    "Where were the swimmers?": "port",
    "What does a ticket cost?": "fare",
    "Who sells the ticket?": "ferry company",
}


def sentence_of(question: str, text: str) -> str:
    """The sentence of a text (of two facts) that a question is about."""
    cue = next(cue for cue in ("swimmers", "ticket", "route") if cue in question or cue == "route")
    return next((part for part in re.split(r"(?<=[.]) (?=[A-Z])", text) if cue in part), "")


def test_reading_answers_are_in_the_sentence_that_the_question_is_about(records: dict[str, list[Record]]) -> None:
    unanswerable = 0
    for record in of_task(records, "MRC-SE"):
        sentence = sentence_of(record.question, record.text)
        label = ANSWER_TYPES.get(record.question, "port")
        company = re.search(FORMS["ferry company"], record.question)
        if not record.spans:
            unanswerable += 1
            assert record.answers == ()
            assert not re.search(FORMS[label], record.text)
            continue
        assert not company or company[0] in sentence
        (answer,) = record.answers
        assert re.findall(FORMS[label], sentence) == [answer] == [record.spans[0].text]
    assert 0.02 < unanswerable / len(of_task(records, "MRC-SE")) < 0.2


def test_choices_hold_the_answer_once_and_wrong_ones(records: dict[str, list[Record]]) -> None:
    for record in of_task(records, "MRC-MC"):
        (answer,) = record.labels
        assert 2 <= len(record.label_set) == len(set(record.label_set)) <= 4 and answer in record.label_set
        sentence = sentence_of(record.question, record.text)
        assert re.findall(FORMS[ANSWER_TYPES.get(record.question, "port")], sentence) == [answer]


def test_relations_join_the_right_mentions(records: dict[str, list[Record]]) -> None:
    plain = 0
    for record in of_task(records, "RE"):
        assert [(e.start, e.end, e.label) for e in record.entities] == values_in(record.text)
        expected = set()
        for part in re.split(r"(?<=[.]) (?=[A-Z])", record.text):
            found = {label: re.findall(form, part) for label, form in FORMS.items()}
            if "route" in part:
                expected.add(("sails to", found["ferry company"][0], found["port"][0]))
            elif "swimmers" in part:
                expected.add(("was near", found["captain"][0], found["port"][0]))
        relations = {(r.label, record.entities[r.head].text, record.entities[r.tail].text) for r in record.relations}
        assert relations == expected and len(relations) == len(record.relations)
        plain += not relations
    assert 0 < plain < 0.12 * len(of_task(records, "RE"))


def test_events_have_their_trigger_and_arguments(records: dict[str, list[Record]]) -> None:
    kinds = {"opened": "opening", "launched": "opening", "saved": "rescue", "rescued": "rescue"}
    roles = {
        "opening": {"operator": "ferry company", "place": "port", "time": "travel date"},
        "rescue": {"hero": "captain", "place": "port"},
    }
    counts = collections.Counter()
    for record in of_task(records, "EE"):
        expected = set()
        for part in re.split(r"(?<=[.]) (?=[A-Z])", record.text):
            for trigger in re.findall(r"\b(?:opened|launched|saved|rescued)\b", part):
                found = {role: re.search(FORMS[label], part)[0] for role, label in roles[kinds[trigger]].items()}
                expected.add((kinds[trigger], trigger, tuple(sorted(found.items()))))
        events = {
            (e.type, e.trigger.text, tuple(sorted((a.label, a.text) for a in e.arguments))) for e in record.events
        }
        assert events == expected and len(events) == len(record.events)
        counts[len(events)] += 1
    assert counts.keys() == {0, 1, 2}


def test_held_out_label_sets_are_fixed_and_training_ones_vary(records: dict[str, list[Record]]) -> None:
    for name, found in records.items():
        for record in found:
            if isinstance(record, ClassificationRecord | ExtractionRecord) and record.task != "MRC-MC":
                assert (record.label_set is None) == name.startswith("mini_held_out")
    orders = {record.label_set for record in records["synthetic_en_ner"]}
    assert len(orders) > 20


def test_descriptions(tiny_content: Path) -> None:
    metas = {meta.name: meta for family in FAMILIES for meta in generated_dataset_metas(family, tiny_content)}
    assert metas["synthetic_en_re"].labels == ("sails to", "was near")
    assert metas["synthetic_en_re"].entity_labels == ("ferry company", "port", "captain", "travel date", "fare")
    assert metas["synthetic_en_re"].pair_types == {("ferry company", "port"), ("captain", "port")}
    assert metas["mini_held_out_en_ee_ferry"].event_schema == {
        "opening": ("operator", "place", "time"),
        "rescue": ("hero", "place"),
    }
    assert metas["mini_held_out_en_ee_ferry"].roles == ("operator", "place", "time", "hero")
    assert metas["mini_held_out_zh_mrc_se_ferry"].labels == ("答案",)
    assert metas["mini_held_out_en_mrc_mc_ferry"].labels == ()
    assert len(metas["mini_held_out_en_nli_ferry"].labels) == 3


def test_relation_and_event_descriptions_narrow_to_the_domain_of_a_record(tmp_path: Path) -> None:
    root = write_content(tmp_path)
    other = (
        EN_DOMAIN.replace("ferry travel", "boats")
        .replace("sails to", "calls at")
        .replace('"rescue", roles', '"aid", roles')
    )
    (root / "en" / "synthetic" / "boats.toml").write_text(other, encoding="utf-8")
    metas = {meta.name: meta for meta in generated_dataset_metas("synthetic", root)}
    assert set(metas["synthetic_en_re"].labels) == {"sails to", "calls at", "was near"}

    def narrow(name: str) -> dict[str, DatasetMeta]:
        found = itertools.islice(generate(name, "train", root=root), 50)
        return {record.id.split("-")[2]: record_meta(metas[name], record, root) for record in found}

    assert narrow("synthetic_en_re")["boats"].labels == ("calls at", "was near")
    assert narrow("synthetic_en_re")["ferry"].labels == ("sails to", "was near")
    assert set(narrow("synthetic_en_ee")["boats"].event_schema) == {"opening", "aid"}
    assert narrow("synthetic_en_ner")["boats"] is metas["synthetic_en_ner"]


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    root = write_content(tmp_path)
    before = fingerprint(root)
    assert fingerprint(root) == before != fingerprint()
    path = root / "zh" / "mini_real" / "ferry.toml"
    path.write_text(path.read_text(encoding="utf-8") + "# more\n", encoding="utf-8")
    assert fingerprint(root) != before


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda root: dataset_names("synthetics", root), "unknown family 'synthetics'"),
        (lambda root: generate("synthetic_en_nor", "train", root=root), "did you mean synthetic_en_ner"),
        (lambda root: generate("nothing", "train", root=root), "no generated dataset 'nothing'"),
        (lambda root: generate("synthetic_en_ner", "dev", root=root), "unknown split 'dev'"),
    ],
)
def test_unknown_names_are_user_errors(tiny_content: Path, call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(tiny_content)
