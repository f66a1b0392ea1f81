"""What is refused before a run begins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.errors import UserError
from seqgpt_jax.recipe import DataSettings, Recipe, Stage, TokenizerSettings
from seqgpt_jax.training.start import cache_spec, check_stages, stage_texts
from tests.tiny_data import write_data


def recipe(root: Path, mixture: str, **settings: Any) -> Recipe:
    return Recipe(
        (Stage("one", "mini_real_en_ner", 1), Stage("two", mixture, 1, **settings)), data=DataSettings(str(root))
    )


def test_a_stage_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    check_stages(recipe(root, "held_in", weights={"tiny_ee": 2.0, "tiny_re_relation": 0.5}))
    check_stages(recipe(root, "held_out", protocol="few_shot"))
    for mixture in ("held_out", f"{root}/en/tiny_out", "held_in+tiny_out"):
        with pytest.raises(UserError, match="tiny_out.*never trained on.*stage.protocol='few_shot'"):
            check_stages(recipe(root, mixture))
    with pytest.raises(UserError, match="'tiny_e' is no dataset .*tiny_ee"):
        check_stages(recipe(root, "held_in", weights={"tiny_e": 2.0}))
    with pytest.raises(UserError, match="unknown mixture 'held_inn'"):
        check_stages(recipe(root, "held_inn"))


def test_the_protocol_of_a_stage_is_that_of_its_cache(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    run = recipe(root, "held_out", protocol="few_shot")
    zero, few = (cache_spec(run, stage, "t") for stage in run.stages)
    assert (zero.protocol, few.protocol) == ("zero_shot", "few_shot")
    (dataset,) = few.datasets()
    assert next(dataset.records("train")).id == "tiny_out-train-0"


def test_a_tokenizer_can_be_trained_on_a_mixture_of_its_own(tmp_path: Path) -> None:
    """Recipes whose stages differ then have the same one."""
    root = write_data(tmp_path / "data")

    def texts(stage: str, mixture: str | None) -> list[str]:
        tokenizer = TokenizerSettings(mixture=mixture, records_per_dataset=5)
        return list(stage_texts(Recipe((Stage("one", stage, 1),), data=DataSettings(str(root)), tokenizer=tokenizer)))

    assert texts("tiny_topics", "held_in") == texts("tiny_ner", "held_in")
    assert any("黄河" in text for text in texts("tiny_topics", "held_in"))
    assert not any("黄河" in text for text in texts("tiny_topics", None))
    with pytest.raises(UserError, match="tiny_out.*never trained on"):
        texts("tiny_topics", "held_out")
    with pytest.raises(UserError, match="unknown mixture 'nothing'"):
        check_stages(replace(recipe(root, "held_in"), tokenizer=TokenizerSettings(mixture="nothing")))
