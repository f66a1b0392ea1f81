"""Answers with weights in float32, bfloat16 and int8: scores, speed and memory of one trained model.

    python benchmarks/weight_precision.py --model DIR [--data FOLDER ...] [--records N] [--json FILE]

Each precision is a process of its own, which answers all records once unmeasured and once timed. Ratios are examples
per second over those of float32. Figures of each: its scores, the bytes of its parameters, its largest resident memory
(which loading in float32 sets), and seconds to load and to answer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import time
from pathlib import Path
from typing import Any, get_args

from _harness import answer_child, finish, machine, make_parser, run_child

from seqgpt_jax.models.quantized import Weights

REPO = Path(__file__).resolve().parent.parent
DATASETS = [REPO.parent / "shared" / "data" / "en" / name for name in ("mtod_slots", "sst2")]
QUICK = ["mini_real_en_ner"]


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process does, given to it as JSON."""

    model_dir: str
    weights: Weights
    sources: tuple[str, ...]
    records: int

    def run(self) -> dict[str, Any]:
        import jax
        from flax import nnx

        from seqgpt_jax.data.mixtures import resolve_mixture
        from seqgpt_jax.evaluation import evaluate
        from seqgpt_jax.predictor import SeqGPT

        begin = time.perf_counter()
        predictor = SeqGPT.from_pretrained(self.model_dir, weights=self.weights)
        loaded = time.perf_counter()
        datasets = [dataset for source in self.sources for dataset in resolve_mixture(source)]

        def answer() -> Any:
            return evaluate(predictor, datasets, "test", self.records, progress=False, num_unconstrained=0)

        answer()
        timed = time.perf_counter()
        evaluation = answer()
        params = jax.tree.leaves(nnx.state(predictor.answerer.model))
        return {
            "load_s": round(loaded - begin, 2),
            "answer_s": round(time.perf_counter() - timed, 2),
            "params_mib": round(sum(leaf.nbytes for leaf in params) / 2**20, 1),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10),
            **{dataset.name: round(dataset.score.headline, 4) for dataset in evaluation.datasets},
        }


def main() -> None:
    parser = make_parser(__doc__, quick="two records of a generated mixture")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a run directory or a Hugging Face directory")
    parser.add_argument("--data", nargs="+", type=Path, default=DATASETS, metavar="FOLDER", help="dataset folders")
    parser.add_argument("--records", type=int, default=300, help="of each dataset")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        answer_child(Job(**json.loads(options.child)).run)
        return
    if not options.model:
        parser.error("give --model DIR")
    sources = tuple(QUICK if options.quick else map(str, options.data))
    records = 2 if options.quick else options.records
    found = {
        weights: run_child(Job(str(options.model), weights, sources, records), weights) for weights in get_args(Weights)
    }
    base = found["float32"]["answer_s"]
    finish(
        options,
        ratios={weights: round(base / result["answer_s"], 2) for weights, result in found.items()},
        figures={f"{weights}_{name}": value for weights, result in found.items() for name, value in result.items()},
        settings={"model": str(options.model), "data": list(sources), "records": records},
        device=machine(),
    )


if __name__ == "__main__":
    main()
