"""Our Vocabulary as a seqio.Vocabulary. SeqIO takes id 0 as padding, so it is shown every id plus one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf

from seqgpt_jax.vocabulary import Vocabulary

SHIFT = 1


class SeqioVocabulary(seqio.Vocabulary):
    """ids here = the tokenizer's ids + 1; 0 is padding and nothing else. Text never becomes special tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(extra_ids=0)
        self.vocabulary = vocabulary

    @property
    def bos_id(self) -> int | None:
        return _shifted(self.vocabulary.bos_id)

    @property
    def eos_id(self) -> int:
        return self.vocabulary.eos_id + SHIFT

    @property
    def unk_id(self) -> int | None:
        return _shifted(self.vocabulary.unk_id)

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.size + SHIFT

    def _encode(self, s: str) -> Sequence[int]:
        return [token_id + SHIFT for token_id in self.vocabulary.encode(s)]

    def _decode(self, ids: Iterable[int]) -> str:
        return self.vocabulary.decode(int(token_id) - SHIFT for token_id in ids if token_id >= SHIFT)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: bytes | np.ndarray) -> np.ndarray:
            as_bytes = text.item() if isinstance(text, np.ndarray) else text  # which of them it is depends on NumPy
            return np.array(self._encode(as_bytes.decode("utf-8")), np.int32)

        ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(ids: np.ndarray) -> np.ndarray:
            rows = ids.reshape(-1, ids.shape[-1])
            texts = [self.decode(row.tolist()).encode("utf-8") for row in rows]
            return np.array(texts, object).reshape(ids.shape[:-1])

        texts = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        texts.set_shape(ids.shape[:-1])
        return texts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeqioVocabulary) and self.vocabulary.fingerprint() == other.vocabulary.fingerprint()

    def __hash__(self) -> int:
        return hash(self.vocabulary.fingerprint())


def _shifted(token_id: int | None) -> int | None:
    return None if token_id is None else token_id + SHIFT
