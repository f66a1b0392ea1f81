"""Datasets of the Hugging Face hub as records, by the features that they declare. Needs the package `datasets`.

    hub:OWNER/NAME[/CONFIG]     loaded, and downloaded where need be, by datasets.load_dataset
    hub:./FOLDER, hub:/FOLDER   a folder of parquet, JSON lines or CSV files: train.parquet, test.jsonl ...

    context, question, answers {text, answer_start}    MRC-SE
    a list of words, and a list of BIO tags for them   NER; Chinese words are joined without blanks
    a class label (or a string named label) and        NLI for the pairs of `_PAIRS`, such as premise and hypothesis,
    one text or two                                    else CLS

Other layouts: write a folder of records (`seqgpt data convert`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from seqgpt_jax.data import published, tagging
from seqgpt_jax.data.datasets import Dataset, hash_file
from seqgpt_jax.data.published import Converter, labelled, span_reading, tagged
from seqgpt_jax.data.tagging import span_labels
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import DatasetMeta, Record, check_record

_PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_A", "sentence_B"), ("question1", "question2"),
    ("text1", "text2"), ("text_a", "text_b"), ("question", "sentence"),
)  # fmt: skip
_TEXTS = ("text", "sentence", "content", "review", "document", "tweet", "comment", "title")
_MOST_LABELS = 1000  # distinct strings that a column of labels may hold
_SAMPLE = 50  # texts that tell the language
_STRING = ("string", "large_string")
_HAN = re.compile("[\u3400-\u9fff]")
_LATIN_WORD = re.compile("[A-Za-z]+")
_CODE = tuple(Path(module.__file__ or "") for module in (published, tagging, sys.modules[__name__]))


def hub_datasets(name: str) -> list[Dataset]:
    """The dataset of a name after `hub:`; UserError where it is none, or the package is missing. Nothing is read."""
    if importlib.util.find_spec("datasets") is None:
        raise UserError(f"hub:{name} needs the package datasets (pip install 'seqgpt_jax[hub]')")
    if name.startswith((".", "/", "~")):
        folder = Path(name).expanduser()
        if not folder.is_dir():
            raise UserError(f"hub:{name}: no such folder (give one of parquet, JSON lines or CSV files)")
        return [HubDataset(str(folder.resolve()), None)]
    owner, _, rest = name.partition("/")
    dataset, _, config = rest.partition("/")
    if not owner or not dataset:
        raise UserError(f"hub:{name} has no owner (write hub:OWNER/NAME or hub:OWNER/NAME/CONFIG, or hub:./FOLDER)")
    return [HubDataset(f"{owner}/{dataset}", config or None)]


class _Layout(NamedTuple):
    """What the features of a dataset hold: the task, its labels, how to read an example, and a column of text."""

    task: str
    labels: tuple[str, ...]
    convert: Converter
    text: str


class HubDataset(Dataset):
    """One dataset in one configuration; loaded when something of it is first asked for."""

    held_out = False

    def __init__(self, path: str, config: str | None) -> None:
        self.path, self.config = path, config

    @property
    def place(self) -> str:
        return f"hub:{self.path}/{self.config or ''}"

    @functools.cached_property
    def _loaded(self) -> Mapping[str, Any]:
        import datasets

        try:
            return datasets.load_dataset(self.path, self.config)
        except Exception as error:  # its own classes, those of pyarrow, of pandas and of the network
            raise UserError(f"{self.place.rstrip('/')} cannot be loaded: {_one_line(error)}") from None

    @functools.cached_property
    def _layout(self) -> _Layout:
        return _layout_of(self._loaded, self.place.rstrip("/"))

    @functools.cached_property
    def meta(self) -> DatasetMeta:
        name = "hub_" + re.sub(r"\W+", "_", "_".join(filter(None, (Path(self.path).name, self.config))))
        first = next(iter(self._loaded.values()))
        language = _language_of(first[:_SAMPLE][self._layout.text])
        labels = ("答案",) if self._layout.task == "MRC-SE" and language == "zh" else self._layout.labels
        sizes = {split: len(rows) for split, rows in self._loaded.items()}
        return DatasetMeta(name, self._layout.task, language, labels, splits=sizes)

    @property
    def splits(self) -> tuple[str, ...]:
        return self._readable(self._loaded)

    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        self._check_split(split)
        return islice(self._records(split), limit)

    def _records(self, split: str) -> Iterator[Record]:
        for i, example in enumerate(self._loaded[split]):
            for record in self._layout.convert(example, f"{self.meta.name}-{split}-{i}", self.meta):
                check_record(record, self.meta, file=self.place, line=i + 1)
                yield record

    def fingerprint(self, split: str) -> str:
        """Of the loaded split, as `datasets` has it, of what its features mean, and of the code that converts them."""
        self._check_split(split)
        digest = hashlib.sha256(f"{self._loaded[split]._fingerprint} {self.meta}".encode())
        for file in _CODE:
            digest.update(hash_file(file).encode())
        return digest.hexdigest()


# --- features --------------------------------------------------------------------------------------------------------


def _layout_of(loaded: Mapping[str, Any], place: str) -> _Layout:
    import datasets

    features = next(iter(loaded.values())).features
    if {"context", "question", "answers"} <= set(features):
        return _Layout("MRC-SE", ("answer",), span_reading, "context")
    lists = {name: each.feature for name, each in features.items() if isinstance(each, datasets.List)}
    words = [name for name, inner in lists.items() if getattr(inner, "dtype", "") in _STRING]
    tags = [name for name, inner in lists.items() if isinstance(inner, datasets.ClassLabel) and _are_tags(inner.names)]
    if words and tags:
        tag = next((name for name in tags if "ner" in name), tags[0])
        names = tuple(lists[tag].names)
        return _Layout("NER", span_labels(names), tagged(words[0], tag, names), words[0])
    strings = [name for name, each in features.items() if getattr(each, "dtype", "") in _STRING]
    classes = [name for name, each in features.items() if isinstance(each, datasets.ClassLabel)]
    label = "label" if "label" in (*classes, *strings) else classes[0] if len(classes) == 1 else None
    strings = [name for name in strings if name != label]
    pair = next((pair for pair in _PAIRS if set(pair) <= set(strings)), None)
    text = next((name for name in _TEXTS if name in strings), strings[0] if len(strings) == 1 else None)
    if label is not None and (pair or text):
        first, second = pair or (str(text), None)
        codes = None if label in classes else _distinct(loaded, label)
        labels = codes or tuple(features[label].names)
        return _Layout("NLI" if pair else "CLS", labels, labelled(first, second, label=label, codes=codes), first)
    columns = ", ".join(f"{name}: {_one_line(each)}" for name, each in features.items())
    raise UserError(f"{place}: no layout that is known, its columns are {columns} (convert it to a folder of records)")


def _are_tags(names: Sequence[str]) -> bool:
    return len(names) > 1 and all(name == "O" or name[:2] in ("B-", "I-", "E-", "S-") for name in names)


def _distinct(loaded: Mapping[str, Any], column: str) -> tuple[str, ...]:
    values = {value for rows in loaded.values() for value in rows.unique(column) if value}
    if len(values) > _MOST_LABELS:
        raise UserError(
            f"column {column} holds {len(values)} strings, too many for labels (declare it as a ClassLabel)"
        )
    return tuple(sorted(values))


def _language_of(texts: Iterable[Any]) -> str:
    """zh where there are more Han characters than Latin words; texts may be lists of words."""
    joined = " ".join(text if isinstance(text, str) else " ".join(text or ()) for text in texts)
    return "zh" if len(_HAN.findall(joined)) > len(_LATIN_WORD.findall(joined)) else "en"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
