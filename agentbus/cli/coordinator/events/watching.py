"""Prints events for `agentbus watch`, until the reader of its output or the host of its session is gone."""

import asyncio
import os
import select
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

from agentbus.cli import output
from agentbus.concurrently import until_one_ends
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.notify.host_session import host_session
from agentbus.notify.kept_connection import Reader, tell_events
from agentbus.notify.session_events import SessionEvents
from agentbus.notify.session_tasks import SessionTasks
from agentbus.tasks.events.position import Position, read_position, write_position
from agentbus.tasks.events.task_event import TaskEvent

if TYPE_CHECKING:
    from datetime import datetime

_SAID_ABOUT_STATE: Final = 1_000
_WRITES_S: Final = 0.2
_OUTPUT: Final = 1
"""The descriptor of standard output."""


@dataclass(frozen=True, slots=True)
class Watched:
    """What is printed, and how."""

    topics: tuple[str, ...]
    agents: tuple[str, ...]
    owner: str | None
    position: Path | None
    lines: bool
    session: bool

    def has(self, event: TaskEvent) -> bool:
        """Whether an event is wanted."""
        return event.is_of(self.topics) and (not self.agents or event.agent in self.agents)


async def watch(nats_url: str | None, config: Path | None, wanted: Watched) -> None:
    """Print events until this is cancelled, or there is no reader any more.

    Raises:
        ConfigError: the configuration or the position cannot be used.
        BrokenPipeError: the reader is gone.
    """
    reader = reader_of(nats_url, config, wanted, "agentbus watch")
    position = (read_position(wanted.position) if wanted.position is not None else None) or Position()

    async def show(event: TaskEvent) -> None:
        if wanted.has(event):
            _print(event, lines=wanted.lines)

    with _ending_with_the_reader() as gone:
        tellers = [_session(reader, wanted) if wanted.session else tell_events(reader, position, show)]
        if wanted.position is not None:
            tellers.append(_keep_position(wanted.position, position))
        await until_one_ends(*tellers, gone.wait())


async def _session(reader: Reader, wanted: Watched) -> None:
    events = SessionEvents(SessionTasks(host_session()), output.line)
    events.begin()

    async def take(event: TaskEvent) -> None:
        if wanted.has(event):
            await events.take(event)

    await until_one_ends(tell_events(reader, events.position, take), events.run())


async def _keep_position(file: Path, position: Position) -> None:
    """Write the position down soon after it has moved, and at the end; many events at a time cost one write."""
    written: datetime | None = None

    def write() -> None:
        nonlocal written
        if position.at is not None and position.at != written:
            written = position.at
            write_position(file, position)

    try:
        while True:
            write()
            await anyio.sleep(_WRITES_S)
    finally:
        write()


def reader_of(nats_url: str | None, config: Path | None, wanted: Watched, name: str) -> Reader:
    """Return who reads, as the configuration says; changes of the connection are remarks."""
    settings, warnings = load_coordinator(nats_url=nats_url, path=config)
    for warning in warnings:
        output.remark(f"warning: {warning}")
    agent = settings.coordinator.id
    connection = connection_settings(settings.nats, agent=agent, name=name)
    said: list[str] = []

    def say(state: str) -> None:
        """Say a change of the connection on standard error, once: an absence of an hour is one line."""
        if state not in said[-1:] and len(said) < _SAID_ABOUT_STATE:
            said.append(state)
            output.remark(state)

    return Reader(connection, agent, settings.coordinator.effective_role, wanted.owner or agent, state=say)


def _print(event: TaskEvent, *, lines: bool) -> None:
    if lines or output.on_terminal():
        output.line(event.line)
    else:
        output.json_line(event.to_json())


@contextmanager
def _ending_with_the_reader() -> Generator[asyncio.Event]:
    """Yield an event that is set once no one reads standard output any more: that may be long before the next line."""
    gone, loop = asyncio.Event(), asyncio.get_running_loop()
    mode = os.fstat(_OUTPUT).st_mode
    watched = os.name == "posix" and (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode))

    def look() -> None:
        poll = select.poll()
        poll.register(_OUTPUT, 0)
        if any(found & (select.POLLERR | select.POLLHUP) for _, found in poll.poll(0)):
            gone.set()
        loop.remove_reader(_OUTPUT)

    if watched:
        with suppress(OSError, ValueError):
            loop.add_reader(_OUTPUT, look)
    try:
        yield gone
    finally:
        if watched:
            loop.remove_reader(_OUTPUT)
