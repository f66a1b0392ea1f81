"""Datasets of TensorFlow Datasets (TFDS) as records: one row of `ROWS` each. No TensorFlow, and nothing is downloaded.

    tfds build glue/cola --data_dir DIR      prepares a dataset, once (TFDS's own command)
    SEQGPT_TFDS_DIR=DIR                      where it lies; else TFDS_DATA_DIR, else ~/tensorflow_datasets
    tfds:glue/cola                           the dataset as a mixture; tfds:glue all of GLUE's

The files are read as they lie on disk (TFRecord or ArrayRecord; the newest version there) and decoded by TFDS's own
features, which need no TensorFlow. Splits whose labels were kept back, as GLUE's test, are not among ours.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import struct
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from seqgpt_jax.data import published, tagging
from seqgpt_jax.data.datasets import Dataset, hash_file
from seqgpt_jax.data.published import (
    Converter,
    answer_check,
    choice,
    flagged,
    labelled,
    span_reading,
    tagged,
    translated,
)
from seqgpt_jax.data.tagging import span_labels
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.records import DatasetMeta, Record, check_record


@dataclass(frozen=True)
class Row:
    """A dataset of TFDS. name: TFDS's own, with the config; splits: our name -> TFDS's.

    part_of: TFDS's name, where the dataset is one language of it. held_out_with: the folder dataset that has the same
    records; where that is held out, so is this.
    """

    name: str
    task: str
    convert: Converter
    labels: tuple[str, ...] = ()
    splits: Mapping[str, str] = field(default_factory=dict)
    language: str = "en"
    descriptions: Mapping[str, str] = field(default_factory=dict)
    held_out_with: str = ""
    part_of: str = ""

    @property
    def tfds_name(self) -> str:
        return self.part_of or self.name


def _splits(*names: str, **others: str) -> dict[str, str]:
    return {**{name: name for name in names}, **others}


_ALL = _splits("train", "validation", "test")
_NO_TEST = _splits("train", "validation")  # GLUE and others kept the labels of their test split back
_TRAIN_TEST = _splits("train", "test")
_MNLI = _splits("train", validation="validation_matched", test="validation_mismatched")

_ENTAILMENT = ("entailment", "neutral", "contradiction")
_TWO_WAY = ("entailment", "not_entailment")
_NOT = {"not_entailment": "not entailment"}
_TRUTH = ("False", "True")
_NEGATIVE_POSITIVE = ("negative", "positive")
_YES_NO = {"False": "no", "True": "yes"}
_SAME = {"False": "different meaning", "True": "same meaning"}
_PARAPHRASE = ("different_meaning", "paraphrase")
_DIFFERENT = {"different_meaning": "different meaning"}
_ANLI = {"e": "entailment", "n": "neutral", "c": "contradiction"}
_CONLL_TAGS = ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC", "B-MISC", "I-MISC")
_ENTITIES = {"PER": "person", "ORG": "organization", "LOC": "location", "MISC": "miscellaneous"}
_ENTITIES_ZH = {"PER": "人名", "ORG": "组织机构", "LOC": "地点"}
_TREC = ("DESC", "ENTY", "ABBR", "HUM", "NUM", "LOC")
_TREC_WORDS = ("description", "entity", "abbreviation", "person", "number", "location")
_TOXIC = ("toxicity", "severe_toxicity", "obscene", "threat", "insult", "identity_attack")
_TOXIC_WORDS = {"severe_toxicity": "severe toxicity", "identity_attack": "identity attack"}
_EMOTIONS = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief",
    "joy", "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise",
    "neutral",
)  # fmt: skip

_sentence = labelled("sentence")
_two_sentences = labelled("sentence1", "sentence2")
_inference = labelled("premise", "hypothesis")
_anli = labelled("context", "hypothesis")

ROWS = (
    Row("glue/cola", "CLS", _sentence, ("unacceptable", "acceptable"), _NO_TEST),
    Row("glue/sst2", "SA", _sentence, _NEGATIVE_POSITIVE, _NO_TEST),
    Row("glue/mrpc", "NLI", _two_sentences, ("not_equivalent", "equivalent"), _ALL,
        descriptions={"not_equivalent": "not equivalent"}),
    Row("glue/qqp", "NLI", labelled("question1", "question2"), ("not_duplicate", "duplicate"), _NO_TEST,
        descriptions={"not_duplicate": "not duplicate"}),
    Row("glue/mnli", "NLI", _inference, _ENTAILMENT, _MNLI),
    Row("glue/qnli", "NLI", labelled("question", "sentence"), _TWO_WAY, _NO_TEST, descriptions=_NOT),
    Row("glue/rte", "NLI", _two_sentences, _TWO_WAY, _NO_TEST, descriptions=_NOT, held_out_with="rte"),
    Row("glue/wnli", "NLI", _two_sentences, ("not_entailment", "entailment"), _NO_TEST, descriptions=_NOT),
    Row("super_glue/boolq", "MRC-MC", labelled("passage", question="question"), _TRUTH, _NO_TEST,
        descriptions=_YES_NO),
    Row("super_glue/cb", "NLI", _inference, ("entailment", "contradiction", "neutral"), _NO_TEST),
    Row("super_glue/copa", "MRC-MC", published.cause_or_effect, (), _NO_TEST),
    Row("super_glue/multirc", "MRC-MC", answer_check("paragraph"), _TRUTH, _NO_TEST, descriptions=_YES_NO),
    Row("super_glue/rte", "NLI", _inference, _TWO_WAY, _NO_TEST, descriptions=_NOT, held_out_with="rte"),
    Row("super_glue/wic", "NLI", published.word_in_two_sentences, _TRUTH, _NO_TEST, descriptions=_SAME),
    Row("super_glue/wsc.fixed", "NLI", published.pronoun, _TRUTH, _NO_TEST),
    Row("ag_news_subset", "CLS", labelled("title+description"), ("World", "Sports", "Business", "Sci/Tech"),
        _TRAIN_TEST, held_out_with="ag_news"),
    Row("trec", "CLS", labelled("text", label="label-coarse"), _TREC, _TRAIN_TEST,
        descriptions=dict(zip(_TREC, _TREC_WORDS, strict=True))),
    Row("scicite", "CLS", labelled("string"), ("method", "background", "result"), _ALL),
    Row("civil_comments/CivilComments", "CLS", flagged("text"), (*_TOXIC, "sexual_explicit"), _ALL,
        descriptions={**_TOXIC_WORDS, "sexual_explicit": "sexually explicit"}),
    Row("wikipedia_toxicity_subtypes/EnglishSubtypes", "CLS", flagged("text"), _TOXIC, _TRAIN_TEST,
        descriptions=_TOXIC_WORDS),
    Row("imdb_reviews/plain_text", "SA", labelled("text"), ("neg", "pos"), _TRAIN_TEST,
        descriptions={"neg": "negative", "pos": "positive"}),
    Row("yelp_polarity_reviews", "SA", labelled("text"), ("1", "2"), _TRAIN_TEST,
        descriptions={"1": "negative", "2": "positive"}),
    Row("movie_rationales", "SA", labelled("review"), ("NEG", "POS"), _ALL,
        descriptions={"NEG": "negative", "POS": "positive"}),
    Row("sentiment140", "SA", labelled("text", label="polarity", codes=(0, 2, 4)), ("negative", "neutral", "positive"),
        _TRAIN_TEST),
    Row("goemotions", "SA", flagged("comment_text"), _EMOTIONS, _ALL),
    Row("snli", "NLI", _inference, _ENTAILMENT, _ALL),
    Row("multi_nli", "NLI", _inference, _ENTAILMENT, _MNLI),
    Row("anli/r1", "NLI", _anli, ("e", "n", "c"), _ALL, descriptions=_ANLI),
    Row("anli/r2", "NLI", _anli, ("e", "n", "c"), _ALL, descriptions=_ANLI),
    Row("anli/r3", "NLI", _anli, ("e", "n", "c"), _ALL, descriptions=_ANLI),
    Row("xnli/en", "NLI", translated("en"), _ENTAILMENT, _splits("validation", "test"), part_of="xnli"),
    Row("xnli/zh", "NLI", translated("zh"), _ENTAILMENT, _splits("validation", "test"), "zh",
        dict(zip(_ENTAILMENT, ("蕴含", "中立", "矛盾"), strict=True)), part_of="xnli"),
    Row("paws_wiki/labeled_final_raw", "NLI", _two_sentences, _PARAPHRASE, _ALL, descriptions=_DIFFERENT),
    Row("paws_x_wiki/en", "NLI", _two_sentences, _PARAPHRASE, _ALL, descriptions=_DIFFERENT),
    Row("paws_x_wiki/zh", "NLI", _two_sentences, _PARAPHRASE, _ALL, "zh",
        {"different_meaning": "意思不同", "paraphrase": "意思相同"}),
    Row("conll2003/conll2003", "NER", tagged("tokens", "ner", _CONLL_TAGS), span_labels(_CONLL_TAGS),
        _splits("train", "test", validation="dev"), descriptions=_ENTITIES),
    Row("wikiann/en", "NER", tagged("tokens", "tags", _CONLL_TAGS[:7]), ("PER", "ORG", "LOC"), _ALL,
        descriptions=_ENTITIES),
    Row("wikiann/zh", "NER", tagged("tokens", "tags", _CONLL_TAGS[:7]), ("PER", "ORG", "LOC"), _ALL, "zh",
        _ENTITIES_ZH),
    Row("squad/v1.1", "MRC-SE", span_reading, ("answer",), _NO_TEST),
    Row("squad/v2.0", "MRC-SE", span_reading, ("answer",), _NO_TEST),
    Row("xquad/en", "MRC-SE", span_reading, ("answer",), _splits("test"), held_out_with="xquad_en"),
    Row("xquad/zh", "MRC-SE", span_reading, ("答案",), _splits("test"), "zh"),
    Row("mlqa/en", "MRC-SE", span_reading, ("answer",), _splits("validation", "test")),
    Row("mlqa/zh", "MRC-SE", span_reading, ("答案",), _splits("validation", "test"), "zh"),
    Row("race/high", "MRC-MC", published.passage_questions, (), _splits("train", "test", validation="dev")),
    Row("race/middle", "MRC-MC", published.passage_questions, (), _splits("train", "test", validation="dev")),
    Row("cosmos_qa", "MRC-MC", choice("context", [f"answer{i}" for i in range(4)], question="question"), (), _NO_TEST),
    Row("hellaswag", "MRC-MC", published.endings, (), _NO_TEST),
    Row("piqa", "MRC-MC", choice("goal", ("sol1", "sol2")), (), _NO_TEST),
    Row("winogrande", "MRC-MC", choice("sentence", ("option1", "option2")), (),
        _splits("validation", train="train_xl")),
    Row("openbookqa", "MRC-MC", published.open_book, (), _ALL),
    Row("qasc", "MRC-MC", published.science_question, (), _NO_TEST),
    Row("ai2_arc/ARC-Easy", "MRC-MC", published.science_question, (), _ALL, held_out_with="arc_easy"),
    Row("ai2_arc/ARC-Challenge", "MRC-MC", published.science_question, (), _ALL, held_out_with="arc_challenge"),
    Row("bool_q", "MRC-MC", labelled("passage", question="question", label="answer"), _TRUTH, _NO_TEST,
        descriptions=_YES_NO),
    Row("mctaco", "MRC-MC", answer_check("sentence"), ("no", "yes"), _splits("validation", "test")),
)  # fmt: skip


# --- the dataset -----------------------------------------------------------------------------------------------------


class TfdsDataset(Dataset):
    """A row of the table, read where TFDS has prepared it; what the row says needs no data."""

    def __init__(self, row: Row, *, held_out: bool = False) -> None:
        self.row, self.held_out = row, held_out

    @property
    def declared(self) -> DatasetMeta:
        row, name = self.row, "tfds_" + self.row.name.replace("/", "_")
        return DatasetMeta(name, row.task, row.language, row.labels, descriptions=row.descriptions)

    @functools.cached_property
    def meta(self) -> DatasetMeta:
        """With the sizes of the splits, where the dataset has been prepared."""
        sizes = split_sizes(self.folder) if self.folder else {}
        splits = {ours: sizes[theirs] for ours, theirs in self.row.splits.items() if theirs in sizes}
        return dataclasses.replace(self.declared, splits=splits)

    @functools.cached_property
    def folder(self) -> Path | None:
        """The newest version that has been prepared; None where there is none."""
        versions = [file.parent for file in (tfds_folder() / self.row.tfds_name).glob("*.*.*/dataset_info.json")]
        return max(versions, key=lambda version: [int(number) for number in version.name.split(".")], default=None)

    @property
    def splits(self) -> tuple[str, ...]:
        return self._readable(name for name in _ALL if name in self.row.splits)

    def records(self, split: str, limit: int | None = None) -> Iterator[Record]:
        self._check_split(split)
        return islice(self._records(self._prepared(), split), limit)

    def _records(self, folder: Path, split: str) -> Iterator[Record]:
        meta = self.declared
        for i, example in enumerate(read_examples(folder, self.row.splits[split])):
            for record in self.row.convert(example, f"{meta.name}-{split}-{i}", meta):
                check_record(record, meta, file=folder / self.row.splits[split], line=i + 1)
                yield record

    def fingerprint(self, split: str) -> str:
        """Of the row, of the prepared files (name, config, version, content), and of the code that converts them."""
        self._check_split(split)
        folder, theirs = self._prepared(), self.row.splits[split]
        digest = hashlib.sha256(f"{self.row.name} {folder.name} {theirs} {self.declared}".encode())
        for file in (folder / "dataset_info.json", folder / "features.json", *shards(folder, theirs), *_CODE):
            digest.update(hash_file(file).encode())
        return digest.hexdigest()

    def _prepared(self) -> Path:
        if self.folder is None:
            root = tfds_folder()
            raise UserError(
                f"tfds:{self.row.name} has not been prepared in {root} (run `tfds build {self.row.tfds_name} "
                f"--data_dir {root}`, or set SEQGPT_TFDS_DIR to the folder where it is)"
            )
        return self.folder


def tfds_datasets(held_out: Collection[str] = ()) -> dict[str, TfdsDataset]:
    """Every dataset of the table by its name in TFDS ("glue/cola"). held_out: names of folder datasets held out."""
    return {row.name: TfdsDataset(row, held_out=row.held_out_with in held_out) for row in ROWS}


# --- prepared files --------------------------------------------------------------------------------------------------

_CODE = tuple(Path(module.__file__ or "") for module in (published, tagging, sys.modules[__name__]))


def tfds_folder() -> Path:
    """Where prepared datasets lie: SEQGPT_TFDS_DIR, else TFDS_DATA_DIR, else TFDS's default."""
    named = os.environ.get("SEQGPT_TFDS_DIR") or os.environ.get("TFDS_DATA_DIR")
    return Path(named) if named else Path.home() / "tensorflow_datasets"


