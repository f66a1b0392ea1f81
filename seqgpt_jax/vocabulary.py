"""The tokenizer: any byte-level Hugging Face fast tokenizer, the prompt encoded in pieces, and how our own is trained.

A folder holds ``tokenizer.json`` and ``tokenizer_config.json``, as transformers writes and reads them; only the library
`tokenizers` is needed here. Text never becomes special tokens: "[GEN]" or "</s>" in it are encoded as ordinary bytes.

    prompt  = encode("输入: " + text)  +  encode("\\n抽取: " + labels + "\\n输出: ")  +  [gen_id]
    answer  = encode("LOC: Paris\\n")  +  [eos_id]
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from seqgpt_jax.atomic import Kind
from seqgpt_jax.errors import UserError
from seqgpt_jax.prompt import GEN, PromptFormat
from seqgpt_jax.whole import write_json

UNK_ID, BOS_ID, EOS_ID, PAD_ID = 0, 1, 2, 3  # of BLOOM, and of every tokenizer that is trained here
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>", GEN)

# Alternatives in order; every match is one pre-token, so no token reaches across its edges.
PRE_TOKENS = "|".join(
    (
        r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]",  # where a word ends is not known: one token each
        r"\p{N}",  # without a leading space, so that a number is copied with the same tokens wherever it stood
        r"[\n\t]",
        r"'(?:[sdmt]|re|ve|ll)(?!\p{L})",
        r" ?[\p{L}\p{M}&&[^\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}]]+",
        r" ?[^\s\p{L}\p{M}\p{N}]",  # one by one: a span may end between two marks
        r"[^\S\n\t]+(?!\S)",
        r"[^\S\n\t]+",
    )
)

# The characters that byte-level tokenizers write bytes as: printable ones as themselves, the others from U+0100 on.
_PRINTABLE = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
_OTHERS = (byte for byte in range(256) if byte not in _PRINTABLE)
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}

_CONFIG_NAMES = ("unk_token", "bos_token", "eos_token", "pad_token")
_PROBE = "输入: The U.S. (2024)  naïve 北京，a\tb\n抽取: x，y\n输出: "


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """ids end in [GEN]; the first num_text_ids are those of the text, which prompts about the same text share, and of
    the demonstrations before it.

    text_kept: what is left of the text after tokens_cut tokens were taken from its end.
    """

    ids: list[int]
    text_kept: str
    num_text_ids: int
    tokens_cut: int = 0


class Question(Protocol):
    """What a prompt is rendered from; an AtomicExample is one."""

    @property
    def kind(self) -> Kind: ...
    @property
    def text(self) -> str: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


class _Question(NamedTuple):
    kind: Kind
    text: str
    labels: tuple[str, ...]


class Vocabulary:
    """Text to ids and back. Ids are the tokenizer's own; `size` counts them (a model may have spare rows beyond it)."""

    def __init__(self, tokenizer: Tokenizer, config: dict[str, Any] | None = None, *, name: str = "tokenizer") -> None:
        """config: the fields of tokenizer_config.json. Adds [GEN] after the last id where the tokenizer has none."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.gen_is_new = tokenizer.token_to_id(GEN) is None  # no weights know it yet
        tokenizer.add_special_tokens([AddedToken(GEN, special=True, normalized=False)])
        self._tokenizer = tokenizer
        self._config = dict(config or {})
        self.unk_id, self.bos_id = self._special_id("unk_token"), self._special_id("bos_token")
        eos_id, pad_id = self._special_id("eos_token"), self._special_id("pad_token")
        if eos_id is None:
            raise UserError(f"{name} names no eos_token (add it to tokenizer_config.json)")
        gen_id = tokenizer.token_to_id(GEN)
        assert gen_id is not None
        self.eos_id, self.gen_id = eos_id, gen_id
        self.pad_id = eos_id if pad_id is None else pad_id
        self.size: int = tokenizer.get_vocab_size(with_added_tokens=True)
        self._encoder = _plain_encoder(tokenizer)
        self._check_pieces(name)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Reads a folder, or downloads a hub id ("bigscience/bloom-560m"). UserError if there is none."""
        folder = Path(path)
        if folder.is_dir():
            files = {name: folder / name for name in ("tokenizer.json", "tokenizer_config.json")}
        elif folder.exists() or os.fspath(path).startswith((".", "~", "/")) or os.fspath(path).count("/") != 1:
            raise UserError(
                f"no tokenizer folder at {path} (give a folder with tokenizer.json, or a hub id as org/name)"
            )
        else:
            files = _download(os.fspath(path))
        if not files["tokenizer.json"].is_file():
            raise UserError(f"{path} has no tokenizer.json (only fast tokenizers can be read)")
        config_file = files["tokenizer_config.json"]
        try:
            tokenizer = Tokenizer.from_file(os.fspath(files["tokenizer.json"]))
            config = json.loads(config_file.read_text("utf-8")) if config_file.is_file() else {}
        except Exception as error:  # tokenizers raises plain Exception for a file that it cannot read
            raise UserError(f"{path} is not a tokenizer: {error} (save it again with save_pretrained)") from error
        return cls(tokenizer, config, name=os.fspath(path))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json, for transformers.AutoTokenizer."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(os.fspath(folder / "tokenizer.json"))
        names = {field: self._tokenizer.id_to_token(token_id) for field, token_id in self._named_ids().items()}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 2048,
            "padding_side": "left",
            **{key: value for key, value in self._config.items() if key not in _STALE_CONFIG},
            **names,
            "additional_special_tokens": [GEN],
            "clean_up_tokenization_spaces": False,
        }
        write_json(folder / "tokenizer_config.json", config)
        write_json(folder / "special_tokens_map.json", {**names, "additional_special_tokens": [GEN]})

    def fingerprint(self) -> str:
        """A hash that changes with any id that this vocabulary could give."""
        named = json.dumps({**self._named_ids(), GEN: self.gen_id}, sort_keys=True)
        return hashlib.sha256((self._encoder.to_str() + named).encode()).hexdigest()

    @property
    def config(self) -> dict[str, Any]:
        """The fields of tokenizer_config.json."""
        return dict(self._config)

    def tokenizer_fields(self) -> dict[str, Any]:
        """The fields of tokenizer.json."""
        return json.loads(self._tokenizer.to_str())

    # --- text -> ids ---

    def encode(self, text: str) -> list[int]:
        """Ids of a user's text, never special tokens, no BOS, no EOS."""
        return self._encoder.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once, on all cores."""
        return [encoding.ids for encoding in self._encoder.encode_batch_fast(texts, add_special_tokens=False)]

    def token_starts(self, text: str) -> np.ndarray:
        """int64 [tokens]: the character that each token of a text begins at, or within."""
        offsets = self._encoder.encode(text, add_special_tokens=False).offsets
        return np.fromiter((start for start, _ in offsets), np.int64, len(offsets))

    def encode_prompt(
        self,
        format: PromptFormat,
        kind: Kind,
        text: str,
        labels: Sequence[str],
        max_tokens: int | None = None,
    ) -> EncodedPrompt:
        """The prompt's ids, [GEN] last; the end of the text is cut at a token edge where it would pass max_tokens.

        A question or a second sentence, which stands behind a tab, is kept: what is cut is the text before it.
        Raises UserError where the labels leave no room for any text.
        """
        encoded = self.encode_prompts(format, [_Question(kind, text, tuple(labels))], max_tokens)[0]
        if encoded is None:
            num_label_tokens = len(self.encode(format.prompt_pieces(kind, text, tuple(labels))[1]))
            raise UserError(
                f"{len(labels)} labels take {num_label_tokens} tokens and leave no room for the text in {max_tokens} "
                "(ask fewer or shorter labels at once, or allow more tokens)"
            )
        return encoded

    def encode_prompts(
        self,
        format: PromptFormat,
        questions: Sequence[Question],
        max_tokens: int | Sequence[int | None] | None = None,
    ) -> list[EncodedPrompt | None]:
        """`encode_prompt` of many at once, max_tokens for all or for each; None stands where labels leave no room."""
        limits = [max_tokens] * len(questions) if max_tokens is None or isinstance(max_tokens, int) else max_tokens
        pieces = [format.prompt_pieces(question.kind, question.text, question.labels) for question in questions]
        distinct = list({piece: None for pair in pieces for piece in pair})  # chunks of labels share their text
        ids = dict(zip(distinct, self.encode_batch(distinct), strict=True))
        encoded: list[EncodedPrompt | None] = []
        for i, (question, limit) in enumerate(zip(questions, limits, strict=True)):
            head, tail = ids[pieces[i][0]], ids[pieces[i][1]]
            if limit is None or len(head) + len(tail) + 1 <= limit:
                encoded.append(EncodedPrompt([*head, *tail, self.gen_id], question.text, len(head)))
            else:
                encoded.append(self._cut(pieces[i][0], question.text, len(head), tail, limit))
        return encoded

    def encode_answer(self, answer: str) -> list[int]:
        """Ids of a rendered answer, EOS last."""
        return [*self.encode(answer), self.eos_id]

    def encode_answers(self, answers: Sequence[str]) -> list[list[int]]:
        return [[*ids, self.eos_id] for ids in self.encode_batch(answers)]

    # --- ids -> text ---

    def decode(self, ids: Iterable[int]) -> str:
        """Text of all ids; special tokens, and spare rows of the model, give nothing."""
        return self._tokenizer.decode([int(token_id) for token_id in ids], skip_special_tokens=True)

    def decode_batch(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        return self._tokenizer.decode_batch([list(map(int, ids)) for ids in sequences], skip_special_tokens=True)

    def token_bytes(self) -> list[bytes | None]:
        """The bytes of each id; None for special tokens. A token may be part of a character."""
        found: list[bytes | None] = [None] * self.size
        for token, token_id in self._encoder.get_vocab(with_added_tokens=False).items():
            if all(character in _BYTE_OF for character in token):
                found[token_id] = bytes(_BYTE_OF[character] for character in token)
        for special in (self.unk_id, self.bos_id, self.eos_id, self.pad_id, self.gen_id):
            if special is not None:
                found[special] = None
        return found

    # --- private ---

    def _cut(
        self, head: str, text: str, num_head_tokens: int, tail_ids: list[int], max_tokens: int
    ) -> EncodedPrompt | None:
        """head ends with text. What stands after a tab is kept, as long as that leaves anything before it."""
        room = max_tokens - len(tail_ids) - 1
        frame = head[: len(head) - len(text)]
        first, tab, rest = text.partition("\t")
        kept, ids = "", []
        if tab:
            for margin in range(3):  # a token may reach over the tab
                kept, _ = self._start_of(frame, first, room - len(self.encode(tab + rest)) - margin)
                kept = kept and kept + tab + rest
                ids = self.encode(frame + kept)
                if len(ids) <= room:
                    break
        if not kept or len(ids) > room:
            kept, ids = self._start_of(frame, text, room)
        return (
            EncodedPrompt([*ids, *tail_ids, self.gen_id], kept, len(ids), num_head_tokens - len(ids)) if kept else None
        )

    def _start_of(self, frame: str, text: str, max_tokens: int) -> tuple[str, list[int]]:
        """The longest start of text that fits behind its frame and ends with a token, not in white space; all ids."""
        whole = frame + text
        offsets = self._encoder.encode(whole, add_special_tokens=False).offsets
        for _, end in reversed(offsets[: max(max_tokens, 0)]):
            if end > len(frame) and not whole[end - 1].isspace():
                ids = self.encode(whole[:end])  # one more where the last token was half a character
                if len(ids) <= max_tokens:
                    return whole[len(frame) : end], ids
        return "", []

    def _special_id(self, field: str) -> int | None:
        token = self._config.get(field)
        if isinstance(token, dict):
            token = token.get("content")
        return self._tokenizer.token_to_id(token) if isinstance(token, str) else None

    def _named_ids(self) -> dict[str, int]:
        ids = (self.unk_id, self.bos_id, self.eos_id, self.pad_id)
        return {field: token_id for field, token_id in zip(_CONFIG_NAMES, ids, strict=True) if token_id is not None}

    def _check_pieces(self, name: str) -> None:
        """Answers are copied out of texts, prompts are encoded in pieces: neither may change what is encoded."""
        head, tail = _PROBE.split("\n", 1)
        pieces = self.encode(head) + self.encode("\n" + tail)
        if pieces != self.encode(_PROBE) or self.decode(pieces) != _PROBE:
            raise UserError(
                f"{name} does not give a text back as it was, or adds a space to it (use a byte-level tokenizer, as "
                "those of BLOOM, Qwen and Llama 3 are)"
            )


# What save() writes itself, and what would make transformers build the tokenizer from other files than tokenizer.json.
_STALE_CONFIG = frozenset(
    (
        "added_tokens_decoder",
        "auto_map",
        "backend",
        "extra_special_tokens",
        "name_or_path",
        "tokenizer_class",
        "tokenizer_file",
    )
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Vocabulary:
    """A byte-level BPE vocabulary of at most vocab_size ids (fewer where the texts hold fewer pairs).

    Ids 0 to 4 are <unk>, <s>, </s>, <pad>, [GEN], then 256 bytes: no text is unknown. Pre-tokens are PRE_TOKENS: Han
    characters, kana, hangul, digits and marks stand alone, a word takes the space before it along. The same texts in
    the same order give the same ids. UserError where vocab_size is too small.
    """
    smallest = len(SPECIAL_TOKENS) + 256
    if vocab_size < smallest:
        raise UserError(f"a vocabulary of {vocab_size} cannot hold all bytes (ask for {smallest} or more)")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRE_TOKENS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    names = dict(zip(_CONFIG_NAMES, SPECIAL_TOKENS, strict=False))
    return Vocabulary(tokenizer, names, name="the trained tokenizer")


def _plain_encoder(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without special tokens: neither matched in a text, nor reached by merging ordinary pieces."""
    fields = json.loads(tokenizer.to_str())
    special = {token["content"] for token in fields["added_tokens"] if token["special"]}
    fields["added_tokens"] = [token for token in fields["added_tokens"] if not token["special"]]
    fields["post_processor"] = None
    model = fields["model"]
    if isinstance(model.get("vocab"), dict):
        # Renamed instead of left out, so that every id keeps its place.
        model["vocab"] = {
            (f"\0special{token_id}\0" if token in special and token != model.get("unk_token") else token): token_id
            for token, token_id in model["vocab"].items()
        }
    if "merges" in model:
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
        model["merges"] = [pair for pair in pairs if not special & {*pair, "".join(pair)}]
    return Tokenizer.from_str(json.dumps(fields, ensure_ascii=False))


def _download(hub_id: str) -> dict[str, Path]:
    from huggingface_hub import hf_hub_download

    files = {}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        try:
            files[name] = Path(hf_hub_download(hub_id, name))
        except Exception as error:  # one of a dozen classes of huggingface_hub and its HTTP client
            raise UserError(
                f"{hub_id} is neither a folder nor a tokenizer that the hub gives: {type(error).__name__} at {name} "
                "(check the name and the network, or give a folder with tokenizer.json)"
            ) from error
    return files
