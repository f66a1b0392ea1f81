"""Tags as spans: every scheme against spans written down by hand, and what language a text is in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqgpt_jax.data.importers.documents import Notes
from seqgpt_jax.data.importers.tags import guess_language, tagged_document
from seqgpt_jax.errors import RecordError, UserError
from seqgpt_jax.fields import Fields


def spans_of(tags: str, language: str = "zh") -> list[tuple[str, int, int]]:
    """Of one-character tokens without blanks between them, so that offsets count tokens."""
    names = tags.split()
    tokens = [chr(ord("a") + i) for i in range(len(names))]
    document = tagged_document(Fields({}), tokens, names, language, Notes())
    return [(span.label, span.start, span.end) for span in document.spans or ()]


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O O", []),
        ("B-x I-x O", [("x", 0, 2)]),
        ("B-x B-x I-x", [("x", 0, 1), ("x", 1, 3)]),
        ("I-x I-x B-x O I-x", [("x", 0, 2), ("x", 2, 3), ("x", 4, 5)]),  # IOB1
        ("B-x I-y I-y", [("x", 0, 1), ("y", 1, 3)]),
        ("B-x E-x I-x", [("x", 0, 2), ("x", 2, 3)]),
        ("B-x L-x I-x", [("x", 0, 2), ("x", 2, 3)]),
        ("B-x S-x I-x", [("x", 0, 1), ("x", 1, 2), ("x", 2, 3)]),
        ("B-x U-x I-x", [("x", 0, 1), ("x", 1, 2), ("x", 2, 3)]),
        ("B-x M-x M-x E-x S-y", [("x", 0, 4), ("y", 4, 5)]),
        ("I-x I-x E-x E-x", [("x", 0, 3), ("x", 3, 4)]),  # IOE
        ("B-a-b I-a-b I-a", [("a-b", 0, 2), ("a", 2, 3)]),  # a label may have a hyphen
    ],
)
def test_schemes(tags: str, spans: list[tuple[str, int, int]]) -> None:
    assert spans_of(tags) == spans


@given(st.lists(st.sampled_from(["O", *(f"{p}-{label}" for p in "BIESMLU" for label in "xy")]), max_size=12))
def test_every_tag_but_o_is_in_exactly_one_span(tags: list[str]) -> None:
    covered = [label for label, start, end in spans_of(" ".join(tags)) for _ in range(start, end)]
    places = [i for _, start, end in spans_of(" ".join(tags)) for i in range(start, end)]
    assert covered == [tag[2:] for tag in tags if tag != "O"]
    assert places == [i for i, tag in enumerate(tags) if tag != "O"]


@pytest.mark.parametrize("tag", ["", "o", "x", "-x", "B-", "X-x", "B_x", "B x"])
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(RecordError, match='token "Ada" has the tag'):
        tagged_document(Fields({}), ["Ada"], [tag], "en", Notes())


@pytest.mark.parametrize(
    ("texts", "language"),
    [
        (["Ada went to Rome"], "en"),
        (["李明用iPhone和Windows上网"], "zh"),
        (["the word 你好 means hello, of course"], "en"),
        (["Müller aß", "1, 2"], "en"),
    ],
)
def test_language(texts: list[str], language: str) -> None:
    assert guess_language(texts) == language


@pytest.mark.parametrize("texts", [[], ["1 2 3"], ["これはペンです"], ["한국어 문장"], ["Это текст"]])
def test_no_language(texts: list[str]) -> None:
    with pytest.raises(UserError, match="--language"):
        guess_language(texts)
