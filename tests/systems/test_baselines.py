"""majority, tfidf and gazetteer on made-up data of which the answers are known."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from seqgpt_jax.asking import RecordPrediction
from seqgpt_jax.cli import main
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.errors import UserError
from seqgpt_jax.evaluation import evaluate
from seqgpt_jax.metrics import empty_predictions
from seqgpt_jax.occurrences import borders
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    EventRecord,
    ExtractionRecord,
    Record,
    Span,
    write_meta,
    write_records,
)
from seqgpt_jax.systems.chat_server import ServerOptions
from seqgpt_jax.systems.open_system import open_system
from seqgpt_jax.systems.options import add_system, given_options
from seqgpt_jax.systems.system import System
from seqgpt_jax.systems.training_data import SeenLabels
from tests import tiny_data


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tiny_data.write_data(tmp_path / "data")
    monkeypatch.setenv("SEQGPT_DATA_DIR", str(folder))
    monkeypatch.setenv("SEQGPT_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def ask(system: System, records: Sequence[Record], meta: DatasetMeta) -> list[RecordPrediction]:
    return system.predict_records(empty_predictions(records), [meta] * len(records))


def texts(prediction: RecordPrediction) -> list[tuple[str, int, str]]:
    assert isinstance(prediction.record, ExtractionRecord)
    return [(span.label, span.start, span.text) for span in prediction.record.spans]


# --- majority --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixture", ["held_out+tiny_ner+tiny_re", "mini_held_out_en_cls+mini_held_out_en_ner"])
def test_majority_scores_what_stands_beside_every_score(root: Path, mixture: str) -> None:
    datasets = resolve_mixture(mixture)
    evaluation = evaluate(open_system("majority", datasets), datasets, limit=5, progress=False)
    assert [each.score for each in evaluation.datasets] == [each.baseline for each in evaluation.datasets]
    assert max(each.score.headline for each in evaluation.datasets) > 0


# --- gazetteer -------------------------------------------------------------------------------------------------------


def gazetteer_of(folder: Path, spans: dict[str, list[str]], **options: object) -> System:
    """One that has seen a text for each string, in a held-in dataset of its own."""
    records: list[Record] = []
    for label, strings in spans.items():
        for string in strings:
            span = Span(label, 3, 3 + len(string), string)
            records.append(ExtractionRecord(str(len(records)), "NER", f"-- {string} --", (span,)))
    write_meta(folder / "seen", DatasetMeta("seen", "NER", "en", tuple(spans)))
    write_records(folder / "seen" / "train.jsonl", records)
    return open_system("gazetteer", train_mixture=f"{folder}/", **options)


def test_gazetteer_copies_the_longest_strings_that_cut_no_word(root: Path, tmp_path: Path) -> None:
    system = gazetteer_of(
        tmp_path / "own", {"PERSON": ["Paris", "Paris Hilton", "Al", "Bo", "Bo"], "city": ["Paris", "Paris", "Bo"]}
    )
    meta = DatasetMeta("asked", "NER", "en", ("city", "person", "planet"))
    record = ExtractionRecord("0", "NER", "Paris Hilton left Paris; Albert met Al and Bo.", ())
    (prediction,) = ask(system, [record], meta)
    assert texts(prediction) == [
        ("person", 0, "Paris Hilton"),  # PERSON is asked as person; longer than Paris
        ("city", 18, "Paris"),  # seen as a city twice, as a person once
        ("person", 36, "Al"),  # not in Albert
        ("person", 43, "Bo"),  # twice a person, once a city
    ]
    (answer,) = prediction.answered
    assert answer.raw == "city: Paris\nperson: Paris Hilton\tAl\tBo\nplanet: None\n"
    assert answer.parsed.problems == ()


def test_gazetteer_takes_the_label_whose_name_is_most_alike(root: Path, tmp_path: Path) -> None:
    system = gazetteer_of(tmp_path / "own", {"person name": ["Ada"], "city": ["Rome"]})
    record = ExtractionRecord("0", "NER", "Ada in Rome", ())
    (prediction,) = ask(system, [record], DatasetMeta("asked", "NER", "en", ("name of person", "dish")))
    assert texts(prediction) == [("name of person", 0, "Ada")]
    (prediction,) = ask(system, [record], DatasetMeta("asked", "NER", "zh", ("person name",)))
    assert texts(prediction) == []  # each language has a dictionary of its own


def test_borders_are_where_no_latin_word_is_cut() -> None:
    assert borders("a bc2d王明") == [0, 1, 2, 4, 5, 6, 7, 8]
    assert borders("") == [0]


def test_gazetteer_on_every_kind_of_record(root: Path) -> None:
    datasets = resolve_mixture("held_in")
    evaluation = evaluate(open_system("gazetteer"), datasets, progress=False)
    metrics = {each.name: each.score.metrics for each in evaluation.datasets}
    assert metrics["tiny_ner"]["span_f1"] == 1.0
    # 王明1000 is new, of 北京大学 and 李红 there is a dictionary; nothing is said of relations
    assert metrics["tiny_re"]["span_precision"] == 1.0
    assert metrics["tiny_re"]["span_recall"] == pytest.approx(2 / 3)
    assert metrics["tiny_re"]["triple_f1"] == 0.0
    assert metrics["tiny_ee"]["trigger_c"] == 1.0
    # of buyer, time and thing, the buyer is new
    assert metrics["tiny_ee"]["argument_c"] == pytest.approx(2 * 2 / (2 + 3))
    assert metrics["tiny_mrc"]["token_f1"] == metrics["tiny_topics"]["accuracy"] == 0.0
    assert all(each.rates.parse_error_rate == 0 for each in evaluation.datasets)


def test_types_of_a_trigger_that_was_found_under_several_stay(root: Path, tmp_path: Path) -> None:
    system = gazetteer_of(tmp_path / "own", {f"t{i} event": ["fell"] for i in range(7)})
    meta = DatasetMeta("asked", "EE", "en", tuple(f"t{i}" for i in range(7)))
    (prediction,) = ask(system, [EventRecord("0", "EE", "It fell.", ())], meta)
    assert isinstance(prediction.record, EventRecord)
    # seven labels are asked as 4 + 3, and in each the first has the string
    assert [event.type for event in prediction.record.events] == ["t0", "t4"]


# --- tfidf -----------------------------------------------------------------------------------------------------------


def test_tfidf_learns_labels_and_else_reads_their_names(root: Path) -> None:
    system = open_system("tfidf")
    (dataset,) = resolve_mixture("tiny_out")
    evaluation = evaluate(system, [dataset], progress=False)
    assert evaluation.datasets[0].score.metrics["accuracy"] == 1.0
    # held-in labels by another spelling, in another order
    meta = DatasetMeta("asked", "CLS", "en", ("Weather", "Trade/Money", "politics"))
    records = [ClassificationRecord(str(i), "CLS", text, ("?",)) for i, text in enumerate(("more weather", "money"))]
    assert [p.record.labels for p in ask(system, records, meta)] == [("Weather",), ("Trade/Money",)]  # type: ignore[union-attr]
    # labels that held-in data has never had: the one whose words are in the text
    meta = DatasetMeta("asked", "CLS", "en", ("dish", "about"))
    record = ClassificationRecord("0", "CLS", "a word about sport", ("about",))
    assert ask(system, [record], meta)[0].record.labels == ("about",)  # type: ignore[union-attr]
    # a record's own options, although two of them are known
    options = ("sport", "weather", "News about")
    choice = ClassificationRecord("0", "MRC-MC", "about News", ("x",), label_set=options)
    assert ask(system, [choice], meta)[0].record.labels == ("News about",)  # type: ignore[union-attr]
    # nothing is extracted, and a language without training data gets nothing
    person = ExtractionRecord("0", "NER", "Ada", ())
    assert ask(system, [person], DatasetMeta("asked", "NER", "en", ("person",)))[0].record == person
    chinese = DatasetMeta("asked", "CLS", "zh", ("sport", "weather"))
    assert ask(system, [record], chinese)[0].record.labels == ()  # type: ignore[union-attr]


def test_tfidf_gives_the_same_answers_every_time(root: Path) -> None:
    (dataset,) = resolve_mixture("tiny_out")
    records = list(dataset.records("test"))
    first, second = (ask(open_system("tfidf"), records, dataset.meta) for _ in range(2))
    assert first == second


# --- what they learn from --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["tfidf", "gazetteer"])
def test_held_out_data_is_never_learned_from(root: Path, spec: str) -> None:
    for mixture in ("held_out", "tiny_out", f"{root}/en/tiny_out"):
        with pytest.raises(UserError, match="held out .* never trained on"):
            open_system(spec, train_mixture=mixture)


def test_leaked_records_and_those_beyond_the_limit_are_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_system("gazetteer", train_mixture="tiny_ner").description()["strings"] == {"en": 3}
    folder = root / "en" / "tiny_ner"
    leak = ExtractionRecord("x", "NER", "It is Zoe alone", (Span("person", 6, 9, "Zoe"),))
    write_records(folder / "train.jsonl.gz", [leak, ExtractionRecord("y", "NER", "Bo!", (Span("person", 0, 2, "Bo"),))])
    assert open_system("gazetteer", train_mixture="tiny_ner").description()["strings"] == {"en": 2}
    write_records(folder / "test.jsonl", [leak])
    assert open_system("gazetteer", train_mixture="tiny_ner").description()["strings"] == {"en": 1}
    limited = open_system("gazetteer", train_mixture="tiny_ee", train_limit=3)
    assert limited.description()["settings"] == {"train_mixture": "tiny_ee", "train_limit": 3}
    assert limited.description()["strings"] == {"en": 7}  # 3 buyers, bought, opened, 2019, plant


def test_labels_are_found_by_name_then_by_likeness() -> None:
    seen = SeenLabels(["card lost", "GetWeather", "人物", "Card Lost"])
    assert seen.find(("get weather", "lost card", "zebra")) == ("GetWeather", "card lost", None)
    assert seen.find(("人物名称", "地点")) == ("人物", None)
    assert SeenLabels([]).find(("a", "b")) == (None, None)


# --- what is named ---------------------------------------------------------------------------------------------------


def test_options_of_another_system_are_refused() -> None:
    with pytest.raises(UserError, match=r"--base_url does not go with --model tfidf \(it is for openai\)"):
        open_system("tfidf", base_url="http://localhost")
    with pytest.raises(UserError, match=r"--train_limit does not go .* \(it is for tfidf and gazetteer\)"):
        open_system("openai:toy", train_limit=3)
    for spec in ("openai:", "hf:"):
        with pytest.raises(UserError, match="lacks a name"):
            open_system(spec)
    with pytest.raises(UserError, match="nowhere is not a model"):
        open_system("nowhere")


def test_the_command_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_system(parser)
    words = "--model openai:toy --base_url http://x/v1 --requests_per_minute 90 --concurrency 2 --timeout 9"
    words += " --attempts 3 --prices 0.5 2 --cache answers --settings"
    given = given_options(parser.parse_args([*words.split(), '{"temperature": null, "seed": 1}']))
    assert ServerOptions(**given) == ServerOptions(
        "http://x/v1", {"temperature": None, "max_tokens": 512, "seed": 1}, 90.0, 2, 9.0, 3, (0.5, 2.0), Path("answers")
    )
    assert given_options(parser.parse_args(["--model", "majority"])) == {}
    assert main(["eval", "--model", "gazetteer", "--mixture", "tiny_ner", "--train_mixture", "tiny_ner"]) == 0
    assert "span F1 1.000" in capsys.readouterr().out
    assert main(["eval", "--model", "majority", "--mixture", "tiny_ner", "--prompt", "chat"]) == 2
    assert "--prompt does not go with --model majority" in capsys.readouterr().err
    for wrong in (["--settings", "[1]"], ["--prices", "1", "-1"]):
        with pytest.raises(SystemExit):
            parser.parse_args(["--model", "openai:toy", *wrong])


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqgpt_jax.systems.open_system.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs httpx2 and tenacity \(pip install 'seqgpt_jax\[openai\]'\)"):
        open_system("openai:toy")


def test_baselines_need_no_jax_to_be_imported() -> None:
    modules = "majority, tfidf, gazetteer, open_system, chat_server"
    code = f"from seqgpt_jax.systems import {modules}; import sys; print('jax' in sys.modules, 'seqio' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False False"
