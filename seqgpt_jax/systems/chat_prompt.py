"""How a chat model is asked a question: the answer format in plain words, then the prompt of our own models.

system   You choose labels for a text. ... Answer with the one label that holds, exactly as it is given. ...
user     输入: my card was stolen\\n分类: card fee，lost card\\n输出:
reply    lost card
"""

from __future__ import annotations

import re

from seqgpt_jax.asking import RecordQuestion
from seqgpt_jax.prompt import PromptFormat

_SINGLE = "Answer with the one label that holds, exactly as it is given."
_SINGLE_OR_NONE = "Answer with the one label that holds, exactly as it is given, or with None if no label holds."
_SEVERAL = (
    "Answer with every label that holds, exactly as it is given, in the order given, with the character {separator} "
    "between two labels; answer with None if no label holds."
)
_CLASSIFY = (
    "You choose labels for a text. The message has three parts: behind {text} stands the text (where it has two parts, "
    "such as two sentences, or a passage and a question, a tab is between them), behind {kind} stand the labels to "
    "choose from, with the character {separator} between two labels, and behind {answer} you write the answer. "
    "{rule} Write nothing else: one line, no explanation."
)
_EXTRACT = (
    "You copy spans out of a text. The message has three parts: behind {text} stands the text, behind {kind} stand the "
    "labels to look for (names of types, or questions), with the character {separator} between two labels, and behind "
    "{answer} you write the answer. Answer with one line for each label, in the order given: the label exactly as it "
    "is given, a colon, a space, and every span of the text that the label fits, exactly as it stands in the text, "
    "with a tab between two spans; write None instead of spans if there are none. Write nothing else. An answer for "
    "the labels person and city may be:\n\nperson: Ada Park\tBo Lind\ncity: None"
)
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


def system_text(format: PromptFormat, question: RecordQuestion) -> str:
    """Returns what a chat model is told about the answer to this kind of question."""
    kind = question.example.kind
    rule = _SEVERAL if question.several else _SINGLE_OR_NONE if question.none_allowed else _SINGLE
    words = {
        "text": format.text_word,
        "kind": format.kind_words[kind],
        "answer": format.answer_word,
        "separator": format.label_separator,
    }
    return (_CLASSIFY if kind == "classify" else _EXTRACT).format(**words, rule=rule.format(**words))


def chat_messages(format: PromptFormat, question: RecordQuestion) -> list[dict[str, str]]:
    """Returns the messages of one question; the prompt is rendered without [GEN], which chat models do not know."""
    example = question.example
    prompt = "".join(format.prompt_pieces(example.kind, example.text, example.labels))
    return [
        {"role": "system", "content": system_text(format, question)},
        {"role": "user", "content": prompt.rstrip(" ")},
    ]


def read_reply(reply: str, complete: bool) -> str:
    """Returns a reply as an answer of our own models stands: a line break ends it, unless it was cut off.

    What a model thinks aloud, between <think> and </think>, is no part of its answer.
    """
    answer = _THOUGHTS.sub("", reply).strip()
    return answer + "\n" if complete else answer
