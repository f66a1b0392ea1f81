from __future__ import annotations

from pathlib import Path

import pytest

from seqgpt_jax.synthesis import check
from seqgpt_jax.synthesis.reader import read_family

from .conftest import EN_DOMAIN, write_content


def test_report_names_faults_shortfalls_and_overlaps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_content(tmp_path, domain=EN_DOMAIN.replace('"fare" = ["{money}"]', '"fare" = ["{nothing}"]'))
    assert check.main(["--content", str(root)]) == 2
    shown = capsys.readouterr().out
    assert "fault: en/synthetic/ferry.toml: [types] fare: " in shown
    assert "short: zh/synthetic: domains: 1, needs 16" in shown
    assert "overlap: zh: synthetic and mini_real share the domain name 'ferry'" in shown
    assert "share a template: '谁卖船票？', '谁卖船票？'" in shown
    assert "share a label set: ferry topics and ferry topics: 救援, 涨价, 航线开通" in shown
    assert "share 100 values (ferry/轮渡公司; ferry/轮渡公司)" in shown
    assert "-------- zh mini_held_out: 1 domains: ferry" in shown


def test_one_language_alone(tiny_content: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check.main(["zh", "--content", str(tiny_content)])
    shown = capsys.readouterr().out
    assert "======== zh ========" in shown and "======== en ========" not in shown


def test_texts_whose_spans_cannot_be_read_back_are_faults(tmp_path: Path) -> None:
    spoilt = EN_DOMAIN.replace('"call {captain}"', '"call {captain} or Captain {captain#2}"')
    spoilt = spoilt.replace("was [launched] with", "was [Line] with").replace(
        '"fare" = ["{money}"]', '"fare" = ["{money} "]'
    )
    content, faults = read_family("en", "synthetic", write_content(tmp_path, domain=spoilt))
    assert not faults
    problems = [str(fault) for fault in check.rendering_faults(content.domains[0])]
    assert len(problems) == 2
    assert "[types] fare: composes the bad value" in problems[0]
    assert "[Line]" in problems[1] and "stands twice" in problems[1]


def test_templates_that_differ_in_slot_names_count_as_one(tmp_path: Path) -> None:
    root = write_content(tmp_path)
    renamed = (
        EN_DOMAIN.replace("ferry company", "shipping line")
        .replace("{port}", "{harbour}")
        .replace('"port"', '"harbour"')
    )
    (root / "en" / "mini_real" / "ferry.toml").write_text(renamed, encoding="utf-8")
    families = {family: read_family("en", family, root)[0] for family in ("synthetic", "mini_real")}
    found = list(check.overlaps(families))
    assert any(
        "'{captain} [saved] two swimmers near {port}.', '{captain} [saved] two swimmers near {harbour}.'" in f
        for f in found
    )
