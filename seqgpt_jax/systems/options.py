"""The options of systems on the command line. Only what was given is handed on; defaults are those of the systems."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from seqgpt_jax.cli_arguments import count, positive

_TRAINING = ("train_mixture", "train_limit")
OPTIONS = {
    "seqgpt": ("max_extract_labels", "unconstrained"),
    "openai": ("base_url", "settings", "requests_per_minute", "concurrency", "timeout", "attempts", "prices", "cache"),
    "hf": ("prompt", "batch_size"),
    "tfidf": _TRAINING,
    "gazetteer": _TRAINING,
}
"""Kind of system -> the options that it has."""


def add_system(parser: argparse.ArgumentParser) -> None:
    """--model and what goes with each kind of it."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="SYSTEM",
        help="a run directory, a Hugging Face directory, or a hub id of ours; openai:NAME, hf:PATH, majority, tfidf or "
        "gazetteer",
    )
    ours = parser.add_argument_group("--model DIR, a model of ours")
    ours.add_argument(
        "--max_extract_labels", type=count, metavar="N", help="labels in one extraction prompt (default: 6)"
    )
    ours.add_argument("--unconstrained", action="store_const", const=True, help="score what the model writes by itself")
    server = parser.add_argument_group("--model openai:NAME (the key is the environment's OPENAI_API_KEY)")
    server.add_argument("--base_url", metavar="URL", help="of the server (default: https://api.openai.com/v1)")
    server.add_argument(
        "--settings",
        type=_settings,
        metavar="JSON",
        help='further fields of each request, null leaves one out (default: {"temperature": 0, "max_tokens": 512})',
    )
    server.add_argument("--requests_per_minute", type=positive, metavar="N", help="at most (default: no limit)")
    server.add_argument("--concurrency", type=count, metavar="N", help="requests at once (default: 8)")
    server.add_argument("--timeout", type=positive, metavar="SECONDS", help="for a whole reply (default: 60)")
    server.add_argument("--attempts", type=count, metavar="N", help="requests for a question (default: 6)")
    server.add_argument(
        "--prices", type=_price, nargs=2, metavar=("IN", "OUT"), help="of a million prompt and completion tokens"
    )
    server.add_argument("--cache", type=Path, metavar="FILE", help="of answers (default: in ~/.cache/seqgpt_jax)")
    model = parser.add_argument_group("--model hf:PATH")
    model.add_argument("--prompt", choices=("seqgpt", "chat"), help="ours, or the chat template (default: seqgpt)")
    model.add_argument("--batch_size", type=count, metavar="N", help="prompts decoded at once (default: 32)")
    training = parser.add_argument_group("--model tfidf or gazetteer")
    training.add_argument("--train_mixture", metavar="NAME", help="what it learns from (default: held_in)")
    training.add_argument("--train_limit", type=count, metavar="N", help="records of each dataset (default: 1000)")


def given_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of systems that were given, for `open_system`."""
    names = dict.fromkeys(name for own in OPTIONS.values() for name in own)
    given = {name: getattr(options, name, None) for name in names}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value is not None
    }


def _settings(text: str) -> dict[str, Any]:
    from seqgpt_jax.systems.chat_server import ServerOptions

    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no JSON object (such as {{"max_tokens": 64, "seed": 1}})')
    return {**ServerOptions().settings, **given}


def _price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = -1.0
    if not 0 <= price < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a price (a number, 0 or above)")
    return price
