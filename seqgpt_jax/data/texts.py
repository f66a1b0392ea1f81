"""The texts of records as documents for language modelling: no labels, no questions, no prompt. No TensorFlow.

    record -> normalise_text -> ids, EOS last -> pieces that fit -> TokenExample(one token given, the others supervised)

The first token of a document has no predecessor, so nothing predicts it. A text that is longer than a row is cut into
pieces, each of which begins with the last token of the piece before it: so every other token is supervised, once.

    [5 6 7 8 9 2], at most 3 tokens  ->  [5 | 6 7]  [7 | 8 9]  [9 | 2]
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np

from seqgpt_jax.data.datasets import Dataset, atomic_tasks
from seqgpt_jax.data.questions import TokenExample
from seqgpt_jax.occurrences import normalise_text
from seqgpt_jax.records import Record
from seqgpt_jax.vocabulary import Vocabulary

Objective: TypeAlias = Literal["answers", "language_modelling"]
TEXT = "text"  # what stands for an atomic step in a task's name


def dataset_tasks(dataset: Dataset, objective: Objective) -> tuple[str, ...]:
    """The names of the tasks that a stage with this objective reads of a dataset: duee -> duee_text."""
    if objective == "answers":
        return tuple(atomic_tasks(dataset))
    name = re.sub(r"\W", "_", dataset.declared.name)
    return (f"{name}_{TEXT}",)


def distinct_texts(records: Iterable[Record]) -> Iterator[str]:
    """The text of each record as prompts have it (`occurrences.normalise_text`), the same text once."""
    seen: set[bytes] = set()  # hashes: the texts may be more than memory holds
    for record in records:
        text = normalise_text(record.text)
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if digest not in seen:
            seen.add(digest)
            yield text


def text_examples(
    texts: Sequence[str], vocabulary: Vocabulary, max_tokens: int | None, stats: Counter[str]
) -> list[TokenExample]:
    """The documents of these texts in pieces of at most max_tokens (2 or more; None: whole).

    Counts in stats (data/questions.py STATS): examples, which are pieces; tokens; supervised; dropped, texts that are
    empty.
    """
    size = sys.maxsize if max_tokens is None else max_tokens
    assert size >= 2, size
    examples = []
    for ids in vocabulary.encode_batch(texts):
        stats["dropped"] += not ids
        document = np.array([*ids, vocabulary.eos_id] if ids else [], np.int32)
        pieces = [document[start : start + size] for start in range(0, len(document) - 1, size - 1)]
        stats["examples"] += len(pieces)
        stats["tokens"] += sum(map(len, pieces))
        stats["supervised"] += max(0, len(document) - 1)
        examples += [TokenExample(piece, 1) for piece in pieces]
    return examples
