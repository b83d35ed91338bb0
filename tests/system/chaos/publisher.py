"""The publisher of a storm: insistent or impatient, and trusting as far as the bus lets a party trust it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager

from agentbus import Coordinator
from agentbus.errors import BusUnavailableError, CannotContinueError
from agentbus.protocol.ledger_entry import NoEntry, Record
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.publish import keep_queued
from system.chaos.fleet import Events
from system.chaos.plan import PlannedTask

_RETRY_S = 0.2


class Publisher:
    """Publishes the tasks of a plan, each at its time and in its way.

    Attributes:
        published: the tasks that the bus has taken.
        retries: how often something was tried again, or given up.
        seen: for tasks that were cancelled, the state that the cancelling found them in.
    """

    def __init__(self, coordinator: Coordinator, tasks: Iterable[PlannedTask], events: Events, bound_s: float) -> None:
        """`bound_s` is how long no worker of a conversation may be alive."""
        self.published: set[str] = set()
        self.retries = 0
        self.seen: dict[str, str] = {}
        self._coordinator = coordinator
        self._events = events
        self._bound_s = bound_s
        self._is_published = {task.task_id: asyncio.Event() for task in tasks}
        self._unfinished: list[str] = []

    @contextmanager
    def listening(self) -> Generator[None]:
        """Note what the log says of publications that could not be finished or taken back."""
        log, handler = logging.getLogger("agentbus"), _Lines(self._unfinished)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)

    async def publish(self, task: PlannedTask) -> None:
        """Publish a task at its time, and cancel it, if that is planned."""
        await asyncio.sleep(task.at_s)
        if task.continues is not None:
            await self._is_published[task.continues].wait()
        if task.impatient_s is None or not (await self._given_up(task, task.impatient_s) and await self._knows(task)):
            await self.insist(lambda: self._publish_once(task))
        self.published.add(task.task_id)
        self._is_published[task.task_id].set()
        if task.again:
            await self.insist(lambda: self._publish_once(task))
        if task.cancel_after_s is not None:
            await asyncio.sleep(task.cancel_after_s)
            await self.insist(lambda: self._cancel(task))

    async def insist(self, step: Callable[[], Awaitable[None]]) -> None:
        """Again with the same id for as long as the bus is unavailable, and for no other error.

        A follow-up is refused, too, while no worker of its agent is alive: for less time than the storm takes.
        """
        deadline = time.monotonic() + self._bound_s
        while True:
            try:
                return await step()
            except (BusUnavailableError, CannotContinueError) as error:
                if isinstance(error, CannotContinueError) and time.monotonic() > deadline:
                    raise
                self.retries += 1
                await asyncio.sleep(_RETRY_S)

    async def _publish_once(self, task: PlannedTask) -> None:
        if task.continues is not None:
            before = self._coordinator.task(task.continues, agent=task.agent)
            await before.follow_up(task.content, payload_format="json", task_id=task.task_id)
            return
        await self._coordinator.publish(
            task.agent, task.content, task_type="chaos", payload_format="json", task_id=task.task_id
        )

    async def _given_up(self, task: PlannedTask, after_s: float) -> bool:
        """Cancel a publication anywhere between the ledger and the task stream.

        Returns whether its publisher may rely on what is left, and does so. After an error of the bus it may not.
        """
        try:
            async with asyncio.timeout(after_s):
                await self._publish_once(task)
        except (TimeoutError, BusUnavailableError) as error:
            self.retries += 1
            return task.relies and isinstance(error, TimeoutError)
        return task.relies

    async def _knows(self, task: PlannedTask) -> bool:
        """Whether the bus has a task, once what was begun for it is finished or taken back.

        That is promised, but where the log says otherwise. Then one look is not enough: a replica that lags behind
        still shows an entry that was taken back. A write decides. It leaves the entry as it is, and is refused where
        there is none.
        """
        bus = self._coordinator.bus
        while bus.begun.any:
            await bus.begun.wait()
        found = list[Record | NoEntry]()

        async def look() -> None:
            seen = await Ledger(bus).read(TaskKey(task.agent, task.task_id))
            found.append(await keep_queued(bus, seen) if isinstance(seen, Record) else seen)

        await self.insist(look)
        return isinstance(found[-1], Record) and not any(task.task_id in said for said in self._unfinished)

    async def _cancel(self, task: PlannedTask) -> None:
        status = await self._coordinator.task(task.task_id, agent=task.agent).cancel("chaos")
        self.seen[task.task_id] = status.state
        self._events.note("cancel", f"{task.task_id} found {status.state}")


class _Lines(logging.Handler):
    """Keeps what the log says."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())
