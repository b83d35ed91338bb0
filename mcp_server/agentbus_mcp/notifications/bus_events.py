"""Distributes events from the bus to listeners in this process.

Each source has one consumer while it has listeners, which continues after its last message when the server restarts.
If messages may have been missed nevertheless, listeners get the gap event, and read the present state. A listener is a
plain function that must not block.
"""

import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, TypeAlias, TypeVar

import anyio
from anyio.abc import TaskGroup

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import AgentBusError, PermissionDeniedError
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.notifications import sources
from agentbus_mcp.notifications.sources import MessageReader, Reader, RegistryReader, Source

log = logging.getLogger("agentbus.mcp")

_RETRY_S: Final = 1.0
_REFUSED_RETRY_S: Final = 30.0
"""Permissions change when an operator changes them, so a refused source is tried less often."""

T = TypeVar("T")
Listener: TypeAlias = Callable[[T], None]
Unsubscribe: TypeAlias = Callable[[], None]


class _Subscription(Generic[T]):
    """One reader of the bus and its listeners. `gap` is the event for messages that may have been missed."""

    def __init__(self, reader: Reader[T], gap: T) -> None:
        self.reader = reader
        self.gap = gap
        self.listeners: dict[object, Listener[T]] = {}
        self.scope = anyio.CancelScope()
        self.opened = anyio.Event()
        self.opens_late = False

    def notify(self, event: T) -> None:
        for listener in tuple(self.listeners.values()):
            listener(event)

    async def run(self, bus_link: BusLink) -> None:
        """Read the bus, again after each failure, until the scope is cancelled."""
        logged = ""
        with self.scope:
            while True:
                pause_s = _RETRY_S
                try:
                    coordinator = await bus_link.connected()
                    await self.reader.read(coordinator.bus, self._on_open, self.notify)
                except AgentBusError as error:
                    if isinstance(error, PermissionDeniedError):
                        self.opened.set()  # no event will come, so `opened` must not wait for this source
                        pause_s = _REFUSED_RETRY_S
                    logged = _log_once(str(error), logged)
                await anyio.sleep(pause_s)

    def _on_open(self) -> None:
        if self.opened.is_set() or self.opens_late:
            self.notify(self.gap)
        self.opened.set()


def _log_once(text: str, logged: str) -> str:
    """Log why a source cannot be followed, unless the last line said the same; returns the text."""
    if text != logged:
        log.info("cannot follow changes at present: %s", text)
    return text


class BusEvents:
    """The sources on one connection that have listeners."""

    def __init__(self, bus_link: BusLink) -> None:
        self._bus_link = bus_link
        self.ledger = sources.ledger(bus_link.agent, bus_link.role)
        self.mcp_records = sources.mcp_records(bus_link.agent, bus_link.role)
        self._group: TaskGroup | None = None
        self._messages: dict[Source, _Subscription[Delivery | None]] = {}
        self._registry: _Subscription[bool] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[TaskGroup]:
        """Follow the bus for the length of the block; yields a task group for the listeners' work."""
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield group
            finally:
                self._group = None
                self._messages.clear()
                self._registry = None
                group.cancel_scope.cancel()

    @property
    def sources(self) -> int:
        """How many sources are followed."""
        return len(self._messages)

    def is_followed(self, source: Source) -> bool:
        """Whether a source has listeners already."""
        return source in self._messages

    def follow(self, source: Source, listener: Listener[Delivery | None]) -> Unsubscribe:
        """Call `listener` with each new message, and with None if some may have been missed."""
        subscription = self._messages.get(source)
        if subscription is None:
            subscription = self._messages[source] = _Subscription(MessageReader(source), None)
            self._start(subscription)

        def forget() -> None:
            if self._messages.get(source) is subscription:
                del self._messages[source]

        return _add_listener(subscription, listener, forget)

    def follow_agents(self, listener: Listener[bool]) -> Unsubscribe:
        """Call `listener` when the living workers change: with True where an agent comes online or goes offline."""
        subscription = self._registry
        if subscription is None:
            subscription = self._registry = _Subscription(RegistryReader(), gap=True)
            self._start(subscription)

        def forget() -> None:
            if self._registry is subscription:
                self._registry = None

        return _add_listener(subscription, listener, forget)

    def call_at(self, moment: float, listener: Callable[[], None]) -> Unsubscribe:
        """Call `listener` at a time, in seconds since the epoch, or now if it has passed."""
        scope = anyio.CancelScope()

        async def call() -> None:
            with scope:
                await anyio.sleep(max(0.0, moment - time.time()))
                listener()

        self._running.start_soon(call)
        return scope.cancel

    async def opened(self, timeout_s: float) -> None:
        """Wait until all sources are open, so that no later change can be missed, for at most `timeout_s`.

        The listeners of a source that opens later get the gap event then.
        """
        waiting: list[_Subscription[Any]] = [*self._messages.values(), *filter(None, [self._registry])]
        with anyio.move_on_after(timeout_s):
            for subscription in waiting:
                await subscription.opened.wait()
        for subscription in waiting:
            subscription.opens_late |= not subscription.opened.is_set()

    def _start(self, subscription: "_Subscription[Delivery | None] | _Subscription[bool]") -> None:
        self._running.start_soon(subscription.run, self._bus_link)

    @property
    def _running(self) -> TaskGroup:
        if self._group is None:
            raise RuntimeError("bus events are used inside their `running()` block")
        return self._group


def _add_listener(
    subscription: _Subscription[T], listener: Listener[T], on_last_left: Callable[[], None]
) -> Unsubscribe:
    token = object()
    subscription.listeners[token] = listener

    def unsubscribe() -> None:
        if subscription.listeners.pop(token, None) is not None and not subscription.listeners:
            on_last_left()
            subscription.scope.cancel()

    return unsubscribe
