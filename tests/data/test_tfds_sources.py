"""The table of TFDS datasets against TFDS's own descriptions, mock data, and files that TFDS itself writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.data.cache import CacheSpec, ensure_cache
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.tagging import span_labels
from seqgpt_jax.data.tfds_sources import ROWS, Row, TfdsDataset, plain_values
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.negatives import AskConfig
from seqgpt_jax.records import TASKS, check_record
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer
from tests.tiny_data import write_data, write_tfds

tfds = pytest.importorskip("tensorflow_datasets")

NAMES = {row.name: row for row in ROWS}


@pytest.fixture
def tfds_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEQGPT_TFDS_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_agrees_with_tfds(row: Row, tmp_path: Path) -> None:
    builder = tfds.builder(row.tfds_name, data_dir=tmp_path)
    whole = f"{builder.name}/{builder.builder_config.name}" if builder.builder_config else builder.name
    assert whole == row.tfds_name, "the folder that TFDS prepares it in"
    features = builder.info.features
    classes = [tuple(f.names) for f in _flat(features) if isinstance(f, tfds.features.ClassLabel)]
    if row.task in ("NER",):
        assert row.labels in [span_labels(names) for names in classes]
    elif row.labels and row.task != "MRC-SE" and row.name not in ("sentiment140", "bool_q"):
        assert row.labels in classes or set(row.labels) <= set(features)
    assert row.task in TASKS and set(row.descriptions) <= set(row.labels)
    assert set(row.splits) <= {"train", "validation", "test"}


def _flat(feature: Any) -> Iterator[Any]:
    inner = feature.values() if hasattr(feature, "values") else [feature.feature] if hasattr(feature, "feature") else []
    yield feature
    for each in inner:
        yield from _flat(each)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_random_examples_give_valid_records(row: Row, tmp_path: Path) -> None:
    meta = TfdsDataset(row).declared
    with tfds.testing.mock_data(num_examples=8):
        ds = tfds.load(row.tfds_name, split=next(iter(row.splits.values())), data_dir=tmp_path)
        examples = [_plain(example) for example in tfds.as_numpy(ds)]
    assert len(examples) == 8
    records = [record for i, example in enumerate(examples) for record in row.convert(example, str(i), meta)]
    for record in records:
        check_record(record, meta)
        assert record.task == row.task
    if row.convert.__code__ is NAMES["glue/cola"].convert.__code__ and row.name != "sentiment140":
        assert len(records) == 8 and len({record.labels for record in records}) > 1  # type: ignore[union-attr]


def _plain(example: Any) -> Any:
    """Plain values, lists that belong together cut to one length: mock data draws each length anew."""
    if not isinstance(example, dict):
        return plain_values(example.to_list() if hasattr(example, "to_list") else example)
    plain = {name: _plain(value) for name, value in example.items()}
    shortest = min((len(value) for value in plain.values() if isinstance(value, list)), default=0)
    return {name: value[:shortest] if isinstance(value, list) else value for name, value in plain.items()}


# --- files -----------------------------------------------------------------------------------------------------------

QUESTIONS = [
    {"id": str(i), "title": "t", "context": f"Ada was born in 18{i:02}. 王明", "question": f"When, {i}?",
     "answers": {"text": [f"18{i:02}"], "answer_start": [16]} if i % 3 else {"text": [], "answer_start": []}}
    for i in range(20)
]  # fmt: skip
ARTICLE = {
    "article": "Cats meow.", "questions": ["Who?", "What?"], "answers": ["B", "A"], "example_id": "1",
    "options": [["dogs", "cats"], ["meow", "bark", "hoot"]],
}  # fmt: skip


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_prepared_files_are_read_as_tfds_reads_them(tfds_dir: Path, file_format: str) -> None:
    folder = write_tfds(tfds_dir, "squad/v1.1", {"train": QUESTIONS}, "3.0.0", file_format)
    dataset = resolve_mixture("tfds:squad/v1.1")[0]
    assert dataset.meta.splits == {"train": 20} and dataset.declared.splits == {}
    records = {record.question: record for record in dataset.records("train")}  # type: ignore[union-attr]
    assert [record.id for record in dataset.records("train", 3)] == [f"tfds_squad_v1.1-train-{i}" for i in range(3)]
    theirs = tfds.builder_from_directory(folder)
    examples = (
        theirs.as_data_source("train") if file_format == "array_record" else tfds.as_numpy(theirs.as_dataset("train"))
    )
    seen = 0
    for example in examples:
        record = records[example["question"].decode()]
        assert record.text == example["context"].decode()
        assert list(record.answers) == [text.decode() for text in example["answers"]["text"]]  # type: ignore[union-attr]
        seen += 1
    assert seen == len(records) == 20


def test_nested_lists_are_read(tfds_dir: Path) -> None:
    write_tfds(tfds_dir, "race/middle", {"dev": [ARTICLE] * 2}, "2.0.0", "tfrecord")
    dataset = resolve_mixture("tfds:race/middle")[0]
    assert dataset.splits == ("train", "validation", "test") and dataset.meta.splits == {"validation": 2}
    records = list(dataset.records("validation"))
    assert [(r.id[-3:], r.question, r.labels, r.label_set) for r in records[:2]] == [  # type: ignore[union-attr]
        ("0-0", "Who?", ("cats",), ("dogs", "cats")), ("0-1", "What?", ("meow",), ("meow", "bark", "hoot")),
    ]  # fmt: skip
    assert len(records) == 4
    with pytest.raises(UserError, match=r"no files of split 'train' \(it has: dev"):
        list(dataset.records("train"))


def test_a_dataset_that_is_not_prepared_says_how_to(tfds_dir: Path) -> None:
    dataset = resolve_mixture("tfds:xnli/zh")[0]
    assert dataset.meta.language == "zh" and dataset.meta.splits == {} and dataset.splits == ("validation", "test")
    for ask in (dataset.records, dataset.fingerprint):
        with pytest.raises(UserError, match=rf"`tfds build xnli --data_dir {tfds_dir}`.*SEQGPT_TFDS_DIR"):
            ask("test")
    assert not tfds_dir.exists(), "nothing was downloaded"


def test_the_newest_version_is_read_and_the_fingerprint_follows_it(tfds_dir: Path) -> None:
    sentences = [{"sentence": f"s {i}", "label": i % 2, "idx": i} for i in range(4)]
    write_tfds(tfds_dir, "glue/cola", {"train": sentences, "validation": sentences[:1]}, "2.0.0", "tfrecord")
    first = {split: resolve_mixture("tfds:glue/cola")[0].fingerprint(split) for split in ("train", "validation")}
    assert first["train"] != first["validation"]
    assert resolve_mixture("tfds:glue/cola")[0].fingerprint("train") == first["train"]
    write_tfds(tfds_dir, "glue/cola", {"train": sentences[:3]}, "10.0.0", "tfrecord")
    again = resolve_mixture("tfds:glue/cola")[0]
    assert again.meta.splits == {"train": 3} and again.fingerprint("train") != first["train"]


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_file_that_is_cut_off_is_a_record_error(tfds_dir: Path, file_format: str) -> None:
    folder = write_tfds(tfds_dir, "squad/v1.1", {"train": QUESTIONS}, "3.0.0", file_format)
    (file,) = folder.glob("*-of-*")
    before = resolve_mixture("tfds:squad")[0].fingerprint("train")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    dataset = resolve_mixture("tfds:squad")[0]
    with pytest.raises(RecordError, match=r"tfds build"):
        list(dataset.records("train"))
    assert dataset.fingerprint("train") != before
    if file_format == "tfrecord":  # cut between two examples: only their number tells
        raw = b"".join(_frames(file.read_bytes())[:5])
        file.write_bytes(raw)
        with pytest.raises(RecordError, match="has 5 examples, not 20"):
            list(dataset.records("train"))


def _frames(data: bytes) -> list[bytes]:
    frames, start = [], 0
    while start < len(data):
        end = start + 16 + int.from_bytes(data[start : start + 8], "little")
        frames.append(data[start:end])
        start = end
    return frames


def test_reading_imports_no_tensorflow(tfds_dir: Path) -> None:
    write_tfds(tfds_dir, "glue/cola", {"train": [{"sentence": "a", "label": 1, "idx": 0}]}, "2.0.0", "tfrecord")
    code = (
        "import sys; from seqgpt_jax.data.mixtures import *; known = known_sources();"
        "print('tensorflow_datasets' in sys.modules);"
        "print([r.text for d in resolve_mixture('tfds:glue/cola') for r in d.records('train')]);"
        "print(sorted({'tensorflow', 'seqio', 't5', 'torch', 'jax', 'tasks'} & set(sys.modules)))"
    )
    environment = {**os.environ, "SEQGPT_DATA_DIR": ""}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.split("\n")[:3] == ["False", "['a']", "[]"]


def test_a_token_cache_is_built_of_tfds_and_of_an_opened_dataset(tfds_dir: Path, tmp_path: Path) -> None:
    sentences = [{"sentence": f"They drank {i}.", "label": i % 2, "idx": i} for i in range(7)]
    others = [{"sentence": "They drank 3!", "label": 1, "idx": 0}]
    write_tfds(tfds_dir, "glue/cola", {"train": sentences, "validation": others}, "2.0.0")
    root = write_data(tmp_path / "data")
    train_tokenizer(["They drank. News about sport, trade, money, weather"], 300).save(tmp_path / "tokenizer")
    mixture, tokenizer = "held_out+tfds:glue/cola", str(tmp_path / "tokenizer")
    with pytest.raises(UserError, match="never trained on"):
        ensure_cache(CacheSpec(mixture, tokenizer, str(root)), tmp_path / "cache")
    spec = CacheSpec(mixture, tokenizer, str(root), protocol="few_shot", ask=AskConfig(max_answer_share=1))
    caches = ensure_cache(spec, tmp_path / "cache", num_processes=1, progress=False)
    assert {cache.name: len(cache) for cache in caches} == {"tfds_glue_cola": 6, "tiny_out": 30}  # one leaks
    vocabulary = Vocabulary.from_pretrained(tokenizer)
    texts = sorted(vocabulary.decode(example.ids[: example.num_prompt].tolist()) for example in caches[0])
    assert len(texts) == 6 and "输入: They drank 0.\n分类: " in texts[0]
