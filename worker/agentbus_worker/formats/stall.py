"""Tells from the events of a run whether it gets on: one that only waits, or tries again in vain, ends before its time.

What counts is what the agent does, not that it prints: one that says "reconnecting" every minute has stalled.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus_worker.formats.events import Activity, Event, Question, QuestionEnd, Retry, Text, Tool, ToolEnd
from agentbus_worker.formats.judgement import GivenUp
from agentbus_worker.formats.reading import Reader
from agentbus_worker.formats.reasons import reason_of

_IN_VAIN: Final[tuple[FailureCode, ...]] = ("auth", "forbidden", "billing")
"""What the same request is refused for again, until a person has changed something."""
_ONCE_S: Final = 10.0
"""How long an agent has after the first such refusal: it may renew a login that has expired, and be answered then."""
_MOST_TOOLS: Final = 256
_UNNAMED: Final = ""
"""The id of a question of which no end is told: it is over when the agent goes on."""


class StallWatch:
    """Follows the events of one run.

    The time in which a tool runs, or a question is open, is not counted. An answer that is being made counts as work
    with each part that is printed.

    Args:
        reader: of the format in which the run prints.
        stall_s: for how long nothing may come of the run; None for any time.
        max_retry_after_s: the longest time for which the agent may wait before it tries again.
        time: the clock, in seconds.
        tools_run: whether the run has a process that is younger than so many seconds: asked of an agent that tells of
            a tool only once it has ended.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        stall_s: float | None,
        max_retry_after_s: float,
        time: Callable[[], float],
        tools_run: Callable[[float], bool] = lambda _: False,
    ) -> None:
        self._reader = reader
        self._stall_s = stall_s
        self._max_retry_after_s = max_retry_after_s
        self._time = time
        self._tools_run = tools_run
        self._since = self._last_event = self._last_retry = time()
        self._hopeless_at: float | None = None
        self._retry: Retry | None = None
        self._tools: set[str] = set()
        self._questions: set[str] = set()
        self.on_sooner: Callable[[], None] = lambda: None
        """Called when `due` may have become an earlier time."""

    def on_event(self, event: Event) -> None:
        """Take an event, when it has come."""
        now = self._last_event = self._time()
        if self._stands:
            self._since = now
        match event:
            case Text() | Activity() | Tool() | ToolEnd():
                self._since = now
                self._questions.discard(_UNNAMED)
                self._retry = self._hopeless_at = None
                self._note_tool(event)
            case Question():
                self._since = now
                self._questions.add(event.id)
            case QuestionEnd():
                self._questions.discard(event.id)
            case Retry():
                self._note_retry(event, now)
            case _:
                return
        self.on_sooner()

    @property
    def due(self) -> float | None:
        """When the run is to be judged, by the clock; None if not before another event has come."""
        if self._hopeless_at is not None:
            return self._hopeless_at
        return None if self._stall_s is None or self._stands else self._since + self._stall_s

    def put_off(self) -> None:
        """Do not count the time up to now: what the run has printed could not be read."""
        self._since = self._time()

    def judge(self) -> GivenUp | None:
        """Say why the run is to be ended, once `due` has come; None if it works after all."""
        now = self._time()
        if self.due is None or now < self.due:
            return None
        if self._hopeless_at is not None:
            return self._in_vain()
        if self._works_unseen(now):
            self._since = now
            return None
        how = f"made no progress for {self._stall_s:g} s"
        if not self._reader.understood and self._retry is None:
            how += f", printed no line of the format {self._reader.kind},"
        if self._retry is None:
            return GivenUp("stalled", how, "stalled")
        waited_s = now - self._last_event
        if self._retry.code in ("rate_limit", "quota") and waited_s > self._max_retry_after_s:
            # It has not tried again for longer than it may wait: the server has named a time, which it did not tell.
            how += f", and did not try again for {waited_s:.0f} s,"
            return GivenUp("stalled", how, "quota", self._retry.http_status, self._retry.retry_after_s)
        return GivenUp("stalled", how, "stalled", self._retry.http_status, self._retry.retry_after_s)

    @property
    def _stands(self) -> bool:
        """Whether the time is not counted now."""
        return bool(self._questions) or self._reader.is_text or (self._retry is None and self._waits_for_tools)

    @property
    def _waits_for_tools(self) -> bool:
        return bool(self._tools) or self._reader.waits_for_background

    def _works_unseen(self, now: float) -> bool:
        """Whether a tool is what the run waits for, and not its model, though nothing has come for so long."""
        if self._waits_for_tools:  # and something has tried again, which may be another part of the agent
            assert self._stall_s is not None, "it has a limit"
            return now - self._last_retry > min(self._max_retry_after_s, self._stall_s / 2)
        return self._retry is None and self._reader.may_use_a_tool and self._tools_run(now - self._last_event)

    def _note_tool(self, event: Event) -> None:
        if isinstance(event, Tool) and len(self._tools) < _MOST_TOOLS:
            self._tools.add(event.call or event.name)
        elif isinstance(event, ToolEnd):
            self._tools.discard(event.call or event.name)

    def _note_retry(self, retry: Retry, now: float) -> None:
        """Note that the agent tries again. One that must fail may be answered once, and is not waited for twice."""
        before, again = self._retry, False
        if before is not None and before.attempt is not None and before.attempt == retry.attempt:
            retry = _told_twice(before, retry)
        elif before is not None:
            again = before.code in _IN_VAIN
        self._retry, self._last_retry = retry, now
        self._questions.discard(_UNNAMED)
        if retry.longest_s > self._max_retry_after_s:
            self._hopeless_at = now
        elif retry.code in _IN_VAIN:
            self._hopeless_at = now if again else self._hopeless_at or now + _ONCE_S
        else:
            self._hopeless_at = None

    def _in_vain(self) -> GivenUp:
        retry = self._retry
        assert retry is not None, "it tries again"
        code = retry.code or reason_of(retry.message, retry.http_status).code
        if code in _IN_VAIN:
            return GivenUp("hopeless", "tried again in vain", code, retry.http_status, retry.retry_after_s)
        if code is None or code == "rate_limit":  # a server that names so long a time has no room for this account
            code = "quota"
        wait_s = retry.longest_s
        return GivenUp("hopeless", f"was to wait {wait_s:.0f} s before its next try", code, retry.http_status, wait_s)


def _told_twice(one: Retry, other: Retry) -> Retry:
    """Return what an agent has told of one try on both of its outputs: each may lack a part of it."""
    return replace(
        other,
        message=other.message or one.message,
        code=other.code or one.code,
        http_status=other.http_status or one.http_status,
        retry_after_s=other.retry_after_s or one.retry_after_s,
        delay_s=other.delay_s or one.delay_s,
    )
