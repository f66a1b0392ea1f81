"""Errors that a user can mend: one line that says what is wrong, where, and what to do about it.

The command line prints them without a traceback and exits with 2; anything else is our own fault.
"""

from __future__ import annotations

import os

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL: run again to go on


class UserError(ValueError):
    """Something the user asked for cannot be done; the message is one line and ends with the remedy."""


class RecordError(UserError):
    """A record or dataset description that breaks the format; the message names file, line and field.

    others: further faults of the same record, where whoever checked it went on after the first.
    """

    others: tuple[RecordError, ...] = ()

    def __init__(
        self,
        problem: str,
        *,
        file: str | os.PathLike[str] | None = None,
        line: int | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        self.problem, self.file, self.line, self.field, self.remedy = problem, file, line, field, remedy
        place = "" if file is None else os.fspath(file)
        if line is not None:
            place += f":{line}"
        parts = [part for part in (place, field and f"field '{field}'", problem) if part]
        super().__init__(": ".join(parts) + (f" ({remedy})" if remedy else ""))
