"""What a study declares: axes with values, whose combinations are its cells; each cell is trained once a seed.

A file of launch/studies/ has get_config(), which returns an ml_collections.ConfigDict:

    title        what the report is headed with
    recipe       gin file of every training, unless a value names another
    gin          bindings of every training, above the file
    seeds        of the trainings (recipe.seed)
    shared       {NAME: {recipe, gin}}: trainings that several cells start from, once a seed; see below
    axes         [{name, values: [{name, gin, recipe, shared, options, x, measure}]}]
    baseline     {axis: value}: what a cell is compared with has these values and is otherwise like the cell
    evaluation   {mixture, split, limit, seed, options}: every cell is judged by `seqgpt eval` so; options are its flags
    measures     what the tables hold (measures.py): score, en, zh, NER, en/NER, classification, extraction; "own" is
                 what the cell's value names as its measure
    figure       {kind: "lines" or "bars", axis, fit}: axis is the horizontal one; fit: a + b ln x, which values have

Of a value: gin and recipe are added to the cell's training, shared ({NAME: [bindings]}) to a shared one, options to
the evaluation. x is its number on a figure's axis, measure what "own" stands for. In bindings, {seed} is the seed and
{NAME} the run directory of a shared training. Cells whose trainings are the same share one.
"""

from __future__ import annotations

import difflib
import importlib.util
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from seqgpt_jax.errors import UserError
from seqgpt_jax.studies.measures import check_measure

_NAME = re.compile(r"[\w.+]+")  # of values and shared trainings: parts of folder names, put together with -
OWN = "own"


@dataclass(frozen=True)
class Value:
    """One value of an axis (module docstring)."""

    name: str
    gin: tuple[str, ...] = ()
    recipe: str | None = None
    shared: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    options: tuple[str, ...] = ()
    x: float | None = None
    measure: str | None = None


@dataclass(frozen=True)
class Axis:
    name: str
    values: tuple[Value, ...]

    @property
    def trains(self) -> bool:
        """Whether its values differ in training, not in the evaluation alone."""
        return any(value.gin or value.recipe or value.shared for value in self.values)


@dataclass(frozen=True)
class Shared:
    recipe: str
    gin: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvaluationOf:
    mixture: str
    split: str = "test"
    limit: int | None = None  # records a dataset; None: all
    seed: int = 0  # draws the records, the same ones for every cell
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    kind: str = "bars"
    axis: str | None = None  # None: the first
    fit: bool = False


@dataclass(frozen=True)
class Cell:
    """One value of every axis."""

    values: tuple[Value, ...]

    @property
    def name(self) -> str:
        return "-".join(value.name for value in self.values)

    @property
    def measure(self) -> str | None:
        """What the measure "own" is of this cell."""
        return next((value.measure for value in self.values if value.measure), None)


@dataclass(frozen=True)
class Study:
    title: str
    recipe: str
    gin: tuple[str, ...]
    seeds: tuple[int, ...]
    shared: Mapping[str, Shared]
    axes: tuple[Axis, ...]
    baseline: Mapping[str, str]
    evaluation: EvaluationOf
    measures: tuple[str, ...] = ("score",)
    figure: Figure = Figure()

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(Cell(values) for values in itertools.product(*(axis.values for axis in self.axes)))

    def baseline_of(self, cell: Cell) -> Cell:
        """The cell that this one is compared with; itself where it is a baseline."""
        chosen = []
        for axis, value in zip(self.axes, cell.values, strict=True):
            name = self.baseline.get(axis.name, value.name)
            chosen.append(next(each for each in axis.values if each.name == name))
        return Cell(tuple(chosen))

    def axis(self, name: str) -> Axis:
        return next(axis for axis in self.axes if axis.name == name)


def load_config(given: str) -> dict[str, Any]:
    """The config of FILE.py, or of FILE.py:SIZE, whose get_config is called with SIZE; as plain JSON values.

    UserError for a file that is missing or fails, without a get_config, or of which there is no such size.
    """
    place, _, size = given.partition(".py:")
    path = Path(f"{place}.py" if size else place)
    if not path.is_file():
        ours = sorted(str(each) for each in Path("launch/studies").glob("*.py"))
        close = difflib.get_close_matches(str(path), ours, n=3) or ours
        raise UserError(f"{path}: no such file (a study is a Python file{', such as ' if ours else ''}{_or(close)})")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file (a study is a .py file with get_config())")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path}: {type(error).__name__}: {error} (the file must run by itself)") from error
    if not callable(getattr(module, "get_config", None)):
        raise UserError(f"{path}: no function get_config (it returns the study as an ml_collections.ConfigDict)")
    try:
        config = module.get_config(*([size] if size else []))
    except Exception as error:
        raise UserError(f"{given}: get_config: {type(error).__name__}: {error} (mend the file)") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config returns {type(config).__name__} (return an ml_collections.ConfigDict)")
    try:
        return json.loads(config.to_json())
    except TypeError as error:
        raise UserError(f"{path}: {error} (use numbers, strings, lists and dicts)") from None


