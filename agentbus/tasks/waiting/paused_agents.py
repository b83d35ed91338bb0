"""Tells of which agents all living workers are paused while a task of a wait is queued for them."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusError, BusUnavailableError
from agentbus.tasks.presence import PausedWorker, present
from agentbus.tasks.waiting.listeners import OnPaused

_FIRST_PAUSE_LOOK_S: Final = 1.0
"""A wait for a quick task costs no look."""
_PAUSE_LOOK_S: Final = 10.0
"""How often a longer wait looks: a worker announces a pause within two seconds, and people read what comes of it."""
_LAST_PAUSE_LOOK_S: Final = 1.0
"""How long a wait that was too short for a look takes longer for one."""


class PausedAgents:
    """The agents of which all living workers are paused, as they were seen last. `found` is what a wait returns."""

    def __init__(self, bus: Bus, waiting: Callable[[], set[str]], on_paused: OnPaused) -> None:
        """Take what says of which agents a task waits, and what is called once for each of them that is paused."""
        self._bus = bus
        self._waiting = waiting
        self._on_paused = on_paused
        self._told: set[str] = set()
        self._looked = False
        self.found: dict[str, PausedWorker] = {}

    async def watch(self) -> None:
        """Look again and again, until this is cancelled, or this user may not see workers."""
        await asyncio.sleep(_FIRST_PAUSE_LOOK_S)
        while True:
            try:
                await self._look()
            except BusUnavailableError:
                pass  # as the wait, it goes on once the bus is back
            except BusError:
                return
            await asyncio.sleep(_PAUSE_LOOK_S)

    async def look_at_the_end(self) -> None:
        """Look, if there was no time for it before."""
        if not self._looked:
            with suppress(BusError, TimeoutError):
                async with asyncio.timeout(_LAST_PAUSE_LOOK_S):
                    await self._look()

    async def _look(self) -> None:
        if agents := self._waiting():
            self.found = await paused_among(self._bus, agents)
            for agent, paused in self.found.items():
                if agent not in self._told:
                    self._told.add(agent)
                    self._on_paused(agent, paused)
        self._looked = True


async def paused_among(bus: Bus, agents: set[str]) -> dict[str, PausedWorker]:
    """Return those of the agents of which all living workers are paused, with the pause of the first one.

    Raises:
        BusError: this user may not see workers, or the bus does not answer.
    """
    workers = await present(bus, next(iter(agents)) if len(agents) == 1 else None)
    found: dict[str, PausedWorker] = {}
    for agent, its_workers in groupby(workers, key=lambda worker: worker.agent):
        pauses = [worker.paused for worker in its_workers]
        if agent in agents and (first := pauses[0]) is not None and all(pauses):
            found[agent] = first
    return found
