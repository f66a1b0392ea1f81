"""Scores of answers against transformers' on whole sequences; choices against a plain walk or a known distribution."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel

from seqgpt_jax.answering import Answerer, DecodeConfig
from seqgpt_jax.atomic import AtomicExample, Source
from seqgpt_jax.decoding import scoring
from seqgpt_jax.decoding.label_trie import LabelTrie
from seqgpt_jax.decoding.scoring import Choice, choose
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.bloom import Bloom, BloomConfig
from seqgpt_jax.prompt import GEN, SEQGPT_V1
from seqgpt_jax.vocabulary import EncodedPrompt, Vocabulary, train_tokenizer
from tests.models.tiny import on_mesh, random_model, torch_logits, torch_twin

WORDS = (
    "card",
    "fee",
    "lost",
    "stolen",
    "top",
    "up",
    "transfer",
    "退款",
    "查询",
    "余额",
    "why",
    "is",
    "my",
    "not",
    "yet",
)
LABELS = (
    "card", "card fee", "card fee refund", "cards", "lost card", "lost", "stolen card", "退款", "退款查询", "查询",
    "余额", "top up", "top up failed", "why?", "why", "fee.", "fee", "fee,", "a (b)", "a", "(b)", "b)",
    "transfer not working", "transfer", "not working", "working yet", "yet!", "card 2", "card 23", "None of it",
)  # fmt: skip


@pytest.fixture(scope="module")
def plain() -> Vocabulary:
    """No token reaches over the end of a label."""
    return train_tokenizer([*LABELS, "输入: 抽取: 分类: 输出: None\n the card is lost"] * 3, 420)


@pytest.fixture(scope="module")
def merging() -> Vocabulary:
    """Tokens such as ".\\n" and "，(": those of a label depend on what follows it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["</s>", "<pad>", GEN], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(["fee.\n", "a，(b)\n", "card，lost\n", "退款，fee.\n", "why?，card\n"] * 9, trainer)
    vocabulary = Vocabulary(tokenizer, {"eos_token": "</s>", "pad_token": "<pad>"})
    assert vocabulary.encode("fee.\n")[:-1] != vocabulary.encode("fee.")
    return vocabulary


@functools.cache
def _model(layer_loop: str = "scan") -> Bloom:
    config = BloomConfig(vocab_size=448, num_layers=2, width=32, num_heads=4, layer_loop=layer_loop)
    return random_model(config, seed=1, spread=0.15)


def _prompts(vocabulary: Vocabulary, labels: Sequence[tuple[str, ...]], seed: int = 0) -> list[EncodedPrompt]:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 8))) for _ in labels]
    return [
        vocabulary.encode_prompt(SEQGPT_V1, "classify", text, asked) for text, asked in zip(texts, labels, strict=True)
    ]


def _brute_force(vocabulary: Vocabulary, prompt: EncodedPrompt) -> Callable[[str], float]:
    """The log-probability of an answer by transformers: one forward pass over the prompt and the whole answer."""
    twin = _twin()

    @functools.cache
    def score(text: str) -> float:
        ids = vocabulary.encode(text)
        logits_TV = torch.tensor(torch_logits(twin, [*prompt.ids, *ids])).double()
        log_probs_TV = torch.log_softmax(logits_TV, dim=-1)[len(prompt.ids) - 1 : -1]
        return float(log_probs_TV[torch.arange(len(ids)), torch.tensor(ids)].sum())

    return score


@functools.cache
def _twin():  # type: ignore[no-untyped-def]
    return torch_twin(_model())


def _softmax(scores: Mapping[str, float]) -> dict[str, float]:
    total = sum(math.exp(score) for score in scores.values())
    return {label: math.exp(score) / total for label, score in scores.items()}


def _close(found: Mapping[str, float], expected: Mapping[str, float], tolerance: float = 1e-4) -> None:
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), atol=tolerance, rtol=1e-3)


