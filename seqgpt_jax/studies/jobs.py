"""The commands of a study, by what they need: shared trainings, trainings, evaluations.

    DIR/runs/NAME/          run directories: stage1-nano-seed0, on-nano-seed0
    DIR/evaluations/NAME/   what `seqgpt eval` writes: on-nano-seed0, one a cell and seed
    DIR/jobs/NAME.*         what a job was started with, what it wrote on the terminal, its lock (runner.py)

A training is done when its export is there, an evaluation when its report is: both appear whole.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqgpt_jax.errors import UserError
from seqgpt_jax.studies.grid import Cell, Study


@dataclass(frozen=True)
class Job:
    """One command. arguments: of `seqgpt`; settings: what its result depends on, where DIR is written for the folder.

    needs: names of the jobs that come before. place: the folder it writes; result: the file in it that comes last.
    """

    name: str
    arguments: tuple[str, ...]
    settings: Mapping[str, str]
    place: Path
    result: Path
    needs: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        return shlex.join(["seqgpt", *self.arguments])


def cell_seed(cell: Cell, seed: int) -> str:
    return f"{cell.name}-seed{seed}"


def training_name(study: Study, cell: Cell, seed: int) -> str:
    """Of the run that a cell is judged by: the values that differ in training, and the seed."""
    names = [value.name for axis, value in zip(study.axes, cell.values, strict=True) if axis.trains]
    return "-".join([*names, f"seed{seed}"])


def shared_names(study: Study, cell: Cell, seed: int) -> dict[str, str]:
    """The runs that a cell's training starts from, by the names that its bindings have for them."""
    names = {}
    for key in study.shared:
        if any(f"{{{key}}}" in binding for binding in _bindings(study, cell)):
            pairs = zip(study.axes, cell.values, strict=True)
            parts = [value.name for axis, value in pairs if any(key in other.shared for other in axis.values)]
            names[key] = "-".join([key, *parts, f"seed{seed}"])
    return names


def _bindings(study: Study, cell: Cell) -> list[str]:
    return [*study.gin, *(binding for value in cell.values for binding in value.gin)]


def evaluation_folder(folder: Path, cell: Cell, seed: int) -> Path:
    return folder / "evaluations" / cell_seed(cell, seed)


def study_jobs(study: Study, folder: Path, file: str) -> list[Job]:
    """All jobs, each after those that it needs. UserError for a recipe that is missing, a binding that gin does not
    know or that changes nothing, and an option that `seqgpt eval` has not.
    """
    return _Jobs(study, folder.absolute(), file).all()


def chosen_jobs(jobs: Sequence[Job], study: Study, only: Sequence[str]) -> list[Job]:
    """The jobs of some cells (all seeds: on-nano; one: on-nano-seed0) or shared trainings, with what those need."""
    evaluations = {cell_seed(cell, seed): cell.name for cell in study.cells for seed in study.seeds}
    by_name = {job.name: job for job in jobs}
    wanted: set[str] = set()
    for name in only:
        names = [f"eval-{key}" for key, cell in evaluations.items() if name in (key, cell)]
        names += [f"train-{name}"] if f"train-{name}" in by_name else []
        if not names:
            cells = list(dict.fromkeys(evaluations.values()))
            raise UserError(f"--only {name}: no such cell (there is {', '.join(cells)}; each also with -seedN)")
        wanted.update(names)
    pending = list(wanted)
    while pending:
        needs = by_name[pending.pop()].needs
        pending += [name for name in needs if name not in wanted]
        wanted.update(needs)
    return [job for job in jobs if job.name in wanted]


