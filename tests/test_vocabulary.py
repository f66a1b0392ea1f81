"""The tokenizer beside transformers' own reading of the same folder, and the promises that the prompt rests on."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from seqgpt_jax.errors import UserError
from seqgpt_jax.occurrences import normalise_text
from seqgpt_jax.prompt import GEN, SEQGPT_V1
from seqgpt_jax.synthesis.generator import generate_mixture
from seqgpt_jax.vocabulary import SPECIAL_TOKENS, Vocabulary, train_tokenizer

SENTENCES = (
    "The U.S. bought 2,400 tonnes of wheat in May 2024, Mr. O'Neil's office said.",
    "  It's   what they've called 'sample' (naïve café)…\ttabs\tand — dashes!!",
    "2024年5月，北京大学的王小明在上海购买了３台iPhone 15，花费￥20,000元。",
    "東京タワーは高い。 서울은 크다. हिन्दी पाठ। 😀👩‍👩‍👧 \U0001f1e8\U0001f1f3",
    "URL https://example.org/a?b=c&d=%20 e-mail a_b@c.d C++ x==y\x00\x7f\ufeff",
)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [record.text for record in generate_mixture("mini_real", 3_000)]


@pytest.fixture(scope="module")
def vocabulary(texts: list[str]) -> Vocabulary:
    return train_tokenizer(itertools.chain(texts, SENTENCES), 4_000)


@pytest.fixture(scope="module")
def folder(vocabulary: Vocabulary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    vocabulary.save(path)
    return path


def bloom_like(texts: list[str]) -> Tokenizer:
    """The make of BLOOM's tokenizer: its pre-tokens, its special tokens, no [GEN]."""
    tokenizer = Tokenizer(models.BPE())
    pattern = Regex(r" ?[^(\s|[.,!?…。，、।۔،])]+")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS[:4]]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2_000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_bloom_like(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL_TOKENS, strict=False))
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "tokenizer_class": "BloomTokenizerFast"}))


# --- ids -------------------------------------------------------------------------------------------------------------


def test_special_ids(vocabulary: Vocabulary) -> None:
    ids = (vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id, vocabulary.gen_id)
    assert ids == (0, 1, 2, 3, 4)
    assert vocabulary.size <= 4_000


def test_transformers_reads_the_folder_alike(vocabulary: Vocabulary, folder: Path, texts: list[str]) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == vocabulary.size
    assert (theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2, 3)
    for text in (*SENTENCES, *texts[:500]):
        ids = vocabulary.encode(text)
        assert theirs(text).input_ids == ids
        assert theirs.decode(ids) == text
    prompt = SEQGPT_V1.prompt_pieces("extract", SENTENCES[0], ("地点", "date"))
    ids = vocabulary.encode_prompt(SEQGPT_V1, "extract", SENTENCES[0], ("地点", "date")).ids
    assert theirs("".join(prompt) + GEN).input_ids == ids


def test_transformers_reads_it_beside_a_bloom_config(vocabulary: Vocabulary, tmp_path: Path) -> None:
    vocabulary.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bloom", "architectures": ["BloomForCausalLM"]}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    for text in SENTENCES:
        assert theirs(text).input_ids == vocabulary.encode(text)
        assert theirs.decode(vocabulary.encode(text)) == text


