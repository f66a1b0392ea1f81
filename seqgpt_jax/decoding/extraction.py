"""Constrained extraction: greedy among what constraints.py allows, many tokens a forward pass, the text read once.

    texts ----prefill, once each----> cache --a copy a chunk of labels--> prefill of labels and of "None" throughout
                                                                             |
    blocks of the tokens that most likely come next <--until all is said-----'

Every pass runs a block of tokens that are guessed: label names are certain, a label is guessed to be absent, a span to
go on as the text does and to end with its word. The guesses are the greedy choices as far as they agree with them
(speculative decoding with exact acceptance, Leviathan et al. 2023, arXiv 2211.17192, where the text is the draft, as in
prompt lookup decoding), so block = 1, one token a pass, writes the same answers up to rounding.

Shapes: R rows (prompts), P texts, T tokens, F forced tokens, A answer tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from flax import nnx

from seqgpt_jax.decoding.batching import (
    MAX_BATCH_TOKENS,
    bucket,
    check_same_on_all_processes,
    max_read_tokens,
    on_host,
    padded,
    power_of_two,
)
from seqgpt_jax.decoding.constraints import (
    ENDED,
    FORCED,
    TABBED,
    TextTables,
    TokenBytes,
    answer_stream,
    compile_text,
    pad_tables,
)
from seqgpt_jax.decoding.speculation import Progress, Rows, grow, read_rest, read_texts, run_blocks, take_rows
from seqgpt_jax.models.decoder import Decoder
from seqgpt_jax.prompt import TAB


@dataclass(frozen=True, slots=True)
class ExtractionPrompt:
    """ids end in [GEN]; the first num_text_ids are shared by the prompts about one text.

    labels: each label as the answer writes it, with its colon, in tokens. limit: chosen tokens after which no further
    span begins.
    """

    ids: Sequence[int]
    num_text_ids: int
    text: str
    labels: Sequence[Sequence[int]]
    limit: int


@dataclass(frozen=True, slots=True)
class Copied:
    """tokens: the whole answer, without EOS. probabilities: of the spans of each label in turn, `None` among them.

    A span's probability is that of writing exactly it, given the answer up to there and what may be written there.
    num_passes and num_tokens: what the model ran for this row, its text left out where other rows share it.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    num_passes: int
    num_tokens: int


