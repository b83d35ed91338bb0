"""Ends the waits of calls early, so that a client that sends no more gets an answer to each."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

import anyio

from agentbus_mcp.operations.told_questions import ToldQuestions

_GRACE_S: Final = 0.2
"""What a wait that is ended still gets: as long as one with no time at all looks for what is there."""


class Waits:
    """The waits of one server. A wait that is ended is as one whose time is over.

    Attributes:
        told_questions: what ended waits before.
    """

    def __init__(self) -> None:
        self.told_questions = ToldQuestions()
        self._over = False
        self._open: set[anyio.CancelScope] = set()

    def end(self) -> None:
        """End all waits, and those that begin from now on."""
        self._over = True
        for scope in self._open:
            _shorten(scope)

    @contextmanager
    def at_most(self, timeout_s: float) -> Generator[anyio.CancelScope]:
        """Cancel the block after a time, or soon after `end` is called; the scope's `cancelled_caught` says whether."""
        with anyio.move_on_after(timeout_s) as scope:
            if self._over:
                _shorten(scope)
            self._open.add(scope)
            try:
                yield scope
            finally:
                self._open.discard(scope)


def _shorten(scope: anyio.CancelScope) -> None:
    scope.deadline = min(scope.deadline, anyio.current_time() + _GRACE_S)
