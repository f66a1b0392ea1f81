"""Recipes and evaluations in gin: the only module that touches gin. Gives gin the dataclasses of recipe.py and builds
one from a file.

    include "models/bloom_nano.gin"                       found beside the file, or among ours
    recipe.stages = [@synthetic/stage(), @mini_real/stage()]
    synthetic/stage.mixture = "synthetic"                 the scope before the / belongs to that stage alone
    synthetic/optimizer.learning_rate = 0.02

Every name that gin knows is a key of `SECTIONS`. A binding that would change nothing is an error.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
from gin import config as gin_state

from seqgpt_jax import recipe as settings
from seqgpt_jax.errors import UserError
from seqgpt_jax.models.lora import LoraConfig
from seqgpt_jax.models.loss import LossConfig
from seqgpt_jax.negatives import AskConfig
from seqgpt_jax.recipe import EvaluationSettings, Recipe
from seqgpt_jax.training.optimizers import OptimizerConfig

SECTIONS: Mapping[str, type] = {
    "recipe": Recipe,
    "model": settings.ModelSettings,
    "lora": LoraConfig,
    "tokenizer": settings.TokenizerSettings,
    "prompt": settings.PromptSettings,
    "data": settings.DataSettings,
    "ask": AskConfig,
    "mesh": settings.MeshSettings,
    "loss": LossConfig,
    "checkpoint": settings.CheckpointSettings,
    "stage": settings.Stage,
    "optimizer": OptimizerConfig,
    "evaluation": EvaluationSettings,
}

_PARTS_OF_RECIPE = ("model", "tokenizer", "prompt", "data", "mesh", "loss", "checkpoint")
# So that a file binds `model.preset` without saying that the recipe's model is made by @model().
_WIRING = (
    *(f"recipe.{part} = @{part}()" for part in _PARTS_OF_RECIPE),
    "data.ask = @ask()",
    "stage.optimizer = @optimizer()",
)

_MODULE = "seqgpt"
_MACRO = "gin.macro"
for _name, _class in SECTIONS.items():
    gin.external_configurable(_class, name=_name, module=_MODULE)
_build_recipe, _build_evaluation = gin.get_configurable("recipe"), gin.get_configurable("evaluation")
# Includes are plain files; gin's second reader would look inside Python packages and log an error for every miss.
gin_state._FILE_READERS[:] = [(open, os.path.isfile)]


def gin_folder() -> Path:
    """The folder with our models/, stages/, recipes/ and eval/: of the source checkout, or of the installed package."""
    checkout = Path(__file__).resolve().parent.parent / "gin"
    return checkout if (checkout / "recipes").is_dir() else Path(sys.prefix) / "share" / "seqgpt_jax" / "gin"


def find_recipe(path: str | Path, folder: str = "recipes") -> Path:
    """The file as named, or else among ours: gin/recipes/real.gin, recipes/real.gin, real.gin or real.

    folder: that of ours. Raises UserError with close matches.
    """
    name = Path(path)
    if name.is_file():
        return name
    if not name.is_absolute():
        inside = Path(*name.parts[1:]) if name.parts[:1] == ("gin",) else name
        for candidate in (inside, Path(folder) / inside, Path(folder) / f"{inside}.gin"):
            if (gin_folder() / candidate).is_file():
                return gin_folder() / candidate
    ours = [file.stem for file in sorted((gin_folder() / folder).glob("*.gin"))]
    close = difflib.get_close_matches(name.stem, ours, n=3, cutoff=0.5) or ours
    raise UserError(f"{path}: no such gin file (ours are {', '.join(f'{folder}/{stem}.gin' for stem in close)})")


def load_recipe(path: str | Path, bindings: Sequence[str] = ()) -> Recipe:
    """The recipe of a gin file, with bindings on top: load_recipe("recipes/real.gin", ["recipe.seed=1"]).

    Raises UserError, one line, for a file that cannot be read or parsed, names that are unknown (with close
    matches), values that are missing (NAME = %gin.REQUIRED) or of the wrong type, and bindings that change nothing.
    """
    _parse(find_recipe(path), path, bindings)
    try:
        recipe = _build_recipe()
    except Exception as error:
        raise _explained(error, str(path)) from None
    _check_all_used(path, bindings)
    return recipe


def load_evaluation(path: str | Path) -> EvaluationSettings:
    """The one evaluation of a gin file, such as eval/held_out.gin; UserError as from load_recipe."""
    _parse(find_recipe(path, "eval"), path, ())
    scopes = sorted({scope for scope, selector, _ in _bindings() if selector.endswith(".evaluation")})
    if len(scopes) != 1:
        names = f" ({', '.join(scopes)})" if scopes else ""
        raise UserError(f"{path}: holds {len(scopes)} evaluations{names}, not one (gin/eval/held_out.gin shows how)")
    try:
        with gin.config_scope(scopes[0]):
            evaluation = _build_evaluation()
    except Exception as error:
        raise _explained(error, str(path)) from None
    _check_all_used(path, ())
    return evaluation


def _parse(file: Path, path: str | Path, bindings: Sequence[str]) -> None:
    """Reads a gin file, named `path` in errors, with bindings on top, in place of all that gin knew."""
    gin.clear_config(clear_constants=True)
    gin_state._LOCATION_PREFIXES[:] = ["", f"{file.parent}/", f"{gin_folder()}/"]
    try:
        gin.parse_config(_WIRING)
        gin.parse_config_file(str(file), print_includes_and_imports=False)
    except Exception as error:
        raise _explained(error, str(path)) from None
    for binding in bindings:
        try:
            gin.parse_config(binding)
        except Exception as error:
            raise _explained(error, f"--gin '{binding}'") from None
    _check_required(path)


def operative_config_str() -> str:
    """The config of the recipe loaded last, defaults included, as text that `load_recipe` reads back."""
    return gin.operative_config_str(max_line_length=110)


def _explained(error: Exception, place: str) -> UserError:
    """gin's errors in one line, with what was probably meant."""
    message = str(error).strip()
    first = message.splitlines()[0] if message else type(error).__name__
    line = re.search(r"line (\d+)", message)
    where = f"{place}:{line[1]}" if line and not place.startswith("--gin") else place
    file = re.search(r'In file "([^"]+)"', message)
    if file and not place.startswith("--gin"):
        where = where.replace(place, file[1], 1)
    if isinstance(error, UserError):
        return UserError(f"{place}: {first}")
    if match := re.search(r"No configurable matching (?:reference )?'@?([\w./]+?)(?:\(\))?'", first):
        return UserError(f"{where}: '{match[1]}' is not a section ({_close(match[1], SECTIONS)})")
    if match := re.search(r"Configurable '([\w.]+)' doesn't have a parameter named '(\w+)'", first):
        section = match[1].rsplit(".", 1)[-1]
        return UserError(f"{where}: {section} has no '{match[2]}' ({_close(match[2], _parameters(section))})")
    if match := re.search(r"Required bindings for `([\w./]+)` not provided in config: \[(.*)\]", first):
        return UserError(f"{where}: {match[1]} needs {match[2]} (bind it in the file or with --gin)")
    if match := re.search(r"missing \d+ required positional arguments?: (.*)", first):
        scope = re.search(r"in scope '([\w/]+)'", message)
        if "macro()" in first:
            return UserError(f"{where}: %{scope[1] if scope else '?'} is used but never set (add NAME = value)")
        named = re.search(r"In call to configurable '(\w+)'", message)
        section = f"{scope[1]}/{named[1]}" if scope and named else named[1] if named else "a section"
        return UserError(f"{where}: {section} needs {match[1]} (bind it in the file or with --gin)")
    if isinstance(error, OSError):
        return UserError(f"{where}: {first} (an include is looked for beside the recipe and in {gin_folder()})")
    return UserError(f"{where}: {first} (bindings look like section.name = value, strings in quotes)")