def _choose(
    vocabulary: Vocabulary, prompts: Sequence[EncodedPrompt], labels: Sequence[tuple[str, ...]], **rest: object
) -> list[Choice]:
    settings = {"model": _model(), "multi_label": [False] * len(prompts), "batch_size": 8, **rest}
    return choose(vocabulary=vocabulary, format=SEQGPT_V1, prompts=prompts, labels=labels, **settings)  # type: ignore[arg-type]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of children_BSC of every call of the model."""
    seen: list[tuple[int, ...]] = []
    evaluate = scoring._evaluate

    def watched(graph, params, cache, call):  # type: ignore[no-untyped-def]
        seen.append(call.children_BSC.shape)
        return evaluate(graph, params, cache, call)

    monkeypatch.setattr(scoring, "_evaluate", watched)
    return seen


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", ["plain", "merging"])
def test_the_score_of_an_answer_is_that_of_its_tokens_alone(tokenizer: str, request: pytest.FixtureRequest) -> None:
    vocabulary = request.getfixturevalue(tokenizer)
    (prompt,) = _prompts(vocabulary, [LABELS])
    answers = scoring._Answers(LabelTrie(vocabulary.gen_id), vocabulary.encode, SEQGPT_V1, 0.0)
    nodes = {label: answers.add([label]) for label in LABELS}

    def search() -> scoring._Search:
        yield from answers.look_at_all()
        return Choice((), {label: answers.score(node) for label, node in nodes.items()})

    graph, params = nnx.split(_model())
    (found,) = scoring._run(graph, params, [scoring._Row(prompt.ids, answers.trie, search())], vocabulary.pad_id)
    expected = {label: _brute_force(vocabulary, prompt)(f"{label}\n") for label in LABELS}
    np.testing.assert_allclose(list(found.probabilities.values()), list(expected.values()), atol=2e-4)
    (choice,) = _choose(vocabulary, [prompt], [LABELS], all_probabilities=True)
    _close(choice.probabilities, _softmax(expected), 1e-5)
    assert choice.labels == (max(expected, key=expected.__getitem__),)


def test_length_normalisation_by_hand(plain: Vocabulary) -> None:
    labels = LABELS[:6]
    (prompt,) = _prompts(plain, [labels])
    (choice,) = _choose(plain, [prompt], [labels], length_normalisation=0.5)
    score, num_tokens = _brute_force(plain, prompt), {label: len(plain.encode(f"{label}\n")) for label in labels}
    expected = _softmax({label: score(f"{label}\n") / num_tokens[label] ** 0.5 for label in labels})
    assert len({*num_tokens.values()}) > 1
    _close(choice.probabilities, expected)


def test_none_is_an_option_where_it_is_allowed(plain: Vocabulary) -> None:
    labels = LABELS[:4]
    (prompt,) = _prompts(plain, [labels])
    (choice,) = _choose(plain, [prompt], [labels], none_allowed=[True])
    score = _brute_force(plain, prompt)
    scores = {label: score(f"{label}\n") for label in (*labels, "None")}
    expected = _softmax(scores)
    none = expected.pop("None")
    _close(choice.probabilities, expected)
    assert choice.labels == (() if none > max(expected.values()) else (max(expected, key=expected.__getitem__),))


# --- searches without a model ----------------------------------------------------------------------------------------


def _answered(
    search: scoring._Search, trie: LabelTrie, child_log_probs: Callable[[str, str], list[float]]
) -> tuple[Choice, int]:
    """The choice of a search, and how many nodes it looked at; a character is a token, so a node is a text."""
    num_nodes = 0
    try:
        nodes = next(search)
        while True:
            for node in nodes:
                text, above = "", node
                while above:
                    text, above = chr(trie.tokens[above]) + text, trie.parents[above]
                trie.learn(node, child_log_probs(text, "".join(map(chr, trie.children[node]))))
            num_nodes += len(nodes)
            nodes = next(search)
    except StopIteration as stop:
        return stop.value, num_nodes


def _answers() -> scoring._Answers:
    return scoring._Answers(LabelTrie(0), lambda text: list(map(ord, text)), SEQGPT_V1, 0.0)


