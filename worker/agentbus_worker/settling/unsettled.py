"""Settles the outcomes that the bus has not taken: at the start of a worker, and again and again while it lives.

An outcome is committed if the ledger still names its very claim, published again if it was committed, and dropped
otherwise. The commit is a compare-and-set, so this, the next delivery of the task and another worker of the machine may
all try.
"""

import asyncio
import time
from collections.abc import Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import BusError, BusUnavailableError, StreamFullError
from agentbus.observability import tracing
from agentbus.protocol.ledger_entry import Entry, NoEntry, Record
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.presence import MAX_REASON_CHARS, RefusedResults
from agentbus.tasks.settle import Won, commit, publish_committed
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.metrics import Metrics
from agentbus_worker.settling.decisions import CommitOutbox, DropOutbox, RepublishOutbox, on_outbox
from agentbus_worker.settling.outbox import Outbox, OutboxEntry
from agentbus_worker.settling.result_size import in_a_size_that_is_taken
from agentbus_worker.settling.server_clock import ServerClock

DUPLICATE_WINDOW_S: Final = 8 * 86_400
"""The duplicate window of AGENT_RESULTS. An older result is not published again, because it could appear twice."""
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 10.0
"""What refuses is a right or a setting, which people change: tried soon, then less often, but often within a lease."""


@dataclass(slots=True)
class _Refusal:
    """An outcome that the bus has refused, with the delivery of its task if this process has got one.

    `base` is the entry of its claim, if the ledger is missing, and went while this worker alone had the task.
    """

    key: TaskKey
    reason: str
    delivery: Delivery | None
    base: Entry | None = None
    at: str = field(default_factory=now)
    since: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    told: str = ""


