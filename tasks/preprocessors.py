"""The SeqIO side of record -> questions -> token ids: a source of records, and the preprocessors of every task.

    record_source     {"record": JSON with "split" and "seed"}
    ask_and_encode    all questions about BATCH records, laid end to end; here a seqio.CacheDatasetPlaceholder stands
    split_questions   {"inputs", "targets": ids + 1, strings for evaluation}, one question each

TensorFlow calls Python once for BATCH records, not once an example, and the token cache is made of what stands before
the placeholder, as SeqIO's own caches are: in both a call costs more than a question.
"""

from __future__ import annotations

import functools
import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import seqio
import tensorflow as tf

from seqgpt_jax.atomic import AtomicExample
from seqgpt_jax.data.datasets import Dataset, sample_records
from seqgpt_jax.data.questions import ALONE, AskContext, EncodeConfig, ask_record, encode_examples
from seqgpt_jax.errors import UserError
from seqgpt_jax.prompt import get_format
from seqgpt_jax.records import Record, record_from_dict, record_to_dict
from seqgpt_jax.vocabulary import Vocabulary
from tasks.seqio_vocabulary import SHIFT

BATCH = 128  # records a call of Python
STRINGS = ("inputs_pretokenized", "targets_pretokenized", "question", "record")

F = TypeVar("F", bound=Callable[..., Any])

_user_errors: list[UserError] = []


def take_user_error() -> UserError | None:
    """The UserError that ended a dataset, if one did: TensorFlow shows it as an error of its own, with a traceback."""
    return _user_errors.pop() if _user_errors else None


def _keep_user_errors(function: F) -> F:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        try:
            return function(*args)
        except UserError as error:
            _user_errors.append(error)
            raise

    return wrapper  # type: ignore[return-value]


def record_source(
    dataset: Dataset,
    limit: int | None,
    sample_seed: int,
    skip: Collection[str] = (),
    stats: Counter[str] | None = None,
) -> seqio.FunctionDataSource:
    """The records of a dataset as JSON, with the split and the seed that the questions will depend on.

    limit: records a split, a sample drawn with sample_seed. shuffle_files shuffles them all, with SeqIO's seed. skip:
    ids of records that are left out; stats counts them as `leaked`, while the dataset is read.
    """
    skip, counted = frozenset(skip), Counter[str]() if stats is None else stats

    def make_dataset(split: str, shuffle_files: bool = False, seed: int | None = None) -> tf.data.Dataset:
        place = {"split": split, "seed": 0 if seed is None else int(seed)}

        def batches() -> Iterator[dict[str, np.ndarray]]:
            records = _read_split(dataset, split, limit, sample_seed)
            if shuffle_files:
                shuffled = list(records)
                random.Random(seed).shuffle(shuffled)
                records = iter(shuffled)
            batch: list[bytes] = []
            for record in records:
                if record.id in skip:
                    counted["leaked"] += 1
                    continue
                fields = {**place, "record": record_to_dict(record)}
                batch.append(json.dumps(fields, ensure_ascii=False).encode("utf-8"))
                if len(batch) == BATCH:
                    yield {"record": np.array(batch, object)}
                    batch = []
            if batch:
                yield {"record": np.array(batch, object)}

        def read() -> Iterator[dict[str, np.ndarray]]:
            yield from _iterate(batches())

        ds = tf.data.Dataset.from_generator(read, output_signature={"record": tf.TensorSpec([None], tf.string)})
        return ds.unbatch()

    sizes = {split: dataset.meta.splits[split] for split in dataset.splits if split in dataset.meta.splits}
    if limit is not None:
        sizes = {split: min(size, limit) for split, size in sizes.items()}
    return seqio.FunctionDataSource(make_dataset, dataset.splits, sizes)


def _read_split(dataset: Dataset, split: str, limit: int | None, sample_seed: int) -> Iterator[Record]:
    record = None
    for record in dataset.records(split) if limit is None else sample_records(dataset, split, limit, sample_seed):
        yield record
    if record is None:
        remedy = "write records into its file, or remove it"
        raise UserError(f"{dataset.place}: split '{split}' of {dataset.meta.name} holds no record ({remedy})")


