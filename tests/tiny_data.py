"""Made-up data: a folder laid out as the real one, with every kind of record; datasets as TFDS prepares them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, ClassVar

PARTITIONS = {
    "held_in": {"en": ["tiny_ner", "tiny_topics", "tiny_ee"], "zh": ["tiny_re", "tiny_mrc"]},
    "held_out": {"en": ["tiny_out"], "zh": []},
}


def span(text: str, part: str, **names: str) -> dict[str, Any]:
    start = text.index(part)
    return {**names, "start": start, "end": start + len(part), "text": part}


def ner(i: int, split: str) -> dict[str, Any]:
    text = f"Ada Lovelace number {i} met Charles in London, on {i} May."
    spans = [span(text, "Ada Lovelace", label="person"), span(text, "Charles", label="person")]
    spans.append(span(text, "London", label="city"))
    return {"kind": "extraction", "task": "NER", "text": text, "spans": spans, "label_set": None}


def topic(i: int, split: str) -> dict[str, Any]:
    label = ("sport", "trade, money", "weather")[i % 3]
    return {"kind": "classification", "task": "CLS", "text": f"News {i} about {label}", "labels": [label]}


def relation(i: int, split: str) -> dict[str, Any]:
    text = f"王明{i}在北京大学工作，李红是他的朋友。"
    entities = [
        span(text, f"王明{i}", label="人物"),
        span(text, "北京大学", label="机构"),
        span(text, "李红", label="人物"),
    ]
    relations = [{"label": "就职", "head": 0, "tail": 1}]
    return {"kind": "relation", "task": "RE", "text": text, "entities": entities, "relations": relations}


def event(i: int, split: str) -> dict[str, Any]:
    text = f"Acme {i} bought Initech in 2019 and opened a plant."
    acquire = {
        "type": "acquire",
        "trigger": span(text, "bought"),
        "arguments": [span(text, f"Acme {i}", role="buyer"), span(text, "2019", role="time")],
    }
    open_ = {"type": "open", "trigger": span(text, "opened"), "arguments": [span(text, "plant", role="thing")]}
    return {"kind": "event", "task": "EE", "text": text, "events": [acquire, open_]}


def reading(i: int, split: str) -> dict[str, Any]:
    text = f"黄河全长{5000 + i}公里，流入渤海。"
    spans = [span(text, f"{5000 + i}公里", label="answer")]
    question = {"question": f"黄河有多长{i}？", "answers": [f"{5000 + i}公里"]}
    return {"kind": "extraction", "task": "MRC-SE", "text": text, "spans": spans, "label_set": None, **question}


DATASETS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "tiny_ner": ("en", ner, {"task": "NER", "labels": ["person", "city", "date", "river", "team", "law", "dish"]}),
    "tiny_topics": ("en", topic, {"task": "CLS", "labels": ["sport", "trade, money", "weather"]}),
    "tiny_ee": ("en", event, {"task": "EE", "labels": ["acquire", "open"], "roles": ["buyer", "thing", "time"]}),
    "tiny_re": ("zh", relation, {"task": "RE", "labels": ["就职", "朋友"], "entity_labels": ["人物", "机构"]}),
    "tiny_mrc": ("zh", reading, {"task": "MRC-SE", "labels": ["answer"]}),
    "tiny_out": ("en", topic, {"task": "CLS", "labels": ["sport", "trade, money", "weather"]}),
}


def write_data(root: Path, sizes: dict[str, int] | None = None) -> Path:
    """Writes the folder and returns it; sizes: split -> records."""
    sizes = sizes or {"train": 30, "validation": 6, "test": 6}
    for name, (language, make, meta) in DATASETS.items():
        folder = root / language / name
        folder.mkdir(parents=True)
        fields = {"name": name, "language": language, **meta, "splits": sizes}
        (folder / "meta.json").write_text(json.dumps(fields, ensure_ascii=False), "utf-8")
        for split, size in sizes.items():
            start = {"train": 0, "validation": 1_000, "test": 2_000}[split]
            lines = [{"id": f"{name}-{split}-{i}", **make(start + i, split)} for i in range(size)]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            if split == "test":
                (folder / "test.jsonl").write_text(text, "utf-8")
            else:
                (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (root / "partitions.json").write_text(json.dumps(PARTITIONS), "utf-8")
    return root


def write_tfds(
    tfds_dir: Path, name: str, splits: dict[str, list[dict[str, Any]]], version: str, file_format: str = "tfrecord"
) -> Path:
    """Prepares a dataset with TFDS itself: of this name, config and version, with the features of TFDS's own."""
    import tensorflow_datasets as tfds

    features = tfds.builder(name, data_dir=tfds_dir).info.features
    dataset, _, config = name.partition("/")

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[misc, name-defined]
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name=config),)
        url_infos: ClassVar[dict[str, Any]] = {}  # no downloads, so no checksums beside the code

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> Any:
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self) -> None: ...

    Builder.name = dataset
    builder = Builder(config=config, data_dir=tfds_dir, file_format=file_format)
    builder.download_and_prepare()
    return Path(builder.data_dir)
