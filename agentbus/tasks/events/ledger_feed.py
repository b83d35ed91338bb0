"""Follows the ledger: its one stream or, where each agent has one, those of all, also of agents that come later.

What comes and goes disturbs no other stream: each is followed by a task of its own, and a look now and then tells which
streams there are.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

import anyio
from anyio.abc import TaskGroup

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.bus.reading.ledger_parts import Part, hide, ledger_parts, part_of
from agentbus.errors import BusUnavailableError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.tasks.events.following import follow, raising_the_first

_LOOK_S: Final = 15.0
"""How soon the ledger of an agent that is new on the bus is followed, too: until then its changes are not told."""
_OPENED_AT_ONCE: Final = 16

Notify = Callable[[Delivery | None], None]


async def follow_ledger(
    bus: Bus,
    subject: str,
    records_of: str | None,
    opened: Callable[[], None],
    notify: Notify,
    *,
    since: datetime | None = None,
) -> None:
    """Follow what a filter means of the ledger, until this is cancelled.

    Args:
        records_of: the coordinator whose records of MCP tasks are followed, too, where they have a stream.
        opened: called once what there is at first is followed.
        notify: called with each change, and with None if some of a stream that came later may have been missed.
        since: begin with the last change of each task since this time, by the server's clock, in the order of their
            times; then nothing of a later stream is missed either. None for changes from now on.

    Raises:
        PermissionDeniedError: this user may read none of it.
        BusError: it cannot be followed at present.
    """
    if [part.stream for part in await ledger_parts(bus, subject)] == [subjects.STATE_STREAM]:
        await follow(bus, subjects.STATE_STREAM, subject, opened, notify, since=since)
        return
    async with raising_the_first(), anyio.create_task_group() as group:
        await _Feed(bus, subject, records_of, notify, group, since).run(opened)


class _Feed:
    """The streams that are followed, by their names."""

    def __init__(
        self,
        bus: Bus,
        subject: str,
        records_of: str | None,
        notify: Notify,
        group: TaskGroup,
        since: datetime | None,
    ) -> None:
        self._bus = bus
        self._subject = subject
        self._records_of = records_of
        self._notify = notify
        self._group = group
        self._since = since
        self._earlier: list[Delivery] = []
        self._followed: dict[str, anyio.CancelScope] = {}
        self._opening = anyio.Semaphore(_OPENED_AT_ONCE)
        self._refusal: PermissionDeniedError | None = None
        self._refused = anyio.Event()

    async def run(self, opened: Callable[[], None]) -> None:
        await self._look()
        self._raise_if_all_are_refused()
        self._pass_on_earlier()
        opened()
        while True:
            with anyio.move_on_after(_LOOK_S):
                await self._refused.wait()
            self._refused = anyio.Event()
            try:
                late = await self._look()
            except BusUnavailableError:
                continue  # the consumers go on after a reconnect, without a gap
            self._raise_if_all_are_refused()
            self._pass_on_earlier()
            if late and self._since is None:
                self._notify(None)

    def _pass_on_earlier(self) -> None:
        """Pass on what the streams held, together: a reader that stops amid it goes on by the time of the last one."""
        earlier, self._earlier = sorted(self._earlier, key=lambda delivery: delivery.stored_at_us), []
        for delivery in earlier:
            self._notify(delivery)

    def _raise_if_all_are_refused(self) -> None:
        if self._refusal is not None and not self._followed:
            raise self._refusal

    async def _look(self) -> bool:
        """Follow the streams that are new, and let those go that are gone; returns whether there are new ones."""
        self._refusal = None
        wanted = {part.stream: part for part in await ledger_parts(self._bus, self._subject)}
        if self._records_of is not None:
            records = await part_of(self._bus, subjects.mcp_tasks(self._records_of))
            wanted[records.stream] = records
        for stream in self._followed.keys() - wanted.keys():
            self._followed.pop(stream).cancel()
        new = [part for stream, part in wanted.items() if stream not in self._followed]
        async with anyio.create_task_group() as opening:
            for part in new:
                opening.start_soon(self._open, part)
        return any(part.stream in self._followed for part in new)

    async def _open(self, part: Part) -> None:
        """Follow a stream from now on; returns once no later change can be missed, or it may not be read."""
        async with self._opening:
            ready, scope = anyio.Event(), anyio.CancelScope()
            self._followed[part.stream] = scope
            self._group.start_soon(self._follow, part, scope, ready)
            await ready.wait()

    async def _follow(self, part: Part, scope: anyio.CancelScope, ready: anyio.Event) -> None:
        with scope:
            try:
                await follow(
                    self._bus,
                    part.stream,
                    part.subject,
                    ready.set,
                    self._notify,
                    since=self._since,
                    earlier=self._earlier.append,
                )
            except PermissionDeniedError as error:
                hide(self._bus, part)
                self._refusal = error
            except SetupMissingError:
                pass  # the stream was removed: the next look tells whether it is there again
            self._followed.pop(part.stream, None)
            self._refused.set()
        ready.set()
