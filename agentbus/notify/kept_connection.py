"""Tells each event of a coordinator's tasks over a bus that may be away, for as long as the process lives."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import anyio

from agentbus.bus.jetstream import Bus
from agentbus.config.connection_settings import ConnectionSettings
from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError
from agentbus.protocol.roles import Role
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.events.following import raising_the_first
from agentbus.tasks.events.own_events import open_events
from agentbus.tasks.events.position import Position
from agentbus.tasks.events.task_event import TaskEvent

_REFUSED_RETRY_S: Final = 30.0
"""How soon a bus that has refused the credentials is asked again: an operator has to do something first."""
_CLOSE_S: Final = 2.0
Tell = Callable[[TaskEvent], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads the events of which tasks.

    Attributes:
        agent: the coordinator that reads, with its role.
        owner: the coordinator that owns the tasks; an operator may read those of another one.
        of: which of the tasks are meant.
        state: called with each change of the connection, in words.
    """

    settings: ConnectionSettings
    agent: str
    role: Role
    owner: str
    of: Callable[[TaskKey], bool] = lambda _: True
    state: Callable[[str], None] = lambda _: None


async def tell_events(reader: Reader, position: Position, tell: Tell) -> None:
    """Await `tell` with each event, one after the other, until this is cancelled or `tell` raises.

    Args:
        position: where to begin; it holds each event by the time that `tell` is called with it.
    """
    while True:
        bus = Bus(reader.settings, reader.state)
        try:
            await bus.open(retry_on_failed_connect=True)
            await _tell_until_closed(bus, reader, position, tell)
        except AgentBusError as error:
            reader.state(str(error))
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await bus.close()
        await anyio.sleep(_REFUSED_RETRY_S)


async def _tell_until_closed(bus: Bus, reader: Reader, position: Position, tell: Tell) -> None:
    Coordinator(bus, reader.agent, reader.role)  # the bus is not asked for what this role may not have

    async def end(scope: anyio.CancelScope) -> None:
        ended = await bus.wait_closed()
        reader.state(str(ended or "the connection was closed"))
        scope.cancel()

    async with raising_the_first(), anyio.create_task_group() as group:
        group.start_soon(end, group.cancel_scope)
        async with open_events(bus, reader.owner, position, of=reader.of) as events:
            while True:
                await tell(await events.next())
