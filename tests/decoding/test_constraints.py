"""The byte automaton against a plain reading of its rules, and the speculative decoder against one token a pass."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqgpt_jax.decoding import speculation
from seqgpt_jax.decoding.constraints import TokenBytes
from seqgpt_jax.decoding.extraction import Copied, ExtractionPrompt, extract
from seqgpt_jax.models.bloom import Bloom, BloomConfig
from seqgpt_jax.occurrences import normalise_text
from seqgpt_jax.prompt import SEQGPT_V1
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer
from tests.models.tiny import on_mesh, random_model

LABELS = ("who", "城市", "who else", "a b")
WORDS = (
    *("New", "York,", "York", "None", "Nonesuch", "aaaa", "aaa", "ab", "abab", ".", ",", "，"),
    *("北京", "北京市", "李雷和韩梅梅", "１２", "Ａ", "\u3000", "\xa0", "\x00\x07"),
    *("😀👨\u200d👩\u200d👧", "\xe9", "e\u0301"),
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return train_tokenizer(["输入: 抽取: 输出: None\n New York York 北京 who who else None\n aaa abab aab"] * 3, 320)


@pytest.fixture(scope="module")
def tokens(vocabulary: Vocabulary) -> TokenBytes:
    return TokenBytes(vocabulary.token_bytes())


def _model(vocabulary: Vocabulary, seed: int) -> Bloom:
    config = BloomConfig(vocab_size=vocabulary.size, num_layers=1, width=16, num_heads=2)
    return random_model(config, seed=seed, spread=0.8)


def _prompt(vocabulary: Vocabulary, text: str, labels: Sequence[str], limit: int = 40) -> ExtractionPrompt:
    prompt = vocabulary.encode_prompt(SEQGPT_V1, "extract", text, labels)
    starts = [vocabulary.encode(start) for start in SEQGPT_V1.line_starts(labels)]
    return ExtractionPrompt(prompt.ids, prompt.num_text_ids, text, starts, limit)


# --- the rules, read plainly -----------------------------------------------------------------------------------------


def _strings_in_order(text: str) -> list[str]:
    """Every string that may be a span: by its first occurrence in bytes, longer first."""
    found = {
        text[start:end]
        for start in range(len(text))
        for end in range(start + 1, len(text) + 1)
        if not text[start].isspace() and not text[end - 1].isspace()
    } - {"None"}
    data = text.encode()
    return sorted(found, key=lambda string: (data.find(string.encode()), -len(string.encode())))


def _lines(text: str, label: str) -> Iterator[bytes]:
    """Every line that a label may get, for texts of a few characters."""
    strings = _strings_in_order(text)
    yield f"{label}: None\n".encode()
    for chosen in range(1, 2 ** len(strings)):
        spans = [string for i, string in enumerate(strings) if chosen >> i & 1]
        yield f"{label}: {chr(9).join(spans)}\n".encode()


def _greedy(
    model: Bloom, vocabulary: Vocabulary, prompt: ExtractionPrompt, lines: list[list[bytes]], token_bytes: list[bytes]
) -> list[int]:
    """Token by token over whole sequences: the best token with which the bytes still begin a line that is allowed."""
    answer: list[int] = []
    for label, allowed in zip(prompt.labels, lines, strict=True):
        answer += label
        written = b"".join(token_bytes[token] for token in label)
        while written not in allowed:
            logits = _last_logits(model, [*prompt.ids, *answer])
            possible = [
                token
                for token, raw in enumerate(token_bytes)
                if raw and any(line.startswith(written + raw) for line in allowed)
            ]
            answer.append(max(possible, key=lambda token: (logits[token], -token)))
            written += token_bytes[answer[-1]]
    return answer


@functools.partial(jax.jit, static_argnums=0)
def _logits(graph, params, ids_1T, last):  # type: ignore[no-untyped-def]
    model = nnx.merge(graph, params)
    positions_1T = jnp.arange(ids_1T.shape[1], dtype=jnp.int32)[None]
    hidden_1TD, _ = model(ids_1T, positions_1T, jnp.ones_like(ids_1T))
    return model.head(hidden_1TD[:, last])[0]


def _last_logits(model: Bloom, ids: list[int]) -> np.ndarray:
    graph, params = nnx.split(model)
    padded = np.zeros((1, 128), np.int32)
    padded[0, : len(ids)] = ids
    return np.asarray(_logits(graph, params, padded, len(ids) - 1))


@pytest.mark.parametrize(
    "text", ["ab a", "aaa", "York", "a None", "北京 北", "None", "Nona", "é😀", "x, x", "No None"[:6]]
)
def test_greedy_by_the_rules_read_plainly(vocabulary: Vocabulary, tokens: TokenBytes, text: str) -> None:
    token_bytes = [raw or b"" for raw in vocabulary.token_bytes()]
    lines = [list(_lines(text, label)) for label in LABELS[:2]]
    for seed in range(2):
        model = _model(vocabulary, seed)
        prompt = _prompt(vocabulary, text, LABELS[:2], limit=1000)
        expected = _greedy(model, vocabulary, prompt, lines, token_bytes)
        (found,) = extract(model, [prompt], tokens)
        assert list(found.tokens) == expected


# --- whatever the text ------------------------------------------------------------------------------------------------

CHARACTERS = st.one_of(
    st.sampled_from(list("ab ,.NoneYork北京李\u0301é😀\u200d１Ａ\u3000\xa0\x00\x07")), st.characters(codec="utf-8")
)
TEXTS = (
    st.one_of(
        st.text(CHARACTERS, min_size=1, max_size=24),
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join),
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map("".join),
    )
    .map(normalise_text)
    .filter(str.strip)
)
CASES = st.tuples(
    TEXTS, st.lists(st.sampled_from(LABELS), min_size=1, max_size=3, unique=True), st.sampled_from([40, 40, 40, 8, 0])
)


def _check(text: str, labels: Sequence[str], raw: str, found: Copied) -> int:
    """Everything that is promised; the number of spans."""
    parsed = SEQGPT_V1.parse(raw, "extract", labels)
    assert parsed.problems == ()
    assert isinstance(parsed.answer, dict)
    data = text.encode()
    for strings in parsed.answer.values():
        assert all(string in text and string == string.strip() and string != "None" for string in strings)
        places = [(data.find(string.encode()), -len(string.encode())) for string in strings]
        assert places == sorted(set(places))
    assert all(0 < probability < 1 + 1e-5 for probability in found.probabilities)
    spans = sum(map(len, parsed.answer.values()))
    assert len(found.probabilities) == spans + len(labels) - len(parsed.answer)
    return spans


@pytest.mark.parametrize("num_batches", [3, pytest.param(320, marks=pytest.mark.slow)], ids=["96", "10240"])
def test_answers_are_well_formed_whatever_the_text(
    vocabulary: Vocabulary, tokens: TokenBytes, num_batches: int
) -> None:
    """And a block a pass writes what a token a pass does; in float32 but for ties of under 1e-4, which are counted."""
    models = [_model(vocabulary, seed) for seed in (0, 2, 4)]  # they write 0.6, 6 and 6 tabs an answer
    num_spans, num_near_ties = 0, 0

    @settings(max_examples=num_batches, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(CASES, min_size=32, max_size=32), st.sampled_from(models))
    def check(cases: list[tuple[str, list[str], int]], model: Bloom) -> None:
        nonlocal num_spans, num_near_ties
        prompts = [_prompt(vocabulary, *case) for case in cases]
        answers = extract(model, prompts, tokens, batch_size=4)
        plain = extract(model, prompts, tokens, batch_size=4, block=1)
        raws = vocabulary.decode_batch([answer.tokens for answer in answers])
        for (text, labels, _), prompt, raw, answer, one in zip(cases, prompts, raws, answers, plain, strict=True):
            num_spans += _check(text, labels, raw, answer)
            if answer.tokens != one.tokens:
                num_near_ties += 1
                pairs = zip(answer.tokens, one.tokens, strict=False)
                same = next(i for i, (a, b) in enumerate(pairs) if a != b)
                logits = _last_logits(model, [*prompt.ids, *answer.tokens[:same]])
                assert abs(logits[answer.tokens[same]] - logits[one.tokens[same]]) < 1e-4
            else:
                np.testing.assert_allclose(answer.probabilities, one.probabilities, rtol=1e-3)

    check()
    assert num_spans > 32 * num_batches
    assert num_near_ties <= num_batches
    print(f"{32 * num_batches} cases, {num_spans} spans, {num_near_ties} near ties")


def test_in_float64_there_are_no_ties(vocabulary: Vocabulary, tokens: TokenBytes) -> None:
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        model = _model(vocabulary, 1)
        state = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), nnx.state(model))
        model.config = dataclasses.replace(model.config, param_dtype="float64", compute_dtype="float64")
        nnx.update(model, state)
        texts = ["".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(8)]
        prompts = [_prompt(vocabulary, text, LABELS[:3]) for text in texts if text.strip()]
        answers = extract(model, prompts, tokens, batch_size=4)
        plain = extract(model, prompts, tokens, batch_size=4, block=1)
        assert [answer.tokens for answer in answers] == [answer.tokens for answer in plain]
        assert sum(answer.num_passes for answer in answers) < sum(len(answer.tokens) for answer in answers)


def test_eight_devices_extract_as_one(vocabulary: Vocabulary, tokens: TokenBytes) -> None:
    model = _model(vocabulary, 2)
    prompts = [
        _prompt(vocabulary, text, labels) for text in ("New York", "北京 aab") for labels in (LABELS[:2], LABELS[2:])
    ]
    answers = [answer.tokens for answer in extract(model, prompts, tokens)]
    assert [answer.tokens for answer in extract(on_mesh(model, (2, 2, 2)), prompts, tokens)] == answers


def test_few_programs_serve_any_text(vocabulary: Vocabulary, tokens: TokenBytes) -> None:
    model, rng = _model(vocabulary, 2), np.random.default_rng(1)
    speculation.run_blocks.clear_cache()
    for _ in range(4):
        texts = ["".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(4)]
        extract(model, [_prompt(vocabulary, text, LABELS[:1]) for text in texts if text.strip()], tokens, batch_size=4)
    assert speculation.run_blocks._cache_size() <= 3  # 4, 2 and 1 rows
