"""What happens on the bus, told to whoever in this process follows it.

There is one feed for each source, for as long as somebody follows it, and none for anybody else. A feed goes on behind
the last message after a restart of the server. Where something may have been missed all the same, followers are told
to look again. What they are told is that something has changed; nobody waits for them.
"""

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

import anyio
from anyio.abc import TaskGroup

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer, Start
from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import AgentBusError, PermissionDeniedError
from agentbus.protocol import subjects
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.notifications.online_agents import OnlineAgents

log = logging.getLogger("agentbus.mcp")

_PAUSE_S: Final = 1.0
_REFUSED_PAUSE_S: Final = 30.0
_CLOSE_S: Final = 1.0

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Listener: TypeAlias = Callable[[T], None]
Leave: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Source:
    """Messages that can be followed, by their headers. `otherwise` is followed where `subject` is not permitted."""

    stream: str
    subject: str
    otherwise: str | None = None


LEDGER: Final = Source(subjects.STATE_STREAM, subjects.STATE_SUBJECTS)


def inbox(agent: str) -> Source:
    """The result inbox of one agent."""
    return Source(subjects.RESULTS_STREAM, subjects.results(agent))


def inboxes(own: str) -> Source:
    """All result inboxes, or one's own where one may not read the others."""
    return Source(subjects.RESULTS_STREAM, subjects.RESULT_SUBJECTS, otherwise=subjects.results(own))


class _Reader(Protocol[T_co]):
    """How a tap reads the bus: until it fails."""

    async def read(self, bus: Bus, opened: Callable[[], None], tell: Callable[[T_co], None]) -> None: ...


class _Tap(Generic[T]):
    """One feed, and who follows it."""

    def __init__(self, reader: _Reader[T], gap: T) -> None:
        self.reader = reader
        self.gap = gap
        self.listeners: dict[object, Listener[T]] = {}
        self.scope = anyio.CancelScope()
        self.opened = anyio.Event()
        self.late = False

    def tell(self, news: T) -> None:
        for listener in tuple(self.listeners.values()):
            listener(news)

    async def run(self, link: BusLink) -> None:
        """Read the bus, again and again, until the scope is cancelled."""
        said = ""
        with self.scope:
            while True:
                pause_s = _PAUSE_S
                try:
                    coordinator = await link.connected()
                    await self.reader.read(coordinator.bus, self._on_open, self.tell)
                except AgentBusError as error:
                    if isinstance(error, PermissionDeniedError):
                        self.opened.set()  # nothing will come; whoever waits for it shall not wait
                        pause_s = _REFUSED_PAUSE_S
                    said = _remark(str(error), said)
                await anyio.sleep(pause_s)

    def _on_open(self) -> None:
        if self.opened.is_set() or self.late:
            self.tell(self.gap)
        self.opened.set()


def _remark(text: str, said: str) -> str:
    """Log why a feed has ended, once for each reason."""
    if text != said:
        log.info("cannot follow changes at present: %s", text)
    return text


@dataclass(frozen=True, slots=True)
class _Messages:
    """Reads one source."""

    source: Source

    async def read(self, bus: Bus, opened: Callable[[], None], tell: Listener[Delivery | None]) -> None:
        """Tell every message; None for those that may have been missed."""
        source = self.source
        try:
            await self._follow(bus, source.subject, opened, tell)
        except PermissionDeniedError:
            if source.otherwise is None:
                raise
            await self._follow(bus, source.otherwise, opened, tell)

    async def _follow(
        self, bus: Bus, subject: str, opened: Callable[[], None], tell: Listener[Delivery | None]
    ) -> None:
        async with open_consumer(bus, self.source.stream, subject, after="new", headers_only=True) as feed:
            opened()
            while True:
                tell(await feed.next())


@asynccontextmanager
async def open_consumer(
    bus: Bus, stream: str, subject: str, *, after: Start, headers_only: bool = False
) -> AsyncGenerator[OrderedConsumer]:
    """A feed that is closed in order when its reader is cancelled: anyio cancels what is awaited at the end as well."""
    feed = OrderedConsumer(bus, stream, subject, after=after, headers_only=headers_only)
    await feed.__aenter__()
    try:
        yield feed
    finally:
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await feed.__aexit__(None, None, None)