def _label_sets(number: int, num_labels: tuple[int, int], seed: int = 0) -> list[tuple[str, ...]]:
    rng = np.random.default_rng(seed)
    labels = (
        (" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(rng.integers(*num_labels)))
        for _ in range(number)
    )
    return [tuple(dict.fromkeys(one)) for one in labels]


def test_best_first_finds_the_best_of_all_and_looks_at_less() -> None:
    num_nodes, num_unknown = np.zeros(2, int), 0
    for number, labels in enumerate(_label_sets(200, (2, 60))):

        def child_log_probs(text: str, children: str, number: int = number) -> list[float]:
            """Of a model that is as sure of itself as it may be: the same for a text whenever it is asked."""
            rng = np.random.default_rng([number, *map(ord, text)])
            chances = rng.dirichlet(np.full(len(children) + 1, 0.3))
            return [math.log(chances[sorted(children).index(child)] + 1e-9) for child in children]

        choices = []
        for kind, everything in enumerate((False, True)):
            answers = _answers()
            search = scoring._choose_one(answers, labels, False, everything)
            choice, looked = _answered(search, answers.trie, child_log_probs)
            choices.append(choice)
            num_nodes[kind] += looked
        best, whole = choices
        assert best.labels == whole.labels
        assert best.labels[0] in best.probabilities
        assert all(
            probability <= whole.probabilities[label] + 1e-12 for label, probability in best.probabilities.items()
        )
        num_unknown += len(best.probabilities) < len(whole.probabilities)
    assert num_nodes[0] < 0.6 * num_nodes[1]
    assert num_unknown > 50


# --- several labels --------------------------------------------------------------------------------------------------


def _walk(
    score: Callable[[str], float], labels: tuple[str, ...], threshold: float | None
) -> tuple[str, dict[str, float]]:
    """In words of strings: what is written for the labels that are chosen, and the probability of each."""
    written, probabilities = "", {}
    for number, label in enumerate(labels):
        start = written and written + "，"
        later = {
            other: math.exp(score(f"{start}{other}\n")) + (other != labels[-1] and math.exp(score(f"{start}{other}，")))
            for other in labels[number:]
        }
        end = math.exp(score(f"{written or 'None'}\n"))
        probabilities[label] = later[label] / (sum(later.values()) + end)
        if threshold is not None:
            chosen = probabilities[label] > threshold
        else:  # behind the last chosen label: is this the most probable of all that may come?
            since = 1 + max((i for i, other in enumerate(labels[:number]) if other in written.split("，")), default=-1)
            every = [
                math.exp(score(f"{start}{other}\n")) + (other != labels[-1] and math.exp(score(f"{start}{other}，")))
                for other in labels[since:]
            ]
            chosen = later[label] == max(every) and later[label] > end
        if chosen:
            written = start + label
    return written, probabilities


@pytest.mark.parametrize("tokenizer", [pytest.param("plain", marks=pytest.mark.slow), "merging"])
def test_several_labels_equal_a_plain_walk(tokenizer: str, request: pytest.FixtureRequest) -> None:
    vocabulary = request.getfixturevalue(tokenizer)
    label_sets = [("card", "lost", "fee."), ("a", "(b)", "退款", "why?"), ("退款", "fee.", "card"), ("lost",)] * 2
    prompts = _prompts(vocabulary, label_sets)
    sizes, differ = set(), 0
    for threshold in (0.5, 0.1):
        found = _choose(vocabulary, prompts, label_sets, multi_label=[True] * 8, threshold=threshold)
        for prompt, labels, choice in zip(prompts, label_sets, found, strict=True):
            score = _brute_force(vocabulary, prompt)
            price = math.log(threshold / (1 - threshold))
            walks = [_walk(score, labels, threshold), _walk(score, labels, None)]
            worth = [score(f"{w or 'None'}\n") - price * len(w.split("，") if w else ()) for w, _ in walks]
            written, probabilities = walks[worth[1] > worth[0]]
            assert "，".join(choice.labels) == written
            _close(choice.probabilities, probabilities)
            sizes.add(len(choice.labels))
            differ += worth[1] > worth[0]
    assert len(sizes) > 1, "the random model must show answers of several lengths"


def _with_distribution(
    sets: Mapping[tuple[str, ...], float], labels: tuple[str, ...], threshold: float = 0.5
) -> Choice:
    """What is chosen where the answers have these probabilities."""
    texts = {SEQGPT_V1.write_choice(chosen): probability for chosen, probability in sets.items()}

    def mass(start: str) -> float:
        return max(sum(probability for text, probability in texts.items() if text.startswith(start)), 1e-30)

    def child_log_probs(text: str, children: str) -> list[float]:
        return [math.log(mass(text + child) / mass(text)) for child in children]

    answers = _answers()
    return _answered(scoring._choose_several(answers, labels, threshold), answers.trie, child_log_probs)[0]


def _independent(probabilities: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    sets = {}
    for holds in itertools.product((False, True), repeat=len(probabilities)):
        chosen = tuple(itertools.compress(probabilities, holds))
        sets[chosen] = math.prod(p if h else 1 - p for p, h in zip(probabilities.values(), holds, strict=True))
    return sets


def test_independent_labels_are_chosen_by_their_own_probability() -> None:
    probabilities = {"a": 0.45, "b": 0.9, "c": 0.2, "d": 0.6, "e": 0.3}
    sets = _independent(probabilities)
    for threshold, expected in ((0.5, "bd"), (0.25, "abde"), (0.7, "b"), (0.95, "")):
        choice = _with_distribution(sets, tuple("abcde"), threshold)
        assert choice.labels == tuple(expected), threshold
        _close(choice.probabilities, probabilities, 1e-9)
    small = _with_distribution(_independent(dict.fromkeys("abcd", 0.3)), tuple("abcd"))
    assert small == Choice((), {label: pytest.approx(0.3) for label in "abcd"})


def test_of_labels_that_exclude_one_another_the_most_probable_is_chosen_not_the_last() -> None:
    choice = _with_distribution({("a",): 0.4, ("b",): 0.3, ("c",): 0.3}, tuple("abc"))
    assert choice.labels == ("a",)
    assert choice.probabilities["a"] == pytest.approx(0.4)
    assert _with_distribution({("a",): 0.6, ("b",): 0.4}, tuple("ab"), threshold=0.9).labels == ("a",)
    assert _with_distribution({("a",): 0.2, ("b",): 0.3, (): 0.5}, tuple("ab")).labels == ()
    assert _with_distribution({("a", "c"): 0.7, ("b",): 0.3}, tuple("abc")).labels == ("a", "c")


# --- batches, shapes and devices -------------------------------------------------------------------------------------


def test_150_labels_take_one_call(plain: Vocabulary, calls: list[tuple[int, ...]]) -> None:
    labels = tuple(" ".join(words) for words in itertools.islice(itertools.permutations(WORDS, 2), 150))
    (prompt,) = _prompts(plain, [labels])
    (choice,) = _choose(plain, [prompt], [labels], all_probabilities=True)
    assert len(calls) == 1
    assert len(choice.probabilities) == 150
    assert math.isclose(sum(choice.probabilities.values()), 1.0, abs_tol=1e-9)
    _choose(plain, _prompts(plain, [LABELS[:3]]), [LABELS[:3]])
    assert len(calls) == 2, "a small trie comes along with its prompt"


def test_answers_that_are_wanted_are_given_and_counted(
    plain: Vocabulary, calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqgpt_jax.decoding.scoring.max_read_tokens", lambda: 2**14)  # all in one batch
    labels = tuple(label for label in LABELS if "None" not in label)
    wanted = [[label] for label in labels] + [[labels[2], labels[7], labels[9]], []]
    several = [len(chosen) != 1 for chosen in wanted]
    prompts = _prompts(plain, [labels] * len(wanted))
    said = [plain.encode(SEQGPT_V1.write_choice(chosen)) for chosen in wanted]
    choices = _choose(plain, prompts, [labels] * len(wanted), multi_label=several, wanted=said, batch_size=64)
    assert [list(choice.labels) for choice in choices] == wanted
    assert max(choice.num_passes for choice in choices) == len(calls)
    for prompt, answer, choice in zip(prompts, said, choices, strict=True):
        # what comes after a line break is never looked at, and the last token of the prompt is the root
        assert choice.num_tokens >= len(prompt.ids) + len(answer) - 1
    assert choices[0].num_tokens < choices[-2].num_tokens


@pytest.fixture(scope="module")
def mixed(plain: Vocabulary) -> tuple[list[EncodedPrompt], list[tuple[str, ...]], list[bool]]:
    label_sets = _label_sets(6, (5, 6), seed=5)
    return _prompts(plain, label_sets, seed=5), label_sets, [i % 3 == 1 for i in range(6)]


def _same(first: Iterable[Choice], second: Iterable[Choice]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.labels == other.labels
        _close(one.probabilities, other.probabilities)


def test_a_batch_equals_one_by_one(plain: Vocabulary, mixed: tuple) -> None:
    prompts, label_sets, several = mixed
    calls: list[tuple[int, int]] = []
    together = _choose(
        plain, prompts, label_sets, multi_label=several, progress=lambda done, total: calls.append((done, total))
    )
    alone = [
        _choose(plain, [prompt], [labels], multi_label=[many])[0]
        for prompt, labels, many in zip(prompts[:3], label_sets, several, strict=False)
    ]
    _same(together[:3], alone)
    assert calls == [(6, 6)]


@pytest.mark.slow
def test_rows_leave_a_batch_and_its_cache_grows(
    plain: Vocabulary, calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_SLOTS", 32)
    label_sets = [*_label_sets(12, (3, 4)), *_label_sets(2, (40, 41))]
    prompts = _prompts(plain, label_sets)
    best = _choose(plain, prompts, label_sets, batch_size=16)
    assert len({num_rows for num_rows, _, _ in calls}) > 1
    whole = _choose(plain, prompts, label_sets, batch_size=16, all_probabilities=True)
    assert [choice.labels for choice in best] == [choice.labels for choice in whole]
    _same(best[:12], whole[:12])
    for few, every in zip(best, whole, strict=True):
        known = {label: every.probabilities[label] for label in few.probabilities}
        ratio = sum(few.probabilities.values()) / sum(known.values())
        _close(few.probabilities, {label: probability * ratio for label, probability in known.items()})


def test_eight_devices_choose_as_one(plain: Vocabulary, mixed: tuple) -> None:
    prompts, label_sets, several = mixed
    sharded = on_mesh(_model(), (2, 2, 2))
    assert len(jax.tree.leaves(nnx.state(sharded))[0].sharding.device_set) == 8
    one = _choose(plain, prompts, label_sets, multi_label=several)
    _same(_choose(plain, prompts, label_sets, multi_label=several, model=sharded), one)


@pytest.mark.slow
def test_an_unrolled_model_and_a_head_in_pieces(
    plain: Vocabulary, mixed: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, label_sets, _ = mixed
    one = _choose(plain, prompts, label_sets, all_probabilities=True)
    monkeypatch.setattr(scoring, "_MAX_LOGITS", 8 * 448 * 4)  # four nodes of eight rows at a time
    _same(_choose(plain, prompts, label_sets, all_probabilities=True, model=_model("unroll")), one)


def test_few_programs_serve_any_question(plain: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes alone: a program is compiled for each that differs."""
    rng, shapes = np.random.default_rng(0), set()

    def evaluate(graph, params, cache, call):  # type: ignore[no-untyped-def]
        shapes.add((cache is None, *(array.shape for array in call)))
        return jax.numpy.asarray(-rng.exponential(3.0, call.children_BSC.shape)), True

    monkeypatch.setattr(scoring, "_evaluate", evaluate)
    monkeypatch.setattr(scoring, "_resized", lambda *_: True)
    for seed in range(20):
        label_sets = _label_sets(40, (2, 40), seed=seed)
        _choose(plain, _prompts(plain, label_sets, seed=seed), label_sets, batch_size=16)
    assert len(shapes) <= 30, sorted(shapes)


# --- as it is asked for ----------------------------------------------------------------------------------------------


def test_an_answerer_says_what_was_chosen(plain: Vocabulary) -> None:
    """Labels in their order, well-formed, with probabilities; relations and types may have several, others have one."""
    labels = ("card", "lost card")
    asked = [
        AtomicExample("lost", "classify", labels, (), Source("toy", "test", "0", task, "en", step))
        for task, step in (("CLS", "classify"), ("ET", "classify"), ("RE", "relation"), ("CLS", "classify"))
    ]
    answerer = Answerer(_model(), plain, SEQGPT_V1, DecodeConfig())
    one, types, relation, again = answerer.answer(asked, None, strict=False)
    prompt = plain.encode_prompt(SEQGPT_V1, "classify", "lost", labels)
    single, several = _choose(plain, [prompt] * 2, [labels] * 2, multi_label=[False, True])
    for answer, choice in ((one, single), (again, single), (types, several), (relation, several)):
        assert answer.example.answer == choice.labels
        assert answer.raw == ("，".join(choice.labels) or "None") + "\n"
        assert answer.parsed.problems == ()
        assert list(answer.probabilities) == [(label,) for label in labels]
        np.testing.assert_allclose(list(answer.probabilities.values()), list(choice.probabilities.values()), rtol=1e-4)
    assert single.probabilities != several.probabilities
    told = answerer.answer(asked[:1], None, strict=True, multi_label=[True], threshold=0.0)
    assert told[0].example.answer == labels
    free = dataclasses.replace(answerer, decode=DecodeConfig(constrained=False, max_new_tokens=4))
    assert free.answer(asked[:1], None, strict=False)[0].probabilities == {}


def test_user_errors(plain: Vocabulary) -> None:
    prompts, labels = _prompts(plain, [("card",)]), [("card",)]
    for wrong, words in (
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"length_normalisation": -1.0}, "length_normalisation must be at least 0"),
        ({"batch_size": 0}, "batch_size at least 1"),
        ({"labels": [()]}, "question 0 has no labels"),
        ({"model": random_model(dataclasses.replace(_model().config, vocab_size=64))}, "the model has 64 ids"),
    ):
        with pytest.raises(UserError, match=words):
            _choose(plain, prompts, wrong.pop("labels", labels), **wrong)  # type: ignore[arg-type]
