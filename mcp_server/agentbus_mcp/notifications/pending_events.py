"""Queues the events for a client: an event that occurs again before it is sent is sent once.

So the queue of a client that has stopped reading is never longer than its list of subscriptions, and it delays no other
client.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import anyio
from mcp.server.subscriptions import ServerEvent

MAX_URIS: Final = 256
"""How many resources, and how many MCP tasks, one client may watch with one stream or session."""
OPENED_S: Final = 1.0
"""How long the answer to a subscription waits for the bus, so that no change after it is missed."""
_BATCH_S: Final = 0.1
"""How long events are collected after each round, so that frequent changes make few notifications."""


@dataclass(frozen=True)
class TaskUpdated:
    """An MCP task may have changed."""

    task_id: str


Event: TypeAlias = ServerEvent | TaskUpdated


class PendingEvents:
    """A queue of events without duplicates, for one client."""

    def __init__(self) -> None:
        self._pending: dict[Event, None] = {}
        self._wake = anyio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        """Add an event, unless it is pending already."""
        self._pending[event] = None
        self._wake.set()

    def close(self) -> None:
        """Let `next` return None once all pending events are taken."""
        self._closed = True
        self._wake.set()

    async def next(self) -> Event | None:
        """Take the oldest event, waiting for one; None once the queue is closed and empty."""
        if not self._pending and not self._closed:
            await anyio.sleep(_BATCH_S)
            await self._wake.wait()
        self._wake = anyio.Event()
        if not self._pending:
            return None
        event = next(iter(self._pending))
        del self._pending[event]
        return event
