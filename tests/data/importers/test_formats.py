"""Every sample file becomes the records that were written down for it by hand, and is told from all other formats."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from seqgpt_jax.data.convert import Converted, Description, to_records
from seqgpt_jax.data.importers.documents import ReadOptions
from seqgpt_jax.data.importers.registry import FORMATS, detect
from seqgpt_jax.data.validate import Validation
from seqgpt_jax.errors import UserError
from seqgpt_jax.records import read_meta, read_records
from tests.data.importers.samples import SAMPLES


def convert(source: Path, out: Path, format_name: str | None = None, **arguments: Any) -> Converted:
    reading = {field.name: arguments.pop(field.name) for field in fields(ReadOptions) if field.name in arguments}
    return to_records(source, out, format_name, Description(**arguments), ReadOptions(**reading))


@pytest.mark.parametrize("name", SAMPLES)
def test_sample_becomes_its_records(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    done = convert(sample.write(tmp_path), tmp_path / "x", **sample.arguments)
    meta = read_meta(tmp_path / "x")
    assert list(read_records(tmp_path / "x" / "train.jsonl", meta)) == sample.records
    assert (done.format, meta.name, meta.task, meta.language) == (
        sample.format,
        "x",
        sample.records[0].task,
        sample.language,
    )
    assert meta.splits == {"train": len(sample.records)} == done.counts
    found = [str(finding) for finding in Validation(tmp_path / "x")]
    assert not found


@pytest.mark.parametrize("name", [name for name, sample in SAMPLES.items() if "format_name" not in sample.arguments])
def test_each_sample_is_told_from_all_formats(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    path = sample.write(tmp_path)
    reasons = {}
    for each in FORMATS.values():
        reasons[each.name] = "folder" if path.is_dir() and each.name != "brat" else each.recognise(path)
    assert [each for each, reason in reasons.items() if not reason] == [sample.format], reasons
    assert detect(path).name == sample.format


def test_every_format_has_a_sample() -> None:
    assert {sample.format for sample in SAMPLES.values()} == set(FORMATS)


def test_a_file_of_no_format_says_what_was_tried(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("just some words\n")
    with pytest.raises(UserError) as caught:
        detect(path)
    message = str(caught.value)
    assert "--from" in message and all(f"{name}: " in message for name in FORMATS)


def test_a_file_of_two_formats_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    monkeypatch.setitem(FORMATS, "brat", dataclasses.replace(FORMATS["brat"], recognise=lambda path: ""))
    path = SAMPLES["csv"].write(tmp_path)
    with pytest.raises(UserError, match="may be csv or brat .say which with --from"):
        detect(path)
