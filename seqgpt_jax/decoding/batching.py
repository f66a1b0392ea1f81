"""How decoders make batches: few shapes, so that few programs are compiled, and a bound on memory.

Prompts are sorted by length and padded behind their end to one of few lengths, so that a handful of compiled programs
serves any input. Long prompts go in smaller batches: the scores of attention grow with the square of the length.

Shapes: B batch, T prompt tokens, A answer tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.experimental.multihost_utils import assert_equal, process_allgather

from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import Decoder

MAX_BATCH_TOKENS = 2**14  # of the padded prompts of a batch: scores of attention grow with the square of the length
_CPU_READ_TOKENS = 2**12


def max_read_tokens() -> int:
    """The same for decoders that mostly read: a CPU is faster where its caches hold what a layer makes of a batch.

    bloom_mini on one core: 1,024-token prompts at 4,600 tokens/s by twos, at 3,200 by sixteens.
    """
    return _CPU_READ_TOKENS if jax.default_backend() == "cpu" else MAX_BATCH_TOKENS


class Rows(NamedTuple):
    """The prompts of a batch, one a row, and how long their answers may become."""

    tokens_BT: np.ndarray
    lengths_B: np.ndarray  # 0 for a row that fills the batch
    limits_B: np.ndarray


Decode = Callable[[nnx.GraphDef[Decoder], nnx.State, Rows, int], jax.Array]
"""(graph, params, rows, A) -> the tokens of the answers, int32 [B, A]; what is behind a limit or EOS is not read."""


def decode_batches(
    decode: Decode,
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    eos_id: int,
    pad_id: int,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> list[list[int]]:
    """The answer to each prompt, in the order given, as generate() says; `decode` does the work of a batch."""
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    _check(model, prompts, limits, batch_size)
    graph, params = nnx.split(model)
    check_same_on_all_processes(params, (prompts, limits), "the processes have different prompts")
    lengths = [len(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), limits[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    num_done = 0
    while num_done < len(order):
        indices = next_batch(order[num_done:], lengths, batch_size, MAX_BATCH_TOKENS)
        num_done += len(indices)
        rows = _rows([prompts[i] for i in indices], [limits[i] for i in indices], pad_id)
        tokens_BA = on_host(decode(graph, params, rows, bucket(max(limits[i] for i in indices))))
        for i, tokens_A in zip(indices, tokens_BA, strict=False):  # the batch may hold rows of padding at its end
            answers[i] = _up_to_eos(tokens_A[: limits[i]].tolist(), eos_id)
        if progress is not None:
            progress(num_done, len(order))
    return answers


def check_same_on_all_processes(params: nnx.State, asked: object, message: str) -> None:
    """AssertionError with that message where a model lies on several processes and not all of them ask the same."""
    if not all(leaf.is_fully_addressable for leaf in jax.tree.leaves(params)):
        assert_equal(np.uint32(zlib.crc32(repr(asked).encode())), message)


def _check(model: Decoder, prompts: Sequence[Sequence[int]], limits: Sequence[int], batch_size: int) -> None:
    if len(limits) != len(prompts):
        raise UserError(f"{len(limits)} values of max_new_tokens for {len(prompts)} prompts (give one, or one each)")
    if batch_size < 1 or any(limit < 0 for limit in limits):
        raise UserError("batch_size must be at least 1 and max_new_tokens at least 0")
    vocab_size = model.config.vocab_size
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {i} is empty (a prompt ends with [GEN], so it has at least one token)")
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise UserError(f"prompt {i} has an id outside 0 .. {vocab_size - 1} (use the model's own tokenizer)")


def _rows(prompts: Sequence[Sequence[int]], limits: Sequence[int], pad_id: int) -> Rows:
    num_rows, num_columns = power_of_two(len(prompts)), bucket(max(map(len, prompts)))
    tokens_BT = padded(prompts, num_rows, num_columns, pad_id)
    lengths_B, limits_B = np.zeros((2, num_rows), np.int32)
    lengths_B[: len(prompts)] = [len(prompt) for prompt in prompts]
    limits_B[: len(prompts)] = limits
    return Rows(tokens_BT, lengths_B, limits_B)


def _up_to_eos(tokens: list[int], eos_id: int) -> list[int]:
    return tokens[: tokens.index(eos_id) + 1] if eos_id in tokens else tokens


# --- shapes ----------------------------------------------------------------------------------------------------------


def power_of_two(number: int) -> int:
    """The next one that is not smaller."""
    return 1 << (number - 1).bit_length()


def bucket(length: int) -> int:
    """The next multiple of 16, above 128 of an eighth of the next power of two: at most a quarter too long."""
    step = max(16, power_of_two(length) // 8)
    return -(-length // step) * step


def next_batch(indices: Sequence[int], lengths: Sequence[int], max_rows: int, max_tokens: int) -> list[int]:
    """As many of the first prompts, sorted by length, as have no more padded tokens together: at least one."""
    num_rows = min(len(indices), max_rows)
    while num_rows > 1 and power_of_two(num_rows) * bucket(lengths[indices[num_rows - 1]]) > max_tokens:
        num_rows = power_of_two(num_rows) // 2
    return list(indices[:num_rows])


def padded(sequences: Sequence[Sequence[int]], num_rows: int, length: int, fill: int) -> np.ndarray:
    """int32 [num_rows, length]: a sequence a row, `fill` behind its end and in the rows that are left."""
    rows = np.full((num_rows, length), fill, np.int32)
    for row, sequence in enumerate(sequences):
        rows[row, : len(sequence)] = sequence
    return rows


def on_host(array: jax.Array) -> np.ndarray:
    """The whole of an array, which may lie on the devices of several processes: all of them must ask for it."""
    return np.asarray(array if array.is_fully_addressable else process_allgather(array, tiled=True))