class _Jobs:
    def __init__(self, study: Study, folder: Path, file: str) -> None:
        self.study, self.folder, self.file = study, folder, file
        self.found: dict[str, Job] = {}

    def all(self) -> list[Job]:
        for seed in self.study.seeds:
            for cell in self.study.cells:
                self.evaluation(cell, seed, self.training(cell, seed))
        check_eval_arguments((job.arguments for job in self.found.values() if job.arguments[0] == "eval"), self.file)
        return list(self.found.values())

    def training(self, cell: Cell, seed: int) -> str:
        """The name of the run that the cell is judged by; adds its job and those of the shared ones that it needs."""
        study, name = self.study, training_name(self.study, cell, seed)
        for key, run in shared_names(study, cell, seed).items():
            bound = (binding for value in cell.values for binding in value.shared.get(key, ()))
            self.add_training(run, study.shared[key].recipe, [*study.shared[key].gin, *bound], seed, {})
        recipe = next((value.recipe for value in cell.values if value.recipe), study.recipe)
        return self.add_training(name, recipe, _bindings(study, cell), seed, shared_names(study, cell, seed))

    def add_training(
        self, name: str, recipe: str, bindings: Iterable[str], seed: int, shared: Mapping[str, str]
    ) -> str:
        if f"train-{name}" in self.found:
            return name
        places = {"seed": str(seed), **{key: str(self.run_dir(run)) for key, run in shared.items()}}
        filled = [self.filled(binding, places) for binding in [*bindings, "recipe.seed={seed}"]]
        arguments = ["train", recipe, "--run_dir", str(self.run_dir(name))]
        arguments += [part for binding in filled for part in ("--gin", binding)]
        self.found[f"train-{name}"] = Job(
            name=f"train-{name}",
            arguments=tuple(arguments),
            settings=self.settings({"command": shlex.join(arguments), "config": self.config(recipe, filled)}),
            place=self.run_dir(name),
            result=self.run_dir(name) / "export" / "config.json",
            needs=tuple(f"train-{run}" for run in shared.values()),
        )
        return name

    def filled(self, binding: str, places: Mapping[str, str]) -> str:
        """The binding with {seed} and {NAME} filled in."""

        def place(found: re.Match[str]) -> str:
            if found[1] not in places:
                known = ", ".join(f"{{{name}}}" for name in ("seed", *self.study.shared))
                raise UserError(f"{self.file}: '{binding}': {found[0]} stands for nothing (there is {known})")
            return places[found[1]]

        return re.sub(r"\{([A-Za-z_]\w*)\}", place, binding)

    def config(self, recipe: str, bindings: Sequence[str]) -> str:
        """What the recipe comes to, as the run itself will keep it: a changed gin file changes it."""
        from seqgpt_jax.configuration import load_recipe, operative_config_str

        try:
            load_recipe(recipe, bindings)
        except UserError as error:
            raise UserError(f"{self.file}: {error}") from None
        return operative_config_str()

    def evaluation(self, cell: Cell, seed: int, run: str) -> None:
        given = self.study.evaluation
        out = evaluation_folder(self.folder, cell, seed)
        arguments = ["eval", "--model", str(self.run_dir(run)), "--mixture", given.mixture, "--split", given.split]
        arguments += ["--limit", str(given.limit)] if given.limit else []
        arguments += ["--seed", str(given.seed), "--out", str(out)]
        arguments += [*given.options, *(option for value in cell.values for option in value.options)]
        name = f"eval-{cell_seed(cell, seed)}"
        settings = self.settings({"command": shlex.join(arguments)})
        self.found[name] = Job(name, tuple(arguments), settings, out, out / "report.json", (f"train-{run}",))

    def run_dir(self, name: str) -> Path:
        return self.folder / "runs" / name

    def settings(self, fields: Mapping[str, str]) -> dict[str, str]:
        """As they are kept: a study's folder may be moved."""
        return {key: text.replace(str(self.folder), "DIR") for key, text in fields.items()}


def check_eval_arguments(commands: Iterable[Sequence[str]], file: str) -> None:
    from seqgpt_jax.cli import build_parser

    parser = build_parser()
    for command in commands:
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                parser.parse_args(list(command))
        except (SystemExit, argparse.ArgumentError):
            problem = (said.getvalue().strip().splitlines() or ["cannot be read"])[-1]
            raise UserError(f"{file}: options of the evaluation: {problem} (see seqgpt eval --help)") from None
