"""`seqgpt study`: what it takes."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqgpt_jax.cli_arguments import add_command, count
from seqgpt_jax.errors import UserError

if TYPE_CHECKING:
    from seqgpt_jax.studies.grid import Study

_FAILED = 1


def add_study_command(commands: Any) -> None:
    study = add_command(
        commands, "study", _study, "train and evaluate every cell of an ablation study, and make its tables",
        "seqgpt study launch/studies/num_datasets.py:cpu --out runs/studies/num_datasets --jobs 2",
    )  # fmt: skip
    study.add_argument(
        "study", metavar="FILE.py[:SIZE] | report",
        help="a file with get_config(), called with SIZE where one is given; or report, for the tables of what is done",
    )  # fmt: skip
    study.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="of report: the --out of a study")
    study.add_argument("--out", type=Path, metavar="DIR", help="where all cells and the report go; run again to go on")
    study.add_argument("--jobs", type=count, default=1, metavar="N", help="cells at a time (default: 1)")
    study.add_argument(
        "--only", nargs="+", action="extend", metavar="CELL", help="these cells, such as on-nano or on-nano-seed0"
    )
    study.add_argument("--dry_run", action="store_true", help="print every command that would run")
    study.add_argument(
        "--launcher", choices=("local", "slurm", "kubernetes"), default="local",
        help="slurm: submit an array of jobs; kubernetes: print an indexed Job (default: local)",
    )  # fmt: skip
    study.add_argument(
        "--launch", action="append", default=[], metavar="KEY=VALUE",
        help="of slurm: a parameter of submitit, such as gpus_per_node=1; of kubernetes: image, claim, ...; repeatable",
    )  # fmt: skip


def _study(options: argparse.Namespace) -> int | None:
    from seqgpt_jax.studies.report import write_study_report

    if options.study == "report":
        folder = options.folder or options.out
        if folder is None:
            raise UserError("seqgpt study report needs a folder (the --out of a study)")
        write_study_report(folder)
        print((folder / "study.md").read_text("utf-8"))
        return None
    if options.folder is not None:
        raise UserError(f"{options.folder}: only `seqgpt study report` takes a folder here (give --out DIR)")
    if options.out is None:
        raise UserError("--out is missing (the folder for all cells and the report)")
    from seqgpt_jax.studies.grid import load_config, parse_study
    from seqgpt_jax.studies.jobs import chosen_jobs, study_jobs
    from seqgpt_jax.studies.locks import study_lock
    from seqgpt_jax.studies.report import keep_config
    from seqgpt_jax.studies.runner import is_done, run_jobs

    config = load_config(options.study)
    study = parse_study(config, options.study)
    jobs = study_jobs(study, options.out, options.study)
    if options.only:
        jobs = chosen_jobs(jobs, study, options.only)
    if options.dry_run:
        for job in jobs:
            print(f"{'# done: ' if is_done(job, options.out) else ''}{job.command}")
        return None
    if options.launcher != "local":
        _launch(options, study)
        return None
    with study_lock(options.out, shared=bool(options.only)):
        keep_config(options.out, _command(options), config)
        outcomes = run_jobs(jobs, options.out, options.jobs)
        write_study_report(options.out)
    if not options.only:
        print((options.out / "study.md").read_text("utf-8"))
    failed = [name for name, outcome in outcomes.items() if outcome.failure]
    if failed:
        print(f"seqgpt: {len(failed)} jobs failed, see {options.out}/jobs/*.log (run again to retry)", file=sys.stderr)
        return _FAILED
    return None


def _command(options: argparse.Namespace) -> str:
    """What makes the study, without what depends on the machine."""
    return shlex.join(["seqgpt", "study", options.study, "--out", str(options.out)])


def _launch(options: argparse.Namespace, study: Study) -> None:
    from seqgpt_jax.studies import clusters

    settings = clusters.parse_settings(options.launch)
    cells = options.only or clusters.all_cells(study)
    commands = [clusters.cell_command(options.study, options.out, cell) for cell in cells]
    if options.launcher == "kubernetes":
        print(clusters.kubernetes_job(options.out.name, commands, options.jobs, settings), end="")
        return
    ids = clusters.submit_slurm(commands, options.out / "slurm", options.jobs, settings)
    print(f"submitted {len(ids)} cells: {ids[0]} to {ids[-1]}; then: seqgpt study report {options.out}")