def _iterate(batches: Iterator[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    advance = _keep_user_errors(lambda: next(batches, None))
    while (batch := advance()) is not None:
        yield batch


def ask_and_encode(
    ds: tf.data.Dataset,
    *,
    dataset: Dataset,
    steps: Collection[str],
    vocabulary: Vocabulary,
    config: EncodeConfig,
    stats: Counter[str],
    context: Callable[[str, int], AskContext] = lambda split, seed: ALONE,
    strings: bool = True,
) -> tf.data.Dataset:
    """From records to questions, those about BATCH records at once.

    inputs (prompts) and targets (answers with EOS) are the tokenizer's ids + 1, int32, laid end to end; num_inputs and
    num_targets say how many are whose. Beside them the STRINGS: the prompt and the answer in words (uncut), the
    question and its record as JSON. context: that of a split and a seed. stats counts what ask_record and
    encode_examples count, while the dataset is read.
    """
    prompt_format = get_format(config.prompt_format)

    @_keep_user_errors
    def encode(records: np.ndarray) -> tuple[np.ndarray, ...]:
        examples: list[AtomicExample] = []
        sources: list[bytes] = []
        for raw in records.tolist():
            fields = json.loads(raw)
            record = record_from_dict(fields["record"])
            split, seed = fields["split"], fields["seed"]
            asked = ask_record(record, dataset, split, steps, config.ask, seed, context(split, seed), stats)
            examples += asked
            sources += [raw] * len(asked)
        tokens = encode_examples(examples, vocabulary, config, stats)
        kept = [i for i, each in enumerate(tokens) if each is not None]
        found = [each for each in tokens if each is not None]
        empty = np.zeros(0, np.int32)
        inputs = np.concatenate([empty, *(each.ids[: each.num_prompt] for each in found)]) + np.int32(SHIFT)
        targets = np.concatenate([empty, *(each.ids[each.num_prompt :] for each in found)]) + np.int32(SHIFT)
        num_inputs = np.array([each.num_prompt for each in found], np.int32)
        num_targets = np.array([len(each.ids) - each.num_prompt for each in found], np.int32)
        if not strings:
            return inputs, num_inputs, targets, num_targets
        columns = (
            [prompt_format.render_prompt(examples[i]).encode() for i in kept],
            [prompt_format.render_answer(examples[i]).encode() for i in kept],
            [question_to_json(examples[i]).encode() for i in kept],
            [sources[i] for i in kept],
        )
        return inputs, num_inputs, targets, num_targets, *(np.array(column, object) for column in columns)

    names = ("inputs", "num_inputs", "targets", "num_targets", *(STRINGS if strings else ()))

    def to_features(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        columns = tf.numpy_function(encode, [batch["record"]], [tf.int32] * 4 + [tf.string] * (len(names) - 4))
        for column in columns:
            column.set_shape([None])
        return dict(zip(names, columns, strict=True))

    return ds.batch(BATCH).map(to_features).prefetch(2)


def split_questions(ds: tf.data.Dataset) -> tf.data.Dataset:
    """From what ask_and_encode gives to single questions."""

    def to_rows(batch: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor | tf.RaggedTensor]:
        columns = dict(batch)
        for name in ("inputs", "targets"):
            lengths = columns.pop(f"num_{name}")
            columns[name] = tf.RaggedTensor.from_row_lengths(columns[name], lengths, validate=False)
        return columns

    return ds.map(to_rows).unbatch()


def question_to_json(example: AtomicExample) -> str:
    """What metrics.py needs to know of a question: its step and query, and how it was asked."""
    source = example.source
    fields = {"step": source.step, "query": source.query, "kind": example.kind, "labels": example.labels}
    return json.dumps({**fields, "text": example.text, "split": source.split}, ensure_ascii=False)
