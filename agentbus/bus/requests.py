"""Keeps the requests of one connection that wait for an answer, with one timer for all of them, and bounds how many.

A server answers one request after the other. So of thousands that are sent in the same instant, as a process with a
thousand waits sends them, the last would not get their answers before their time-outs.
"""

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from agentbus.bus.nats_client import Msg
from agentbus.errors import BusError

LATE_S: Final = 2.0
"""A server answers within milliseconds, or within a second while its disk is busy."""
MOST_UNDER_WAY: Final = 64
"""Enough to keep a server busy, also one that is a hundred milliseconds away; on a machine that does much else, both
sides together need up to 20 ms for each, and the last of them then has its answer within two seconds."""
_RECHECK_S: Final = 0.1
"""How late a timer may be, and how long what has arrived by then may take to be read."""


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
        on_silence: called when a request is not answered in time, and no other one was since it was sent: with its
            error, and when it was sent.
    """

    def __init__(
        self,
        unanswered: Callable[[float], BusError],
        on_late: Callable[[], None] = lambda: None,
        on_silence: Callable[[BusError, float], None] = lambda error, since: None,  # noqa: ARG005
    ) -> None:
        self._unanswered = unanswered
        self._on_late = on_late
        self._on_silence = on_silence
        self._answered_at = -math.inf
        self._rechecked = False
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
            self._answered_at = asyncio.get_running_loop().time()
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
        loop, due = asyncio.get_running_loop(), self._timer.when() if self._timer else -math.inf
        self._timer, now = None, loop.time()
        if now - due > _RECHECK_S and not self._rechecked:
            # The loop has stood still. Its timers run first, before it reads the answers that have arrived meanwhile.
            self._rechecked = True
            self._timer = loop.call_later(_RECHECK_S, self._look)
            return
        self._rechecked = False
        late = False
        for request in self._open.values():
            late = late or (request.late_at <= now and not request.answer.done())
            if request.deadline <= now:
                self._expire(request)
            else:
                self._look_at(request.late_at if request.late_at > now else request.deadline)
        if late:
            self._on_late()

    def _expire(self, request: Request) -> None:
        if request.answer.done():
            return
        error, sent_at = self._unanswered(request.timeout_s), request.deadline - request.timeout_s
        request.fail(error)
        if self._answered_at < sent_at:
            self._on_silence(error, sent_at)


class _Turn(NamedTuple):
    asked_at: float
    place: asyncio.Future[None]


class RequestWindow:
    """Places for requests that are under way, given in the order in which they were asked for."""

    def __init__(self) -> None:
        self._under_way = 0
        self._turns: deque[_Turn] = deque()

    def enter(self) -> bool:
        """Take a place if one is free and no other request waits for it; `leave` gives it back."""
        if self._turns or self._under_way >= MOST_UNDER_WAY:
            return False
        self._under_way += 1
        return True

    async def turn(self) -> None:
        """Wait for a place, for as long as it takes, and take it; `leave` gives it back.

        Raises:
            BusUnavailableError: the server answers none of those ahead; see `fail`.
        """
        loop = asyncio.get_running_loop()
        turn = _Turn(loop.time(), loop.create_future())
        self._turns.append(turn)
        try:
            await turn.place
        except asyncio.CancelledError:
            if turn.place.done() and not turn.place.cancelled() and turn.place.exception() is None:
                self.leave()  # it was given, and this task was cancelled before it could run
            raise

    def leave(self) -> None:
        """Give a place back, to the request that has waited for the longest time."""
        while self._turns:
            place = self._turns.popleft().place
            if not place.done():  # else its request was cancelled
                place.set_result(None)
                return
        self._under_way -= 1

    def fail(self, error: BusError, asked_before: float) -> None:
        """Fail the requests that have waited for their turns since before a time of the event loop."""
        while self._turns and self._turns[0].asked_at <= asked_before:
            place = self._turns.popleft().place
            if not place.done():
                place.set_exception(error)
