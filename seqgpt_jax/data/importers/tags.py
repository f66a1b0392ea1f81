"""Tokens with one tag each as a text with spans: BIO, IOB1, BIOES, BILOU, BMES.

One rule reads them all, that of conlleval: a span begins at B, S or U, and wherever its label is not that of an open
span; it ends after E, L, S or U, and before whatever is not its inside.

    EU B-ORG  rejects O  German B-MISC  call O        "EU rejects German call"     ORG 0..2, MISC 11..17
    北 B-LOC  京 I-LOC  很 O  大 O                     "北京很大"                    LOC 0..2
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate

from seqgpt_jax.data.importers.documents import Document, Notes
from seqgpt_jax.errors import UserError
from seqgpt_jax.fields import Fields, show
from seqgpt_jax.records import Span

_TAG = re.compile(r"(?:([BIMELSU])-(.+)|O)\Z", re.DOTALL)
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_OTHER = re.compile("[\u0370-\u1fff\u3040-\u30ff\uac00-\ud7af]")  # Greek to Georgian and beyond, kana, Hangul
_WORD = re.compile("[A-Za-z\u00c0-\u024f]+")
_JOINED_BY = {"en": " ", "zh": ""}
REMEDY = "a tag is O, or one of B I M E L S U, a hyphen and the label"


def is_tag(string: str) -> bool:
    return _TAG.match(string) is not None


def guess_language(texts: Iterable[str]) -> str:
    """zh where there are more Han characters than Latin words, else en; UserError where most is neither."""
    han = words = other = 0
    for text in texts:
        han += len(_HAN.findall(text))
        words += len(_WORD.findall(text))
        other += len(_OTHER.findall(text))
    if other > max(han, words) or not han + words:
        raise UserError("the texts look neither English nor Chinese (give --language en or --language zh)")
    return "zh" if han > words else "en"


def tagged_document(place: Fields, tokens: Sequence[str], tags: Sequence[str], language: str, notes: Notes) -> Document:
    """The text of the tokens, joined as the language joins words, and a span for each tagged stretch of them.

    RecordError that names the place where a tag is none or the numbers differ.
    """
    if len(tokens) != len(tags):
        raise place.error("tags", f"has {len(tags)} tags for {len(tokens)} tokens", "give each token one tag")
    joined_by = _JOINED_BY[language]
    starts = [0, *accumulate(len(token) + len(joined_by) for token in tokens)]
    text = joined_by.join(tokens)
    spans: list[Span] = []
    first: int | None = None  # the token at which the open span begins
    label = ""

    def close(last: int) -> None:
        nonlocal first
        if first is not None:
            start, end = starts[first], starts[last] + len(tokens[last])
            spans.append(Span(label, start, end, text[start:end]))
        first = None

    for i, tag in enumerate(tags):
        match = _TAG.match(tag)
        if not match:
            raise place.error("tags", f"token {show(tokens[i])} has the tag {show(tag)}", REMEDY)
        prefix, name = match.groups()
        if prefix is None or prefix in "BSU" or name != label or first is None:
            if prefix in ("M", "E", "L") and (first is None or name != label):
                notes.add(f"span that begins with {prefix}-, taken as if with B-", place)
            close(i - 1)
            if prefix is not None:
                first, label = i, name
        if prefix in ("E", "L", "S", "U"):
            close(i)
    close(len(tokens) - 1)
    return Document(place, text, spans=tuple(spans))
