"""Tables: what stands under what, also where letters are two columns wide."""

from __future__ import annotations

from seqgpt_jax.tables import markdown_table, text_table

ROWS = [["name", "task", "records"], ["酒店评论", "SA", "12"], ["mr", "SA", "3,000"]]


def test_columns_stand_under_one_another() -> None:
    assert text_table(ROWS, num_left=2) == [
        "name      task  records",
        "酒店评论  SA         12",
        "mr        SA      3,000",
    ]


def test_markdown() -> None:
    assert markdown_table(ROWS[:2], num_left=1) == [
        "| name | task | records |",
        "| --- | ---: | ---: |",
        "| 酒店评论 | SA | 12 |",
    ]
