"""What SeqIO sees: the vocabulary, the tasks, the mixtures, and the metrics, against SeqIO's own machinery."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")
import tensorflow as tf  # noqa: E402

from seqgpt_jax.atomic import STEPS  # noqa: E402
from seqgpt_jax.data.mixtures import resolve_mixture  # noqa: E402
from seqgpt_jax.data.questions import EncodeConfig, ask_record, training_texts  # noqa: E402
from seqgpt_jax.data.rates import mixing_rates  # noqa: E402
from seqgpt_jax.errors import UserError  # noqa: E402
from seqgpt_jax.metrics import empty_predictions, score_dataset  # noqa: E402
from seqgpt_jax.prompt import SEQGPT_V1  # noqa: E402
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer  # noqa: E402
from tasks import real, register, synthetic  # noqa: E402
from tasks.mixtures import TaskSettings  # noqa: E402
from tasks.seqio_vocabulary import SeqioVocabulary  # noqa: E402
from tests.tiny_data import write_data  # noqa: E402

SENTENCE = "Ada met 王明 in London.\n</s>[GEN] 2024"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), {"train": 150, "validation": 3, "test": 4})


@pytest.fixture(scope="module")
def vocabulary(root: Path) -> Vocabulary:
    return train_tokenizer(training_texts(resolve_mixture("held_in", root), "train", None), 600)


@pytest.fixture(scope="module")
def settings(vocabulary: Vocabulary) -> TaskSettings:
    return TaskSettings(vocabulary)


@pytest.fixture(scope="module")
def names(root: Path, settings: TaskSettings) -> list[str]:
    return register("held_in", root, settings=settings)


def read(name: str, split: str, **options: Any) -> list[dict[str, Any]]:
    ds = seqio.get_mixture_or_task(name).get_dataset(None, split, shuffle=False, **options)
    return list(ds.as_numpy_iterator())


# --- vocabulary ------------------------------------------------------------------------------------------------------


def test_ids_are_shifted_by_one(vocabulary: Vocabulary) -> None:
    theirs = SeqioVocabulary(vocabulary)
    assert (theirs.pad_id, theirs.unk_id, theirs.bos_id, theirs.eos_id) == (0, 1, 2, 3)
    assert theirs.vocab_size == vocabulary.size + 1
    assert theirs.encode(SENTENCE) == [token_id + 1 for token_id in vocabulary.encode(SENTENCE)]
    assert theirs.decode(theirs.encode(SENTENCE)) == SENTENCE
    assert theirs.decode([*theirs.encode("a b"), 3, 9, 9, 0, 0]) == "a b", "padding and what follows EOS are nothing"


def test_tensors_are_encoded_alike(vocabulary: Vocabulary) -> None:
    theirs = SeqioVocabulary(vocabulary)
    ids = theirs.encode_tf(tf.constant(SENTENCE))
    assert ids.dtype == tf.int32 and ids.numpy().tolist() == theirs.encode(SENTENCE)
    assert theirs.decode_tf(ids).numpy().decode() == SENTENCE
    first, second = theirs.encode("Ada"), theirs.encode("London met Ada")
    rows = np.zeros((2, len(second) + 2), np.int32)
    rows[0, : len(first)], rows[1, : len(second)] = first, second
    assert [text.decode() for text in theirs.decode_tf(tf.constant(rows)).numpy()] == ["Ada", "London met Ada"]
    ds = tf.data.Dataset.from_tensor_slices([SENTENCE]).map(theirs.encode_tf)
    assert ds.element_spec.shape.rank == 1
    assert theirs == SeqioVocabulary(vocabulary) and theirs != SeqioVocabulary(train_tokenizer(["ab"], 300))


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_one_task_per_dataset_and_step(names: list[str]) -> None:
    assert names == [
        "tiny_ner", "tiny_topics", "tiny_ee_trigger", "tiny_ee_event_type", "tiny_ee_argument",
        "tiny_re_entities", "tiny_re_relation", "tiny_mrc",
    ]  # fmt: skip
    assert set(names) <= set(seqio.TaskRegistry.names())


def test_examples_are_ids_plus_one_and_words(names: list[str], vocabulary: Vocabulary, root: Path) -> None:
    theirs = SeqioVocabulary(vocabulary)
    dataset = resolve_mixture("tiny_ner", root)[0]
    expected = [
        q
        for record in dataset.records("test")
        for q in ask_record(record, dataset, "test", STEPS, EncodeConfig().ask, 0)
    ]
    found = read("tiny_ner", "test")
    assert len(found) == len(expected) == 8
    for example, question in zip(found, expected, strict=True):
        assert example["inputs_pretokenized"].decode() == SEQGPT_V1.render_prompt(question)
        assert example["targets_pretokenized"].decode() == SEQGPT_V1.render_answer(question)
        prompt = vocabulary.encode_prompt(SEQGPT_V1, question.kind, question.text, question.labels).ids
        assert example["inputs"].tolist() == [token_id + 1 for token_id in prompt]
        assert theirs.decode(example["targets"].tolist()) == SEQGPT_V1.render_answer(question)
        assert example["targets"][-1] == theirs.eos_id and example["inputs"].dtype == np.int32
        assert json.loads(example["question"])["labels"] == list(question.labels)
        assert json.loads(example["record"])["record"]["id"] == question.source.record_id


def test_the_seed_of_training_is_seqios(names: list[str]) -> None:
    def prompts(seed: int) -> list[bytes]:
        return [example["inputs_pretokenized"] for example in read("tiny_ner", "train", seed=seed)]

    assert prompts(0) == prompts(0) != prompts(1)
    assert sorted({prompt.split(b"\n")[0] for prompt in prompts(0)}) == sorted({p.split(b"\n")[0] for p in prompts(1)})


def test_a_task_reads_over_several_batches(names: list[str]) -> None:
    records = [json.loads(example["record"])["record"]["id"] for example in read("tiny_topics", "train")]
    assert records == [f"tiny_topics-train-{i}" for i in range(150)]


def test_shuffled_tasks_give_the_same_examples_in_another_order(names: list[str]) -> None:
    task = seqio.TaskRegistry.get("tiny_topics")
    ids = [
        [json.loads(example["record"])["record"]["id"] for example in ds.as_numpy_iterator()]
        for ds in (task.get_dataset(None, "train", shuffle=True, seed=seed) for seed in (1, 1, 2))
    ]
    assert ids[0] == ids[1] != ids[2] and sorted(ids[0]) == sorted(ids[2])


def test_registering_again_is_harmless_and_new_settings_replace(root: Path, vocabulary: Vocabulary) -> None:
    first = TaskSettings(vocabulary)
    register("held_in_zh_mrc_se", root, settings=first)
    task = seqio.TaskRegistry.get("tiny_mrc")
    register("held_in_zh_mrc_se", root, settings=TaskSettings(vocabulary))
    assert seqio.TaskRegistry.get("tiny_mrc") is task
    register("held_in_zh_mrc_se", root, settings=TaskSettings(vocabulary, EncodeConfig(max_tokens=60), limit=5))
    shorter = read("tiny_mrc", "train")
    assert 0 < len(shorter) <= 5 and max(len(each["inputs"]) + len(each["targets"]) for each in shorter) <= 60
    register("held_in_zh_mrc_se", root, settings=first)
    assert len(read("tiny_mrc", "train")) == 150


def test_a_wrong_record_ends_the_dataset(root: Path, settings: TaskSettings, tmp_path: Path) -> None:
    from tasks.preprocessors import take_user_error

    data = write_data(tmp_path / "data", {"train": 3, "test": 2})
    (data / "en" / "tiny_topics" / "test.jsonl").write_text('{"id": "1"}\n')
    register(f"{data}/en/tiny_topics", settings=settings)
    with pytest.raises(tf.errors.OpError):
        read("tiny_topics", "test")
    assert "test.jsonl:1" in str(take_user_error())
    assert take_user_error() is None
    register("tiny_topics", root, settings=settings)


# --- mixtures --------------------------------------------------------------------------------------------------------


def test_mixtures_mix_by_examples_under_a_cap(root: Path, settings: TaskSettings, names: list[str]) -> None:
    register("held_in_zh", root, settings=settings, rate_cap=50)
    mixture = seqio.MixtureRegistry.get("held_in_zh")
    assert {task.name for task in mixture.tasks} == {"tiny_re_entities", "tiny_re_relation", "tiny_mrc"}
    assert {mixture.get_rate(task) for task in mixture.tasks} == {50}
    assert {seqio.MixtureRegistry.get("held_in").get_rate(task) for task in mixture.tasks} == {150}
    ds = mixture.get_dataset({"inputs": 256, "targets": 64}, "train", seed=0, num_epochs=1)
    assert next(iter(ds))["inputs"].shape[0] > 10


@pytest.mark.parametrize(("cap", "temperature"), [(None, 1.0), (100, 1.0), (None, 3.0), (100, 2.0)])
def test_rates_are_those_of_seqio_and_of_training(
    root: Path, settings: TaskSettings, names: list[str], cap: int | None, temperature: float
) -> None:
    theirs = functools.partial(seqio.mixing_rate_num_examples, maximum=cap, temperature=temperature)
    register("held_in_en", root, settings=settings, rate_cap=cap, temperature=temperature)
    mixture = seqio.MixtureRegistry.get("held_in_en")
    found = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    assert found == {task.name: pytest.approx(theirs(task)) for task in mixture.tasks}
    sizes = {task.name: 150 for task in mixture.tasks}
    assert found == mixing_rates(sizes, cap, temperature)
    register("held_in_en", root, settings=settings, rate_cap=cap, temperature=temperature, weights={"tiny_ee": 2.0})
    weighted = seqio.MixtureRegistry.get("held_in_en")
    assert {task.name: weighted.get_rate(task) / found[task.name] for task in weighted.tasks} == {
        name: 2.0 if name.startswith("tiny_ee_") else 1.0 for name in found
    }
    with pytest.raises(UserError, match="did you mean tiny_ner"):
        register("held_in_en", root, settings=settings, weights={"tiny_nerr": 2.0})


def test_the_mixture_of_a_number_of_datasets(root: Path, settings: TaskSettings, names: list[str]) -> None:
    chosen = register("held_in:2:1", root, settings=settings)
    assert [task.name for task in seqio.MixtureRegistry.get("held_in_2_1").tasks] == sorted(chosen)


def test_all_mixtures_can_be_registered(root: Path, settings: TaskSettings) -> None:
    found = real.register_all(settings, root)
    assert {"held_in", "held_in_zh", "held_in_en_ee", "held_out", "held_out_en_cls"} <= set(found)
    assert len(read("tiny_out", "test")) == 4
    with pytest.raises(KeyError, match="train"):
        seqio.TaskRegistry.get("tiny_out").get_dataset(None, "train")
    assert {"synthetic_en", "mini_real_zh_re", "mini_held_out"} <= set(synthetic.register_all(settings))
    assert read("mini_real_zh_ner", "test")[0]["targets_pretokenized"].endswith(b"\n")
    with pytest.raises(UserError, match="did you mean"):
        register("held_inn", root, settings=settings)


def test_all_real_datasets_are_registered(data_dir: Path, vocabulary: Vocabulary) -> None:
    before = set(seqio.TaskRegistry.names())
    mixtures = real.register_all(TaskSettings(vocabulary), data_dir)
    tasks = {task for name in ("held_in", "held_out") for task in seqio.MixtureRegistry.get(name).tasks}
    assert len(tasks) == 154 and {task.name for task in tasks} == set(seqio.TaskRegistry.names()) - before
    assert all(len(task.metric_fns) == 1 for task in tasks)
    assert {"held_in_zh_mrc_mc", "held_out_en_re"} <= set(mixtures)
    sizes = {task.name: task.num_input_examples("train") for task in seqio.MixtureRegistry.get("held_in").tasks}
    assert len(sizes) == 100 + 5 + 2 * 3 and None not in sizes.values() and max(sizes.values()) == 3000


def test_importing_registers_and_reads_nothing() -> None:
    code = (
        "import seqio, tasks, tasks.synthetic, tasks.real, tasks.build;"
        "names = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()};"
        "assert not [name for name in names if 'synthetic' in name or 'held' in name]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": "", "SEQGPT_DATA_DIR": "/nowhere"})


# --- metrics ---------------------------------------------------------------------------------------------------------


def gold_text(example: dict[str, Any]) -> str:
    return example["targets_pretokenized"].decode()


def test_seqios_evaluator_gives_our_numbers(names: list[str], root: Path, vocabulary: Vocabulary) -> None:
    examples = read("tiny_ner", "test")
    answers = [gold_text(example).replace("London", "Charles") for example in examples]
    theirs = SeqioVocabulary(vocabulary)

    def predict(dataset: Any) -> list[tuple[int, np.ndarray]]:
        ids = [theirs.encode(answer) for answer in answers]
        longest = max(map(len, ids))
        return [(int(i), np.pad(ids[int(i)], (0, longest - len(ids[int(i)])))) for i, _ in dataset]

    evaluator = seqio.Evaluator("tiny_ner", seqio.EncDecFeatureConverter(pack=False), eval_split="test")
    metrics, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict, step=0)
    found = metrics.result()["tiny_ner"]
    assert found["span_precision"] == pytest.approx(2 / 3)  # of three spans a record, Charles is no city
    assert found["span_recall"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["tiny_ner", "tiny_topics", "tiny_ee_argument", "tiny_re_relation", "tiny_mrc"])
def test_metric_functions_equal_ours(name: str, names: list[str], root: Path) -> None:
    task = seqio.TaskRegistry.get(name)
    (metric,) = task.predict_metric_fns
    examples = read(name, "test")
    targets = [task.postprocess_fn("", example=example, is_target=True) for example in examples]
    dataset = next(d for d in resolve_mixture("held_in", root) if name.startswith(d.meta.name))
    gold = list(dataset.records("test"))
    right = metric(targets, [gold_text(example) for example in examples])
    assert right == {**score_dataset(gold, gold, dataset.meta).metrics, "parse_error_rate": 0.0}
    wrong = metric(targets, ["nonsense" for _ in examples])
    assert wrong["parse_error_rate"] == 1.0
    if name in ("tiny_ner", "tiny_topics", "tiny_mrc"):
        nothing = metric(targets, ["None\n"] * len(examples))
        empty = score_dataset(gold, empty_predictions(gold), dataset.meta).metrics
        assert {key: nothing[key] for key in empty} == empty
    else:
        headline = {"tiny_ee_argument": "argument_c", "tiny_re_relation": "triple_f1"}[name]
        assert right[headline] == 1.0 and wrong[headline] == 0.0
        assert wrong[{"argument_c": "trigger_c", "triple_f1": "span_f1"}[headline]] == 1.0, "other steps are gold"
