"""Repeats the steps of a settlement until the bus has stored them, for a bounded time if the worker must end."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
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

    @asynccontextmanager
    async def bounded(self) -> AsyncGenerator[None]:
        """Bound the time of what is stored in the block if the worker must end at once.

        Raises:
            StoppingError: the time is over.
        """
        try:
            async with asyncio.timeout(None) as self._timeout:
                if self._stopping:
                    _bound(self._timeout)
                yield
        except TimeoutError:
            raise StoppingError from None
        finally:
            self._timeout = None

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


def _bound(storing: asyncio.Timeout) -> None:
    storing.reschedule(asyncio.get_running_loop().time() + _STOPPING_TIMEOUT_S)
