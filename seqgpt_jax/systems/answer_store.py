"""Answers of a server kept on disk, so that no question is paid for twice. One SQLite file; a kill loses nothing."""

from __future__ import annotations

import json
import sqlite3
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from seqgpt_jax.errors import UserError


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server said. complete: not cut off at its token limit. Tokens are as the server counts them."""

    text: str
    complete: bool
    prompt_tokens: int
    completion_tokens: int


class AnswerStore:
    """Replies by key. Threads and processes may share it; a reply is on disk when `put` returns.

    UserError where the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            self._execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def get(self, key: str) -> Reply | None:
        rows = self._execute("SELECT reply FROM replies WHERE key = ?", key)
        return Reply(**json.loads(rows[0][0])) if rows else None

    def put(self, key: str, reply: Reply) -> None:
        self._execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", key, json.dumps(asdict(reply)))

    def _execute(self, statement: str, *values: str) -> list[tuple[str]]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot keep answers: {error} (give another file with --cache)")