def _parameters(section: str) -> list[str]:
    cls: Any = SECTIONS.get(section)
    return list(getattr(cls, "__dataclass_fields__", ()))


def _close(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name.rsplit("/", 1)[-1], list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known)}"


def _bindings() -> Iterator[tuple[str, str, str]]:
    """(scope, selector, parameter) of all that is bound; a macro is (name, gin.macro, value)."""
    for (scope, selector), parameters in gin_state._CONFIG.items():
        for parameter in parameters:
            yield scope, selector, parameter


def _check_required(path: str | Path) -> None:
    """Refuses a recipe that leaves open what it requires: NAME = %gin.REQUIRED."""
    missing = [
        scope if selector == _MACRO else f"{scope}/{selector.rsplit('.', 1)[-1]}.{parameter}".lstrip("/")
        for scope, selector, parameter in _bindings()
        if repr(gin_state._CONFIG[scope, selector][parameter]) == "%gin.REQUIRED"
    ]
    if missing:
        remedy = " ".join(f"--gin '{name}=...'" for name in missing)
        raise UserError(f"{path}: {' and '.join(missing)} must be given (add {remedy}, strings in quotes)")


def _check_all_used(path: str | Path, bindings: Sequence[str]) -> None:
    """Refuses bindings of a scope or macro that nothing uses, and --gin bindings that closer ones override.

    gin accepts both in silence. It keeps what was bound and what was used in two private tables; there is no public
    way to ask (which is why gin-config is pinned to one minor version).
    """
    used_scopes: dict[str, set[str]] = {}
    winners: dict[tuple[str, str, str], bool] = {}
    bound = set(_bindings())
    for (scope, selector), _ in gin_state._OPERATIVE_CONFIG.items():
        used_scopes.setdefault(selector, set()).add(scope)
        parts = scope.split("/") if scope else []
        prefixes = ["/".join(parts[:length]) for length in range(len(parts), -1, -1)]
        for parameter in {parameter for _, own, parameter in bound if own == selector}:
            winner = next((prefix for prefix in prefixes if (prefix, selector, parameter) in bound), None)
            if winner is not None:
                winners[(winner, selector, parameter)] = True
    given = {_key_of(binding) for binding in bindings}
    for scope, selector, parameter in sorted(bound):
        section = selector.rsplit(".", 1)[-1]
        scopes = used_scopes.get(selector, set())
        written = scope if selector == _MACRO else f"{scope}/{section}.{parameter}".lstrip("/")
        place = f"--gin '{written}'" if written in given else str(path)
        if selector == _MACRO:
            if scope not in scopes:
                macros = sorted(scopes)
                raise UserError(f"{place}: nothing uses %{scope}, so it changes nothing ({_close(scope, macros)})")
            continue
        if (scope, selector, parameter) in winners:
            continue
        if scope and not any(used == scope or used.startswith(f"{scope}/") for used in scopes):
            known = sorted(f"{used}/{section}" if used else section for used in scopes)
            hint = difflib.get_close_matches(f"{scope}/{section}", known, n=3, cutoff=0.0) or ["none"]
            raise UserError(
                f"{place}: there is no {scope}/{section}, so '{written}' changes nothing "
                f"(this recipe has {', '.join(hint)})"
            )
        if written in given:
            closer = sorted(
                f"{own}/{section}.{parameter}" for own, sel, par in bound if (sel, par) == (selector, parameter) and own
            )
            remedy = f"bind {' and '.join(closer)}" if closer else f"this recipe makes no {section}"
            raise UserError(f"{place}: it changes nothing ({remedy})")


def _key_of(binding: str) -> str:
    return binding.split("=", 1)[0].strip()
