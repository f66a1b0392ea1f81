"""Tokens with one tag each as a text with spans: BIO, IOB1, BIOES, BILOU, BMES.

One rule reads them all, that of conlleval: a span begins at B, S or U, and wherever its label is not that of an open
span; it ends after E, L, S or U, and before whatever is not its inside.

EU B-ORG  rejects O  German B-MISC  call O    en   "EU rejects German call"   ORG 0..2, MISC 11..17
北 B-LOC  京 I-LOC  很 O  大 O                zh   "北京很大"                  LOC 0..2
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from seqgpt_jax.errors import UserError
from seqgpt_jax.records import Span

_JOINED_BY = {"en": " ", "zh": ""}


def tagged_text(tokens: Sequence[str], tags: Sequence[str], language: str) -> tuple[str, tuple[Span, ...]]:
    """The tokens joined as the language joins words, and a span for each tagged stretch, in text order.

    UserError where the numbers differ or a tag is none.
    """
    if len(tokens) != len(tags):
        raise UserError(f"{len(tags)} tags for {len(tokens)} tokens (give each token one tag)")
    joined_by = _JOINED_BY[language]
    text = joined_by.join(tokens)
    starts = [0, *accumulate(len(token) + len(joined_by) for token in tokens)]
    stretches: list[tuple[str, int, int]] = []  # label, first and last token
    is_open = False
    for i, tag in enumerate(tags):
        prefix, _, label = tag.partition("-")
        if prefix not in ("B", "I", "M", "E", "L", "S", "U") or not label:
            if tag != "O":
                raise UserError(f"the tag of {tokens[i]!r} is {tag!r} (it must be O, or B- or I- and a label)")
            is_open = False
            continue
        if is_open and prefix in ("I", "M", "E", "L") and stretches[-1][0] == label:
            stretches[-1] = (label, stretches[-1][1], i)
        else:
            stretches.append((label, i, i))
        is_open = prefix not in ("E", "L", "S", "U")
    places = ((label, starts[first], starts[last] + len(tokens[last])) for label, first, last in stretches)
    return text, tuple(Span(label, start, end, text[start:end]) for label, start, end in places if start < end)


def span_labels(tags: Iterable[str]) -> tuple[str, ...]:
    """The labels that a list of tags holds, each once, in order: ["O", "B-PER", "I-PER", "B-LOC"] -> ("PER", "LOC")"""
    return tuple(dict.fromkeys(label for label in (tag.partition("-")[2] for tag in tags) if label))