def extract(
    model: Decoder,
    prompts: Sequence[ExtractionPrompt],
    tokens: TokenBytes,
    *,
    pad_id: int = 0,
    batch_size: int = 64,
    block: int = 8,
    wanted: Sequence[Sequence[int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Copied]:
    """The constrained answer to each prompt, in the order given. Ties between logits go to the smaller id.

    block: tokens of a pass; 1 is plain greedy decoding. wanted: answers in tokens that win wherever they are allowed,
    for measurements of speed. progress(done, total) is called after each batch. Where the model lies on several
    processes, all of them call this with the same prompts.
    """
    graph, params = nnx.split(model)
    check_same_on_all_processes(params, prompts, "the processes have different prompts")
    tables_of = functools.lru_cache(maxsize=batch_size)(functools.partial(compile_text, tokens=tokens))
    tab_id = tokens.ids[TAB.encode()]
    copied: list[Copied | None] = [None] * len(prompts)
    num_done = 0
    for batch in _batches(prompts, batch_size):
        asked, forced = [prompts[i] for i in batch], None if wanted is None else [wanted[i] for i in batch]
        answers = _Batch(asked, forced, tables_of, tab_id, pad_id, block).run(graph, params)
        for i, answer in zip(batch, answers, strict=True):
            copied[i] = answer
        num_done += len(batch)
        if progress is not None:
            progress(num_done, len(prompts))
    return [answer for answer in copied if answer is not None]


def _batches(prompts: Sequence[ExtractionPrompt], batch_size: int) -> list[list[int]]:
    """Prompts about one text stay together, texts of about the same length come together, and memory has a bound."""
    texts: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        texts.setdefault(tuple(prompt.ids[: prompt.num_text_ids]), []).append(i)
    batches: list[list[int]] = [[]]
    num_texts = 0  # of the last batch
    for group in sorted(texts.values(), key=lambda group: max(len(prompts[i].ids) for i in group)):
        longest = max(len(prompts[i].ids) for i in group)
        num_together = max(1, min(batch_size, MAX_BATCH_TOKENS // longest))
        for start in range(0, len(group), num_together):
            part = group[start : start + num_together]
            if len(batches[-1]) + len(part) > num_together or (num_texts + 1) * longest > max_read_tokens():
                batches.append([])
                num_texts = 0
            batches[-1] += part
            num_texts += 1
    return [batch for batch in batches if batch]


class _Batch:
    """Prompts that are decoded together."""

    def __init__(
        self,
        prompts: list[ExtractionPrompt],
        wanted: list[Sequence[int]] | None,
        tables_of: Callable[[str], TextTables],
        tab_id: int,
        pad_id: int,
        block: int,
    ) -> None:
        self.tab_id, self.pad_id, self.block, self.num_prompts = tab_id, pad_id, block, len(prompts)
        num_rows = power_of_two(len(prompts))
        heads = [tuple(prompt.ids[: prompt.num_text_ids]) for prompt in prompts]
        texts = {head: prompt.text for head, prompt in zip(heads, prompts, strict=True)}
        self.shared = len(texts) < len(prompts)  # else a pass of its own for the texts saves nothing
        streams = [answer_stream(prompt.labels) for prompt in prompts]
        streams += [answer_stream([])] * (num_rows - len(prompts))
        self.rows = Rows(
            _stacked([tables_of(text) for text in texts.values()]),
            _column([list(texts).index(head) for head in heads], num_rows),
            padded(streams, num_rows, _size(max(map(len, streams)), 32), 0),
            _column([prompt.limit for prompt in prompts], num_rows),
            None if wanted is None else padded(wanted, num_rows, _size(1 + max(map(len, wanted)), 32), -1),
        )
        self.texts = list(texts)
        self.tails = [list(p.ids[p.num_text_ids :] if self.shared else p.ids) for p in prompts]
        # "label: None\n" throughout, of which ` None` and the line's end are a token each
        none_throughout = max(
            len(stream) + len(prompt.labels) for stream, prompt in zip(streams, prompts, strict=False)
        )
        self.num_first = 1 if block == 1 else min(bucket(none_throughout), _MAX_FIRST)

    def run(self, graph: nnx.GraphDef[Decoder], params: nnx.State) -> list[Copied]:
        progress = self._start(graph, params)
        answers: dict[int, Copied] = {}
        prompt_R = np.arange(len(self.rows.text_R))
        while True:
            done_R = on_host(progress.done_R)
            rows = [row for row in np.flatnonzero(done_R).tolist() if prompt_R[row] < self.num_prompts]
            answers |= self._answers(progress, rows, prompt_R)
            left = np.flatnonzero(~done_R)
            if not len(left):
                return [answers[i] for i in range(self.num_prompts)]
            size = power_of_two(len(left))
            if size < len(prompt_R):
                kept = np.resize(left, size)
                progress, self.rows = take_rows(progress, kept, len(left)), _rows_at(self.rows, kept)
                prompt_R = np.where(np.arange(size) < len(left), prompt_R[kept], self.num_prompts)
            if int(on_host(progress.cache.lengths_B).max()) + self.block > progress.cache.positions_BK.shape[1]:
                progress = grow(progress)
            progress = run_blocks(graph, params, self.rows, progress, self.block, self.pad_id)

    def _start(self, graph: nnx.GraphDef[Decoder], params: nnx.State) -> Progress:
        num_rows = len(self.rows.text_R)
        tail_lengths = _column([len(tail) for tail in self.tails], num_rows)
        tails = padded(self.tails, num_rows, bucket(int(tail_lengths.max()) + self.num_first - 1), self.pad_id)
        num_text_columns = bucket(max(map(len, self.texts))) if self.shared else 0
        num_slots = _size(num_text_columns + tails.shape[1] + 3 * self.block, 128)
        cache = None
        if self.shared:
            lengths = _column([len(text) for text in self.texts], power_of_two(len(self.texts)))
            texts = padded(self.texts, len(lengths), num_text_columns, self.pad_id)
            cache = read_texts(graph, params, texts, lengths, num_slots)
        return read_rest(graph, params, self.rows, cache, tails, tail_lengths, num_slots, self.num_first, self.pad_id)

    def _answers(self, progress: Progress, rows: Sequence[int], prompt_R: np.ndarray) -> dict[int, Copied]:
        written = [on_host(array) for array in progress.written]
        lengths, passes = on_host(progress.num_written_R), on_host(progress.num_passes_R)
        answers = {}
        for row in rows:
            prompt, num_passes = int(prompt_R[row]), int(passes[row])
            tokens, kinds, log_probs, end_log_probs = (array[row, : lengths[row]].tolist() for array in written)
            answers[prompt] = Copied(
                tuple(tokens),
                _span_probabilities(tokens, kinds, log_probs, end_log_probs, self.tab_id),
                1 + num_passes,
                len(self.tails[prompt]) + self.num_first - 1 + num_passes * self.block,
            )
        return answers


_MAX_FIRST = 96  # guessed tokens behind a prompt


def _size(length: int, least: int) -> int:
    return max(least, power_of_two(length))


def _column(values: Sequence[int], num_rows: int) -> np.ndarray:
    return np.asarray([*values, *[0] * (num_rows - len(values))], np.int32)


def _stacked(tables: list[TextTables]) -> TextTables:
    """Every table in arrays of one size, repeated up to a power of two. Sizes grow together: few sets of them exist."""
    scale = max(
        power_of_two(-(-len(array) // least))
        for table in tables
        for array, least in ((table.min_bytes_N, 128), (table.edge_kind_E, 1024), (table.tokens_U, 256))
    )
    grown = [pad_tables(table, 128 * scale, 1024 * scale, 256 * scale) for table in tables]
    grown += [grown[0]] * (power_of_two(len(grown)) - len(grown))
    return TextTables(*(np.stack(arrays) for arrays in zip(*grown, strict=True)))


def _rows_at(rows: Rows, kept: np.ndarray) -> Rows:
    return rows._replace(
        text_R=rows.text_R[kept],
        stream_RF=rows.stream_RF[kept],
        limit_R=rows.limit_R[kept],
        wanted_RA=None if rows.wanted_RA is None else rows.wanted_RA[kept],
    )


def _span_probabilities(
    tokens: list[int], kinds: list[int], log_probs: list[float], end_log_probs: list[float], tab_id: int
) -> tuple[float, ...]:
    """Of each span of one row: the product over its tokens, and over what ended it, whatever that was."""
    probabilities, total = [], 0.0
    for token, kind, log_prob, end_log_prob in zip(tokens, kinds, log_probs, end_log_probs, strict=True):
        if kind in (TABBED, ENDED):
            ends_before = end_log_prob > -math.inf  # else the token takes the last piece of the span along
            probabilities.append(math.exp(total + (end_log_prob if ends_before else log_prob)))
            total = log_prob - end_log_prob if kind == TABBED and token != tab_id else 0.0
        elif kind != FORCED:
            total += log_prob
    return tuple(probabilities)
