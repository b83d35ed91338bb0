"""Keeps the requests of one connection that wait for an answer, with one timer for all of them."""

import asyncio
import itertools
from collections.abc import Callable
from typing import Final, NamedTuple

from agentbus.bus.nats_client import Msg
from agentbus.errors import BusError

LATE_S: Final = 2.0
"""A server answers within milliseconds, or within a second while its disk is busy."""


class Request(NamedTuple):
    """A request without an answer yet.

    Attributes:
        token: the last token of the subject of its answer.
        deadline: the end of its time-out, by the clock of the event loop.
        late_at: when it has waited for so long that the line may be dead.
    """

    token: str
    subject: str
    timeout_s: float
    deadline: float
    late_at: float
    answer: asyncio.Future[Msg]

    def fail(self, error: BusError) -> None:
        """Fail the request, unless it has its answer."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Requests:
    """The open requests. Their tokens are numbers: the inbox before the token is what others cannot guess.

    Args:
        unanswered: makes the error for a request without an answer within the seconds given.
        on_late: called when a request has waited for `LATE_S`, or for its whole time-out if that is shorter.
    """

    def __init__(self, unanswered: Callable[[float], BusError], on_late: Callable[[], None] = lambda: None) -> None:
        self._unanswered = unanswered
        self._on_late = on_late
        self._numbers = itertools.count()
        self._open: dict[str, Request] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, subject: str, timeout_s: float, deadline: float) -> Request:
        """Add a request. The caller must `remove` it, after a failure too."""
        token, loop = str(next(self._numbers)), asyncio.get_running_loop()
        late_at = min(deadline, loop.time() + LATE_S)
        request = Request(token, subject, timeout_s, deadline, late_at, loop.create_future())
        self._open[token] = request
        self._look_at(late_at)
        return request

    def remove(self, request: Request) -> None:
        """Remove a request; an answer that still arrives is dropped."""
        del self._open[request.token]
        request.answer.cancel()

    def take_answer(self, message: Msg) -> None:
        """Give an answer to the request whose token ends the subject of the answer."""
        request = self._open.get(message.subject.rpartition(".")[2])
        if request is not None and not request.answer.done():
            request.answer.set_result(message)

    def fail(self, error: BusError, *, subject: str | None = None) -> None:
        """Fail all open requests, or those to one subject, given in lower case."""
        for request in tuple(self._open.values()):
            if subject is None or request.subject.lower() == subject:
                request.fail(error)

    def subject_of(self, lowered: str) -> str:
        """Return a subject as an open request to it has it; as it is given if there is no such request."""
        return next((request.subject for request in self._open.values() if request.subject.lower() == lowered), lowered)

    def stop_timer(self) -> None:
        """Stop the timer, because the connection is closed."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, due: float) -> None:
        """Set the one timer to the earliest time. A timer for each request would cost as much as the request."""
        if self._timer is None or self._timer.when() > due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        late = False
        for request in self._open.values():
            late = late or (request.late_at <= now and not request.answer.done())
            if request.deadline <= now:
                request.fail(self._unanswered(request.timeout_s))
            else:
                self._look_at(request.late_at if request.late_at > now else request.deadline)
        if late:
            self._on_late()
