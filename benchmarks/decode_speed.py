"""Speed of answers on the CPU against transformers' `generate`: the same weights, prompts and records, side by side.

    python benchmarks/decode_speed.py --model DIR [--json FILE] [--cells FILE]
    python benchmarks/decode_speed.py --size bloom_560m [--json FILE] [--cells FILE] [--figure FILE.png]

    ours     the predictor with its defaults: constrained extraction, classification by scoring
    theirs   `generate` as the script of the released weights calls it: 4 beams, no sampling, at most 256 new tokens, at
             most 6 labels a prompt in extraction, all labels in one prompt in classification

Both have prompts and parsing from this package, a process of their own for each measurement, float32 and all cores.
One is timed right after the other. A batch of 16 is 16 records: for theirs 16 prompts padded on the left, and a call
for each chunk of labels.

--model: a trained model; how good its answers are stands beside the speed. --size: random weights in a named shape,
written for the run. There a hook makes both sides give the gold answer and EOS, on every beam, so that lengths are
those of real answers; the tokenizer is trained on the datasets (at most 32,768 ids), the head has the preset's rows.

Names: extract (crossner_ai, 14 types), slots (mtod_slots, 16 slots), classify_77 (banking77) and sentiment (sst2), each
_b1 and _b16 after the batch; classify_77 alone is its batch of 1. Ratios are examples per second, ours over theirs.
Figures of each side:

    p50_s, p95_s      of a call, which is one record at _b1
    peak_mib          largest resident memory of its process
    cores_busy        processor seconds over seconds: where it is short of the cores, other work disturbed the side
    warmup_s          what was not timed: all calls once (ours, compilation included), or the first call (theirs)
    passes, tokens    runs of the model and tokens they compute, padding and beams included, for one example
    wrong_answers     answers that the hook did not make the gold ones
    bound_tokens, bound_passes   theirs over ours: the speed-up if each token, or each pass, cost the same
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from _decode_sides import MAX_NEW_TOKENS, NUM_BEAMS, Cell, run_cell
from _harness import answer_child, finish, machine, make_parser, run_child
from _random_model import write_random_model

from seqgpt_jax.whole import write_json

REPO = Path(__file__).resolve().parent.parent
SIDES = ("ours", "theirs")
DATASETS = {"extract": "crossner_ai", "slots": "mtod_slots", "classify_77": "banking77", "sentiment": "sst2"}
NAMES = {f"{name}_b{batch}": (dataset, batch) for name, dataset in DATASETS.items() for batch in (1, 16)}
NAMES["classify_77"] = NAMES.pop("classify_77_b1")
QUICK = {"extract_b1": ("mini_real_en_ner", 1), "sentiment_b16": ("mini_real_en_sa", 16)}
FIGURE_LABELS, FIGURE_WORDS = (1, 6, 50, 150), (25, 100, 200, 400)  # the one at 40 words, the other at 6 labels


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process does, given to it as JSON: a cell, or the random model."""

    model_dir: str
    cell: Cell | None = None
    preset: str = ""
    vocab_size: int | None = None
    sources: tuple[str, ...] = ()  # of the tokenizer's texts

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        return cls(**{**fields, "cell": fields["cell"] and Cell(**fields["cell"])})

    def run(self) -> dict[str, Any]:
        if self.cell:
            return run_cell(self.cell, self.model_dir)
        return {"ids": write_random_model(self.model_dir, self.preset, self.vocab_size, self.sources)}


