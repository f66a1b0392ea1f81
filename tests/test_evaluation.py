"""evaluation.py with predictors that are not models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from seqgpt_jax.answering import Answered
from seqgpt_jax.asking import AnswerLoss
from seqgpt_jax.atomic import AtomicExample
from seqgpt_jax.averages import AnswerRates
from seqgpt_jax.data.datasets import sample_records
from seqgpt_jax.errors import UserError
from seqgpt_jax.evaluation import evaluate
from seqgpt_jax.prompt import Parsed
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, ExtractionRecord, record_from_dict
from seqgpt_jax.report import write_evaluation
from seqgpt_jax.sections import section_to_text
from tests.toy_evaluation import CarelessPredictor, GoldPredictor, ToyDataset, answered, toy_datasets


@pytest.fixture
def datasets() -> list[ToyDataset]:
    return toy_datasets()


def test_gold_scores_one_everywhere(datasets: list[ToyDataset]) -> None:
    predictor = GoldPredictor(datasets)
    evaluation = evaluate(predictor, datasets, progress=False)
    assert predictor.calls == 1  # the questions of all datasets go through the decoder together
    assert [dataset.name for dataset in evaluation.datasets] == [dataset.meta.name for dataset in datasets]
    assert all(dataset.score.headline == 1.0 for dataset in evaluation.datasets)
    rates = [dataset.rates for dataset in evaluation.datasets]
    assert all(each.parse_error_rate == each.unasked_rate == each.hallucination_rate == 0.0 for each in rates)
    assert [dataset.unconstrained for dataset in evaluation.datasets] == rates  # it has no constraints
    assert {name: scores.score for name, scores in evaluation.languages.items()} == {"en": 1.0, "zh": 1.0}


def test_averages_by_hand(datasets: list[ToyDataset]) -> None:
    evaluation = evaluate(CarelessPredictor(datasets), datasets, progress=False)
    assert evaluation.classification is not None
    assert evaluation.extraction is not None
    # `no` is right 3 of 4, 1 of 4 and 1 of 4 times; the majority 3, 3 and 2 of 4 times
    assert evaluation.classification.accuracy == pytest.approx((0.75 + 0.25 + 0.25) / 3)
    assert evaluation.classification.majority_baseline == pytest.approx((0.75 + 0.75 + 0.5) / 3)
    # people and leute: 2 right of 4 answered (Nowhere once a record), 2 gold: F1 4/6; meetings: right
    assert evaluation.extraction.span_f1 == pytest.approx((4 / 6 + 1.0 + 4 / 6) / 3)
    assert evaluation.extraction.copying_nothing == 0.0
    assert evaluation.extraction.num_datasets == 3
    english, chinese = evaluation.languages["en"], evaluation.languages["zh"]
    assert english.tasks["CLS"].score == pytest.approx(0.5)
    assert english.tasks["CLS"].baseline == pytest.approx(0.75)
    assert english.tasks["EE"].headlines == ("argument_c",)
    # task means: CLS 0.5, EE 1, NER 4/6; a mean over the four datasets would be 0.667
    assert english.score == pytest.approx((0.5 + 1.0 + 4 / 6) / 3)
    assert english.baseline == pytest.approx((0.75 + 0 + 0) / 3)
    assert chinese.score == pytest.approx((0.25 + 4 / 6) / 2)
    assert chinese.classification is not None
    assert chinese.classification.accuracy == pytest.approx(0.25)
    assert evaluation.summary() == {
        "score": pytest.approx((english.score + chinese.score) / 2),
        "score_en": english.score,
        "score_zh": chinese.score,
        "accuracy": evaluation.classification.accuracy,
        "span_f1": evaluation.extraction.span_f1,
        "string_f1": evaluation.extraction.string_f1,
    }


def test_the_score_of_one_extraction_dataset_is_its_span_f1(datasets: list[ToyDataset]) -> None:
    people = evaluate(CarelessPredictor(datasets), datasets[3:4], progress=False)
    assert people.datasets[0].name == "people"
    assert people.summary()["score"] == people.summary()["span_f1"] == pytest.approx(4 / 6)
    assert set(people.summary()) == {"score", "span_f1", "string_f1"}


def test_rates_by_hand(datasets: list[ToyDataset]) -> None:
    by_name = {d.name: d for d in evaluate(CarelessPredictor(datasets), datasets, progress=False).datasets}
    people, topics = by_name["people"], by_name["topics"]
    # two questions; the strings are Ada, Bob, Nowhere and Nowhere
    assert people.rates == AnswerRates(2, parse_error_rate=1.0, unasked_rate=1.0, hallucination_rate=2 / 4)
    assert topics.rates == AnswerRates(4, 0.0, 0.0, 0.0)
    assert (people.num_cut, people.tokens_cut) == (2, 10)


class FreelyCarelessPredictor(GoldPredictor):
    """Gold under constraints; without them a string that is not in the text for each set of spans."""

    def __init__(self, datasets: Sequence[ToyDataset]) -> None:
        super().__init__(datasets)
        self.asked_again: list[AtomicExample] = []

    def answer_questions(
        self, examples: Sequence[AtomicExample], progress: bool = False, constrained: bool = True
    ) -> list[Answered]:
        assert not constrained
        self.asked_again = list(examples)
        answers = []
        for example in examples:
            if isinstance(example.answer, tuple):
                answers.append(answered(example))
            else:
                spans = {**example.answer, example.labels[0]: ("Nowhere",)}
                answers.append(Answered(replace(example, answer=spans), "?", Parsed(spans, ("broken",))))
        return answers


def test_rates_without_constraints_are_of_the_same_questions_on_the_first_records(datasets: list[ToyDataset]) -> None:
    predictor = FreelyCarelessPredictor(datasets)
    evaluation = evaluate(predictor, datasets, progress=False, num_unconstrained=1)
    by_name = {dataset.name: dataset for dataset in evaluation.datasets}
    assert len(predictor.asked_again) == sum(d.unconstrained.num_questions for d in evaluation.datasets)
    people = by_name["people"]
    assert people.rates == AnswerRates(2, 0.0, 0.0, 0.0)
    assert people.unconstrained == AnswerRates(1, 1.0, 0.0, 1.0)  # of its first record
    assert by_name["topics"].unconstrained == AnswerRates(1, 0.0, 0.0, 0.0)
    assert people.score.headline == 1.0
    assert evaluation.extraction is not None
    assert evaluation.extraction.hallucination_rate == 1.0
    # one of the three questions about the meeting is a choice, which is well-formed
    assert evaluation.extraction.parse_error_rate == pytest.approx((1.0 + 2 / 3 + 1.0) / 3)
    assert evaluation.classification is not None
    assert evaluation.classification.parse_error_rate == evaluation.classification.unasked_rate == 0.0


def test_all_records_or_none_without_constraints(datasets: list[ToyDataset]) -> None:
    predictor = FreelyCarelessPredictor(datasets)
    everything = evaluate(predictor, datasets[:1], progress=False, num_unconstrained=None).datasets[0]
    assert everything.unconstrained == everything.rates == AnswerRates(4, 0.0, 0.0, 0.0)
    predictor.asked_again = []
    evaluation = evaluate(predictor, datasets, progress=False, num_unconstrained=0)
    assert not predictor.asked_again
    assert all(dataset.unconstrained is None for dataset in evaluation.datasets)
    assert evaluation.extraction is not None
    assert evaluation.extraction.hallucination_rate is None
    assert "unconstrained" not in section_to_text("held_out", evaluation)


class LosingPredictor(GoldPredictor):
    """Loses 3 nats a token on a choice of `no`, 1 on all else; answers have two tokens; topics have no room."""

    def answer_losses(self, examples: Sequence[AtomicExample], progress: bool = False) -> list[AnswerLoss | None]:
        return [
            None if example.source.dataset == "topics" else AnswerLoss(6.0 if example.answer == ("no",) else 2.0, 2)
            for example in examples
        ]


def test_losses_by_hand(datasets: list[ToyDataset], tmp_path: Path) -> None:
    evaluation = evaluate(LosingPredictor(datasets), datasets, progress=False, loss=True)
    by_name = {dataset.name: dataset for dataset in evaluation.datasets}
    assert by_name["topics"].nats_per_token is None
    assert by_name["tones"].nats_per_token == pytest.approx((6 + 3 * 2) / 8)  # `no` is right on one of four
    assert by_name["people"].nats_per_token == 1.0
    assert by_name["people"].loss is not None and len(by_name["people"].loss.ids) == 2
    english = evaluation.languages["en"]
    assert english.tasks["CLS"].nats_per_token == pytest.approx(1.5)  # of tones alone
    assert english.nats_per_token == pytest.approx((1.5 + 1 + 1) / 3)
    assert "loss of the gold answers: " in section_to_text("toy", evaluation)
    write_evaluation(tmp_path, "toy", evaluation)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["datasets"][0]["nats_per_token"] is None and report["datasets"][0]["loss"]["counts"][0] == [0, 0, 0]
    assert report["per_language"]["en"]["nats_per_token"] == pytest.approx(3.5 / 3, abs=1e-6)
    assert "nats a token" in (tmp_path / "report.md").read_text()


def test_no_loss_of_what_has_none(datasets: list[ToyDataset]) -> None:
    with pytest.raises(UserError, match="only a model of ours has a loss"):
        evaluate(GoldPredictor(datasets), datasets, progress=False, loss=True)
    without = evaluate(LosingPredictor(datasets), datasets, progress=False)
    assert without.nats_per_token is None and "nats" not in section_to_text("toy", without)


def test_the_limit_takes_that_many_records(datasets: list[ToyDataset]) -> None:
    evaluation = evaluate(GoldPredictor(datasets), datasets[:1], limit=2, progress=False)
    assert (evaluation.limit, evaluation.datasets[0].score.num_records) == (2, 2)


def test_predictions_can_be_traced(datasets: list[ToyDataset], tmp_path: Path) -> None:
    evaluate(CarelessPredictor(datasets), datasets, predictions_dir=tmp_path / "predictions", progress=False)
    files = sorted(path.name for path in (tmp_path / "predictions").iterdir())
    assert files == sorted(f"{d.meta.language}-{d.meta.name}-test.jsonl" for d in datasets)
    lines = (tmp_path / "predictions" / "en-people-test.jsonl").read_text("utf-8").splitlines()
    first = json.loads(lines[0])
    assert len(lines) == 2
    assert record_from_dict(first["gold"]) == next(datasets[3].records("test"))
    assert first["predicted"]["spans"][-1] == {"label": "who", "start": -1, "end": -1, "text": "Nowhere"}
    (answer,) = first["answers"]
    assert (answer["raw"], answer["problems"], answer["unasked"]) == ("?", ["broken"], ["planet"])
    assert (answer["labels"], answer["invented"], answer["tokens_cut"]) == (["who"], ["Nowhere"], 5)


def test_datasets_without_the_split_are_named(datasets: list[ToyDataset]) -> None:
    other = ToyDataset(datasets[0].meta, [], ("train",))
    evaluation = evaluate(GoldPredictor(datasets), [other, datasets[1]], progress=False)
    assert evaluation.skipped == ("topics",)
    with pytest.raises(UserError, match=r"none of 1 datasets has a split 'test' \(they have: train\)"):
        evaluate(GoldPredictor(datasets), [other], progress=False)


def test_the_same_seed_draws_the_same_records(datasets: list[ToyDataset]) -> None:
    records = [ClassificationRecord(str(i), "CLS", f"text {i}", ("yes",)) for i in range(50)]
    many = [ToyDataset(datasets[0].meta, records)]
    drawn = [
        evaluate(predictor(many), many, limit=10, progress=False, seed=seed).datasets[0].counts.ids
        for predictor, seed in ((GoldPredictor, 3), (CarelessPredictor, 3), (GoldPredictor, 4))
    ]
    assert drawn[0] == drawn[1] == tuple(record.id for record in sample_records(many[0], "test", 10, 3))
    assert drawn[0] != drawn[2]


def test_a_dataset_without_gold_is_named_and_predicted_and_in_no_mean(
    datasets: list[ToyDataset], tmp_path: Path
) -> None:
    blank = [ExtractionRecord(str(i), "NER", "Ada met Bob", ()) for i in range(3)]
    silent = ToyDataset(DatasetMeta("silent", "NER", "en", ("who",)), blank)
    empty = ToyDataset(DatasetMeta("empty", "NER", "en", ("who",)), [])
    everything = [*datasets, silent, empty]
    evaluation = evaluate(CarelessPredictor(everything), everything, predictions_dir=tmp_path, progress=False)
    assert evaluation.unscored == {"silent": "no gold: none of its records has an answer", "empty": "no records"}
    assert evaluation.summary() == evaluate(CarelessPredictor(datasets), datasets, progress=False).summary()
    assert len((tmp_path / "en-silent-test.jsonl").read_text("utf-8").splitlines()) == 3
    text = section_to_text("all", evaluation)
    assert "6 datasets, 2 without a score" in text and "no score for empty: no records" in text
    nothing = evaluate(GoldPredictor([silent]), [silent], progress=False)
    assert nothing.score != nothing.score and nothing.interval is None  # not a number
    assert "no score for silent" in section_to_text("nothing", nothing)
    write_evaluation(tmp_path, "nothing", nothing)
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    assert (report["score"], report["interval"], list(report["unscored"])) == (None, None, ["silent"])


def test_intervals_of_means_lie_around_them(datasets: list[ToyDataset]) -> None:
    evaluation = evaluate(CarelessPredictor(datasets), datasets, progress=False)
    scored = [*evaluation.datasets, *evaluation.languages.values(), *evaluation.languages["en"].tasks.values()]
    for each in scored:
        score = each.score if isinstance(each.score, float) else each.score.headline
        low, high = each.interval
        assert low <= score <= high
    assert evaluation.interval is not None
    assert 0 < evaluation.interval[0] < evaluation.score < evaluation.interval[1] < 1
