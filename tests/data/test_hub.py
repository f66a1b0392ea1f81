"""Hugging Face datasets: folders that the package `datasets` itself writes, read back as records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.data import hub
from seqgpt_jax.data.datasets import Dataset
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import record_to_dict

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'seqgpt_jax\[hub\]'"):
        resolve_mixture("hub:owner/name")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, with a cache of its own."""
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed (pip install '.[hub]')")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


def save(package: Any, folder: Path, features: dict[str, Any], **splits: list[dict[str, Any]]) -> Dataset:
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        table = package.Dataset.from_list(rows, features=package.Features(features))
        table.to_parquet(folder / f"{split}.parquet")
    (dataset,) = resolve_mixture(f"hub:{folder}")
    return dataset


def fields(dataset: Dataset, split: str) -> list[dict[str, Any]]:
    return [record_to_dict(record) for record in dataset.records(split)]


def test_class_labels_give_classification(package: Any, tmp_path: Path) -> None:
    features = {"text": package.Value("string"), "label": package.ClassLabel(names=["sport", "trade"])}
    train = [{"text": "They won.", "label": 0}, {"text": "Rates rise.", "label": 1}, {"text": "?", "label": -1}]
    dataset = save(package, tmp_path / "news", features, train=train, test=train[:1])
    meta = dataset.meta
    assert (meta.name, meta.task, meta.language, meta.labels) == ("hub_news", "CLS", "en", ("sport", "trade"))
    assert dataset.splits == ("train", "test") and meta.splits == {"train": 3, "test": 1}
    assert fields(dataset, "train") == [
        {"id": "hub_news-train-0", "task": "CLS", "kind": "classification", "text": "They won.",
         "labels": ["sport"], "label_set": None},
        {"id": "hub_news-train-1", "task": "CLS", "kind": "classification", "text": "Rates rise.",
         "labels": ["trade"], "label_set": None},
    ]  # fmt: skip
    assert len(list(dataset.records("train", 1))) == 1
    with pytest.raises(UserError, match="no split 'validation'"):
        dataset.records("validation")


def test_pairs_give_inference(package: Any, tmp_path: Path) -> None:
    features = {
        "premise": package.Value("string"), "hypothesis": package.Value("string"),
        "label": package.ClassLabel(names=["蕴含", "矛盾"]), "idx": package.Value("int32"),
    }  # fmt: skip
    dataset = save(
        package,
        tmp_path / "pairs",
        features,
        train=[{"premise": "天晴。", "hypothesis": "下雨。", "label": 1, "idx": 0}],
    )
    assert (dataset.meta.task, dataset.meta.language) == ("NLI", "zh")
    (record,) = fields(dataset, "train")
    assert (record["text"], record["text_pair"], record["labels"]) == ("天晴。", "下雨。", ["矛盾"])


@pytest.mark.parametrize(
    ("tokens", "tags", "text", "spans"),
    [
        (["Ada", "Park", "left", "Norford"], [1, 2, 0, 3], "Ada Park left Norford",
         [("PER", 0, "Ada Park"), ("LOC", 14, "Norford")]),
        (["王", "明", "在", "北", "京"], [1, 2, 0, 3, 4], "王明在北京", [("PER", 0, "王明"), ("LOC", 3, "北京")]),
    ],
)  # fmt: skip
def test_tags_give_spans(
    package: Any, tmp_path: Path, tokens: list[str], tags: list[int], text: str, spans: list[tuple[str, int, str]]
) -> None:
    features = {
        "tokens": package.Sequence(package.Value("string")),
        "pos_tags": package.Sequence(package.ClassLabel(names=["NN", "VB"])),
        "ner_tags": package.Sequence(package.ClassLabel(names=TAGS)),
    }
    row = {"tokens": tokens, "pos_tags": [0] * len(tokens), "ner_tags": tags}
    dataset = save(package, tmp_path / "names", features, train=[row])
    assert dataset.meta.labels == ("PER", "LOC")
    (record,) = fields(dataset, "train")
    assert record["text"] == text
    assert [(span["label"], span["start"], span["text"]) for span in record["spans"]] == spans


