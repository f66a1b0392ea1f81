"""SIGTERM and SIGINT during training: finish the step, save, and leave with an exit code of its own."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(Exception):  # noqa: N818 - a request, not an error
    """Training was stopped by a signal and everything is saved; the command line exits with 75."""


class SignalWatch:
    """While it is entered, a signal sets `requested` inside `deferred()` and raises Interrupted elsewhere.

    Launchers often send SIGTERM twice: a second one changes nothing. A second SIGINT, from an impatient user, ends the
    program at once, and what was saved before is whole. Outside the main thread, where Python allows no handler, it
    watches nothing.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.requested: str | None = None  # the signal's name
        self._deferred = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in self._SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[SignalWatch]:
        """A block that runs on after a signal and looks at `requested` itself."""
        self._deferred = True
        try:
            yield self
        finally:
            self._deferred = False

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A part of a deferred block that a signal ends at once, because everything is saved already."""
        self._deferred = False
        try:
            self.leave_if_requested()
            yield
        finally:
            self._deferred = True

    def leave_if_requested(self) -> None:
        """Raises Interrupted where a signal has come; for places where everything is saved."""
        if self.requested:
            raise Interrupted(f"stopped by {self.requested} between steps, everything is saved (run again to go on)")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = signal.Signals(number).name
        if not self._deferred:
            self.leave_if_requested()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous = {}
