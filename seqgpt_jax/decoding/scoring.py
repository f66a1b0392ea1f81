"""Classification by scoring: what the model would give each possible answer, in place of letting it write one.

The score of an answer is the log-probability of its tokens (over the whole vocabulary) given the prompt. The answers of
a question are a trie (label_trie.py) behind the prompt in the KV cache: a node sees the prompt, the nodes above it and
itself. The prompt is run once, a small trie along with it; each pass after that evaluates some more nodes of each row.

    one label       softmax over the scores of "card\\n", "card fee\\n", ...
    several labels  behind a choice of A: C is next with P("A，C，") + P("A，C\\n"), the answer ends with P("A\\n")

Shapes: B rows, T tokens of a call, K cache slots, W trie nodes of a call, S hidden states
that are wanted, C children of a node, D width, V vocabulary.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgpt_jax.atomic import NONE
from seqgpt_jax.decoding.batching import (
    bucket,
    check_same_on_all_processes,
    max_read_tokens,
    next_batch,
    on_host,
    padded,
    power_of_two,
)
from seqgpt_jax.decoding.label_trie import ROOT, LabelTrie
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import Decoder, KVCache, NewCache, resize_cache
from seqgpt_jax.prompt import PromptFormat
from seqgpt_jax.vocabulary import EncodedPrompt, Vocabulary

_BEST_NODES = 16  # nodes a row in a pass that looks for the best label: what hardly takes longer than one token would
_MAX_NODES = 1024  # nodes a row in any pass
_SLOTS = 128  # a cache has a multiple of it; half of it is behind the prompt to begin with
_SMALL = sys.float_info.min  # keeps the logarithm of a threshold of 0 or 1 finite
_MAX_LOGITS = 2**26  # float32 logits at once: 256 MiB


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    labels: in the order asked; () where none holds.
    probabilities: label -> probability, of each label whose score is known, in the order asked. What they mean depends
    on the question, see `choose`.
    num_passes, num_tokens: what the model ran for this question; what fills a batch is not counted.
    """

    labels: tuple[str, ...]
    probabilities: Mapping[str, float]
    num_passes: int = 0
    num_tokens: int = 0