class _Presences:
    """Reads the registry."""

    async def read(self, bus: Bus, opened: Callable[[], None], tell: Listener[bool]) -> None:
        """Tell every change among the workers that are alive: True where an agent has appeared or gone."""
        roster = OnlineAgents()
        async with open_consumer(bus, subjects.REGISTRY_STREAM, subjects.REGISTRY_SUBJECTS, after=0) as feed:
            async for message in feed.backlog():
                roster.see(message, anyio.current_time())
            roster.changes()
            opened()
            while True:
                with anyio.CancelScope(deadline=roster.next_expiry):
                    roster.see(await feed.next(), anyio.current_time())
                roster.expire(anyio.current_time())
                for listed in roster.changes():
                    tell(listed)


class BusEvents:
    """The sources of one link that somebody follows."""

    def __init__(self, link: BusLink) -> None:
        self._link = link
        self._group: TaskGroup | None = None
        self._messages: dict[Source, _Tap[Delivery | None]] = {}
        self._presences: _Tap[bool] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[TaskGroup]:
        """Follow the bus for the length of the block; the task group is for those who act on what they are told."""
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield group
            finally:
                self._group = None
                self._messages.clear()
                self._presences = None
                group.cancel_scope.cancel()

    @property
    def sources(self) -> int:
        """How many sources are followed."""
        return len(self._messages)

    def is_followed(self, source: Source) -> bool:
        """Whether somebody follows a source already."""
        return source in self._messages

    def follow(self, source: Source, listener: Listener[Delivery | None]) -> Leave:
        """Call `listener` with each new message, with None where some may have been missed; returns what ends that."""
        tap = self._messages.get(source)
        if tap is None:
            tap = self._messages[source] = _Tap(_Messages(source), None)
            self._start(tap)

        def last() -> None:
            if self._messages.get(source) is tap:
                del self._messages[source]

        return _join(tap, listener, last)

    def follow_agents(self, listener: Listener[bool]) -> Leave:
        """Call `listener` when something changes among the living workers: with True where an agent comes or goes."""
        tap = self._presences
        if tap is None:
            tap = self._presences = _Tap(_Presences(), gap=True)
            self._start(tap)

        def last() -> None:
            if self._presences is tap:
                self._presences = None

        return _join(tap, listener, last)

    def call_at(self, moment: float, listener: Callable[[], None]) -> Leave:
        """Call `listener` at a time, in seconds since the epoch, or now if it has passed; returns what prevents it."""
        scope = anyio.CancelScope()

        async def call() -> None:
            with scope:
                await anyio.sleep(max(0.0, moment - time.time()))
                listener()

        self._running.start_soon(call)
        return scope.cancel

    async def opened(self, timeout_s: float) -> None:
        """Wait until what is followed is really being read, so that no change from now on is missed; not for ever.

        Who follows what opens later than that is told then that something may have been missed.
        """
        waiting: list[_Tap[Any]] = [*self._messages.values(), *filter(None, [self._presences])]
        with anyio.move_on_after(timeout_s):
            for tap in waiting:
                await tap.opened.wait()
        for tap in waiting:
            tap.late |= not tap.opened.is_set()

    def _start(self, tap: "_Tap[Delivery | None] | _Tap[bool]") -> None:
        self._running.start_soon(tap.run, self._link)

    @property
    def _running(self) -> TaskGroup:
        if self._group is None:
            raise RuntimeError("taps are used inside their `running()` block")
        return self._group


def _join(tap: _Tap[T], listener: Listener[T], last: Callable[[], None]) -> Leave:
    token = object()
    tap.listeners[token] = listener

    def leave() -> None:
        if tap.listeners.pop(token, None) is not None and not tap.listeners:
            last()
            tap.scope.cancel()

    return leave
