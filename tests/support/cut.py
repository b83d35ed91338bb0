"""Cancels a call at each point at which it waits for the bus: before a message goes out, and after its answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agentbus.bus.connection import Connection
from agentbus.bus.jetstream import Bus


class Cutter:
    """Cancels a call over one connection when it has come to the point `at`, once or several times in a row."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._bus: Bus | None = None
        self._call: asyncio.Future[Any] | None = None
        self._at = self._times = self._seen = 0
        for name in ("request", "publish"):
            monkeypatch.setattr(Connection, name, self._wrapped(getattr(Connection, name)))

    async def cut(self, bus: Bus, call: Awaitable[Any], *, at: int, times: int = 1) -> bool:
        """Make a call, and cancel it at a point; returns whether it came to that point.

        Raises:
            Exception: what the call raised, other than that it was cancelled.
        """
        self._at, self._times, self._seen, self._bus = at, times, 0, bus
        self._call = asyncio.ensure_future(call)
        await asyncio.wait((self._call,))
        self._bus, reached = None, self._seen >= at
        if not self._call.cancelled():
            self._call.result()
        return reached

    def _wrapped(self, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def exchange(bus: Connection, *args: Any, **more: Any) -> Any:
            await self._point(bus)
            answer = await real(bus, *args, **more)
            await self._point(bus)
            return answer

        return exchange

    async def _point(self, bus: Connection) -> None:
        if bus is not self._bus or self._call is None:
            return
        self._seen += 1
        if self._seen == self._at:
            for _ in range(self._times):
                self._call.cancel()
                await asyncio.sleep(0)  # a call that is waiting just here is cut here
