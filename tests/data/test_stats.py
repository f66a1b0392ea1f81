"""Numbers about a mixture, by hand and against the token cache."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seqgpt_jax.cli import main
from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.stats import mixture_stats, sample_tokenizer, stats_to_dict, stats_to_text
from seqgpt_jax.data.stats_figures import draw_stats
from seqgpt_jax.errors import UserError
from seqgpt_jax.figures import written
from seqgpt_jax.vocabulary import Vocabulary
from tests.tiny_data import write_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def vocabulary(root: Path) -> Vocabulary:
    return sample_tokenizer(resolve_mixture("held_in", root), "train")


def test_counts_by_hand(root: Path, vocabulary: Vocabulary) -> None:
    """Six test records. Seven labels are asked in two chunks; person has 2 strings, city 1, both in the first chunk."""
    datasets = resolve_mixture("tiny_ner+tiny_topics", root)
    leaked = {"tiny_topics": {"tiny_topics-test-0"}}
    stats = mixture_stats("two", datasets, "test", vocabulary, "own", 256, leaked=leaked)
    ner, topics = stats.tasks
    assert (ner.records, ner.leaked, ner.questions, ner.none) == (6, 0, 12, 6)
    assert ner.labels == {"person": 12, "city": 6} and ner.top_label == ("person", 12 / 18)
    assert (topics.records, topics.leaked, topics.questions, topics.none) == (6, 1, 5, 0)
    assert topics.labels == {"sport": 2, "trade, money": 2, "weather": 1} and topics.top_label[1] == 2 / 5
    fields = stats_to_dict(stats)
    assert (fields["all"]["datasets"], fields["all"]["records"], fields["all"]["leaked"]) == (2, 12, 1)
    assert fields["all"]["examples"] == 17 and fields["all"]["share_none"] == round(6 / 17, 5)
    assert fields["tasks"][1]["labels"] == {"sport": 2, "trade, money": 2, "weather": 1}
    assert fields["all"]["lengths"]["100%"] == max(ner.whole_tokens + topics.whole_tokens)
    json.dumps(fields)


def test_lengths_and_what_is_cut(root: Path, vocabulary: Vocabulary) -> None:
    datasets = resolve_mixture("tiny_ner", root)
    (whole,) = mixture_stats("ner", datasets, "test", vocabulary, "own", 256).tasks
    assert whole.counts["cut"] == whole.counts["dropped"] == 0
    assert sorted(tokens for tokens, _ in whole.lengths) == sorted(whole.whole_tokens)
    limit = sorted(whole.whole_tokens)[6] - 1
    stats = mixture_stats("ner", datasets, "test", vocabulary, "own", limit)
    (short,) = stats.tasks
    assert short.whole_tokens == whole.whole_tokens
    too_long = sum(tokens > limit for tokens in whole.whole_tokens)
    assert 0 < too_long <= short.counts["cut"] + short.counts["dropped"]
    assert max(tokens for tokens, _ in short.lengths) <= limit
    assert len(short.lengths) == short.counts["examples"] == 12 - short.counts["dropped"]
    assert 0 < stats.fill <= 1


def test_equal_to_the_token_cache(root: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    from seqgpt_jax.data.cache import CacheSpec, ensure_cache

    vocabulary.save(tmp_path / "words")
    spec = CacheSpec("held_in", str(tmp_path / "words"), data_dir=str(root), max_tokens=60, max_supervised=22, seed=4)
    caches = {each.name: each for each in ensure_cache(spec, tmp_path / "cache", num_processes=1, progress=False)}
    stats = mixture_stats("held_in", spec.datasets(), "train", vocabulary, "own", 60, seed=4)
    assert sum(each.counts["cut"] for each in stats.tasks) > 0
    for each in stats.tasks:
        cache = caches[each.name]
        assert sorted(each.lengths) == sorted(map(tuple, cache.lengths.tolist()))
        assert {name: each.counts[name] for name in cache.stats if name != "leaked"} == {
            name: number for name, number in cache.stats.items() if name != "leaked"
        }


def test_the_command(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("SEQGPT_DATA_DIR", str(root))
    monkeypatch.setenv("SEQGPT_CACHE_DIR", str(tmp_path / "cache"))
    out = tmp_path / "stats"
    assert main(["data", "stats", "held_in", "--row_tokens", "128", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("held_in, train, all records; tokens of a BPE of ")
    assert "\ntiny_topics " in shown
    fields = json.loads((out / "stats.json").read_text("utf-8"))
    assert fields["all"]["atomic_tasks"] == 8 and fields["row_tokens"] == 128
    for name in ("lengths.png", "labels.png", "sizes.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    assert main(["data", "stats", "tiny_out", "--split", "train"]) == 2
    assert "no dataset of 'tiny_out' has a split 'train' that may be read" in capsys.readouterr().err


def test_figures_show_no_boxes(root: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    """A glyph that the font lacks is a warning of matplotlib, and warnings are errors here."""
    import dataclasses
    import warnings

    assert written("酒店_ner") == "\\u9152\\u5e97_ner"
    stats = mixture_stats("混合", resolve_mixture("tiny_re+tiny_mrc", root), "test", vocabulary, "own", 128)
    stats = dataclasses.replace(stats, tasks=tuple(dataclasses.replace(each, name="关系") for each in stats.tasks))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(draw_stats(stats, tmp_path)) == 3


def test_what_is_not_there(root: Path, vocabulary: Vocabulary) -> None:
    with pytest.raises(UserError, match="gives no example of at most 8 tokens"):
        mixture_stats("ner", resolve_mixture("tiny_ner", root), "test", vocabulary, "own", 8)
    assert "tiny_mrc" in stats_to_text(
        mixture_stats("x", resolve_mixture("tiny_mrc", root), "test", vocabulary, "own", 99)
    )
