"""Settings that check themselves: a dataclass that inherits `Checked` refuses values of the wrong type.

gin would take anything, and a wrong type would come out much later and far from where it was written.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, ClassVar, Literal

from seqgpt_jax.errors import UserError


class Checked:
    """Base of the settings dataclasses; lists become tuples and whole numbers floats where those are declared.

    Raises UserError that names the field as it is written in gin, such as stage.steps.
    """

    section: ClassVar[str]  # the name in gin

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for entry in dataclasses.fields(self):  # type: ignore[arg-type]
            value, expected = getattr(self, entry.name), hints[entry.name]
            forms = (expected, *typing.get_args(expected))  # of int | tuple[int, ...] the parts too
            if isinstance(value, list) and any(typing.get_origin(form) is tuple for form in forms):
                value = tuple(value)
                object.__setattr__(self, entry.name, value)
            if isinstance(value, dict) and expected == dict[str, float]:
                value = {name: float(item) if type(item) is int else item for name, item in value.items()}
                object.__setattr__(self, entry.name, value)
            if isinstance(value, int) and not isinstance(value, bool) and expected in (float, float | None):
                object.__setattr__(self, entry.name, float(value))
            elif not _is_of_type(value, expected):
                raise UserError(f"{self.section}.{entry.name} is {value!r} (it must be {_type_name(expected)})")
        self.check()

    def check(self) -> None:
        """Raises UserError for values that do not go together."""

    def at_least(self, lowest: int, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise UserError(f"{self.section}.{name} is {value} (it must be at least {lowest})")


def _is_of_type(value: Any, expected: Any) -> bool:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (types.UnionType, typing.Union):
        return any(_is_of_type(value, argument) for argument in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of_type(item, arguments[0]) for item in value)
    if origin is Literal:
        return value in arguments
    if origin is dict:
        return isinstance(value, dict) and all(
            _is_of_type(name, arguments[0]) and _is_of_type(item, arguments[1]) for name, item in value.items()
        )
    if expected in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, expected)


def _type_name(expected: Any) -> str:
    arguments = typing.get_args(expected)
    if typing.get_origin(expected) is tuple:
        return f"a list of {_type_name(arguments[0])}"
    if typing.get_origin(expected) is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if typing.get_origin(expected) is dict:
        return f"{{{_type_name(arguments[0])}: {_type_name(arguments[1])}, ...}}"
    if arguments:
        return " or ".join(_type_name(argument) for argument in arguments)
    names = {int: "a whole number", float: "a number", str: "a string", bool: "True or False", type(None): "None"}
    return names.get(expected, expected.__name__)