def test_what_transformers_saved_is_the_same_vocabulary(vocabulary: Vocabulary, folder: Path, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    ours = Vocabulary.from_pretrained(tmp_path)
    assert ours.fingerprint() == vocabulary.fingerprint()
    assert Vocabulary.from_pretrained(folder).fingerprint() == vocabulary.fingerprint()


@given(st.text())
def test_every_text_comes_back(vocabulary: Vocabulary, text: str) -> None:
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_batches_equal_single_calls(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode_batch(SENTENCES)
    assert ids == [vocabulary.encode(text) for text in SENTENCES]
    assert vocabulary.decode_batch(ids) == list(SENTENCES)
    assert vocabulary.encode_answers(["a: b\n"]) == [vocabulary.encode_answer("a: b\n")]
    assert vocabulary.encode_answer("a: b\n") == [*vocabulary.encode("a: b\n"), 2]


def test_decode_skips_special_and_spare_ids(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode([1, *vocabulary.encode("card fee"), 4, 2, 3, vocabulary.size + 7]) == "card fee"


@pytest.mark.parametrize("token", [*SPECIAL_TOKENS, "<unk><s>", "a</s>b [GEN]"])
def test_text_never_becomes_a_special_token(vocabulary: Vocabulary, token: str) -> None:
    ids = vocabulary.encode(token)
    assert min(ids) > vocabulary.gen_id
    assert vocabulary.decode(ids) == token
    prompt = vocabulary.encode_prompt(SEQGPT_V1, "classify", token, (token, "b")).ids
    assert prompt.count(vocabulary.gen_id) == 1 and prompt[-1] == vocabulary.gen_id


def test_merges_cannot_reach_a_special_token() -> None:
    """BPE gives a merge that spells a special token that token's id; without pre-tokens in between it is reachable."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["<s>"] * 50, trainer)
    tokenizer.encode_special_tokens = True
    assert tokenizer.encode("<s>").ids == [1], "the trap is there"
    tokenizer.encode_special_tokens = False
    vocabulary = Vocabulary(tokenizer, {"eos_token": "</s>"})
    assert 1 not in vocabulary.encode("<s>")
    assert vocabulary.decode(vocabulary.encode("<s>")) == "<s>"


# --- pre-tokens ------------------------------------------------------------------------------------------------------


def test_tokens_end_where_spans_end(vocabulary: Vocabulary) -> None:
    tokens = [vocabulary.decode([i]) for i in vocabulary.encode("May 2024, in the city\t(it's)\n")]
    assert "".join(tokens) == "May 2024, in the city\t(it's)\n"
    assert tokens[-2:] == [")", "\n"]
    for alone in (" ", "2", "0", "4", ",", "\t", " in", " the", "'s"):
        assert alone in tokens
    for text in SENTENCES:
        for token in map(vocabulary.decode, ([i] for i in vocabulary.encode(text))):
            if "\ufffd" not in token:
                assert re.fullmatch(r"\W?|[^\W\d_]|'?[^\W\d_]+| [^\W\d]+| \W|\d| +|_", token), repr(token)


def test_han_characters_stand_alone(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode("北京大学的人 在上海")
    tokens = [vocabulary.decode([i]) for i in ids]
    assert all(len(token) == 1 for token in tokens)


def test_a_span_has_the_same_tokens_in_text_and_answer(vocabulary: Vocabulary) -> None:
    for span in ("王小明", "2024年5月", "2024"):
        inside = vocabulary.encode(f" 在{span}之")
        for ids in (vocabulary.encode(span), vocabulary.encode(f"\t{span}")[1:]):
            assert any(inside[i : i + len(ids)] == ids for i in range(len(inside)))


# --- prompts ---------------------------------------------------------------------------------------------------------


def whole_and_pieces(vocabulary: Vocabulary, texts: list[str], labels: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    pairs = [SEQGPT_V1.prompt_pieces("extract", normalise_text(text), labels) for text in texts]
    whole = vocabulary.encode_batch(["".join(pair) for pair in pairs])
    heads = vocabulary.encode_batch([head for head, _ in pairs])
    tail = vocabulary.encode(pairs[0][1])
    for (head, _), ids, head_ids in zip(pairs, whole, heads, strict=True):
        yield head, ids == head_ids + tail


def real_texts(data_dir: Path, limit: int | None) -> Iterator[str]:
    for path in sorted(data_dir.glob("*/*/*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in itertools.islice(lines, limit):
                yield json.loads(line)["text"]


def test_pieces_equal_the_whole_prompt(vocabulary: Vocabulary, texts: list[str]) -> None:
    labels = ("人物", "departure city", "a (b)")
    ends = [f"{SENTENCES[0]} end{mark}" for mark in "…。，、।。.,!?;:)]'\"％-—a1中"]
    for head, equal in whole_and_pieces(vocabulary, [*SENTENCES, *ends, *texts], labels):
        assert equal, head


def test_pieces_equal_the_whole_prompt_on_a_sample_of_real_data(vocabulary: Vocabulary, data_dir: Path) -> None:
    for head, equal in whole_and_pieces(vocabulary, list(real_texts(data_dir, 10)), ("人物", "city")):
        assert equal, head


@pytest.mark.slow
def test_pieces_equal_the_whole_prompt_on_all_real_data(vocabulary: Vocabulary, data_dir: Path) -> None:
    texts = real_texts(data_dir, None)
    while batch := list(itertools.islice(texts, 2_000)):
        for head, equal in whole_and_pieces(vocabulary, batch, ("人物", "city")):
            assert equal, head


def test_prompt_too_long_loses_the_end_of_its_text(vocabulary: Vocabulary) -> None:
    text, labels = SENTENCES[0] + " 北京大学😀😀", ("city", "date")
    full = vocabulary.encode_prompt(SEQGPT_V1, "extract", text, labels)
    assert (full.text_kept, full.tokens_cut) == (text, 0)
    frame = len(vocabulary.encode("输入:")) + len(vocabulary.encode("\n抽取: city，date\n输出: ")) + 1
    for max_tokens in range(frame + 1, len(full.ids) + 1):
        cut = vocabulary.encode_prompt(SEQGPT_V1, "extract", text, labels, max_tokens)
        assert max_tokens - 8 < len(cut.ids) <= max_tokens
        assert len(cut.ids) + cut.tokens_cut == len(full.ids)
        assert text.startswith(cut.text_kept) and cut.text_kept == cut.text_kept.rstrip()
        pieces = SEQGPT_V1.prompt_pieces("extract", cut.text_kept, labels)
        assert vocabulary.decode(cut.ids) == "".join(pieces)
        assert cut.ids[-1] == vocabulary.gen_id
    with pytest.raises(UserError, match=r"2 labels take .* fewer or shorter"):
        vocabulary.encode_prompt(SEQGPT_V1, "extract", text, labels, frame)


def test_what_stands_behind_a_tab_is_kept(vocabulary: Vocabulary) -> None:
    text, question = SENTENCES[0], "who bought the wheat?"
    full = vocabulary.encode_prompt(SEQGPT_V1, "classify", f"{text}\t{question}", ("a", "b"))
    for max_tokens in range(len(full.ids) - 20, len(full.ids)):
        cut = vocabulary.encode_prompt(SEQGPT_V1, "classify", f"{text}\t{question}", ("a", "b"), max_tokens)
        start, kept_question = cut.text_kept.split("\t")
        assert kept_question == question and text.startswith(start) and len(start) < len(text)
        assert max_tokens - 4 < len(cut.ids) <= max_tokens
        assert cut.ids == vocabulary.encode_prompt(SEQGPT_V1, "classify", cut.text_kept, ("a", "b")).ids
    longer = vocabulary.encode_prompt(SEQGPT_V1, "classify", f"{text}\t{question * 20}", ("a", "b"), len(full.ids))
    assert longer.text_kept.startswith(f"{text}\t"), "a question that is too long itself loses its own end"


def test_prompts_in_a_batch_have_their_own_limits(vocabulary: Vocabulary) -> None:
    class Asked:
        kind, text, labels = "classify", SENTENCES[0], ("city",)

    limits = [None, 5, 30]
    encoded = vocabulary.encode_prompts(SEQGPT_V1, [Asked()] * 3, limits)
    assert encoded[0] is not None and encoded[0].tokens_cut == 0
    assert encoded[1] is None
    assert encoded[2] == vocabulary.encode_prompt(SEQGPT_V1, "classify", SENTENCES[0], ("city",), 30)


# --- other tokenizers ------------------------------------------------------------------------------------------------


def test_bloom_gets_gen_on_its_first_spare_row(texts: list[str], tmp_path: Path) -> None:
    tokenizer = bloom_like(texts)
    spare = tokenizer.get_vocab_size()
    save_bloom_like(tokenizer, tmp_path)
    vocabulary = Vocabulary.from_pretrained(tmp_path)
    assert (vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id) == (0, 1, 2, 3)
    assert vocabulary.gen_id == spare and vocabulary.size == spare + 1
    for text in SENTENCES:
        assert vocabulary.encode(text) == tokenizer.encode(text).ids
    vocabulary.save(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert theirs(SENTENCES[1] + GEN).input_ids == [*vocabulary.encode(SENTENCES[1]), spare]
    assert Vocabulary.from_pretrained(tmp_path / "saved").fingerprint() == vocabulary.fingerprint()


def test_tokenizer_that_changes_text_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["a"], trainers.BpeTrainer(special_tokens=["</s>"], initial_alphabet=alphabet))
    save_bloom_like(tokenizer, tmp_path)
    with pytest.raises(UserError, match="byte-level"):
        Vocabulary.from_pretrained(tmp_path)


def test_bad_paths_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        Vocabulary.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="no tokenizer folder"):
        Vocabulary.from_pretrained(tmp_path / "missing")
    with pytest.raises(UserError, match="neither a folder nor"):
        Vocabulary.from_pretrained("nobody/nothing")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="is not a tokenizer"):
        Vocabulary.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="261 or more"):
        train_tokenizer(["a"], 200)


def test_training_is_deterministic_over_processes(tmp_path: Path, texts: list[str]) -> None:
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    code = (
        "import json, sys; from seqgpt_jax.vocabulary import train_tokenizer;"
        "print(train_tokenizer(json.load(open(sys.argv[1])), 3000).fingerprint());"
        "assert not {'transformers', 'torch', 'tensorflow', 'jax'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "texts.json")]
    prints = [subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)]
    assert prints[0] == prints[1] != ""
