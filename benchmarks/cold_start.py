"""Seconds from `from_pretrained` to the first answer, without and with programs kept from an earlier process.

    python benchmarks/cold_start.py [--size bloom_560m | --model DIR] [--json FILE]

Each answer is that of a fresh process: an extraction of 14 types, then a choice among 6 labels, first with an empty
folder of compiled programs (cold), then with the folder that was left (warm). Ratios are cold over warm. Figures of
each: seconds to import, to load, to the first answer from the load's beginning on, and to the same answer again. With
--size weights are random: how long an answer is, hence the time of answering again, is chance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _harness import answer_child, finish, machine, make_parser, run_child
from _random_model import write_random_model

TEXT = (
    "Ada Lovelace wrote the first published program in 1843, for the Analytical Engine that Charles Babbage had "
    "designed in London and never built; Luigi Menabrea had described it after a lecture in Turin."
)
TYPES = [
    "person",
    "city",
    "country",
    "organisation",
    "machine",
    "programme",
    "year",
    "event",
    "lecture",
    "book",
    "award",
    "language",
    "theory",
    "work",
]
LABELS = ["history", "sports", "finance", "weather", "travel", "music"]
TOKENIZER_TEXTS = ("mini_real",)
KINDS = ("extract", "classify")
KEPT_BY_DEFAULT = {"SEQGPT_NO_COMPILATION_CACHE": "", "JAX_COMPILATION_CACHE_DIR": ""}  # whatever the caller has set


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process does, given to it as JSON: an answer, or (no kind) the random model."""

    model_dir: str
    kind: str = ""
    preset: str = ""
    vocab_size: int | None = None

    def run(self) -> dict[str, Any]:
        if not self.kind:
            return {"ids": write_random_model(self.model_dir, self.preset, self.vocab_size, TOKENIZER_TEXTS)}
        begin = time.perf_counter()
        from seqgpt_jax.predictor import SeqGPT

        imported = time.perf_counter()
        model = SeqGPT.from_pretrained(self.model_dir)
        loaded = time.perf_counter()

        def answer() -> Any:
            return model.extract(TEXT, TYPES) if self.kind == "extract" else model.classify(TEXT, LABELS)

        first = answer()
        answered = time.perf_counter()
        assert answer() == first
        return {
            "import_s": round(imported - begin, 2),
            "load_s": round(loaded - imported, 2),
            "first_answer_s": round(answered - imported, 2),
            "again_s": round(time.perf_counter() - answered, 2),
        }


def main() -> None:
    parser = make_parser(__doc__, quick="a tiny random model")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--model", metavar="DIR", help="a Hugging Face directory")
    weights.add_argument("--size", metavar="PRESET", default="bloom_560m", help="random weights (default: bloom_560m)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        answer_child(Job(**json.loads(options.child)).run)
        return
    preset, vocab_size = ("bloom_nano", 1_024) if options.quick else (options.size, None)
    ratios: dict[str, float] = {}
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        model_dir = options.model or str(Path(folder) / "model")
        if not options.model:
            print(f"writing {preset} with random weights ...", file=sys.stderr, flush=True)
            run_child(Job(model_dir, "", preset, vocab_size), "the random model")
        for kind in KINDS:
            found = {}
            for start in ("cold", "warm"):
                found[start] = run_child(
                    Job(model_dir, kind), kind, **KEPT_BY_DEFAULT, XDG_CACHE_HOME=f"{folder}/{kind}"
                )
                print(f"{kind:8} {start}: {found[start]}", file=sys.stderr, flush=True)
                figures |= {f"{kind}_{start}_{name}": value for name, value in found[start].items()}
            ratios[kind] = round(found["cold"]["first_answer_s"] / found["warm"]["first_answer_s"], 2)
    settings = {"model": options.model or preset, "labels": {"extract": len(TYPES), "classify": len(LABELS)}}
    finish(options, ratios=ratios, figures=figures, settings=settings, device=machine())


if __name__ == "__main__":
    main()
