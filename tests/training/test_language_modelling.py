"""Stage 0: a run that models the texts of real records, then answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from seqgpt_jax.recipe import DataSettings, Recipe, Stage
from seqgpt_jax.report import write_report
from seqgpt_jax.training import batches, loop
from seqgpt_jax.training.journal import read_rows
from seqgpt_jax.training.loop import train
from seqgpt_jax.training.stage_data import read_stage_data
from seqgpt_jax.training.start import StartingPoint, check_stages
from seqgpt_jax.vocabulary import train_tokenizer
from tests.tiny_data import write_data
from tests.training.toy import CONFIG, TOY_ADAMW, ToySource


def test_texts_first_then_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = Stage("texts", "held_in", 12, objective="language_modelling", weights={"tiny_ee": 3.0}, optimizer=TOY_ADAMW)
    recipe = Recipe(
        stages=(texts, Stage("answers", "held_in", 2, optimizer=TOY_ADAMW)),
        data=DataSettings(
            str(write_data(tmp_path / "data")),
            str(tmp_path / "cache"),
            rows_per_step=1,
            row_tokens=240,
            row_supervised=60,
        ),
    )
    check_stages(recipe)
    vocabulary = train_tokenizer(["some text"], 300)
    vocabulary.save(tmp_path / "run" / "tokenizer")
    start = StartingPoint(vocabulary, dataclasses.replace(CONFIG, vocab_size=320), None)
    monkeypatch.setattr(loop, "prepare_start", lambda recipe, run_dir: start)
    monkeypatch.setattr(batches, "ensure_cache", lambda spec, cache_dir, progress: [ToySource("tiny_ner")])
    result = train(recipe, tmp_path / "run", show_progress=False)

    first, second = read_rows(tmp_path / "run", "texts"), read_rows(tmp_path / "run", "answers")
    assert (len(first), len(second)) == (12, 2)
    assert first[-1]["loss"] < 0.9 * first[0]["loss"] and 0 < first[-1]["accuracy"] < 1
    for row in first:  # all but the first token of each piece
        assert 0.9 * row["tokens"] < row["targets"] < row["tokens"] and 200 < row["tokens"] <= 240
    assert all(row["targets"] <= 60 for row in second)

    data = read_stage_data(tmp_path / "run", "texts")
    assert data is not None and data.total("cut") == data.total("dropped") == data.total("surplus") == 0
    assert data.total("supervised") == data.total("tokens") - data.total("examples") > 0
    assert {each.name: each.examples >= 30 for each in data.datasets} == dict.fromkeys(
        ("tiny_ee", "tiny_mrc", "tiny_ner", "tiny_re", "tiny_topics"), True
    )
    report = write_report(tmp_path / "run", result.stages, {})
    assert [stage["name"] for stage in report["stages"]] == ["texts", "answers"]
    assert report["stages"][0]["data"]["examples"] == data.total("examples")
