"""Finds the follow-ups that wait for this place, so that a slot that gets free takes them before new tasks.

The queue has no order for that: who asks gets the next message. So a worker is told of them when they are published,
and looks for them among the tasks of the second form, where they come again and again, before it asks for others.
"""

import asyncio
import logging
from collections.abc import Container
from contextlib import suppress
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import BusError, BusUnavailableError, CorruptEntryError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json, object_in
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import COORDINATOR, TaskKey, is_agent_id, is_task_id
from agentbus.tasks.incoming import read_delivery
from agentbus.tasks.ledger import Ledger
from agentbus_worker.conversations.own_place import OwnPlace
from agentbus_worker.conversations.routing import Elsewhere, Here, NotYet, handing_back_s
from agentbus_worker.task_queues import TaskQueues

log = logging.getLogger("agentbus.worker")

FOLLOW_UP: Final = "follow_up"
"""The field of a control message that tells workers of a follow-up."""
_LOOK_S: Final = 6.0
"""A delivery that was handed back comes again after five seconds at the latest."""
_APART_S: Final = 30.0
"""After a look that found none of those that it was told of, a slot goes without for so long."""
_MOST_TOLD: Final = 1_000
"""More do not wait for an agent: see `agentbus.tasks.follow_ups`."""
_MOST_ASIDE: Final = 16
"""So many tasks that go on with nothing are taken in one look, and given back: what is behind them waits."""
_MOST_READ: Final = 8


class FollowUps:
    """The follow-ups that wait for one place, as far as its worker knows."""

    def __init__(self, bus: Bus, config: WorkerConfig, place: OwnPlace, held: Container[TaskKey]) -> None:
        """`held` has the keys of the tasks that this worker runs."""
        self._bus = bus
        self._ledger = Ledger(bus)
        self._config = config
        self._place = place
        self._held = held
        self._waiting: dict[TaskKey, None] = {}
        self._later: dict[TaskKey, None] = {}  # until a task of this worker has ended, they cannot run
        self._unsure = True
        self._not_before = 0.0

    def told(self, asked: dict[str, Json]) -> None:
        """Take what a control message says of a follow-up. Only the ledger and the queue decide about it."""
        said = object_in(asked.get(FOLLOW_UP))
        key, earlier = self._key(said.get("task"), said.get("owner")), self._key(said.get("of"), said.get("of_owner"))
        if key is None or not self._place.can_continue or len(self._waiting) + len(self._later) >= _MOST_TOLD:
            return
        if said.get("place") == self._place.id:
            self._waiting[key] = None
            self._not_before = 0.0
        elif earlier is not None and earlier in self._held:
            self._later[key] = None

    def look_again(self) -> None:
        """Look for what this worker may not have been told of: it has just started, or its connection was lost."""
        self._unsure = True

    def task_ended(self) -> None:
        """Try those again that had to wait for a task of this worker."""
        self._waiting |= self._later
        self._later.clear()

    def _key(self, task: Json, owner: Json) -> TaskKey | None:
        owner = COORDINATOR if owner is None else owner
        known = is_task_id(task) and is_agent_id(owner)
        return TaskKey(self._config.agent.id, task, owner) if known else None

    async def next(self, queues: TaskQueues) -> Delivery | None:
        """Return the delivery of a follow-up that can run here now; None if there is none, as far as is known.

        Raises:
            BusError: the bus did not answer.
        """
        if not self._place.can_continue or not queues.has_second_form:
            return None
        if self._unsure:
            self._unsure = await self._may_hold_some()
        await self._drop_settled()
        if not self._unsure and (not self._waiting or self._now() < self._not_before):
            return None
        self._unsure = False
        found = await self._look(queues)
        if found is None:
            self._not_before = self._now() + _APART_S
        return found

    async def _may_hold_some(self) -> bool:
        try:
            info = await self._bus.consumer_info(
                self._config.nats.stream, subjects.durable_of_parties(self._config.agent.id)
            )
        except BusUnavailableError:
            raise
        except BusError:
            return False
        return info.num_pending + info.num_ack_pending > 0

    async def _drop_settled(self) -> None:
        for key in list(self._waiting)[:_MOST_READ]:
            with suppress(CorruptEntryError):
                found = await self._ledger.read(key)
                if isinstance(found, Record) and found.entry.state == "queued" and found.entry.cancel is None:
                    return
            self._waiting.pop(key, None)

    async def _look(self, queues: TaskQueues) -> Delivery | None:
        """Take tasks of the second form until one is a follow-up that can run here; give the others back."""
        until, aside = self._now() + _LOOK_S, list[Delivery]()
        try:
            while len(aside) < _MOST_ASIDE:
                delivery = await queues.next_of_second_form(until)
                if delivery is None:
                    return None
                if await self._is_own(delivery, aside):
                    return delivery
            return None
        finally:
            for delivery in aside:
                with suppress(BusUnavailableError):  # it is delivered again after `ack_wait`
                    await delivery.nak()

    async def _is_own(self, delivery: Delivery, aside: list[Delivery]) -> bool:
        """Whether a delivery is for this place now; others are given back, those that go on with nothing put aside."""
        try:
            incoming = read_delivery(delivery, self._config.agent.id, max_bytes=self._config.worker.max_task_bytes)
            where = await self._place.where(incoming)
        except (MessageError, CorruptEntryError):  # which is dealt with in its turn
            aside.append(delivery)
            return False
        if where is None:
            aside.append(delivery)
            return False
        if isinstance(where, Elsewhere):
            await delivery.nak(handing_back_s(delivery.num_delivered))
            return False
        if isinstance(where, NotYet) or (isinstance(where, Here) and await self._place.is_in_use(where.session)):
            self._waiting.pop(incoming.key, None)
            self._later[incoming.key] = None
            await delivery.nak(handing_back_s(delivery.num_delivered, known=False))
            return False
        self._waiting.pop(incoming.key, None)
        return True

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
