"""What the text format loses and adds: every reason on a record made for it, and the same F1 as metrics.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqgpt_jax.cli import main
from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.roundtrip import (
    AGAIN,
    CUTS_WORD,
    EDGE,
    NESTED,
    NONE_STRING,
    SAME_STRING,
    SAME_TYPE,
    SHARED_TRIGGER,
    TYPE_PAIR,
    RoundTrip,
    add_record,
    by_task,
    round_trip,
    round_trip_json,
    round_trip_table,
)
from seqgpt_jax.errors import UserError
from seqgpt_jax.metrics import score_dataset
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
from tests.tiny_data import write_data


def span(text: str, label: str, string: str, nth: int = 0) -> Span:
    start = -1
    for _ in range(nth + 1):
        start = text.index(string, start + 1)
    return Span(label, start, start + len(string), string)


def meta(task: str, *labels: str, **fields: object) -> DatasetMeta:
    return DatasetMeta("d", task, "en", labels, **fields)  # type: ignore[arg-type]


def changes(record: Record, dataset: DatasetMeta) -> dict[str, tuple[dict[str, int], dict[str, int]]]:
    """part -> (lost, added), for parts where there is any."""
    result = RoundTrip("d", dataset.task, "en")
    add_record(result, record, dataset)
    assert (result.num_records, result.num_malformed) == (1, 0)
    changed = {part: (dict(counts.lost), dict(counts.added)) for part, counts in result.parts.items()}
    changed = {part: both for part, both in changed.items() if any(both)}
    assert result.num_same == (not changed)
    return changed


def extraction(text: str, *spans: tuple[str, int], label: str = "x") -> ExtractionRecord:
    return ExtractionRecord("0", "NER", text, tuple(span(text, label, string, nth) for string, nth in spans))


@pytest.mark.parametrize(
    ("record", "lost", "added"),
    [
        (extraction("Ann met Bob", ("Ann", 0), ("Bob", 0)), {}, {}),
        (extraction("Ann met Ann", ("Ann", 0)), {}, {AGAIN: 1}),
        (extraction("New York is not York", ("New York", 0), ("York", 0), ("York", 1)), {NESTED: 1}, {}),
        (extraction("art in a party", ("art", 0), ("art", 1)), {CUTS_WORD: 1}, {}),
        (extraction("aha: ahaha", ("aha", 1), ("aha", 2)), {CUTS_WORD: 2}, {AGAIN: 1}),
        (extraction("he came to .", ("to ", 0)), {EDGE: 1}, {AGAIN: 1}),
        (extraction("None came", ("None", 0)), {NONE_STRING: 1}, {}),
        (extraction("a\nb", ("a\nb", 0)), {}, {}),
    ],
)
def test_why_spans_are_lost_or_added(record: ExtractionRecord, lost: dict[str, int], added: dict[str, int]) -> None:
    expected = {"spans": (lost, added)} if lost or added else {}
    assert changes(record, meta("NER", "x", "y")) == expected


def test_an_answer_is_its_first_occurrence() -> None:
    text = "In 1932 it closed, in 1932."
    for nth, expected in ((0, {}), (1, {"answers": ({AGAIN: 1}, {AGAIN: 1})})):
        record = ExtractionRecord("0", "MRC-SE", text, (span(text, "answer", "1932", nth),), question="When?")
        assert changes(record, meta("MRC-SE", "answer")) == expected


def test_why_relations_are_lost() -> None:
    text = "Rome, Rome and Ann in Oslo"
    entities = (span(text, "p", "Rome"), span(text, "p", "Rome", 1), span(text, "q", "Ann"), span(text, "p", "Oslo"))
    dataset = meta("RE", "twin", "in", entity_labels=("p", "q"), pair_types=frozenset({("p", "p")}))
    record = RelationRecord("0", "RE", text, entities, (Relation("twin", 0, 1), Relation("in", 2, 3)))
    assert changes(record, dataset) == {
        "mentions": ({AGAIN: 1}, {}),
        "triples": ({SAME_STRING: 1, TYPE_PAIR: 1}, {}),
    }


def test_why_events_change() -> None:
    dataset = meta("EE", "meet", "go", roles=("who",))
    text = "Ann met Bob . Then Eve met Joe ."
    who = {name: span(text, "who", name) for name in ("Ann", "Bob", "Eve", "Joe")}
    first, second = (span(text, "meet", "met", nth) for nth in (0, 1))

    def record(*events: Event) -> EventRecord:
        return EventRecord("0", "EE", text, events)

    kept = record(Event("meet", first, (who["Ann"], who["Bob"])), Event("meet", second, (who["Eve"], who["Joe"])))
    assert changes(kept, dataset) == {}
    crossed = record(Event("meet", first, (who["Ann"], who["Joe"])), Event("meet", second, (who["Eve"], who["Bob"])))
    assert changes(crossed, dataset) == {"events": ({SAME_TYPE: 2}, {SAME_TYPE: 2})}
    shared = record(Event("meet", first, (who["Ann"],)), Event("meet", first, (who["Bob"],)))
    assert changes(shared, dataset) == {"events": ({SHARED_TRIGGER: 2}, {SHARED_TRIGGER: 1})}
    bare = record(Event("meet", second))
    assert changes(bare, dataset) == {"triggers": ({}, {AGAIN: 1}), "events": ({}, {AGAIN: 1})}


def test_choices_are_exact() -> None:
    dataset = meta("CLS", "a", "b", "c，d")
    for labels in ((), ("b",), ("a", "c，d")):
        assert changes(ClassificationRecord("0", "CLS", "x", labels), dataset) == {}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    return resolve_mixture("held_in", write_data(tmp_path_factory.mktemp("data")))


def test_the_counts_of_a_mixture(datasets: list[Dataset]) -> None:
    results = round_trip(datasets, progress=False)
    assert [result.name for result in results] == [dataset.meta.name for dataset in datasets]
    assert [result.num_records for result in results] == [42] * 5
    assert [result.num_records for result in round_trip(datasets, "test", 4, progress=False)] == [4] * 5
    assert all(result.num_same == 42 and result.span_f1 in (None, 1.0) for result in results)
    fields = round_trip_json(results)
    assert fields["overall"]["records"] == 210 and fields["overall"]["span_f1"] == 1.0
    assert [(row["task"], row["name"]) for row in fields["tasks"]] == [
        ("CLS", "1"), ("EE", "1"), ("MRC-SE", "1"), ("NER", "1"), ("RE", "1")
    ]  # fmt: skip
    lines = round_trip_table(results).split("\n")
    assert len(lines) == 8 and lines[1].split()[:6] == ["NER", "en", "tiny_ner", "42", "100.0%", "1.0000"]
    with pytest.raises(UserError, match="none of 5 datasets has a split 'dev'"):
        round_trip(datasets, "dev", progress=False)


def test_the_span_f1_is_that_of_the_metrics(data_dir: Path) -> None:
    for name in ("cmedqa_ner", "finre", "fewfc", "drcd", "absa_mooc_zh"):
        (dataset,) = resolve_mixture(name, data_dir)
        gold = list(dataset.records("test", 60))
        result = RoundTrip(name, dataset.meta.task, dataset.meta.language)
        found = [add_record(result, record, dataset.meta, "test") for record in gold]
        expected = score_dataset(gold, found, dataset.meta).metrics["span_f1"]
        assert result.span_f1 == pytest.approx(expected) and expected < 1
        (group,) = by_task([result, result])
        assert (group.name, group.num_records, group.span_f1) == ("2", 120, pytest.approx(expected))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "losses.json"
    arguments = ["data", "roundtrip", "mini_real_en_ner", "--split", "validation", "--limit", "20", "--json", str(out)]
    assert main(arguments) == 0
    assert capsys.readouterr().out.split("\n")[1].split()[:4] == ["NER", "en", "mini_real_en_ner", "20"]
    fields = json.loads(out.read_text("utf-8"))
    assert fields["datasets"][0]["parts"]["spans"]["kept"] > 0 and fields["overall"]["malformed"] == 0
    assert main(["data", "roundtrip", "mini_unreal"]) == 2
