"""Stands in for `seqgpt` in tests of the runner: writes the results that it would, in no time, and logs its calls.

FOLDER/behaviour.json: {job: [what it does at its 1st, 2nd ... call]}: fail, bad input, interrupted, slow or die.
FOLDER/calls.txt: "begin JOB" and "end JOB" lines.
"""

import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path

RECORDS = 40


def main(arguments: list[str]) -> int:
    values = dict(itertools.pairwise(arguments))
    place = Path(values["--run_dir"] if arguments[0] == "train" else values["--out"])
    name, folder = f"{arguments[0]}-{place.name}", place.parent.parent
    calls = folder / "calls.txt"
    earlier = calls.read_text().splitlines() if calls.exists() else []
    log(calls, f"begin {name}")
    file = folder / "behaviour.json"
    planned = json.loads(file.read_text()).get(name, []) if file.exists() else []
    number = earlier.count(f"begin {name}")
    does = planned[number] if number < len(planned) else None
    if does == "fail":
        print("RuntimeError: out of memory", file=sys.stderr)
        return 1
    if does == "bad input":
        print("seqgpt: error: no such mixture", file=sys.stderr)
        return 2
    if does == "interrupted":
        return 75
    if does == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if does == "slow":
        signal.signal(signal.SIGTERM, lambda *_: (log(calls, f"saved {name}"), os._exit(75)))
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            time.sleep(0.02)
    if arguments[0] == "train":
        write(place / "export" / "config.json", {"bindings": arguments})
    else:
        datasets = [dataset(values["--model"], "toy_en", "en", "NER")]
        write(place / "report.json", {"datasets": datasets, "system": {}, "skipped": [], "unscored": {}})
    log(calls, f"end {name}")
    return 0


def dataset(model: str, name: str, language: str, task: str) -> dict[str, object]:
    """Counts that depend on nothing but the model's name: the longer the better."""
    skill = sum(map(ord, Path(model).name)) % 7
    counts = [[int((i * 3) % 10 < skill), 1, 1] for i in range(RECORDS)]
    ids = [f"{name}-{i}" for i in range(RECORDS)]
    kind = "extraction" if task in ("NER", "SF") else "classification"
    return {
        "name": name, "language": language, "task": task, "kind": kind, "baseline": 0.25,
        "labels": [], "headline": "span_f1", "score": 0.5, "predictions": None,
        "counts": {"ids": ids, "counts": counts},
    }  # fmt: skip


def write(path: Path, fields: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".new").write_text(json.dumps(fields))
    path.with_suffix(".new").replace(path)


def log(file: Path, line: str) -> None:
    with file.open("a") as out:
        out.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
