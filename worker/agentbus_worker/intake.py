"""Takes tasks from the bus while there is room for them, and while the worker is not paused."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import BusError, SetupMissingError
from agentbus.protocol import subjects
from agentbus_worker.consumers import add_durable_of_parties, make_consumers
from agentbus_worker.conversations.waiting import FollowUps
from agentbus_worker.pausing.pause import Pause
from agentbus_worker.settling.slots import Slots
from agentbus_worker.task_queues import TaskQueues

log = logging.getLogger("agentbus.worker")

_RETRY_S: Final = 2.0


class Intake:
    """Takes the tasks of one worker, and starts their handling."""

    def __init__(
        self,
        bus: Bus,
        config: WorkerConfig,
        slots: Slots,
        pause: Pause,
        handle: Callable[[Delivery], asyncio.Task[None]],
        follow_ups: FollowUps,
    ) -> None:
        """`handle` starts the handling of a delivery; what waits in `follow_ups` comes before new tasks."""
        self._bus = bus
        self._config = config
        self._slots = slots
        self._pause = pause
        self._handle = handle
        self._follow_ups = follow_ups
        self._taking: asyncio.Task[None] | None = None
        pause.on_begin(self._interrupt)

    async def run(self) -> None:
        """Take tasks until this is cancelled."""
        config = self._config
        async with TaskQueues(self._bus, config.nats.stream, config.durable) as queues, asyncio.TaskGroup() as group:
            group.create_task(add_durable_of_parties(self._bus, config, queues))
            log.info("ready for tasks on %s", subjects.tasks(config.agent.id))
            while True:
                self._taking = asyncio.create_task(self._take(queues))
                try:
                    await asyncio.wait({self._taking})
                finally:
                    self._taking.cancel()
                    await asyncio.wait({self._taking})
                if not self._taking.cancelled():  # by the beginning of a pause
                    self._taking.result()

    def _interrupt(self) -> None:
        """Take nothing more, and let what waits for a slot go back to the bus."""
        self._slots.pause()
        if self._taking is not None:
            self._taking.cancel()

    async def _take(self, queues: TaskQueues) -> None:
        """Take a delivery whenever there is room for one; after a pause one alone, until it is known how it fares."""
        while True:
            probing = await self._pause.over()
            self._slots.resume()
            prefetch = await self._slots.wait_for_room()
            follow_up = None if probing or prefetch else await self._follow_up(queues)
            if follow_up is not None:
                self._handle(follow_up)
                continue
            deliveries = await self._fetch(queues, prefetch=0 if probing else prefetch)
            self._slots.backlog = queues.backlog
            handled = [self._handle(delivery) for delivery in deliveries]
            if probing:
                await self._pause.told_by(handled[0])

    async def _follow_up(self, queues: TaskQueues) -> Delivery | None:
        try:
            return await self._follow_ups.next(queues)
        except BusError as error:  # new tasks are taken all the same, as soon as the bus gives them
            log.debug("follow-ups could not be looked for: %s", error)
            return None

    async def _fetch(self, queues: TaskQueues, *, prefetch: int) -> list[Delivery]:
        """Wait for the next task, or fetch up to `prefetch` tasks that are available now."""
        missing = ""
        while True:
            try:
                return await queues.fetch(prefetch) if prefetch else [await queues.next()]
            except SetupMissingError as error:
                # A consumer was deleted: make it again if that is permitted, or wait until an administrator does.
                try:
                    await make_consumers(self._bus, self._config)
                except BusError as refusal:
                    if str(refusal) != missing:
                        missing = str(refusal)
                        log.error("%s: %s; waiting for it", error, refusal)
                    await asyncio.sleep(_RETRY_S)
