"""Follows messages on the bus through ordered consumers, from now on."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

import anyio

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.roles import Role
from agentbus.tasks.events.following import follow, open_consumer
from agentbus.tasks.events.ledger_feed import follow_ledger
from agentbus.tasks.inbox import inbox_filters
from agentbus_mcp.notifications.online_agents import OnlineAgents

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Source:
    """A stream and the filters to follow it by, of which the first one that is permitted is used.

    Attributes:
        records_of: of the ledger: the coordinator whose records are followed as well, where they have a stream.
    """

    stream: str
    filters: tuple[str, ...]
    records_of: str | None = None


def ledger(own: str, role: Role) -> Source:
    """Return the source of the states of tasks: a member may follow those of its own."""
    if role == "member":
        return Source(subjects.STATE_STREAM, (subjects.states(owner=own),))
    return Source(subjects.STATE_STREAM, (subjects.STATE_SUBJECTS,), own if role == "operator" else None)


def mcp_records(own: str, role: Role) -> Source:
    """Return the source of the records of its MCP tasks, which other coordinators than members get with the states."""
    if role != "member":
        return ledger(own, role)
    return Source(subjects.STATE_STREAM, (subjects.mcp_tasks(own),))


def inbox(agent: str) -> Source:
    """Return the source of the result inbox of one agent."""
    return Source(subjects.RESULTS_STREAM, inbox_filters(agent))


def all_inboxes(own: str) -> Source:
    """Return the source of all result inboxes, or only of `own` if the others may not be read."""
    return Source(subjects.RESULTS_STREAM, (subjects.all_of("*"), *inbox_filters(own)))


class Reader(Protocol[T_co]):
    """Reads events from the bus until it fails or is cancelled."""

    async def read(self, bus: Bus, opened: Callable[[], None], notify: Callable[[T_co], None]) -> None:
        """Call `opened` once no later event can be missed, then `notify` with each event."""
        ...


@dataclass(frozen=True, slots=True)
class MessageReader:
    """Reads the headers of the new messages of one source. The event is the message."""

    source: Source

    async def read(self, bus: Bus, opened: Callable[[], None], notify: Callable[[Delivery | None], None]) -> None:
        """Follow the source.

        Raises:
            BusError: the source cannot be followed at present.
            PermissionDeniedError: it may be read by none of its filters.
        """
        if self.source.stream == subjects.STATE_STREAM:
            [subject] = self.source.filters
            await follow_ledger(bus, subject, self.source.records_of, opened, notify)
            return
        *wider, narrowest = self.source.filters
        for subject in wider:
            with suppress(PermissionDeniedError):
                await follow(bus, self.source.stream, subject, opened, notify)
        await follow(bus, self.source.stream, narrowest, opened, notify)


class RegistryReader:
    """Reads the registry of workers. The event is whether an agent has come online or gone offline."""

    async def read(self, bus: Bus, opened: Callable[[], None], notify: Callable[[bool], None]) -> None:
        """Follow the registry, and expire workers without a heartbeat.

        Raises:
            BusError: the registry cannot be followed at present.
        """
        online = OnlineAgents()
        async with open_consumer(bus, subjects.REGISTRY_STREAM, subjects.REGISTRY_SUBJECTS, after=0) as consumer:
            async for message in consumer.backlog():
                online.update(message, anyio.current_time())
            online.take_changes()
            opened()
            while True:
                with anyio.CancelScope(deadline=online.next_expiry):
                    online.update(await consumer.next(), anyio.current_time())
                online.expire(anyio.current_time())
                for agents_changed in online.take_changes():
                    notify(agents_changed)