class Unsettled:
    """The outcomes in the outbox of one worker that no job of it settles."""

    def __init__(
        self,
        bus: Bus,
        outbox: Outbox,
        clock: ServerClock,
        metrics: Metrics,
        *,
        lease_s: float,
        held: Container[TaskKey] = (),
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """`held` has the tasks of jobs, which settle their own; `on_change` is called when `overdue` changes."""
        self._bus = bus
        self._outbox = outbox
        self._clock = clock
        self._metrics = metrics
        self._lease_s = lease_s
        self._held = held
        self._on_change = on_change
        self._pause_limit_s = min(_LONGEST_PAUSE_S, lease_s / 3)
        self._refused: dict[str, _Refusal] = {}
        self._more = asyncio.Event()

    @property
    def hold_s(self) -> float:
        """How long the delivery of a refused outcome is kept from other workers.

        A refusal that is shorter than a lease is over by then, and its outcome committed: the task is not run again.
        """
        return self._lease_s + 2 * self._pause_limit_s

    @property
    def overdue(self) -> RefusedResults | None:
        """What has been refused for longer than a lease; None without any."""
        late = [refusal for refusal in self._refused.values() if self._is_overdue(refusal)]
        if not late:
            return None
        return RefusedResults(count=len(late), since=late[0].at, reason=late[0].reason[:MAX_REASON_CHARS])

    def refused(
        self,
        key: TaskKey,
        nonce: str,
        error: BusError,
        delivery: Delivery | None = None,
        *,
        base: Entry | None = None,
    ) -> None:
        """Try an outcome again from now on, which is in the outbox or about to be.

        Args:
            delivery: what is acknowledged then.
            base: the entry of its claim, if a ledger that is made anew may get it.
        """
        self._metrics.count("result refused")
        self._refused[nonce] = _Refusal(key, str(error), delivery, base)
        self._more.set()

    async def settle_left(self) -> None:
        """Settle what earlier workers have left; what the bus refuses is logged, and tried again by `keep_on`.

        Raises:
            BusUnavailableError, StreamFullError: the bus cannot store results now; the entries stay.
        """
        for entry in await self._outbox.left():
            await self._attempt(entry, "from before the restart")

    async def keep_on(self) -> None:
        """Try again what the bus has refused, until this is cancelled."""
        pause_s = first_s = min(_FIRST_PAUSE_S, self._pause_limit_s)
        while True:
            if not self._refused:
                await self._more.wait()
            if self._more.is_set():
                pause_s = first_s
                self._more.clear()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, self._pause_limit_s)
            with suppress(BusUnavailableError, StreamFullError, TimeoutError):  # the last one is the disk's
                for nonce, refusal in tuple(self._refused.items()):
                    if refusal.key not in self._held:
                        await self._again(nonce)

    async def _again(self, nonce: str) -> None:
        if (entry := await self._outbox.get(nonce)) is not None:
            await self._attempt(entry, "that was refused")
        else:  # a delivery of its task has settled it
            self._forget(nonce)

    async def _attempt(self, entry: OutboxEntry, which: str) -> None:
        try:
            with tracing.resumed(entry.trace):
                delivered = await self._settle(entry, which)
        except (BusUnavailableError, StreamFullError):
            raise
        except BusError as error:
            self._refused_again(entry, error, which)
            return
        self._outbox.remove(entry)
        refusal = self._forget(entry.nonce)
        if delivered:
            self._metrics.count("stored late")
            if refusal is not None and refusal.delivery is not None:
                with suppress(BusUnavailableError):  # the next delivery finds the task settled, and acknowledges it
                    await refusal.delivery.ack()

    def _forget(self, nonce: str) -> _Refusal | None:
        refusal = self._refused.pop(nonce, None)
        if refusal is not None and refusal.told:
            self._on_change()
        return refusal

    def _refused_again(self, entry: OutboxEntry, error: BusError, which: str) -> None:
        log, reason = TaskLog(entry.task_id), str(error)
        refusal = self._refused.get(entry.nonce)
        if refusal is None:
            log.error("its outcome %s is refused: %s", which, reason)
            self.refused(entry.key, entry.nonce, error)
            return
        refusal.reason = reason
        if self._is_overdue(refusal) and refusal.told != reason:
            refusal.told = reason
            self._on_change()
            log.error("the bus has refused its result since %s: %s; it is kept, and tried again", refusal.at, reason)

    def _is_overdue(self, refusal: _Refusal) -> bool:
        return asyncio.get_running_loop().time() - refusal.since > self._lease_s

    async def _settle(self, entry: OutboxEntry, which: str) -> bool:
        """Settle a task by an outcome; returns False if it must not be sent."""
        while True:
            found = await Ledger(self._bus).read_newer(entry.key, entry.revision - 1)
            expired = await self._age_s(found, entry) > DUPLICATE_WINDOW_S
            refusal = self._refused.get(entry.nonce)
            base = refusal.base if refusal is not None else None
            decision = on_outbox(found, nonce=entry.nonce, result_id=entry.result_id, expired=expired, base=base)
            match decision:
                case DropOutbox(reason):
                    TaskLog(entry.task_id).warning("an outcome %s is dropped: %s", which, reason)
                    return False
                case CommitOutbox(base, revision):
                    if not await commit_outcome(self._bus, base, revision, entry):
                        continue  # another party wrote the entry first: decide again
                case RepublishOutbox(record):
                    await publish_committed(self._bus, record.entry)
            TaskLog(entry.task_id).info("its outcome %s is delivered", which, status=entry.status)
            return True

    async def _age_s(self, found: Record | NoEntry, entry: OutboxEntry) -> float:
        """Return the minimum age of an outcome. The server's clock counts too, in case this machine's was set back."""
        age_s = time.time() - entry.written_at
        if isinstance(found, Record) and found.entry.terminal and (server := await self._clock.now()) is not None:
            age_s = max(age_s, (server - found.changed_at).total_seconds())
        return age_s


async def commit_outcome(bus: Bus, base: Entry, revision: int, entry: OutboxEntry) -> bool:
    """Commit an outcome on top of the ledger entry that names its claim, at this revision, and publish it.

    Returns False if another party wrote the entry first: read it again.

    Raises:
        BusError: not settled; calling again is safe.
    """
    ledger = Ledger(bus)
    verdict = await in_a_size_that_is_taken(
        entry.result, lambda result: commit(ledger, entry.key, base, result, revision=revision)
    )
    if not isinstance(verdict, Won):
        return False
    await publish_committed(bus, verdict.entry)
    return True
