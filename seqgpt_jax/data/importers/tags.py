"""What files of tagged tokens need beside data/tagging.py: which strings are tags, and which language texts are in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from seqgpt_jax.data.importers.documents import Document, Notes
from seqgpt_jax.data.tagging import tagged_text
from seqgpt_jax.errors import UserError
from seqgpt_jax.fields import Fields, show

_TAG = re.compile(r"(?:([BIMELSU])-(.+)|O)\Z", re.DOTALL)
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
_OTHER = re.compile("[\u0370-\u1fff\u3040-\u30ff\uac00-\ud7af]")  # Greek to Georgian and beyond, kana, Hangul
_WORD = re.compile("[A-Za-z\u00c0-\u024f]+")
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
    """The text and the spans of tagged tokens (data/tagging.py).

    RecordError that names the place where a tag is none or the numbers differ.
    """
    if len(tokens) != len(tags):
        raise place.error("tags", f"has {len(tags)} tags for {len(tokens)} tokens", "give each token one tag")
    open_label = ""
    for token, tag in zip(tokens, tags, strict=True):
        if not is_tag(tag):
            raise place.error("tags", f"token {show(token)} has the tag {show(tag)}", REMEDY)
        prefix, _, label = tag.partition("-")
        if prefix in ("M", "E", "L") and label != open_label:
            notes.add(f"span that begins with {prefix}-, taken as if with B-", place)
        open_label = label if prefix in ("B", "I", "M") else ""
    text, spans = tagged_text(tokens, tags, language)
    return Document(place, text, spans=spans)