class Cells:
    """Finished measurements, kept in a file if there is one, so that a run that was stopped goes on where it was."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._done: dict[str, Any] = json.loads(file.read_text("utf-8")) if file and file.is_file() else {}

    def missing(self, cells: list[Cell]) -> bool:
        return any(_key(cell) not in self._done for cell in cells)

    def __getitem__(self, cell: Cell) -> dict[str, Any]:
        return self._done[_key(cell)]

    def __setitem__(self, cell: Cell, result: dict[str, Any]) -> None:
        self._done[_key(cell)] = result
        if self._file:
            write_json(self._file, self._done)

    def measure(self, cells: list[Cell], model_dir: str) -> None:
        for number, cell in enumerate(cells, 1):
            shown = f"[{number}/{len(cells)}] {cell.side:6} {cell.source[:60]:60} batch {cell.batch:<2}"
            if _key(cell) in self._done:
                print(f"{shown} as before", file=sys.stderr, flush=True)
                continue
            print(f"{shown} ...", file=sys.stderr, flush=True)
            result = run_child(Job(model_dir, cell), f"{cell.side} {cell.source[:60]}", HF_HUB_OFFLINE="1")
            self[cell] = result
            print(
                f"{shown} {_examples_per_s(cell, result):8.3f} examples/s, {result['metric']} {result['score']:.3f}",
                file=sys.stderr,
                flush=True,
            )


def _key(cell: Cell) -> str:
    return json.dumps(dataclasses.asdict(cell))


def _examples_per_s(cell: Cell, result: dict[str, Any]) -> float:
    return cell.records / sum(result["calls_s"])


# --- what was measured -----------------------------------------------------------------------------------------------


def _figures(cell: Cell, result: dict[str, Any]) -> dict[str, float]:
    calls = sorted(result["calls_s"])
    return {
        "examples_per_s": round(_examples_per_s(cell, result), 4),
        "p50_s": round(statistics.median(calls), 4),
        "p95_s": round(calls[min(len(calls) - 1, int(0.95 * len(calls)))], 4),
        "peak_mib": round(result["peak_mib"]),
        "cores_busy": round(result["cores_busy"], 2),
        "load_s": round(result["load_s"], 2),
        "warmup_s": round(result["warmup_s"], 2),
        "passes": round(result["passes"] / cell.records, 2),
        "tokens": round(result["tokens"] / cell.records, 1),
        "score": round(result["score"], 4),
        **({"wrong_answers": result["wrong_answers"]} if cell.forced else {}),
    }


def _compare(name: str, pair: list[Cell], cells: Cells) -> tuple[float, dict[str, float]]:
    """The ratio, and all figures of a name."""
    ours, theirs = (_figures(cell, cells[cell]) for cell in pair)
    sides = zip(SIDES, (ours, theirs), strict=True)
    figures = {f"{side}_{name}_{key}": value for side, one in sides for key, value in one.items()}
    for what in ("tokens", "passes"):
        if ours[what]:
            figures[f"bound_{what}_{name}"] = round(theirs[what] / ours[what], 2)
    return round(ours["examples_per_s"] / theirs["examples_per_s"], 2), figures


def _figure_cells(source: str, model: str) -> dict[tuple[str, int, int], list[Cell]]:
    """(kind, labels, words) -> both sides."""
    shapes = [(labels, 40) for labels in FIGURE_LABELS] + [(6, words) for words in FIGURE_WORDS]
    return {
        (kind, *shape): [Cell(side, f"{kind} {shape[0]} {shape[1]} {source}", 1, 2, model, True) for side in SIDES]
        for kind in ("classify", "extract")
        for shape in shapes
    }


def _draw(shapes: dict[tuple[str, int, int], list[Cell]], cells: Cells, file: Path) -> None:
    from matplotlib.figure import Figure

    from seqgpt_jax.figures import DPI, plain

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    colours = {"extract": "#2b6cb0", "classify": "#dd7733"}
    for axes, place, fixed, values in zip(
        panels, (1, 2), ((2, 40), (1, 6)), (FIGURE_LABELS, FIGURE_WORDS), strict=True
    ):
        plain(axes, "both")
        for kind, colour in colours.items():
            for number, (side, line) in enumerate(zip(SIDES, ("-", "--"), strict=True)):
                chosen = {
                    key[place]: pair[number]
                    for key, pair in shapes.items()
                    if key[0] == kind and key[fixed[0]] == fixed[1]
                }
                times = [statistics.median(cells[chosen[value]]["calls_s"]) for value in values]
                axes.plot(values, times, line, color=colour, marker="o", markersize=4, label=f"{kind}, {side}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(values, map(str, values))
        axes.minorticks_off()
    panels[0].set(xlabel="labels (text of 40 words)", ylabel="seconds a text")
    panels[1].set(xlabel="words of the text (6 labels)")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=DPI)


def main() -> None:
    parser = make_parser(__doc__, quick="a tiny random model on a few generated records")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--model", type=Path, metavar="DIR", help="a Hugging Face directory: as it answers")
    weights.add_argument("--size", metavar="PRESET", help="random weights in this shape, gold answers by a hook")
    parser.add_argument("--data", type=Path, default=REPO.parent / "shared" / "data" / "en", help="folder of datasets")
    parser.add_argument("--records", type=int, help="of each dataset (default: 300 with --model, 20 with --size)")
    parser.add_argument("--only", nargs="+", choices=list(NAMES), default=list(NAMES), help="names to measure")
    parser.add_argument("--cells", type=Path, metavar="FILE", help="keeps what is measured; a later run goes on there")
    parser.add_argument("--figure", type=Path, metavar="FILE.png", help="also time against labels and length")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        answer_child(Job.from_json(options.child).run)
        return
    if not (options.quick or options.model or options.size):
        parser.error("give --model DIR or --size PRESET")
    chosen = {name: (str(options.data / dataset), batch) for name, (dataset, batch) in NAMES.items()}
    chosen = QUICK if options.quick else {name: chosen[name] for name in options.only}
    preset, vocab_size = ("bloom_nano", 1_024) if options.quick else (options.size, None)
    records = 3 if options.quick else options.records or (20 if options.size else 300)
    model = str(options.model or preset)
    compared = {
        name: [Cell(side, source, batch, records, model, forced=not options.model) for side in SIDES]
        for name, (source, batch) in chosen.items()
    }
    shapes = _figure_cells(next(iter(chosen.values()))[0], model) if options.figure else {}
    cells = Cells(options.cells)
    wanted = [cell for pair in (*compared.values(), *shapes.values()) for cell in pair]
    ids = None
    with tempfile.TemporaryDirectory() as folder:
        model_dir = model
        if not options.model and cells.missing(wanted):
            print(f"writing {preset} with random weights ...", file=sys.stderr, flush=True)
            model_dir = f"{folder}/model"
            sources = tuple(dict.fromkeys(source for source, _ in chosen.values()))
            if not options.quick:
                sources = (str(options.data),)
            ids = run_child(Job(model_dir, None, preset, vocab_size, sources), "the random model")["ids"]
        cells.measure(wanted, model_dir)
    if shapes:
        _draw(shapes, cells, options.figure)
    ratios, figures = {}, {}
    for name, pair in compared.items():
        ratios[name], found = _compare(name, pair, cells)
        figures |= found
        print(f"{name:16} {ratios[name]:>8}", *(f"{key} {value}" for key, value in found.items() if "bound" in key))
    settings = {"model": model, "forced": not options.model, "records": records, "precision": "float32"}
    settings |= {"num_beams": NUM_BEAMS, "max_new_tokens": MAX_NEW_TOKENS, "tokenizer_ids": ids}
    settings |= {name: Path(source).name for name, (source, _) in chosen.items()}
    finish(options, ratios=ratios, figures=figures, settings=settings, device=machine())


if __name__ == "__main__":
    main()
