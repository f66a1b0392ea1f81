"""What each preset needs on each slice of TPUs: compiles the train step for all of them, and needs no TPU.

    python benchmarks/scaling_table.py --into docs/scaling.md [--keep FOLDER] [--presets ...] [--topologies ...]

Every model trains the same way, the recipe's: AdamW, bfloat16 compute, float32 parameters, remat full, one row of 2,048
tokens a chip. Parameters are split over all chips (fsdp) where the width divides by them, else whole on every chip.
--into replaces the table of a page. --keep writes each plan there as JSON, and what is there is not compiled again.
One JSON object is on the last line. --quick: the smallest preset on four CPU devices, with short rows.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from _harness import finish, machine, make_parser

from seqgpt_jax.models.presets import PRESETS
from seqgpt_jax.training.chips import GIB, parse_topology

RECIPE = "gin/recipes/bloomz_7b1.gin"
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4")
COLUMNS = (
    "preset", "topology", "mesh", "GiB a chip", "of", "fits", "FLOPs a step", "GB received a chip", "compute ms",
    "memory ms", "interconnect ms", "at most tokens/s", "of peak", "compile CPU s",
)  # fmt: skip
BEGIN, END = "<!-- table of benchmarks/scaling_table.py -->\n", "<!-- end of the table -->\n"


def plan(preset: str, topology: str, keep: Path | None, bindings: tuple[str, ...] = ()) -> dict[str, Any]:
    """The JSON of `seqgpt plan`, from a process of its own."""
    kept = keep / f"{preset}@{topology.replace(':', '_')}.json" if keep else None
    if kept and kept.is_file():
        return json.loads(kept.read_text("utf-8"))
    chips = parse_topology(topology).num_devices
    split = PRESETS[preset].width % chips == 0
    settings = (
        "PRETRAINED='not read'", "DATA_DIR='not read'", f"model.preset='{preset}'", f"data.rows_per_step={chips}",
        f"mesh.data={1 if split else -1}", f"mesh.fsdp={-1 if split else 1}", *bindings,
    )  # fmt: skip
    command = [sys.executable, "-m", "seqgpt_jax.cli", "plan", RECIPE, "--topology", topology, "--json"]
    for setting in settings:
        command += ["--gin", setting]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip() or f"{shlex.join(command)} failed")
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout, encoding="utf-8")
    return json.loads(done.stdout)


def row(preset: str, fields: dict[str, Any]) -> list[str]:
    memory, time = fields["memory"], fields["step_time"] or {}
    received = fields["collectives"] and sum(one["received_bytes"] for one in fields["collectives"])
    mesh = " ".join(f"{axis}={size}" for axis, size in fields["mesh"].items() if size > 1)
    return [
        preset,
        fields["topology"],
        mesh,
        f"{memory['total'] / GIB:.2f}",
        "-" if memory["limit"] is None else f"{memory['limit'] / GIB:.2f}",
        {True: "yes", False: "no", None: "-"}[memory["fits"]],
        f"{fields['flops']['model']:.2e}",
        "-" if received is None else f"{received / 1e9:.2f}",
        *(
            "-" if time.get(name) is None else f"{time[name] * 1e3:.1f}"
            for name in ("compute", "memory", "interconnect")
        ),
        "-" if not time else f"{time['tokens'] / time['bound']:,.0f}",
        "-" if not time else f"{time['flops_share']:.0%}",
        f"{fields['compile_cpu_seconds']:.0f}",
    ]


def markdown(rows: list[list[str]]) -> str:
    rule = ["---"] * 3 + ["---:"] * (len(COLUMNS) - 3)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (list(COLUMNS), rule, *rows))


def main() -> None:
    parser = make_parser(__doc__, quick="the smallest preset on four CPU devices")
    parser.add_argument("--into", type=Path, metavar="PAGE.md", help="replace the table of this page")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="plans as JSON; those that are there are not redone"
    )
    parser.add_argument("--presets", nargs="+", default=[name for name in PRESETS if name.startswith("bloom")])
    parser.add_argument("--topologies", nargs="+", default=TOPOLOGIES)
    options = parser.parse_args()
    bindings: tuple[str, ...] = ()
    if options.quick:
        options.presets, options.topologies = ["bloom_nano"], ["cpu:4"]
        bindings = ("data.row_tokens=32", "data.row_supervised=8", "model.num_layers=2")
    figures, rows = {}, []
    for preset in options.presets:
        for topology in options.topologies:
            fields = plan(preset, topology, options.keep, bindings)
            rows.append(row(preset, fields))
            print("  ".join(rows[-1]), flush=True)
            figures[f"{preset}@{topology}"] = {
                name: fields[name]
                for name in (
                    "memory",
                    "flops",
                    "collectives_by_kind",
                    "step_time",
                    "compile_seconds",
                    "compile_cpu_seconds",
                )
            }
    if options.into:
        page = options.into.read_text("utf-8")
        before, rest = page.split(BEGIN, 1)
        after = rest.split(END, 1)[1]
        options.into.write_text(before + BEGIN + markdown(rows) + END + after, encoding="utf-8")
    finish(
        options,
        ratios={},
        figures=figures,
        settings={"recipe": RECIPE, "row_a_chip": True, "remat": "full"},
        device=f"none; compiled on {machine()}",
    )


if __name__ == "__main__":
    main()
