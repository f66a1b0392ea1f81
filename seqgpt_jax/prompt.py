"""The text that the model reads and writes: render a prompt and an answer, and parse an answer.

seqgpt_v1, for English and Chinese alike (SeqGPT, arXiv 2308.10529, and its released weights):

    输入: {text}\\n{分类|抽取}: {label，label，…}\\n输出: [GEN]

    classify   card fee，lost card\\n                         none: None\\n
    extract    人物: 罗德曼\\t杰克逊\\n地点: None\\n           a line for each label that was asked, in that order

Changing one byte of it means a new name in ``FORMATS``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from seqgpt_jax.atomic import NONE, Answer, AtomicExample, Kind, normalise_label
from seqgpt_jax.errors import UserError

GEN = "[GEN]"
TAB = "\t"


@dataclass(frozen=True, slots=True)
class Parsed:
    """What an answer says.

    answer: as in ``AtomicExample``, of labels that were asked (as they were given to ``parse``).
    problems: how it differs from a well-formed answer, and what could not be used; empty when well-formed.
    unasked: labels in the answer that were not asked; unasked_spans: what stood behind them in an extraction.
    """

    answer: Answer
    problems: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    unasked_spans: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def full_answer(self) -> Answer:
        """The answer with what was not asked: scoring filters nothing, and counts it as wrong."""
        if isinstance(self.answer, tuple):
            return self.answer + self.unasked
        return {**self.answer, **self.unasked_spans}


@dataclass(frozen=True)
class PromptFormat:
    """One text format. The label separator occurs in no label: ``normalise_label`` writes it as an ASCII comma."""

    name: str
    text_word: str
    kind_words: Mapping[Kind, str]
    answer_word: str
    label_separator: str = "，"

    def prompt_pieces(self, kind: Kind, text: str, labels: Sequence[str]) -> tuple[str, str]:
        """Returns the prompt without its closing [GEN], in the two pieces that are encoded one by one.

        ("classify", "再见", ["问候", "告别"])  ->  ("输入: 再见", "\\n分类: 问候，告别\\n输出: ")
        """
        asked = self.label_separator.join(map(normalise_label, labels))
        return f"{self.text_word}: {text}", f"\n{self.kind_words[kind]}: {asked}\n{self.answer_word}: "

    def render_prompt(self, example: AtomicExample) -> str:
        """Returns the whole prompt, [GEN] included."""
        return "".join(self.prompt_pieces(example.kind, example.text, example.labels)) + GEN

    def render_answer(self, example: AtomicExample) -> str:
        """Returns the answer as it is trained on: labels in the order asked, a final line break, no EOS."""
        answer = example.answer
        if isinstance(answer, tuple):
            chosen = [normalise_label(label) for label in example.labels if label in answer]
            return self.write_choice(chosen)
        return self._write_spans({normalise_label(label): answer.get(label, ()) for label in example.labels})

    def write_choice(self, labels: Sequence[str], more: bool = False) -> str:
        """Returns the answer that chooses these labels; more: as far as it goes where another label follows them."""
        joined = self.label_separator.join(labels)
        return joined + self.label_separator if more else (joined or NONE) + "\n"

    def _write_spans(self, spans: Mapping[str, Sequence[str]]) -> str:
        lines = zip(self.line_starts(tuple(spans)), spans.values(), strict=True)
        return "".join(f"{start} {TAB.join(dict.fromkeys(found)) or NONE}\n" for start, found in lines)

    def line_starts(self, labels: Sequence[str]) -> list[str]:
        """Returns what each line of an extraction begins with; a space and the spans, or `None`, follow."""
        return [f"{normalise_label(label)}:" for label in labels]

    def parse(self, answer_text: str, kind: Kind, labels: Sequence[str]) -> Parsed:
        """Returns what ``answer_text`` (without EOS) says about ``labels``; takes any string and never raises.

        A choice: labels between separators; otherwise the longest known label wins, and ASCII commas separate too.
        Extraction: where line i begins with label i and a colon, it is read by position. Otherwise the longest known
        label wins; labels may be missing, repeated or out of order, the colon half or full width, the last line cut
        off, and the label absent where only one was asked. Lines end at \\n only, spans at TAB only.
        """
        asked = {normalise_label(label): label for label in labels}
        if kind == "classify":
            chosen, unasked, problems = _read_choice(answer_text, tuple(asked), self.label_separator)
            if not problems and answer_text != self.write_choice(chosen):
                problems.append("spacing, order or punctuation differs")
            return Parsed(tuple(asked[label] for label in chosen), tuple(problems), unasked)

        spans, problems = _read_spans(answer_text, tuple(asked))
        found = {label: tuple(spans.pop(label, ())) for label in asked}
        if spans:
            problems.append(f"labels that were not asked: {_quote(spans)}")
        if not problems and answer_text != self._write_spans(found):
            problems.append("spacing, order or punctuation differs")
        answer = {asked[label]: strings for label, strings in found.items() if strings}
        extra = {label: tuple(strings) for label, strings in spans.items() if strings}
        return Parsed(answer, tuple(problems), tuple(spans), extra)


SEQGPT_V1 = PromptFormat("seqgpt_v1", "输入", {"classify": "分类", "extract": "抽取"}, "输出")

FORMATS: dict[str, PromptFormat] = {SEQGPT_V1.name: SEQGPT_V1}


def get_format(name: str) -> PromptFormat:
    """Returns the format of that name; UserError for an unknown one."""
    if name not in FORMATS:
        raise UserError(f"unknown prompt format {name!r} (one of {', '.join(FORMATS)})")
    return FORMATS[name]


def _quote(labels: Iterable[str]) -> str:
    return ", ".join(repr(label) for label in labels)


# --- reading a choice ------------------------------------------------------------------------------------------------


def _read_choice(
    answer_text: str, asked: Sequence[str], separator: str
) -> tuple[list[str], tuple[str, ...], list[str]]:
    """Returns the chosen labels in the order asked, the labels that were not asked, and the problems."""
    problems = []
    lines = [line.strip() for line in answer_text.split("\n") if line.strip()]
    cut_off = not answer_text.endswith("\n")
    if cut_off:
        problems.append("no line break at the end")
    if len(lines) != 1:
        problems.append(f"{len(lines)} lines instead of 1")
    known = {*asked, NONE}
    found: list[str] = []
    for line in lines:
        pieces = line.split(separator)
        # The separator's ASCII twin may be part of a label, so labels are matched before anything is cut at a comma.
        found += pieces if known.issuperset(pieces) else _cut_at_labels(line.replace(separator, ","), known)

    if cut_off and found and found[-1] not in known and any(label.startswith(found[-1]) for label in known):
        found.pop()  # a label that was cut off, not one that was not asked
    unasked = tuple(dict.fromkeys(piece for piece in found if piece not in known))
    if unasked:
        problems.append(f"labels that were not asked: {_quote(unasked)}")
    if NONE in found and len(found) > 1:
        problems.append("None beside a label")
    return [label for label in asked if label in found], unasked, problems


_COMMA = re.compile(r" ?[,、;；] ?")
_COMMA_OR_END = re.compile(r" ?[,、;；] ?|$")


def _cut_at_labels(line: str, known: Iterable[str]) -> list[str]:
    """Cuts off the longest known label that a comma ends, or else whatever stands before the next comma; and so on."""
    line = " ".join(line.split())
    longest_first = sorted(known, key=len, reverse=True)
    pieces, place = [], 0
    while place < len(line):
        for label in longest_first:
            if line.startswith(label, place) and (comma := _COMMA_OR_END.match(line, place + len(label))):
                break
        else:
            comma = _COMMA.search(line, place)
            label = line[place : comma.start() if comma else len(line)]
        if label:
            pieces.append(label)
        place = comma.end() if comma else len(line)
    return pieces


# --- reading spans ---------------------------------------------------------------------------------------------------


def _read_spans(answer_text: str, asked: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Returns label -> distinct strings for every label that the answer names, asked or not, and the problems."""
    *lines, rest = answer_text.split("\n")
    problems = []
    if rest:
        lines.append(rest)
        problems.append("no line break at the end")
    if len(lines) == len(asked) and all(line.startswith(label + ":") for line, label in zip(lines, asked, strict=True)):
        bodies = [(label, line[len(label) + 1 :]) for line, label in zip(lines, asked, strict=True)]
    else:
        bodies = _find_labels(lines, asked, problems)

    if rest and bodies:
        label, body = bodies[-1]
        if rest.endswith(":" + body) and NONE.startswith(body.strip()):  # cut off after "label: No"
            bodies[-1] = (label, NONE)
    spans: dict[str, list[str]] = {}
    for label, body in bodies:
        if label in spans:
            problems.append(f"{_quote([label])} is answered again")
        pieces = [piece.strip() for piece in body.split(TAB)]
        if pieces != [NONE] and ("" in pieces or NONE in pieces or len(set(pieces)) < len(pieces)):
            problems.append(f"an empty or repeated span of {_quote([label])}")
        known = spans.setdefault(label, [])
        known += [piece for piece in dict.fromkeys(pieces) if piece not in ("", NONE) and piece not in known]
    missing = [label for label in asked if label not in spans]
    if missing:
        problems.append(f"nothing about {_quote(missing)}")
    return spans, problems


def _find_labels(lines: Sequence[str], asked: Sequence[str], problems: list[str]) -> list[tuple[str, str]]:
    """Returns (label, what stands behind its colon) line by line; adds what has no label to the problems."""
    longest_first = sorted(asked, key=len, reverse=True)
    matches = [_match_label(line, longest_first) for line in lines]
    bare = len(asked) == 1 and not any(matches)
    if bare:
        problems.append("no label before the answer")
    found = []
    for number, (line, match) in enumerate(zip(lines, matches, strict=True), start=1):
        if match:
            found.append(match)
        elif not line.strip():
            problems.append(f"line {number} is empty")
        elif bare:
            found.append((asked[0], line))
        elif (colon := _COLON.search(line)) and line[: colon.start()].strip():
            found.append((line[: colon.start()].strip(), line[colon.end() :]))
        else:
            problems.append(f"line {number} has no label")
    return found


_COLON = re.compile("[:：]")
_COLON_NEXT = re.compile(r"\s*[:：]")


def _match_label(line: str, longest_first: Sequence[str]) -> tuple[str, str] | None:
    line = line.lstrip()
    for label in longest_first:
        if line.startswith(label) and (colon := _COLON_NEXT.match(line, len(label))):
            return label, line[colon.end() :]
    return None
