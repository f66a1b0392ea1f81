"""Six small datasets, and predictors that are not models: one that knows the gold, one that makes known mistakes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from seqgpt_jax.answering import Answered
from seqgpt_jax.atomic import AtomicExample, decompose
from seqgpt_jax.data.datasets import Dataset
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
)


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
        return RecordPrediction(gold, tuple(answered(example) for example in decompose(gold, meta)))


class CarelessPredictor(GoldPredictor):
    """Gold, but `no` wherever it is asked to choose, and one string that is not in the text per set of spans."""

    def predict(self, gold: Record, meta: DatasetMeta) -> RecordPrediction:
        right = super().predict(gold, meta)
        if isinstance(gold, ClassificationRecord):
            return RecordPrediction(replace(gold, labels=("no",)), right.answered)
        if not isinstance(gold, ExtractionRecord):
            return right
        found = []
        for answer in right.answered:
            example, label = answer.example, answer.example.labels[0]
            assert not isinstance(example.answer, tuple)
            spans = {**example.answer, label: (*example.answer.get(label, ()), "Nowhere")}
            wrong = replace(example, answer=spans)
            found.append(Answered(wrong, "?", Parsed(spans, ("broken",), ("planet",)), tokens_cut=5))
        nowhere = Span(meta.labels[0], -1, -1, "Nowhere")
        return RecordPrediction(replace(gold, spans=(*gold.spans, nowhere)), tuple(found))


def answered(example: AtomicExample) -> Answered:
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


def toy_datasets() -> list[ToyDataset]:
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
