"""Questions and their token ids: what is asked, what is cut, and what is counted."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from seqgpt_jax.atomic import STEPS, AtomicExample, Source, decompose
from seqgpt_jax.data.datasets import Dataset, FolderDataset, sample_records
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.questions import (
    STATS,
    AskContext,
    EncodeConfig,
    ask_context,
    ask_record,
    encode_examples,
    training_texts,
)
from seqgpt_jax.errors import UserError
from seqgpt_jax.negatives import AskConfig, LabelPool
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.records import ClassificationRecord, DatasetMeta, Record
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer
from tests.tiny_data import write_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def datasets(root: Path) -> list[Dataset]:
    return resolve_mixture("held_in", root)


@pytest.fixture(scope="module")
def vocabulary(datasets: list[Dataset]) -> Vocabulary:
    return train_tokenizer(training_texts(datasets, "train", 20), 600)


def extraction(text: str, answer: dict[str, tuple[str, ...]], labels: tuple[str, ...]) -> AtomicExample:
    return AtomicExample(text, "extract", labels, answer, Source("d", "train", "1", "NER", "en", "extract"))


def test_training_questions_depend_on_seed_dataset_and_record_alone(datasets: list[Dataset]) -> None:
    dataset = datasets[0]
    first, second = dataset.records("train", 2)
    ask = AskConfig()
    random.seed(0)
    assert ask_record(first, dataset, "train", STEPS, ask, 3) == ask_record(first, dataset, "train", STEPS, ask, 3)
    orders = {tuple(q.labels for q in ask_record(first, dataset, "train", STEPS, ask, seed)) for seed in range(20)}
    assert len(orders) > 10
    assert ask_record(first, dataset, "train", STEPS, ask, 0)[0].labels != second


def test_evaluation_asks_every_label_in_order(datasets: list[Dataset]) -> None:
    dataset = datasets[0]
    record = next(dataset.records("test"))
    questions = ask_record(record, dataset, "test", STEPS, AskConfig(), 0)
    assert [question.labels for question in questions] == [dataset.meta.labels[:4], dataset.meta.labels[4:]]


def test_steps_divide_the_questions_of_a_record(datasets: list[Dataset]) -> None:
    dataset = next(dataset for dataset in datasets if dataset.meta.task == "EE")
    record = next(dataset.records("validation"))
    by_step = {step: ask_record(record, dataset, "validation", (step,), AskConfig(), 0) for step in STEPS}
    assert {step for step, questions in by_step.items() if questions} == {"trigger", "event_type", "argument"}
    assert sum(map(len, by_step.values())) == len(decompose(record, dataset.meta, "validation"))


class Skewed(Dataset):
    """90 records about sport, 10 about the weather."""

    held_out = False
    meta = DatasetMeta("skewed", "CLS", "en", ("sport", "weather", "news"))
    splits = ("train", "test")

    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        labels = ["sport"] * 90 + ["weather"] * 10
        yield from [ClassificationRecord(str(i), "CLS", f"text {i}", (label,)) for i, label in enumerate(labels)][
            :limit
        ]

    def fingerprint(self, split: str) -> str:
        return split


def asked(split: str, config: AskConfig, seed: int, **sample: int) -> tuple[list[AtomicExample], Counter[str]]:
    dataset, stats = Skewed(), Counter[str]()
    context = ask_context(dataset, split, STEPS, config, seed, **sample)
    records = list(dataset.records(split))
    random.Random(seed).shuffle(records)  # in whatever order
    questions = [q for r in records for q in ask_record(r, dataset, split, STEPS, config, seed, context, stats)]
    return sorted(questions, key=lambda question: int(question.source.record_id)), stats


def test_frequent_answers_are_left_out_and_counted() -> None:
    questions, stats = asked("train", AskConfig(), 0)
    assert Counter(question.answer for question in questions) == {("sport",): 10, ("weather",): 10}
    assert stats == {"surplus": 80} and set(stats) <= set(STATS)
    assert asked("train", AskConfig(), 0) == (questions, stats)
    again = asked("train", AskConfig(), 1)[0]
    assert [q.source.record_id for q in again] != [q.source.record_id for q in questions]
    assert len(asked("train", AskConfig(max_answer_share=0.75), 0)[0]) == 40
    everything, stats = asked("train", AskConfig(max_answer_share=1), 0)
    assert len(everything) == 100 and not stats
    by_id = {question.source.record_id: question for question in everything}
    assert all(by_id[question.source.record_id] == question for question in questions), "what stays is asked alike"


def test_the_balance_is_that_of_the_sample() -> None:
    dataset, config = Skewed(), AskConfig()
    context = ask_context(dataset, "train", STEPS, config, 0, limit=40, sample_seed=3)
    sample = sample_records(dataset, "train", 40, 3)
    counts = Counter(q.answer for r in sample for q in ask_record(r, dataset, "train", STEPS, config, 0, context))
    num_weather = sum(record.labels == ("weather",) for record in sample if isinstance(record, ClassificationRecord))
    assert counts == {("sport",): num_weather, ("weather",): num_weather} and num_weather > 0
    leaked = [str(i) for i in range(90, 97)]  # three about the weather are left
    context = ask_context(dataset, "train", STEPS, config, 0, skip=leaked)
    left = [record for record in dataset.records("train") if record.id not in leaked]
    counts = Counter(q.answer for r in left for q in ask_record(r, dataset, "train", STEPS, config, 0, context))
    assert counts == {("sport",): 3, ("weather",): 3}


def test_evaluation_leaves_nothing_out() -> None:
    questions, stats = asked("test", AskConfig(), 0)
    assert len(questions) == 100 and not stats
    assert all(question.labels == Skewed.meta.labels for question in questions)
    many = replace(Skewed.meta, labels=tuple(f"intent {i}" for i in range(151)))
    dataset = Skewed()
    dataset.meta = many  # type: ignore[misc]
    record = ClassificationRecord("0", "CLS", "x", ("intent 7",))
    pool = AskContext(LabelPool({}, ("foreign",)))
    (question,) = ask_record(record, dataset, "test", STEPS, AskConfig(), 0, pool)
    assert question.labels == many.labels
    (question,) = ask_record(record, dataset, "train", STEPS, AskConfig(), 0)
    assert len(question.labels) == 20 and question.answer == ("intent 7",)


def test_what_fits_is_encoded_whole(datasets: list[Dataset], vocabulary: Vocabulary) -> None:
    examples = [
        q for d in datasets for r in d.records("train", 5) for q in ask_record(r, d, "train", STEPS, AskConfig(), 0)
    ]
    stats: Counter[str] = Counter()
    for example, tokens in zip(examples, encode_examples(examples, vocabulary, EncodeConfig(), stats), strict=True):
        assert tokens is not None
        assert tokens.ids[tokens.num_prompt - 1] == vocabulary.gen_id and tokens.ids[-1] == vocabulary.eos_id
        prompt, answer = tokens.ids[: tokens.num_prompt - 1], tokens.ids[tokens.num_prompt :]
        assert vocabulary.decode(prompt) + "[GEN]" == SEQGPT_V1.render_prompt(example)
        assert vocabulary.decode(answer) == SEQGPT_V1.render_answer(example)
        assert tokens.ids.dtype == "int32"
    assert stats["examples"] == len(examples) and not stats["cut"] and not stats["dropped"]
    assert set(stats) <= set(STATS)


def test_text_that_is_cut_takes_its_spans_along(vocabulary: Vocabulary) -> None:
    text = "London is big. " + "x " * 60 + "Paris is bigger"
    example = extraction(text, {"city": ("London", "Paris")}, ("city", "person"))
    stats: Counter[str] = Counter()
    config = EncodeConfig(max_tokens=100)
    (tokens,) = encode_examples([example], vocabulary, config, stats)
    assert tokens is not None and len(tokens.ids) <= 100
    assert vocabulary.decode(tokens.ids[tokens.num_prompt :]) == "city: London\nperson: None\n"
    prompt = vocabulary.decode(tokens.ids[: tokens.num_prompt])
    assert "Paris" not in prompt and prompt.endswith("\n抽取: city，person\n输出: ")
    assert (stats["cut"], stats["cut_spans"], stats["dropped"]) == (1, 1, 0)
    assert stats["tokens"] == len(tokens.ids) and stats["supervised"] == len(tokens.ids) - tokens.num_prompt


def test_long_answers_shrink_with_their_text(vocabulary: Vocabulary) -> None:
    cities = tuple(f"City{i}" for i in range(30))
    example = extraction(" and ".join(cities), {"city": cities}, ("city",))
    whole = encode_examples([example], vocabulary, EncodeConfig(), Counter())[0]
    assert whole is not None
    for config in (EncodeConfig(max_tokens=len(whole.ids) // 2), EncodeConfig(max_supervised=60)):
        stats: Counter[str] = Counter()
        (tokens,) = encode_examples([example], vocabulary, config, stats)
        assert tokens is not None
        kept = vocabulary.decode(tokens.ids[: tokens.num_prompt])
        answer = SEQGPT_V1.parse(vocabulary.decode(tokens.ids[tokens.num_prompt :]), "extract", ("city",)).answer
        assert isinstance(answer, dict)
        assert list(answer["city"]) == [city for city in cities if f"{city} " in kept or f"{city}\n" in kept]
        assert 0 < len(answer["city"]) < 30 and stats["cut_spans"] == 30 - len(answer["city"])


def test_what_cannot_fit_is_dropped_and_counted(vocabulary: Vocabulary) -> None:
    example = extraction("a text", {}, tuple(f"a very long label {i}" for i in range(6)))
    for config in (EncodeConfig(max_tokens=40), EncodeConfig(max_supervised=10)):
        stats: Counter[str] = Counter()
        assert encode_examples([example], vocabulary, config, stats) == [None]
        assert stats == {"dropped": 1}


def test_wrong_limits_and_formats_are_user_errors() -> None:
    with pytest.raises(UserError, match="max_tokens is 0"):
        EncodeConfig(max_tokens=0)
    with pytest.raises(UserError, match="unknown prompt format"):
        EncodeConfig(prompt_format="seqgpt_v0")


def test_training_texts_hold_frame_texts_labels_and_answers(datasets: list[Dataset]) -> None:
    texts = list(training_texts(datasets, "train", 3))
    assert sum(text.startswith("输入: Ada") for text in texts) == 3, "the chunks of a record share one text"
    joined = "".join(texts)
    for part in ("\n抽取: ", "\n分类: ", "\n输出: ", "buyer of acquire event", "就职", "city: London\n", "None\n"):
        assert part in joined


def test_real_records_are_asked_and_encoded(data_dir: Path, vocabulary: Vocabulary) -> None:
    config = EncodeConfig(max_tokens=512)
    for name in ("cluener", "ag_news", "scierc_relations", "duee", "dialogre_zh", "policyqa", "c3"):
        dataset = resolve_mixture(name, data_dir)[0]
        assert isinstance(dataset, FolderDataset)
        split = dataset.splits[-1]
        stats: Counter[str] = Counter()
        for record in dataset.records(split, 20):
            questions = ask_record(record, dataset, split, STEPS, config.ask, 0)
            assert questions
            encode_examples(questions, vocabulary, config, stats)
        assert stats["examples"] > 0.7 * (stats["examples"] + stats["dropped"])
