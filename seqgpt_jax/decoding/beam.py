"""Beam search by the rule of transformers 5 (`GenerationMixin._beam_search`), the same answers token by token.

Of all continuations of a prompt's K beams the 2K with the highest sums of log-probabilities are kept. Those among the
first K that end (EOS, or the limit) become hypotheses, with the score sum / length ** length_penalty, and the best K of
all times stay; the best K that do not end are the next beams. A prompt is done at its limit, when K hypotheses exist
and early_stopping is True, or when the K-th hypothesis is not below what the best beam could still reach: its sum over
the length so far to the power of length_penalty, or over the limit with "never" and a positive penalty.

A prompt is run once. All of its beams write into one row of the cache, a beam being a query that sees the prompt and
the tokens on its own path: when beams change places, only what they see does.

transformers 4.28.1, for which SeqGPT's script was written, differs in scores alone (its generation/beam_search.py):

- A length counts the prompt too (its padding included), and not the EOS. With length_penalty 1 hypotheses are
  therefore compared by little more than their sums: shorter answers win more often than today.
- "What a beam could still reach" takes the best of all continuations, those that end included; the limit counts the
  prompt; and in a batch the length so far is one too many for each prompt that stands before.
- At the limit all K beams that did not end become hypotheses. Today the first K continuations do, ended or not.

Shapes: B batch, T prompt tokens, A answer tokens, K beams, C = 2K continuations, S = A * K slots of answers,
V vocabulary, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgpt_jax.decoding.batching import Rows, decode_batches
from seqgpt_jax.decoding.generate import prefill
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.decoder import Decoder, KVCache

EarlyStopping = bool | Literal["never"]

_NEVER = -1e9  # the score of what is not there; finite, as in transformers


def beam_search(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    num_beams: int,
    max_new_tokens: int | Sequence[int],
    eos_id: int,
    pad_id: int = 0,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    repetition_penalty: float = 1.0,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """The best answer that each prompt's beams found, as `generate` gives the greedy one.

    repetition_penalty multiplies the log-probability of every token that the prompt or the beam has (Keskar et al.
    2019, arXiv 1909.05858, with transformers' log-probabilities for its scores). batch_size counts beams. UserError as
    in generate, and for less than two beams, more than half the vocabulary, or a repetition_penalty not above 0.
    """
    if not 2 <= num_beams <= model.config.vocab_size // 2:
        most = model.config.vocab_size // 2
        raise UserError(f"num_beams is {num_beams} (it must be 2 .. {most}; one beam is greedy decoding)")
    if not repetition_penalty > 0:
        raise UserError(f"repetition_penalty is {repetition_penalty} (it must be above 0; 1 changes nothing)")
    if early_stopping not in (True, False, "never"):
        raise UserError(f"early_stopping is {early_stopping!r} (choose True, False or 'never')")
    hopes_for_limit = early_stopping == "never" and length_penalty > 0

    def decode(graph: nnx.GraphDef[Decoder], params: nnx.State, rows: Rows, num_new: int) -> jax.Array:
        lengths_A = np.arange(1, num_new + 1, dtype=np.float64)
        rule = _Rule(
            (lengths_A**length_penalty).astype(np.float32),
            np.float32(repetition_penalty) if repetition_penalty != 1 else None,
        )
        return _decode(graph, params, rows, rule, eos_id, num_new, num_beams, early_stopping is True, hopes_for_limit)

    return decode_batches(
        decode,
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        batch_size=max(1, batch_size // num_beams),
        progress=progress,
    )


class _Rule(NamedTuple):
    divisors_A: np.ndarray  # of the score of an answer of 1, 2, ... tokens
    repetition_penalty: np.float32 | None


class _Beams(NamedTuple):
    """Best first."""

    scores_BK: jax.Array
    tokens_BKA: jax.Array  # V behind the end


class _State(NamedTuple):
    step: jax.Array
    done_B: jax.Array
    running: _Beams  # scores are sums of log-probabilities
    hypotheses: _Beams  # scores are divided; _NEVER where there is none yet
    hidden_BKD: jax.Array  # of each running beam's last token
    sees_BKS: jax.Array  # the slots on its path; beam k's token of step s is in slot s * K + k
    cache: KVCache


@functools.partial(jax.jit, static_argnames=("graph", "num_new", "num_beams", "stops_when_full", "hopes_for_limit"))
def _decode(
    graph: nnx.GraphDef[Decoder],
    params: nnx.State,
    rows: Rows,
    rule: _Rule,
    eos_id: jax.Array,
    num_new: int,
    num_beams: int,
    stops_when_full: bool,
    hopes_for_limit: bool,
) -> jax.Array:
    model = nnx.merge(graph, params)
    num_rows, num_columns = rows.tokens_BT.shape
    vocab_size, per_beam = model.config.vocab_size, (num_rows, num_beams)
    lengths_B, limits_B = jnp.asarray(rows.lengths_B), jnp.asarray(rows.limits_B)
    divisors_A = jnp.asarray(rule.divisors_A)
    beams_K, slots_S = jnp.arange(num_beams), jnp.arange(num_new * num_beams)
    is_prompt_BT = jnp.arange(num_columns)[None, :] < lengths_B[:, None]
    prompts_BT = jnp.where(is_prompt_BT, jnp.asarray(rows.tokens_BT), vocab_size)

    def over_beams(x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x[:, None], (*per_beam, *x.shape[1:]))

    def log_probs(state: _State) -> jax.Array:
        log_probs_BKV = jax.nn.log_softmax(model.head(state.hidden_BKD))
        if rule.repetition_penalty is None:
            return log_probs_BKV
        seen_BKX = jnp.concatenate([over_beams(prompts_BT), state.running.tokens_BKA], axis=-1)
        penalised_BKX = jnp.take_along_axis(log_probs_BKV, seen_BKX, axis=-1, mode="clip") * rule.repetition_penalty
        indices = (jnp.arange(num_rows)[:, None, None], beams_K[None, :, None], seen_BKX)
        return log_probs_BKV.at[indices].set(penalised_BKX, mode="drop")

    def step(state: _State) -> _State:
        sums_BKV = log_probs(state) + state.running.scores_BK[..., None]
        sums_BC, best_BC = jax.lax.top_k(sums_BKV.reshape(num_rows, -1), 2 * num_beams)
        parents_BC, next_BC = best_BC // vocab_size, (best_BC % vocab_size).astype(jnp.int32)
        tokens_BCA = _pick(state.running.tokens_BKA, parents_BC).at[:, :, state.step].set(next_BC)
        ends_BC = (next_BC == eos_id) | (state.step + 1 >= limits_B)[:, None]

        going_on_BC = jnp.where(ends_BC, _NEVER, sums_BC)
        running_BK, chosen_BK = jax.lax.top_k(going_on_BC, num_beams)
        hypotheses = _merged(state, sums_BC / divisors_A[state.step], ends_BC, tokens_BCA)

        hoped_for = jnp.maximum(limits_B, 1) - 1 if hopes_for_limit else jnp.full_like(limits_B, state.step)
        can_improve_B = running_BK[:, 0] / divisors_A[hoped_for] > hypotheses.scores_BK[:, -1]
        done_B = state.done_B | ~can_improve_B | (state.step + 1 >= limits_B)
        if stops_when_full:
            done_B |= hypotheses.scores_BK[:, -1] > _NEVER

        own_1KS = slots_S[None, None, :] == (state.step * num_beams + beams_K)[None, :, None]
        sees_BKS = _pick(state.sees_BKS, _pick(parents_BC, chosen_BK)) | own_1KS
        hidden_BKD, cache = model(
            _pick(next_BC, chosen_BK),
            over_beams(lengths_B + state.step),
            jnp.ones(per_beam, jnp.int32),
            state.cache,
            visible_BTK=jnp.concatenate([over_beams(is_prompt_BT), sees_BKS], axis=-1),
        )
        assert cache is not None
        running = _Beams(running_BK, _pick(tokens_BCA, chosen_BK))
        return _State(state.step + 1, done_B, running, hypotheses, hidden_BKD, sees_BKS, cache)

    hidden_B1D, cache = prefill(model, rows.tokens_BT, rows.lengths_B, num_columns + num_new * num_beams)
    none = _Beams(jnp.full(per_beam, _NEVER), jnp.full((*per_beam, num_new), vocab_size, jnp.int32))
    start = _State(
        step=jnp.zeros((), jnp.int32),
        done_B=limits_B <= 0,
        running=none._replace(scores_BK=none.scores_BK.at[:, 0].set(0.0)),  # all are the prompt: one is enough
        hypotheses=none,
        hidden_BKD=over_beams(hidden_B1D[:, 0]),
        sees_BKS=jnp.zeros((*per_beam, slots_S.size), bool),
        cache=cache._replace(lengths_B=jnp.full_like(lengths_B, num_columns)),  # answers start in one slot
    )
    end = jax.lax.while_loop(lambda state: ~state.done_B.all(), step, start)
    return end.hypotheses.tokens_BKA[:, 0]


def _merged(state: _State, scores_BC: jax.Array, ends_BC: jax.Array, tokens_BCA: jax.Array) -> _Beams:
    """The hypotheses with those among the first K continuations that end; a prompt that is done keeps what it has."""
    num_beams = state.running.scores_BK.shape[1]
    counts_BC = ends_BC & (jnp.arange(scores_BC.shape[1]) < num_beams)[None, :] & ~state.done_B[:, None]
    scores_BX = jnp.concatenate([state.hypotheses.scores_BK, jnp.where(counts_BC, scores_BC, _NEVER)], axis=1)
    scores_BK, kept_BK = jax.lax.top_k(scores_BX, num_beams)
    return _Beams(scores_BK, _pick(jnp.concatenate([state.hypotheses.tokens_BKA, tokens_BCA], axis=1), kept_BK))


def _pick(array: jax.Array, index_BX: jax.Array) -> jax.Array:
    """array[b, index[b, x]]: [B, Y, ...] -> [B, X, ...]."""
    return jnp.take_along_axis(array, index_BX.reshape(index_BX.shape + (1,) * (array.ndim - 2)), axis=1)
