"""evaluation.py with predictors that are not models: one that knows the gold, one that makes known mistakes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from seqgpt_jax.answering import Answered
from seqgpt_jax.atomic import AtomicExample, decompose
from seqgpt_jax.averages import AnswerRates
from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.errors import UserError
from seqgpt_jax.evaluation import evaluate
from seqgpt_jax.metrics import empty_predictions
from seqgpt_jax.predictor import RecordPrediction
from seqgpt_jax.prompt import SEQGPT_V1, Parsed
from seqgpt_jax.records import (
    ClassificationRecord,
    DatasetMeta,
    Event,
    EventRecord,
    ExtractionRecord,
    Record,
    Span,
    record_from_dict,
)
from seqgpt_jax.sections import section_to_text


class ToyDataset(Dataset):
    held_out = False

    def __init__(self, meta: DatasetMeta, records: Sequence[Record], splits: tuple[str, ...] = ("test",)) -> None:
        self._meta, self._records, self._splits = meta, records, splits

    @property
    def meta(self) -> DatasetMeta:
        return self._meta

    @property
    def splits(self) -> tuple[str, ...]:
        return self._splits

    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        self._check_split(split)
        return iter(self._records[:limit])

    def fingerprint(self, split: str) -> str:
        return ""


class GoldPredictor:
    """Answers every question of a record with its gold; checks that the gold was not handed to it."""

    def __init__(self, datasets: Sequence[ToyDataset]) -> None:
        self.gold = {(d.meta.name, record.id): record for d in datasets for record in d.records(d.splits[0])}
        self.calls = 0

    def predict_records(
        self, records: Sequence[Record], metas: Sequence[DatasetMeta], split: str = "test", progress: bool = False
    ) -> list[RecordPrediction]:
        self.calls += 1
        assert list(records) == empty_predictions(records)
        return [
            self.predict(self.gold[meta.name, record.id], meta) for record, meta in zip(records, metas, strict=True)
        ]

    def predict(self, gold: Record, meta: DatasetMeta) -> RecordPrediction:
        return RecordPrediction(gold, tuple(_answered(example) for example in decompose(gold, meta)))


class CarelessPredictor(GoldPredictor):
    """Gold, but `no` wherever it is asked to choose, and one string that is not in the text per set of spans."""

    def predict(self, gold: Record, meta: DatasetMeta) -> RecordPrediction:
        right = super().predict(gold, meta)
        if isinstance(gold, ClassificationRecord):
            return RecordPrediction(replace(gold, labels=("no",)), right.answered)
        if not isinstance(gold, ExtractionRecord):
            return right
        answered = []
        for answer in right.answered:
            example, label = answer.example, answer.example.labels[0]
            assert not isinstance(example.answer, tuple)
            spans = {**example.answer, label: (*example.answer.get(label, ()), "Nowhere")}
            wrong = replace(example, answer=spans)
            answered.append(Answered(wrong, "?", Parsed(spans, ("broken",), ("planet",)), tokens_cut=5))
        nowhere = Span(meta.labels[0], -1, -1, "Nowhere")
        return RecordPrediction(replace(gold, spans=(*gold.spans, nowhere)), tuple(answered))


def _answered(example: AtomicExample) -> Answered:
    raw = SEQGPT_V1.render_answer(example)
    return Answered(example, raw, SEQGPT_V1.parse(raw, example.kind, example.labels))


def _choices(name: str, task: str, language: str, labels: Sequence[str]) -> ToyDataset:
    records = [ClassificationRecord(str(i), task, f"text {i}", (label,)) for i, label in enumerate(labels)]
    return ToyDataset(DatasetMeta(name, task, language, ("yes", "no", "perhaps")), records)


def _names(name: str, task: str, language: str) -> ToyDataset:
    records = [
        ExtractionRecord("0", task, "Ada met Bob", (Span("who", 0, 3, "Ada"), Span("who", 8, 11, "Bob"))),
        ExtractionRecord("1", task, "It rained", ()),
    ]
    return ToyDataset(DatasetMeta(name, task, language, ("who",)), records)


@pytest.fixture
def datasets() -> list[ToyDataset]:
    event = EventRecord(
        "0", "EE", "Ada met Bob", (Event("meet", Span("meet", 4, 7, "met"), (Span("who", 0, 3, "Ada"),)),)
    )
    return [
        _choices("topics", "CLS", "en", ["yes", "no", "no", "no"]),
        _choices("tones", "CLS", "en", ["yes", "yes", "yes", "no"]),
        _choices("moods", "SA", "zh", ["yes", "perhaps", "yes", "no"]),
        _names("people", "NER", "en"),
        ToyDataset(DatasetMeta("meetings", "EE", "en", ("meet",), roles=("who",)), [event]),
        _names("leute", "NER", "zh"),
    ]


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
                answers.append(_answered(example))
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
