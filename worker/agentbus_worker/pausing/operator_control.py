"""Reads what operators ask of the agent: at the start, when a message tells of it, and with each heartbeat."""

import asyncio
import logging
from contextlib import suppress
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusError, PermissionDeniedError, SetupMissingError
from agentbus.protocol.parties import agent_control, control_entry
from agentbus.tasks.presence import HEARTBEAT_S
from agentbus_worker.pausing.pause import Pause

log = logging.getLogger("agentbus.worker")

_FIRST_LOOK_S: Final = 5.0
"""A bus that does not answer for longer does not keep the worker from its tasks: it looks again later."""


class OperatorControl:
    """Follows the key of one agent, and has the pause of the worker be what it says."""

    def __init__(self, bus: Bus, agent: str, pause: Pause) -> None:
        self._bus = bus
        self._agent = agent
        self._pause = pause
        self._told = asyncio.Event()
        self._readable = True

    def look(self) -> None:
        """Read the key soon: something may have changed."""
        self._readable = True
        self._told.set()

    async def first_look(self) -> None:
        """Read the key before a task is taken, for a bounded time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_S):
                await self._read()

    async def follow(self) -> None:
        """Read the key again and again, until this is cancelled."""
        remove = self._bus.on_reconnect(self.look)
        try:
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._told.wait()
                self._told.clear()
                await self._read()
        finally:
            remove()

    async def _read(self) -> None:
        if not self._readable:
            return
        try:
            found = await self._bus.last_message(agent_control.STREAM, agent_control.key(self._agent))
        except (PermissionDeniedError, SetupMissingError):
            # A bus of an older layout, where nothing can be asked. The server logs each refusal, so this asks again
            # after a reconnect or a message only.
            self._readable = False
        except BusError as error:
            log.debug("what operators ask of the agent could not be read: %s", error)
        else:
            asked = control_entry.Asked()
            self._pause.ask(asked if found is None else control_entry.read_asked(found.data, found.headers))
