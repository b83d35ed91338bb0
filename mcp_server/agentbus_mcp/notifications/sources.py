"""Follows messages on the bus through ordered consumers, from now on."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import anyio

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer, Start
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.ledger_parts import Part, hide, ledger_parts, part_of
from agentbus.errors import PermissionDeniedError
from agentbus.protocol import subjects
from agentbus.protocol.roles import Role
from agentbus.tasks.inbox import inbox_filters
from agentbus_mcp.notifications.online_agents import OnlineAgents

_OTHERS_S: Final = 15.0
"""How soon the ledger of an agent that is new on the bus is followed, too."""
_CLOSE_S: Final = 1.0
"""How long deleting a consumer may take; the server deletes unused ones anyway."""

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
            await follow_ledger(bus, self.source, opened, notify)
            return
        *wider, narrowest = self.source.filters
        for subject in wider:
            with suppress(PermissionDeniedError):
                await follow(bus, self.source.stream, subject, opened, notify)
        await follow(bus, self.source.stream, narrowest, opened, notify)


async def follow(
    bus: Bus, stream: str, subject: str, opened: Callable[[], None], notify: Callable[[Delivery | None], None]
) -> None:
    """Follow the new messages of one filter."""
    async with open_consumer(bus, stream, subject, after="new", headers_only=True) as consumer:
        opened()
        while True:
            notify(await consumer.next())


async def follow_ledger(
    bus: Bus, source: Source, opened: Callable[[], None], notify: Callable[[Delivery | None], None]
) -> None:
    """Follow the ledger: its stream, or those of all agents. Returns when there are others, to be called again."""
    [subject] = source.filters
    parts = await ledger_parts(bus, subject)
    if [part.stream for part in parts] == [subjects.STATE_STREAM]:
        await follow(bus, subjects.STATE_STREAM, subject, opened, notify)
        return
    wanted = {part.stream: part for part in parts}
    if source.records_of is not None:
        records = await part_of(bus, subjects.mcp_tasks(source.records_of))
        wanted[records.stream] = records
    if not wanted:
        opened()
        await anyio.sleep(_OTHERS_S)
        return
    left, followed, refusal, none_left = set(wanted), set(wanted), list[PermissionDeniedError](), anyio.Event()

    def settle(stream: str) -> None:
        left.discard(stream)
        if not left and followed:
            opened()

    async def follow_part(part: Part) -> None:
        try:
            await follow(bus, part.stream, part.subject, lambda: settle(part.stream), notify)
        except PermissionDeniedError as error:
            hide(bus, part)
            refusal.append(error)
            followed.discard(part.stream)
            settle(part.stream)
            if not followed:
                none_left.set()

    async with raising_the_first(), anyio.create_task_group() as group:
        for part in wanted.values():
            group.start_soon(follow_part, part)
        others = False
        while followed and not others:
            with anyio.move_on_after(_OTHERS_S):
                await none_left.wait()
            others = not {one.stream for one in await ledger_parts(bus, subject)} <= followed
        group.cancel_scope.cancel()
    if not followed:
        raise refusal[0]


@asynccontextmanager
async def raising_the_first() -> AsyncGenerator[None]:
    """Raise the first of the errors that the tasks of a group have ended with."""
    try:
        yield
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


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


@asynccontextmanager
async def open_consumer(
    bus: Bus, stream: str, subject: str, *, after: Start, headers_only: bool = False
) -> AsyncGenerator[OrderedConsumer]:
    """Open an ordered consumer that is deleted even when its reader is cancelled.

    anyio cancels what is awaited during clean-up as well, hence the shield.
    """
    consumer = OrderedConsumer(bus, stream, subject, after=after, headers_only=headers_only)
    await consumer.__aenter__()
    try:
        yield consumer
    finally:
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await consumer.__aexit__(None, None, None)
