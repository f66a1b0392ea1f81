"""How fast the built-in generator writes records, on one core.

    python benchmarks/generator_speed.py [--json FILE] [--quick]

Prints records per second of each family and of all three, and one JSON object on the last line.
"""

from __future__ import annotations

import time

from _harness import finish, machine, make_parser

from seqgpt_jax.synthesis import families, generate_mixture

NUM_RECORDS, NUM_QUICK = 60_000, 6_000  # of each family


def measure(family: str, num_records: int) -> float:
    """Seconds of one core that the records take, without reading the content (which is done once a process)."""
    for _ in generate_mixture(family, 500, seed=1):
        pass
    start = time.process_time()
    for _ in generate_mixture(family, num_records):
        pass
    return time.process_time() - start


def main() -> None:
    parser = make_parser(__doc__, quick=f"{NUM_QUICK:,} records a family, not {NUM_RECORDS:,}")
    options = parser.parse_args()
    num_records = NUM_QUICK if options.quick else NUM_RECORDS
    seconds = {family: measure(family, num_records) for family in families()}
    figures = {f"{family}_records_per_s": round(num_records / took) for family, took in seconds.items()}
    figures["records_per_s"] = round(num_records * len(seconds) / sum(seconds.values()))
    for name, figure in figures.items():
        print(f"{name:32} {figure:>8,}")
    settings = {"records_per_family": num_records, "cores": 1}
    finish(options, ratios={}, figures=figures, settings=settings, device=machine())


if __name__ == "__main__":
    main()