def choose(
    model: Decoder,
    vocabulary: Vocabulary,
    format: PromptFormat,
    prompts: Sequence[EncodedPrompt],
    labels: Sequence[tuple[str, ...]],
    *,
    multi_label: Sequence[bool],
    none_allowed: Sequence[bool] | None = None,
    all_probabilities: bool = False,
    threshold: float = 0.5,
    length_normalisation: float = 0.0,
    batch_size: int = 64,
    wanted: Sequence[Sequence[int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Choice]:
    """The choice among labels[i] behind prompts[i], in the order given; labels as the prompt writes them.

    One label (multi_label[i] is False): the one with the highest score; none_allowed[i] adds "None" as an option.
    Probabilities are the softmax over all options. Unless all_probabilities, the search goes best first and ends once
    no other label can be better. Where it ended early, the labels that were not reached count as much in the sum as
    they could possibly have: the probabilities are lower bounds then, and labels without a known score have none.

    Several labels: in the order asked, each is decided given those already chosen. The probability of a label is that
    of being the next one, given that none is which was decided before it; it is chosen where that is above threshold.
    That goes wrong where several labels exclude one another, one of them must hold, and each is improbable by itself:
    the last of them would be left and chosen. So the answer that takes the most probable continuation each time is
    looked at too, and taken where its score, less log(threshold / (1 - threshold)) a label, is the higher one.
    Where a token reaches over a separator into the next label, which BLOOM's and our own tokenizers have none of, the
    probability of what stands before it comes out too low.

    length_normalisation: the score of an answer is divided by its number of tokens to this power. Above 0, scores do
    not only fall along a path, so that all are computed.

    wanted: answers in tokens that are made certain, for measurements of speed. progress(done, total) is called after
    each batch. Where the model lies on several processes, all of them call this with the same arguments. Raises
    UserError for a question without labels, a threshold outside 0..1, a negative length_normalisation, a batch_size
    below 1, or a vocabulary larger than the model's.
    """
    _check(model, vocabulary, prompts, labels, threshold, length_normalisation, batch_size)
    graph, params = nnx.split(model)
    asked = ([prompt.ids for prompt in prompts], labels, multi_label, none_allowed)
    check_same_on_all_processes(params, asked, "the processes have different questions")
    encode = functools.lru_cache(maxsize=1 << 14)(vocabulary.encode)  # many questions have the same labels
    everything = all_probabilities or length_normalisation > 0

    def row(i: int) -> _Row:
        answers = _Answers(LabelTrie(vocabulary.gen_id), encode, format, length_normalisation)
        if multi_label[i]:
            search = _choose_several(answers, labels[i], threshold)
        else:
            none = none_allowed is not None and none_allowed[i]
            search = _choose_one(answers, labels[i], none, everything)
        return _Row(prompts[i].ids, answers.trie, search, None if wanted is None else wanted[i])

    # Where all labels come along with the prompt, they take about as many tokens again as they do in it.
    lengths = [
        len(prompt.ids) + (everything or several) * (len(prompt.ids) - prompt.num_text_ids)
        for prompt, several in zip(prompts, multi_label, strict=True)
    ]
    order = sorted(range(len(prompts)), key=lengths.__getitem__)
    choices: dict[int, Choice] = {}
    while len(choices) < len(order):
        indices = next_batch(order[len(choices) :], lengths, batch_size, max_read_tokens())
        found = _run(graph, params, [row(i) for i in indices], vocabulary.pad_id)
        choices |= zip(indices, found, strict=True)
        if progress is not None:
            progress(len(choices), len(order))
    return [choices[i] for i in range(len(order))]


def _check(
    model: Decoder,
    vocabulary: Vocabulary,
    prompts: Sequence[EncodedPrompt],
    labels: Sequence[tuple[str, ...]],
    threshold: float,
    length_normalisation: float,
    batch_size: int,
) -> None:
    if not 0 <= threshold <= 1:
        raise UserError(f"threshold is {threshold} (it must lie in 0..1)")
    if length_normalisation < 0 or batch_size < 1:
        raise UserError("length_normalisation must be at least 0 and batch_size at least 1")
    if vocabulary.size > model.config.vocab_size:
        known = f"the model has {model.config.vocab_size} ids, the tokenizer {vocabulary.size}"
        raise UserError(f"{known} (use the model's own tokenizer)")
    for i, (prompt, options) in enumerate(zip(prompts, labels, strict=True)):
        assert prompt.ids[-1] == vocabulary.gen_id, "a prompt ends with [GEN]"
        if not options:
            raise UserError(f"question {i} has no labels to choose from (give at least one)")


# --- what to look at: a search yields the nodes that it wants to know the children of, and returns the choice ---------

_Search: TypeAlias = Generator[list[int], None, Choice]
_Looking: TypeAlias = Generator[list[int], None, None]


@dataclass
class _Answers:
    """The answers to one question that were looked at: text -> node, and the node's score."""

    trie: LabelTrie
    encode: Callable[[str], list[int]]
    format: PromptFormat
    length_normalisation: float
    nodes: dict[str, int] = field(default_factory=dict)

    def add(self, chosen: Sequence[str], more: bool = False) -> int:
        text = self.format.write_choice(chosen, more)
        if text not in self.nodes:
            self.nodes[text] = self.trie.add(self.encode(text))
        return self.nodes[text]

    def score(self, node: int) -> float:
        return self.trie.log_probs[node] / max(self.trie.depths[node], 1) ** self.length_normalisation

    def look_at_all(self) -> _Looking:
        nodes = self.trie.unknown()
        for start in range(0, len(nodes), _MAX_NODES):
            yield nodes[start : start + _MAX_NODES]


def _choose_one(answers: _Answers, labels: tuple[str, ...], none_allowed: bool, everything: bool) -> _Search:
    trie = answers.trie
    leaves = {label: answers.add([label]) for label in labels}
    if none_allowed:
        leaves[NONE] = answers.add([])
    if everything or len(trie.unknown()) <= _BEST_NODES:
        yield from answers.look_at_all()
    else:
        yield [ROOT]
        while nodes := trie.most_promising(_BEST_NODES, floor=_highest(trie, leaves.values())):
            yield nodes
    scores = {label: answers.score(leaf) for label, leaf in leaves.items() if not math.isnan(trie.log_probs[leaf])}
    total = _log_sum([*scores.values(), *(trie.log_probs[node] for node in trie.frontier())])
    best = max(scores, key=scores.__getitem__)
    probabilities = {label: math.exp(score - total) for label, score in scores.items() if label != NONE}
    return Choice(() if best == NONE else (best,), probabilities)


def _highest(trie: LabelTrie, leaves: Iterable[int]) -> float:
    return max((trie.log_probs[leaf] for leaf in leaves if not math.isnan(trie.log_probs[leaf])), default=-math.inf)


def _choose_several(answers: _Answers, labels: tuple[str, ...], threshold: float) -> _Search:
    by_threshold = yield from _walk(answers, labels, threshold)
    most_probable = yield from _walk(answers, labels, None)  # nothing new to evaluate where it says the same
    price = math.log(max(threshold, _SMALL)) - math.log(max(1 - threshold, _SMALL))

    def worth(choice: Choice) -> float:
        return answers.score(answers.add(choice.labels)) - price * len(choice.labels)

    return max(by_threshold, most_probable, key=worth)


def _walk(answers: _Answers, labels: tuple[str, ...], threshold: float | None) -> _Search:
    """Through the labels in order, with a stop at each that is chosen: without a threshold, the most probable next."""
    chosen: list[str] = []
    probabilities: dict[str, float] = {}
    rest = labels
    while rest:
        end = answers.add(chosen)
        nexts = [[answers.add([*chosen, label])] for label in rest]
        for label, nodes in zip(rest[:-1], nexts, strict=False):  # behind the last label comes no other
            nodes.append(answers.add([*chosen, label], more=True))
        yield from answers.look_at_all()
        next_scores = [_log_sum([answers.score(node) for node in nodes]) for nodes in nexts]
        end_score = answers.score(end)
        hazards, mass = [], end_score
        for score in reversed(next_scores):
            mass = _log_sum([mass, score])
            hazards.append(math.exp(score - mass))
        hazards.reverse()
        if threshold is None:
            highest = max(next_scores)
            found = [next_scores.index(highest)] if highest > end_score else []
        else:
            found = [place for place, hazard in enumerate(hazards) if hazard > threshold][:1]
        decided = found[0] + 1 if found else len(rest)
        probabilities |= zip(rest[:decided], hazards[:decided], strict=True)
        chosen += [rest[place] for place in found]
        rest = rest[decided:]
    return Choice(tuple(chosen), probabilities)


def _log_sum(values: Sequence[float]) -> float:
    highest = max(values)
    return highest + math.log(sum(math.exp(value - highest) for value in values))


# --- passes ----------------------------------------------------------------------------------------------------------


class _Row:
    """One question on its way: nodes are what its search wants next, choice is there once it wants nothing more."""

    def __init__(
        self, prompt: list[int], trie: LabelTrie, search: _Search, wanted: Sequence[int] | None = None
    ) -> None:
        self.prompt, self.trie, self.search, self.wanted = prompt, trie, search, wanted
        self.choice: Choice | None = None
        self.num_passes, self.num_tokens = 0, len(prompt) - 1  # the last one is the root
        self.num_slots = 0  # behind the prompt, in use
        self.go_on()

    def go_on(self) -> None:
        self.nodes: list[int] = []
        try:
            self.nodes = next(self.search)
        except StopIteration as stop:
            self.choice = replace(stop.value, num_passes=self.num_passes, num_tokens=self.num_tokens)

    def learn(self, log_probs_SC: Sequence[Sequence[float]]) -> None:
        """Takes in what the model gives the children of `nodes`, and goes on."""
        self.num_passes += 1
        self.num_tokens += len(self.nodes)
        for node, log_probs_C in zip(self.nodes, log_probs_SC, strict=False):
            log_probs = log_probs_C[: len(self.trie.children[node])]
            if self.wanted is not None:
                log_probs = _certain(self.trie, node, log_probs, self.wanted)
            self.trie.learn(node, log_probs)
        self.go_on()


def _certain(trie: LabelTrie, node: int, log_probs: Sequence[float], wanted: Sequence[int]) -> Sequence[float]:
    """The log-probabilities of a node's children, of which the next token of `wanted` is made certain."""
    path: list[int] = []
    above = node
    while above != ROOT:
        path.insert(0, trie.tokens[above])
        above = trie.parents[above]
    if path != list(wanted[: len(path)]) or len(path) == len(wanted):
        return log_probs
    tokens = trie.children[node]
    return [0.0 if t == wanted[len(path)] else p - 1e4 for t, p in zip(tokens, log_probs, strict=True)]


class _Call(NamedTuple):
    """What one call evaluates. A row's nodes stand behind its prompt in the first call, alone in the later ones."""

    tokens_BT: np.ndarray
    positions_BT: np.ndarray
    lengths_B: np.ndarray  # prompt tokens; 0 for a row that fills the batch
    used_B: np.ndarray  # slots in use before this call
    sees_BWK: np.ndarray  # bool: the slots that a node sees, counted from the end of the prompt
    outputs_BS: np.ndarray  # columns whose hidden states are wanted
    children_BSC: np.ndarray  # tokens whose log-probabilities are wanted there


def _run(graph: nnx.GraphDef[Decoder], params: nnx.State, batch: list[_Row], pad_id: int) -> list[Choice]:
    """Evaluates what the rows' searches ask for until each has its choice."""
    rows, num_rows, num_slots = batch, power_of_two(len(batch)), 0
    num_prompt = bucket(max(len(row.prompt) for row in rows))
    cache: KVCache | None = None
    while any(row.nodes for row in rows):
        active = [i for i, row in enumerate(rows) if row.nodes]
        behind = power_of_two(max(_SLOTS // 2, *(row.num_slots + len(row.nodes) for row in rows)))
        needed = max(num_slots, -(-(num_prompt + behind) // _SLOTS) * _SLOTS)
        few = 4 * len(active) <= num_rows  # not at half: each size of a batch is one more program to compile
        if cache is not None and (few or needed > num_slots):
            kept = np.arange(num_rows)
            if few:
                rows, num_rows = [rows[i] for i in active], power_of_two(len(active))
                kept = np.resize(active, num_rows)
            cache = _resized(cache, kept, needed)
        num_slots = needed
        call = _lay_out(rows, num_rows, num_slots, pad_id, first=cache is None)
        log_probs, cache = _evaluate(graph, params, cache, call)
        for row, log_probs_SC in zip(rows, on_host(log_probs), strict=False):
            if row.nodes:
                row.learn(log_probs_SC.tolist())
    choices = [row.choice for row in batch if row.choice is not None]
    assert len(choices) == len(batch)
    return choices


def _lay_out(rows: list[_Row], num_rows: int, num_slots: int, pad_id: int, first: bool) -> _Call:
    """Gives the nodes their slots, and says where all goes. In the first call the root is the prompt's last column."""
    num_outputs = power_of_two(max(len(row.nodes) for row in rows))
    if not first:
        num_outputs = max(num_outputs, _BEST_NODES)
    num_columns = bucket(max(len(row.prompt) + len(row.nodes) - 1 for row in rows)) if first else num_outputs
    num_children = power_of_two(max(8, *(len(row.trie.children[node]) for row in rows for node in row.nodes)))
    tokens, positions = [], []
    lengths_B, used_B = np.zeros((2, num_rows), np.int32)
    sees_BWK = np.zeros((num_rows, num_outputs, num_slots), bool)
    children_BSC = np.zeros((num_rows, num_outputs, num_children), np.int32)
    outputs_BS = np.broadcast_to(np.arange(num_outputs, dtype=np.int32), (num_rows, num_outputs)).copy()
    for i, row in enumerate(rows):
        trie, last = row.trie, len(row.prompt) - 1
        lengths_B[i] = len(row.prompt)
        used_B[i] = 0 if first else len(row.prompt) + row.num_slots
        if first:
            assert row.nodes[0] == ROOT
            outputs_BS[i] = np.minimum(last + outputs_BS[i], num_columns - 1)
        new = row.nodes[1:] if first else row.nodes
        for w, node in enumerate(new):
            if trie.slots[node] is None and node != ROOT:
                trie.slots[node] = row.num_slots  # else it is here again for a new child's sake, and nothing sees it
            row.num_slots += 1
            sees_BWK[i, w, trie.path_slots(node)] = True
        for s, node in enumerate(row.nodes):
            children_BSC[i, s, : len(trie.children[node])] = list(trie.children[node])
        tokens.append([*(row.prompt if first else []), *(trie.tokens[node] for node in new)])
        positions.append([*(range(last + 1) if first else []), *(last + trie.depths[node] for node in new)])
    return _Call(
        padded(tokens, num_rows, num_columns, pad_id),
        padded(positions, num_rows, num_columns, 0),
        lengths_B,
        used_B,
        sees_BWK,
        outputs_BS,
        children_BSC,
    )


@functools.partial(jax.jit, static_argnames=("graph",), donate_argnames=("cache",))
def _evaluate(
    graph: nnx.GraphDef[Decoder], params: nnx.State, cache: KVCache | None, call: _Call
) -> tuple[jax.Array, KVCache]:
    """float32 [B, S, C]: log-probabilities of the wanted children; and the cache. It is made where there is none."""
    model = nnx.merge(graph, params)
    tokens_BT, positions_BT, lengths_B, used_B, sees_BWK, outputs_BS, children_BSC = (jnp.asarray(x) for x in call)
    slots_BT = used_B[:, None] + jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None, :]
    first_node_B = jnp.maximum(lengths_B - used_B, 0)
    hidden_BSD, cache = model(
        tokens_BT,
        positions_BT,
        jnp.ones_like(tokens_BT),
        NewCache(sees_BWK.shape[2]) if cache is None else cache._replace(lengths_B=used_B),
        outputs_BS=outputs_BS,
        visible_BTK=_visible(slots_BT, lengths_B, first_node_B, sees_BWK),
    )
    assert cache is not None
    return _child_log_probs(model, hidden_BSD, children_BSC), cache


def _visible(slots_BT: jax.Array, lengths_B: jax.Array, first_node_B: jax.Array, sees_BWK: jax.Array) -> jax.Array:
    """bool [B, T, K]: the prompt sees itself causally; a node sees the whole prompt, and behind it what sees_BWK says.

    first_node_B is the column of a row's first node.
    """
    num_nodes, num_slots = sees_BWK.shape[1:]
    nodes_BT = jnp.arange(slots_BT.shape[1], dtype=jnp.int32)[None, :] - first_node_B[:, None]
    behind_BK = jnp.arange(num_slots, dtype=jnp.int32)[None, :] - lengths_B[:, None]
    sees_BTK = jnp.take_along_axis(sees_BWK, jnp.clip(nodes_BT, 0, num_nodes - 1)[:, :, None], axis=1)
    sees_BTK &= ((nodes_BT >= 0) & (nodes_BT < num_nodes))[:, :, None]
    sees_BTK = jnp.take_along_axis(sees_BTK, jnp.maximum(behind_BK, 0)[:, None, :], axis=2)
    causal_BTK = jnp.arange(num_slots, dtype=jnp.int32)[None, None, :] <= slots_BT[:, :, None]
    return jnp.where((behind_BK < 0)[:, None, :], causal_BTK, sees_BTK)


def _child_log_probs(model: Decoder, hidden_BSD: jax.Array, children_BSC: jax.Array) -> jax.Array:
    """A piece of the nodes at a time where all their logits would be too many."""

    def of_piece(piece: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits_BSV = model.head(piece[0])
        wanted_BSC = jnp.take_along_axis(logits_BSV, piece[1], axis=-1)
        return wanted_BSC - jax.nn.logsumexp(logits_BSV, axis=-1, keepdims=True)

    num_rows, num_nodes, num_children = children_BSC.shape
    size = power_of_two(max(_MAX_LOGITS // (num_rows * model.config.vocab_size), 1) + 1) // 2
    if num_nodes <= size:
        return of_piece((hidden_BSD, children_BSC))
    assert num_nodes % size == 0, "both are powers of two"

    def pieces(x_BSY: jax.Array) -> jax.Array:
        return x_BSY.reshape(num_rows, num_nodes // size, size, -1).swapaxes(0, 1)

    found = jax.lax.map(of_piece, (pieces(hidden_BSD), pieces(children_BSC)))
    return found.swapaxes(0, 1).reshape(num_rows, num_nodes, num_children)


_resized = jax.jit(resize_cache, static_argnames="num_slots")
