"""The fields of a config.json, read with errors that name the file and the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from seqgpt_jax.errors import UserError

CONFIG = "config.json"


class ConfigFields:
    """What a config.json says. Its methods raise UserError where a field is absent, wrong or not supported."""

    def __init__(self, path: Path, fields: Mapping[str, Any]) -> None:
        self.path, self._fields = path, fields

    @classmethod
    def of_directory(cls, directory: Path) -> ConfigFields:
        path = directory / CONFIG
        if not path.is_file():
            raise UserError(f"{directory} is not a model: it has no {CONFIG} (give an exported Hugging Face directory)")
        try:
            fields = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON: {error} (export the model again)") from error
        if not isinstance(fields, dict):
            raise UserError(f"{path} is no JSON object (export the model again)")
        return cls(path, fields)

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value; null is the default too, as in transformers."""
        value = self._fields.get(name)
        return default if value is None else value

    def size(self, *names: str, default: int | None = None) -> int:
        """A whole number above 0 under the first of the names that there is."""
        for name in names:
            value = self.get(name)
            if value is not None:
                if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                    self.fail(names[0], f"is {value!r}, not a size (export the model again)")
                return value
        if default is None:
            raise UserError(f"{self.path} does not give '{names[0]}' (export the model again)")
        return default

    def number(self, name: str, default: float) -> float:
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            self.fail(name, f"is {value!r}, not a number above 0 (export the model again)")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            self.fail(name, f"is {value!r}, not true or false (export the model again)")
        return value

    def refuse(self, name: str, *, unless: object, why: str) -> None:
        """UserError where a field has another value than the one that we can run (or none)."""
        value = self.get(name, unless)
        if value != unless:
            self.fail(name, f"{json.dumps(value, default=str)[:60]} is not supported ({why})")

    def fail(self, name: str, problem: str) -> NoReturn:
        raise UserError(f"{self.path}: {name} {problem}")
