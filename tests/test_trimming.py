"""Trimmed vocabularies: the corpus is cut into the same tokens, and the model gives the same logits for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models

from seqgpt_jax import hf
from seqgpt_jax.cli import main
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.bloom import BloomConfig
from seqgpt_jax.models.decoder import DecoderConfig
from seqgpt_jax.models.llama import LlamaConfig
from seqgpt_jax.synthesis.generator import generate_mixture
from seqgpt_jax.trimming import MAP_FILE, needed_ids, trim_vocabulary
from seqgpt_jax.vocabulary import Vocabulary, train_tokenizer
from tests.models.tiny import random_model


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [record.text for record in generate_mixture("synthetic", 600)]


@pytest.fixture(scope="module")
def vocabulary(texts: list[str]) -> Vocabulary:
    return train_tokenizer(texts, 3000)


def test_every_text_of_the_corpus_keeps_its_tokens(vocabulary: Vocabulary, texts: list[str]) -> None:
    corpus = texts[:60]
    old_ids = needed_ids(vocabulary, corpus)
    trimmed = trim_vocabulary(vocabulary, old_ids)
    assert 300 < trimmed.size < vocabulary.size
    for before, after in zip(vocabulary.encode_batch(corpus), trimmed.encode_batch(corpus), strict=True):
        assert old_ids[after].tolist() == before
    assert [trimmed.unk_id, trimmed.bos_id, trimmed.eos_id, trimmed.pad_id] == [0, 1, 2, 3]
    assert old_ids[trimmed.gen_id] == vocabulary.gen_id
    for text in (*texts[60:], "Ωmega 🦉 ŧext", "全新的文字"):  # anything else is written too, in shorter pieces
        assert trimmed.decode(trimmed.encode(text)) == text
        assert len(trimmed.encode(text)) >= len(vocabulary.encode(text))


def test_rare_tokens_go_where_a_count_is_asked(vocabulary: Vocabulary, texts: list[str]) -> None:
    sizes = [len(needed_ids(vocabulary, texts, min_count)) for min_count in (1, 3, 100)]
    assert sizes[0] > sizes[1] > sizes[2] >= 261


_SIZES = {"num_layers": 2, "width": 32, "num_heads": 4}


@pytest.mark.parametrize(
    "config",
    [BloomConfig(vocab_size=3072, **_SIZES), LlamaConfig(vocab_size=3072, mlp_width=48, kv_heads=2, **_SIZES)],
    ids=["bloom", "llama"],
)
def test_transformers_gives_the_same_logits_for_kept_tokens(
    config: DecoderConfig, vocabulary: Vocabulary, texts: list[str], tmp_path: Path
) -> None:
    hf.export_model(random_model(config, spread=0.1), vocabulary, tmp_path / "whole")
    (tmp_path / "corpus.txt").write_text("\n".join(texts[:60]), "utf-8")
    arguments = ["trim", "--model", str(tmp_path / "whole"), "--text", str(tmp_path / "corpus.txt")]
    assert main([*arguments, "--out", str(tmp_path / "small")]) == 0
    old_ids = json.loads((tmp_path / "small" / MAP_FILE).read_text())
    logits = []
    for name in ("whole", "small"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name)
        ids = tokenizer(texts[0], add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits.append(model(ids).logits[0].numpy())
    assert logits[1].shape[1] % 64 == 0
    np.testing.assert_allclose(logits[1][:, : len(old_ids)], logits[0][:, old_ids], atol=1e-4)


def test_only_merges_can_be_trimmed() -> None:
    vocabulary = train_tokenizer(["a b"], 300)
    fields = vocabulary.tokenizer_fields()
    words = Tokenizer(models.WordLevel(fields["model"]["vocab"], unk_token="<unk>"))
    vocabulary.tokenizer_fields = lambda: json.loads(words.to_str())  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"only a tokenizer of merges .* this one is WordLevel"):
        needed_ids(vocabulary, ["a"])


def test_a_corpus_that_is_not_there(model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["trim", "--model", str(model_dir), "--text", str(tmp_path / "none.txt"), "--out", str(tmp_path / "o")])
    assert code == 2
    assert "none.txt: no such file" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