def test_questions_give_span_reading(package: Any, tmp_path: Path) -> None:
    features = {
        "id": package.Value("string"), "context": package.Value("string"), "question": package.Value("string"),
        "answers": package.Sequence({"text": package.Value("string"), "answer_start": package.Value("int32")}),
    }  # fmt: skip
    text, answers = "黄河流入渤海。", {"text": ["渤海"], "answer_start": [4]}
    rows = [
        {"id": "1", "context": text, "question": "流入哪里？", "answers": answers},
        {"id": "2", "context": text, "question": "有多长？", "answers": {"text": [], "answer_start": []}},
    ]
    dataset = save(package, tmp_path / "reading", features, validation=rows)
    assert (dataset.meta.task, dataset.meta.labels) == ("MRC-SE", ("答案",))
    first, second = fields(dataset, "validation")
    assert first["spans"] == [{"label": "答案", "start": 4, "end": 6, "text": "渤海"}] and first["answers"] == ["渤海"]
    assert second["spans"] == [] and second["question"] == "有多长？"


def test_strings_named_label_are_labels(package: Any, tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    for split, labels in (("train", ["b", "a"]), ("test", ["c"])):
        lines = [json.dumps({"sentence": f"s {i}", "label": label}) for i, label in enumerate(labels)]
        (tmp_path / "lines" / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")
    (dataset,) = resolve_mixture(f"hub:{tmp_path}/lines")
    assert dataset.meta.labels == ("a", "b", "c")
    assert [record["labels"] for record in fields(dataset, "train")] == [["b"], ["a"]]


def test_the_fingerprint_follows_the_files(package: Any, tmp_path: Path) -> None:
    features = {"text": package.Value("string"), "label": package.ClassLabel(names=["a", "b"])}
    rows = [{"text": "x", "label": 0}]
    dataset = save(package, tmp_path / "x", features, train=rows, test=rows)
    prints = {split: dataset.fingerprint(split) for split in ("train", "test")}
    assert prints["train"] != prints["test"]
    (again,) = resolve_mixture(f"hub:{tmp_path}/x")
    assert again.fingerprint("train") == prints["train"]
    other = package.Dataset.from_list([{"text": "y", "label": 1}], features=package.Features(features))
    other.to_parquet(tmp_path / "x" / "train.parquet")
    (changed,) = resolve_mixture(f"hub:{tmp_path}/x")
    assert changed.fingerprint("train") != prints["train"] and fields(changed, "train")[0]["text"] == "y"


def test_what_cannot_be_read_is_a_user_error(package: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no owner"):
        resolve_mixture("hub:glue")
    with pytest.raises(UserError, match="no such folder"):
        resolve_mixture(f"hub:{tmp_path}/missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="cannot be loaded"):
        resolve_mixture(f"hub:{tmp_path}/empty")
    with pytest.raises(UserError, match=r"no layout that is known, its columns are x: Value\('int32'\)"):
        save(package, tmp_path / "numbers", {"x": package.Value("int32")}, train=[{"x": 1}])
    (offline,) = hub.hub_datasets("owner/name/config")
    assert (offline.path, offline.config) == ("owner/name", "config")  # type: ignore[attr-defined]


def test_reading_imports_no_tensorflow(package: Any, tmp_path: Path) -> None:
    save(package, tmp_path / "x", {"text": package.Value("string"), "label": package.ClassLabel(names=["a"])},
         train=[{"text": "x", "label": 0}])  # fmt: skip
    code = (
        f"import sys; from seqgpt_jax.data.mixtures import resolve_mixture; print('datasets' in sys.modules);"
        f"print([r.text for d in resolve_mixture('hub:{tmp_path}/x') for r in d.records('train')]);"
        "print(sorted({'tensorflow', 'seqio', 'torch', 'jax', 'tasks'} & set(sys.modules)))"
    )
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert done.stdout.split("\n")[:3] == ["False", "['x']", "[]"]
