"""Repeats the steps of a settlement until the bus has stored them, for a bounded time if the worker must end."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusUnavailableError, StreamFullError
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.settling.lease import Lease

_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before a step of the settlement is repeated; the last one repeats. A server restart takes about 1 s."""
_STOPPING_TIMEOUT_S: Final = 1.0
"""How long a worker that must end at once tries to store a result; after that the outcome stays on disk."""


class StoppingError(Exception):
    """Control flow of a job: the worker must end at once, and the bus has not stored the result."""


class Storing:
    """The storing of what one job has come to. `delayed` says whether the bus did not take it at once."""

    def __init__(self, bus: Bus, lease: Lease, log: TaskLog) -> None:
        self._bus = bus
        self._lease = lease
        self._log = log
        self._stopping = False
        self._timeout: asyncio.Timeout | None = None  # around what is being stored
        self.delayed = False

    def stop(self) -> None:
        """Bound the time of what is stored, now and later: the worker must end at once."""
        if not self._stopping and self._timeout is not None:
            _bound(self._timeout)
        self._stopping = True

    def bounded(self) -> "_Bounded":
        """Bound the time of what is stored in the block if the worker must end at once.

        Raises:
            StoppingError: the time is over.
        """
        return _Bounded(self)

    def begin(self, timeout: asyncio.Timeout | None) -> None:
        """Note what bounds the time of what is stored from now on; None for nothing."""
        self._timeout = timeout
        if self._stopping and timeout is not None:
            _bound(timeout)

    async def until_stored(self, step: Callable[[], Awaitable[None]]) -> None:
        """Repeat one step until the bus has stored it.

        Raises:
            BusError: the bus refuses it, or the connection has ended for good.
        """
        failures = 0
        while True:
            try:
                return await step()
            except (BusUnavailableError, StreamFullError) as error:
                if self._bus.closed:
                    raise
                if failures == 0:
                    self._log.warning("the result cannot be stored yet: %s", error)
                    self.delayed = True
                pause_s = _RETRY_S[min(failures, len(_RETRY_S) - 1)]
                failures += 1
                if isinstance(error, StreamFullError):  # the ledger; or, of a committed task, the stream of results
                    await self._lease.hold(pause_s, full=not self._lease.entry.terminal)
                else:
                    await asyncio.sleep(pause_s)


class _Bounded:
    """The block of `Storing.bounded`."""

    def __init__(self, storing: Storing) -> None:
        self._storing = storing
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._storing.begin(self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._storing.begin(None)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise StoppingError from None


def _bound(storing: asyncio.Timeout) -> None:
    storing.reschedule(asyncio.get_running_loop().time() + _STOPPING_TIMEOUT_S)