def read_examples(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a prepared split in the order of its files, as plain values: str, numbers, lists, dicts.

    RecordError for a file that is missing, cut off or in another format than TFRecord and ArrayRecord.
    """
    import tensorflow_datasets as tfds  # a second and a half; imports no TensorFlow

    features = tfds.builder_from_directory(os.fspath(folder)).info.features
    number = 0
    for path in shards(folder, split):
        for raw in _read_shard(path):
            yield plain_values(features.deserialize_example_np(raw))
            number += 1
    expected = split_sizes(folder)[split]
    if number != expected:
        raise RecordError(f"split {split} has {number} examples, not {expected}", file=folder, remedy=_AGAIN)


def plain_values(value: Any) -> Any:
    """What TFDS gives for an example, without its arrays and bytes."""
    if isinstance(value, Mapping):
        return {name: plain_values(inner) for name, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if hasattr(value, "tolist"):  # an array, or a number of NumPy's
        value = value.tolist()
    return [plain_values(inner) for inner in value] if isinstance(value, list) else _decoded(value)


def _decoded(value: Any) -> Any:
    return value.decode("utf-8") if isinstance(value, bytes) else value


_AGAIN = "prepare it again with `tfds build`"


def split_sizes(folder: Path) -> dict[str, int]:
    """Examples of each split of a prepared dataset, as its dataset_info.json has them."""
    fields = json.loads((folder / "dataset_info.json").read_text("utf-8"))
    return {split["name"]: sum(map(int, split.get("shardLengths", ()))) for split in fields["splits"]}


def shards(folder: Path, split: str) -> list[Path]:
    """The files of a prepared split, in order; UserError where there are none."""
    paths = sorted(folder.glob(f"*-{split}.*-?????-of-?????"))
    if not paths:
        there = ", ".join(split_sizes(folder)) or "none"
        raise UserError(f"{folder}: no files of split '{split}' (it has: {there}; {_AGAIN})")
    return paths


def _read_shard(path: Path) -> Iterable[bytes]:
    kind = path.name.rsplit("-", 3)[0].rsplit(".", 1)[-1]  # glue-train.tfrecord-00000-of-00001
    if kind == "array_record":
        reader = ArrayRecordReader(os.fspath(path))
        try:
            yield from reader.read_all()
        finally:
            reader.close()
    elif kind == "tfrecord":
        yield from _read_tfrecord(path)
    else:
        raise RecordError(f"is of format {kind}", file=path, remedy="build it with --file_format=array_record")


def _read_tfrecord(path: Path) -> Iterator[bytes]:
    """TFRecord: uint64 length, uint32 CRC of it, the bytes, uint32 CRC of them; little-endian."""
    with path.open("rb") as file:
        while head := file.read(12):
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
            body = file.read(length + 4)
            if len(head) < 12 or len(body) < length + 4:
                raise RecordError("is cut off", file=path, remedy=_AGAIN)
            yield body[:length]