def parse_study(config: Mapping[str, Any], file: str) -> Study:
    """The study of a config. UserError that names file, field and remedy; bindings are checked by jobs.py."""
    return _Parser(file).study(config)


class _Parser:
    def __init__(self, file: str) -> None:
        self.file = file

    def error(self, place: str, problem: str, remedy: str) -> UserError:
        return UserError(f"{self.file}: {place}: {problem} ({remedy})")

    def study(self, config: Mapping[str, Any]) -> Study:
        needed = ("title", "recipe", "seeds", "axes", "baseline", "evaluation")
        self.fields("", config, (*needed, "gin", "shared", "measures", "figure"), needed)
        seeds = config["seeds"]
        if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
            raise self.error("seeds", f"{seeds!r} is not a list of whole numbers", "such as (0, 1)")
        if len(set(seeds)) < len(seeds):
            raise self.error("seeds", f"{seeds} holds one twice", "leave it out")
        study = Study(
            title=self.text("title", config["title"]),
            recipe=self.text("recipe", config["recipe"]),
            gin=self.texts("gin", config.get("gin", [])),
            seeds=tuple(seeds),
            shared=self.shared(config.get("shared", {})),
            axes=self.axes(config["axes"]),
            baseline=config["baseline"],
            evaluation=self.evaluation(config["evaluation"]),
            measures=self.texts("measures", config.get("measures", ["score"])),
            figure=self.figure(config.get("figure", {})),
        )
        self.check_names(study)
        return study

    def shared(self, given: Any) -> dict[str, Shared]:
        found = {}
        for name, fields in self.mapping("shared", given).items():
            place = f"shared.{name}"
            if not _NAME.fullmatch(name) or name == "seed":
                raise self.error(place, "not a name", "use letters, digits and _, and not seed")
            self.fields(place, fields, ("recipe", "gin"), ("recipe",))
            recipe = self.text(f"{place}.recipe", fields["recipe"])
            found[name] = Shared(recipe, self.texts(f"{place}.gin", fields.get("gin", [])))
        return found

    def axes(self, given: Any) -> tuple[Axis, ...]:
        axes = []
        for number, fields in enumerate(self.list("axes", given)):
            place = f"axes[{number}]"
            self.fields(place, fields, ("name", "values"), ("name", "values"))
            name = self.text(f"{place}.name", fields["name"])
            values = self.list(f"axis '{name}': values", fields["values"])
            axes.append(Axis(name, tuple(self.value(f"axis '{name}': values[{i}]", v) for i, v in enumerate(values))))
            self.distinct(f"axis '{name}'", [value.name for value in axes[-1].values])
        self.distinct("axes", [axis.name for axis in axes])
        return tuple(axes)

    def value(self, place: str, given: Any) -> Value:
        self.fields(place, given, ("name", "gin", "recipe", "shared", "options", "x", "measure"), ("name",))
        name = self.text(f"{place}.name", given["name"])
        if not _NAME.fullmatch(name):
            raise self.error(f"{place}.name", f"{name!r} is no folder name", "use letters, digits, _, . and +")
        x = given.get("x")
        if x is not None and not isinstance(x, int | float):
            raise self.error(f"{place}.x", f"{x!r} is not a number", "it is the value's place on the axis")
        shared = self.mapping(f"{place}.shared", given.get("shared", {}))
        return Value(
            name=name,
            gin=self.texts(f"{place}.gin", given.get("gin", [])),
            recipe=given.get("recipe"),
            shared={key: self.texts(f"{place}.shared.{key}", bound) for key, bound in shared.items()},
            options=self.texts(f"{place}.options", given.get("options", [])),
            x=x,
            measure=given.get("measure"),
        )

    def evaluation(self, given: Any) -> EvaluationOf:
        self.fields("evaluation", given, ("mixture", "split", "limit", "seed", "options"), ("mixture",))
        limit = given.get("limit")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise self.error("evaluation.limit", f"{limit!r} is not a whole number above 0", "or None for all records")
        options = self.texts("evaluation.options", given.get("options", []))
        return EvaluationOf(
            self.text("evaluation.mixture", given["mixture"]), given.get("split", "test"), limit, given.get("seed", 0),
            options,
        )  # fmt: skip

    def figure(self, given: Any) -> Figure:
        self.fields("figure", given, ("kind", "axis", "fit"), ())
        figure = Figure(**given)
        if figure.kind not in ("lines", "bars"):
            raise self.error("figure.kind", f"{figure.kind!r} is unknown", "choose lines or bars")
        return figure

    def check_names(self, study: Study) -> None:
        """What fields say of one another."""
        axes = {axis.name: [value.name for value in axis.values] for axis in study.axes}
        for axis, name in self.mapping("baseline", study.baseline).items():
            if axis not in axes:
                raise self.error(f"baseline['{axis}']", "no such axis", f"there is {_or(list(axes))}")
            if name not in axes[axis]:
                raise self.error(f"baseline['{axis}']", f"no value {name!r}", f"there is {_or(axes[axis])}")
        if not study.baseline:
            raise self.error("baseline", "empty", "name a value of at least one axis, such as {'stage 1': 'off'}")
        if study.figure.axis is not None and study.figure.axis not in axes:
            raise self.error("figure.axis", f"no axis {study.figure.axis!r}", f"there is {_or(list(axes))}")
        if study.figure.kind == "lines":
            drawn = study.axis(study.figure.axis or study.axes[0].name)
            for value in drawn.values:
                if value.x is None or value.x <= 0:
                    raise self.error(
                        f"axis '{drawn.name}': value '{value.name}'", "no x above 0",
                        "lines are drawn over a logarithmic axis: give x, or choose figure.kind = bars",
                    )  # fmt: skip
        elif study.figure.fit:
            raise self.error("figure.fit", "bars have no fit", "choose figure.kind = lines")
        for each in study.axes:
            for value in each.values:
                for name in value.shared:
                    if name not in study.shared:
                        place = f"axis '{each.name}': value '{value.name}': shared.{name}"
                        raise self.error(place, "no such shared training", f"there is {_or(list(study.shared))}")
        named = [value.measure for each in study.axes for value in each.values if value.measure]
        for measure in (*study.measures, *named):
            if measure != OWN or measure in named:
                try:
                    check_measure(measure)
                except UserError as error:
                    raise UserError(f"{self.file}: {error}") from None
        if OWN in study.measures:
            baselines = {study.baseline_of(cell) for cell in study.cells}
            missing = [cell.name for cell in study.cells if cell not in baselines and not cell.measure]
            if missing:
                raise self.error("measures", f"'{OWN}', but {missing[0]} has no measure", "give its value a measure")
        self.distinct("cells", [cell.name for cell in study.cells])

    # --- plain values ---

    def fields(self, place: str, given: Any, known: Sequence[str], needed: Sequence[str]) -> None:
        for name in self.mapping(place or "the config", given):
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1) or known
                where = f"{place}.{name}" if place else name
                raise self.error(
                    where, "no such field", f"{'did you mean' if len(close) == 1 else 'one of'} {_or(close)}"
                )
        for name in needed:
            if name not in given:
                raise self.error(f"{place}.{name}" if place else name, "missing", "give it")

    def mapping(self, place: str, given: Any) -> Mapping[str, Any]:
        if not isinstance(given, dict):
            raise self.error(place, f"{given!r} is not a dict", "write {name: ...}")
        return given

    def list(self, place: str, given: Any) -> Sequence[Any]:
        if not isinstance(given, list) or not given:
            raise self.error(place, "empty" if given == [] else f"{given!r} is not a list", "give at least one")
        return given

    def text(self, place: str, given: Any) -> str:
        if not isinstance(given, str) or not given:
            raise self.error(place, f"{given!r} is not a string", "put it in quotes")
        return given

    def texts(self, place: str, given: Any) -> tuple[str, ...]:
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise self.error(place, f"{given!r} is not a list of strings", "such as ['recipe.seed=1']")
        return tuple(given)

    def distinct(self, place: str, names: Sequence[str]) -> None:
        for name in names:
            if names.count(name) > 1:
                raise self.error(place, f"two are named '{name}'", "give each a name of its own")


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)
