"""The fields of a JSON object that a user wrote, read with errors that name file, line and field."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from seqgpt_jax.errors import RecordError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object with its place, so that every complaint names file, line and field."""

    values: Mapping[str, Any]
    path: str = ""
    file: str | os.PathLike[str] | None = None
    line: int | None = None

    def error(self, name: str, problem: str, remedy: str | None = None) -> RecordError:
        return RecordError(problem, file=self.file, line=self.line, field=self.path + name, remedy=remedy)

    def get(self, name: str, expected: type, what: str) -> Any:
        value = self.values.get(name)
        if type(value) is not expected:
            problem = "is missing" if name not in self.values else f"is {show(value)}"
            raise self.error(name, problem, f"it must be {what}")
        return value

    def string(self, name: str) -> str:
        value: str = self.get(name, str, "a string")
        return value

    def integer(self, name: str) -> int:
        value: int = self.get(name, int, "an integer")
        return value

    def boolean(self, name: str) -> bool:
        value: bool = self.get(name, bool, "true or false")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        values = self.get(name, list, "a list of strings")
        for index, value in enumerate(values):
            if type(value) is not str:
                raise self.error(f"{name}[{index}]", f"is {show(value)}", "it must be a string")
        return tuple(values)

    def distinct_strings(self, name: str) -> tuple[str, ...]:
        values = self.strings(name)
        if len(set(values)) < len(values):
            repeated = next(value for index, value in enumerate(values) if value in values[:index])
            raise self.error(name, f"holds {show(repeated)} twice")
        return values

    def inner(self, name: str) -> Fields:
        return Fields(self.get(name, dict, "an object"), f"{self.path}{name}.", self.file, self.line)

    def mapping(self, name: str, read: Callable[[Fields, str], T]) -> dict[str, T]:
        inner = self.inner(name)
        return {key: read(inner, key) for key in inner.values}

    def optional(self, name: str, read: Callable[[Fields, str], T]) -> T | None:
        """What ``read`` gives, or None where the field is missing or null."""
        return None if self.values.get(name) is None else read(self, name)

    def each(self, name: str, read: Callable[[Fields], T]) -> tuple[T, ...]:
        """What ``read`` gives for each object of a list. A fault in one leaves the others to be looked at."""
        found: list[T] = []
        faults: list[RecordError] = []
        for index, value in enumerate(self.get(name, list, "a list of objects")):
            try:
                if type(value) is not dict:
                    raise self.error(f"{name}[{index}]", f"is {show(value)}", "it must be an object")
                found.append(read(Fields(value, f"{self.path}{name}[{index}].", self.file, self.line)))
            except RecordError as error:
                faults.append(error)
        raise_all(faults)
        return tuple(found)


def show(value: object) -> str:
    """The value as an error message shows it: JSON, shortened, on one line."""
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def raise_all(faults: Sequence[RecordError]) -> None:
    """Raises the first of some faults, with the rest as its ``others``; nothing where there are none."""
    if faults:
        faults[0].others = tuple(other for fault in faults for other in (fault, *fault.others))[1:]
        raise faults[0]
