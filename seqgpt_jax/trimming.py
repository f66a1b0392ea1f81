"""Vocabulary trimming: a model and tokenizer that keep the token ids that a corpus needs, and read it as before.

BLOOM's 250,880 rows hold 46 languages; English and Chinese texts use a part of them, and the embedding is half of the
parameters of bloom_560m. A token is kept where the corpus uses it, or where a kept one is merged from it: then every
merge that the corpus called for is still there, in its old order, so each of its texts is cut into the same tokens.
All bytes and special tokens stay, so any other text can still be written, in shorter pieces.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import jax.numpy as jnp
import numpy as np
from flax import nnx
from tokenizers import Tokenizer, pre_tokenizers

from seqgpt_jax import hf
from seqgpt_jax.atomic import Kind
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.architectures import abstract_model
from seqgpt_jax.models.decoder import Decoder, embedding_rows
from seqgpt_jax.prompt import FORMATS
from seqgpt_jax.vocabulary import Vocabulary

MAP_FILE = "vocabulary_map.json"
_TEXTS_AT_ONCE = 4096


def needed_ids(vocabulary: Vocabulary, texts: Iterable[str], min_count: int = 1) -> np.ndarray:
    """The ids to keep, ascending, int64: of tokens that the texts use min_count times, and all that these need.

    UserError for a tokenizer that does not work by merges.
    """
    fields = _bpe_fields(vocabulary)
    counts = np.zeros(vocabulary.size, np.int64)
    texts = iter(texts)
    while batch := list(itertools.islice(texts, _TEXTS_AT_ONCE)):
        ids = np.concatenate([np.asarray(ids, np.int64) for ids in vocabulary.encode_batch(batch)])
        counts += np.bincount(ids, minlength=vocabulary.size)
    id_of: dict[str, int] = fields["model"]["vocab"]
    used = set(np.flatnonzero(counts >= max(min_count, 1)).tolist())
    kept = {token for token, token_id in id_of.items() if token_id in used}
    kept |= set(pre_tokenizers.ByteLevel.alphabet()) & set(id_of)
    merges, num_before = list(_merges(fields)), -1
    while len(kept) != num_before:  # one round does where merges stand in the order in which their parts came to be
        num_before = len(kept)
        for left, right in reversed(merges):
            if left + right in kept:
                kept |= {left, right}
    added = {token["id"] for token in fields["added_tokens"]}
    named = {vocabulary.eos_id, vocabulary.pad_id, vocabulary.gen_id}
    return np.asarray(sorted({id_of[token] for token in kept} | added | named), np.int64)


def trim_vocabulary(vocabulary: Vocabulary, old_ids: np.ndarray) -> Vocabulary:
    """The vocabulary whose id i is old_ids[i] of the given one; merges keep their order."""
    fields = _bpe_fields(vocabulary)
    new_id = {int(old): new for new, old in enumerate(old_ids)}
    model = fields["model"]
    model["merges"] = [
        [left, right]
        for left, right in _merges(fields)
        if {model["vocab"].get(token) for token in (left, right, left + right)} <= new_id.keys()
    ]
    model["vocab"] = {token: new_id[old] for token, old in model["vocab"].items() if old in new_id}
    for token in fields["added_tokens"]:
        token["id"] = new_id[token["id"]]
    _renumber(fields["post_processor"], new_id)
    return Vocabulary(Tokenizer.from_str(json.dumps(fields, ensure_ascii=False)), vocabulary.config, name="trimmed")


def trim_model(model: Decoder, old_ids: np.ndarray) -> Decoder:
    """The model with the embedding (and head) rows of old_ids, rounded up to a multiple of 64 with their mean."""
    num_rows = embedding_rows(len(old_ids))
    config = dataclasses.replace(model.config, vocab_size=num_rows)
    graph, _ = abstract_model(config)
    state = nnx.to_flat_state(nnx.state(model))
    trimmed = []
    for path, variable in state:
        if "vocab" in (variable.get_metadata("out_sharding") or ()):
            rows_VD = np.asarray(variable[...])[old_ids]
            mean_D = rows_VD.astype(np.float32).mean(0).astype(rows_VD.dtype)
            spare_VD = np.tile(mean_D, (num_rows - len(old_ids), 1))
            variable = variable.replace(jnp.asarray(np.concatenate([rows_VD, spare_VD])))
        trimmed.append((path, variable))
    return nnx.merge(graph, nnx.from_flat_state(trimmed))


def _bpe_fields(vocabulary: Vocabulary) -> dict[str, Any]:
    fields = vocabulary.tokenizer_fields()
    if "merges" not in fields["model"]:
        raise UserError(f"only a tokenizer of merges (BPE) can be trimmed, this one is {fields['model'].get('type')}")
    return fields


def _merges(fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for merge in fields["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _renumber(part: Any, new_id: dict[int, int]) -> None:
    """Special tokens that a post-processor puts around a text are written there by id."""
    if isinstance(part, list):
        for item in part:
            _renumber(item, new_id)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name == "ids":
                part[name] = [new_id[old] for old in value]
            elif part.get("type") in ("BertProcessing", "RobertaProcessing") and name in ("sep", "cls"):
                part[name] = [value[0], new_id[value[1]]]
            else:
                _renumber(value, new_id)


def trim(path: str | os.PathLike[str], texts: Iterable[str], out_dir: Path, min_count: int = 1) -> tuple[int, int]:
    """Writes a trimmed copy of a Hugging Face directory, and vocabulary_map.json in it: old ids in their new order.

    Returns the number of tokens before and after. The frame of the prompt is kept along with the texts' tokens.
    """
    model, vocabulary = hf.load_model(path)
    old_ids = needed_ids(vocabulary, itertools.chain(texts, _frames() * min_count), min_count)
    trimmed = trim_vocabulary(vocabulary, old_ids)
    token_map = {MAP_FILE: json.dumps(old_ids.tolist()) + "\n"}
    hf.export_model(trim_model(model, old_ids), trimmed, out_dir, more_files=token_map)
    return vocabulary.size, trimmed.size


def _frames() -> list[str]:
    return [
        text
        for prompt_format in FORMATS.values()
        for kind in get_args(Kind)
        for text in (*prompt_format.prompt_pieces(kind, "", ("a", "b")), "a: None\nb: a\tb\n", "None\n")
    ]
