"""What is shown of a record is what is trained on: checked against the token cache, and by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqgpt_jax.data.mixtures import resolve_mixture
from seqgpt_jax.data.questions import EncodeConfig, training_texts
from seqgpt_jax.data.showing import TAB, mark_spans, show_dataset
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import Span
from seqgpt_jax.vocabulary import train_tokenizer
from tests.tiny_data import write_data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([("a", 0, 3), ("b", 9, 12)], "[New](a) York [bus](b)"),
        ([("a", 0, 8), ("b", 0, 3), ("c", 4, 8)], "[[New](b) [York](c)](a) bus"),
        ([("a", 0, 12), ("b", 4, 8), ("c", 4, 8), ("d", 4, 12)], "[New [[York](b, c) bus](d)](a)"),
        ([("a", -1, -1)], "New York bus"),  # a predicted span that is not in the text
        ([("a", 0, 3), ("a", 0, 3), ("b", 3, 4)], "[New](a)[ ](b)York bus"),
    ],
)
def test_spans_are_marked(spans: list[tuple[str, int, int]], expected: str) -> None:
    text = "New York bus"
    assert mark_spans(text, [Span(label, start, end, text[start:end]) for label, start, end in spans]) == expected


def test_a_record_with_what_is_asked(root: Path) -> None:
    (dataset,) = resolve_mixture("tiny_mrc", root)
    lines = list(show_dataset(dataset, "test", record_id="tiny_mrc-test-3"))
    assert lines == [
        "== tiny_mrc, test, record tiny_mrc-test-3: MRC-SE, zh ==",
        "text         黄河全长[7003公里](answer)，流入渤海。",
        "question     黄河有多长2003？",
        "answers      7003公里",
        "of           answer",
        "-- evaluation asks 1 of 1: extract",
        "> 输入: 黄河全长7003公里，流入渤海。",
        "> 抽取: 黄河有多长2003？",
        "> 输出: [GEN]",
        "< 黄河有多长2003？: 7003公里",
        "",
    ]


def test_events_and_relations(root: Path) -> None:
    (dataset,) = resolve_mixture("tiny_ee", root)
    lines = list(show_dataset(dataset, num=2, max_questions=1))
    assert sum(line.startswith("== ") for line in lines) == 2
    assert any(line.startswith("event        acquire, bought (buyer: Acme ") for line in lines)
    assert any(line.startswith("-- training asks 1 of ") for line in lines)
    assert any(line.startswith("-- evaluation asks 4 more (show them with --questions 5)") for line in lines)
    (dataset,) = resolve_mixture("tiny_re", root)
    lines = list(show_dataset(dataset, "train", record_id="tiny_re-train-4"))
    assert "text         [王明4](人物)在[北京大学](机构)工作，[李红](人物)是他的朋友。" in lines
    assert "relation     就职: 王明4 -> 北京大学" in lines
    assert "-- evaluation asks 2 of 3: relation about 王明4 and 北京大学" in lines


def test_training_questions_are_those_of_the_token_cache(root: Path, tmp_path: Path) -> None:
    """As seqio runs the tasks: one by one, with their own choices."""
    from seqgpt_jax.data.cache import CacheSpec, ensure_cache

    datasets = resolve_mixture("tiny_ee+tiny_re", root)
    texts = [*training_texts(datasets, "train", None, EncodeConfig(), 0), TAB]
    vocabulary = train_tokenizer(texts, 700)
    vocabulary.save(tmp_path / "words")
    spec = CacheSpec("tiny_ee+tiny_re", str(tmp_path / "words"), data_dir=str(root), seed=3)
    caches = ensure_cache(spec, tmp_path / "cache", num_processes=1, progress=False)
    decoded = {
        vocabulary.decode(cache[i].ids.tolist()).replace("\t", TAB) for cache in caches for i in range(len(cache))
    }

    shown = set()
    for dataset in datasets:
        lines = list(show_dataset(dataset, num=30, seed=3, max_questions=99, mixture=datasets))
        for block in "\n".join(lines).split("\n-- ")[1:]:
            title, *rest = block.split("\n==")[0].rstrip("\n").split("\n")
            if title.startswith("training"):
                shown.add("".join(line[2:].replace("[GEN]", "") + "\n" for line in rest).replace("输出: \n", "输出: "))
    assert len(shown) > 100 and shown == decoded


def test_what_is_not_there(root: Path) -> None:
    (dataset,) = resolve_mixture("tiny_out", root)
    with pytest.raises(UserError, match="held out"):
        list(show_dataset(dataset, "train"))
    with pytest.raises(UserError, match="no record 'x' in validation"):
        list(show_dataset(dataset, record_id="x"))
