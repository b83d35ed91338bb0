"""Repeats an attempt until it succeeds or its deadline has passed: the one loop for that."""

import asyncio
from typing import Self


def deadline_after(timeout_s: float) -> float:
    """The time of the running event loop in `timeout_s` seconds."""
    return asyncio.get_running_loop().time() + timeout_s


def left_until(deadline: float) -> float:
    """How many seconds are left until a time of the running event loop."""
    return deadline - asyncio.get_running_loop().time()


class retry_until:  # noqa: N801  # read as a function: `async for attempt in retry_until(deadline, pause_s)`
    """Runs the body of an `async for` again after each pause, at least once, until `deadline` has passed.

    Leave the loop with `return`, `break` or an exception once an attempt has succeeded or failed for good.
    The code behind the loop runs when time is over. A body that wants its own exception to be the failure asks
    `attempt.last` and raises it again:

        async for attempt in retry_until(deadline_after(10), pause_s=0.1):
            try:
                return await ask()
            except BusUnavailableError:
                if attempt.last:
                    raise

    The iterator yields itself. It holds nothing that must be closed, so leaving the loop costs nothing.

    Args:
        deadline: by the clock of the running event loop; infinite for no end.
        pause_s: seconds between the end of one attempt and the start of the next.
    """

    __slots__ = ("_deadline", "_first", "_last", "_pause_s", "_time")

    def __init__(self, deadline: float, pause_s: float) -> None:
        self._time = asyncio.get_running_loop().time
        self._deadline = deadline
        self._pause_s = pause_s
        self._last: bool | None = None  # not asked for in the present attempt
        self._first = True

    @property
    def last(self) -> bool:
        """Whether the deadline has passed. The answer binds: after a `False`, another attempt follows."""
        self._last = self._time() >= self._deadline
        return self._last

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        if self._first:
            self._first = False
            return self
        if self.last if self._last is None else self._last:
            raise StopAsyncIteration
        await asyncio.sleep(self._pause_s)
        self._last = None
        return self
