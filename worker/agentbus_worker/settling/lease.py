"""Holds the lease on one task: renews, commits and releases it by compare-and-set on its ledger key."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import (
    BusError,
    BusUnavailableError,
    CorruptEntryError,
    LeaseLostError,
    SetupMissingError,
    StreamFullError,
)
from agentbus.observability import tracing
from agentbus.protocol.ledger_entry import Entry, Setbacks, handed_back, queued_again, renewed, settled
from agentbus.protocol.messages import Result
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.settle import Adopt, Lost, Vacant, compare_and_set
from agentbus_worker.claim_records import ClaimRecord
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.timers import Timer, Timers

if TYPE_CHECKING:
    from agentbus.protocol.outcomes.run_report import Run

_RETRY_S: Final = 1.0
"""The pause after a failed renewal: several attempts fit into a short lease."""
_REQUEST_S: Final = 5.0
"""The time-out of one write: several of them fit into a lease of 30 s."""
_LAG_TIMEOUT_S: Final = 30.0
"""How long to wait for a replica that lags behind a revision that this worker has seen."""


class Lease:
    """A claim that this worker holds, with its delivery, and its `record` on disk.

    `interrupted` is done when the command must end: a cancel request is in the ledger, the lease is `lost` to another
    worker, or `interrupt()` was called.
    """

    def __init__(
        self,
        ledger: Ledger,
        delivery: Delivery,
        key: TaskKey,
        entry: Entry,
        revision: int,
        record: ClaimRecord,
        *,
        since: float | None = None,
        timers: Timers | None = None,
    ) -> None:
        """Take a claim that was written.

        Args:
            since: when it began to be written, by the event loop's clock; None for now.
            timers: begin the renewals of all leases of this worker.
        """
        self._clock = asyncio.get_running_loop().time
        self._ledger = ledger
        self._delivery = delivery
        self.record = record
        self._key = key
        self._entry = entry
        self._revision = revision
        assert entry.claim is not None, "a lease begins with a claim"
        self._lease_s = entry.claim.lease_s  # as this worker wrote it; another party may change the entry
        self._writing = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._timers = timers or Timers()
        self._first_renewal: Timer | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._context: Context | None = None
        self._refused_since = 0.0
        self._held_at = self._clock() if since is None else since
        self._ledger_went = False
        self.run: Callable[[], Run | None] = lambda: None
        """What the agent has told of its run so far: an attempt that is lost or repeated costs money, too."""
        self.on_change: Callable[[Entry], None] = lambda _: None
        """Called with the entry after each write: what other parties have changed is in it."""
        self.lost = False
        self.interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def entry(self) -> Entry:
        """The ledger entry, as this worker last wrote or read it."""
        return self._entry

    @property
    def revision(self) -> int:
        """The revision of that entry."""
        return self._revision

    @property
    def base_of_lost_ledger(self) -> Entry | None:
        """The entry of this claim, if the ledger is missing, and went while no other worker could have the task."""
        return self._entry if self._ledger_went else None

    @property
    def _interval_s(self) -> float:
        return self._lease_s / 3

    async def __aenter__(self) -> Self:
        """Renew every third of the lease, until the end of the block, `stop_renewing()` or the loss of the lease."""
        self._context = copy_context()  # renewals belong to the trace of the job, whichever task starts them
        self._first_renewal = self._timers.call_later(self._interval_s, self.renew_now)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_renewing()
        if self._renewing is not None:
            await self._renewing

    async def _renew(self) -> None:
        """Renew until `_stopping` is set. It is never cancelled, because a request could swallow the cancellation."""
        refused = False
        while not self._stopping.is_set():
            self._wake.clear()
            pause_s = self._interval_s
            try:
                await self._write(lambda entry: renewed(entry, self.run()), timeout_s=min(pause_s, _REQUEST_S))
                await self._delivery.in_progress()
            except LeaseLostError:
                self.interrupt()
                return
            except BusError as error:
                if not refused:
                    TaskLog(self._key.id).warning("its lease cannot be renewed: %s; trying on", error)
                refused = True
                if not isinstance(error, BusUnavailableError):
                    await self.hold(full=isinstance(error, StreamFullError))
                # Only the ledger decides about the lease: another worker may have claimed the task during the outage,
                # and the next renewal notices that.
                pause_s = min(pause_s, _RETRY_S)
            else:
                if refused:
                    TaskLog(self._key.id).info("its lease is renewed again")
                refused = False
            if not self._stopping.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._wake.wait()

    async def hold(self, pause_s: float = 0.0, *, full: bool = False) -> None:
        """Pause, and keep the delivery from other workers meanwhile, while the ledger refuses writes.

        What is missing for less than a lease, a right or room, must not have another worker run the task, too. That is
        done for a lease at most, since another worker may have the right; and for as long as this worker lives while
        the ledger is `full`: no other can write more into it, and the fastest would run the task again once it could.
        """
        until = self._clock() + pause_s
        self._refused_since = self._refused_since or self._clock()
        while True:
            now = self._clock()
            if full or now - self._refused_since < self._lease_s:
                with suppress(BusUnavailableError):
                    await self._delivery.in_progress()
            if now >= until:
                return
            await asyncio.sleep(min(until - now, self._interval_s))

    def interrupt(self) -> None:
        """Request the end of the command."""
        if not self.interrupted.done():
            self.interrupted.set_result(None)

    def renew_now(self) -> None:
        """Renew at once. After a reconnect, another worker may be about to take the task over."""
        self._wake.set()
        if self._renewing is None and not self._stopping.is_set():
            self._renewing = asyncio.create_task(self._renew(), context=self._context)

    def stop_renewing(self) -> None:
        """Start no more renewals; one in progress completes."""
        if self._first_renewal is not None:
            self._first_renewal.cancel()
        self._stopping.set()
        self._wake.set()

    async def commit(self, result: Result, *, flush: bool = True) -> None:
        """Make `result` the one result of the task: after this it can be neither lost nor replaced.

        `flush`: see `Bus.publish`.

        Raises:
            LeaseLostError: another worker has the task; the outcome must be dropped.
            BusUnavailableError, StreamFullError: not committed, or not known to be; call again.
            TooLargeError: the result does not fit into the ledger.
        """
        await self._write(lambda entry: settled(entry, result), timeout_s=_REQUEST_S, flush=flush)

    async def release(self, setbacks: Setbacks | None = None) -> None:
        """Make the task `queued` again, for any worker at once: it was not run, or not to its end, and does not count.

        Raises:
            LeaseLostError: another worker has the task.
            BusError: not released, or not known to be; otherwise the lease expires.
        """
        await self._write(lambda entry: handed_back(entry, setbacks, self.run()), timeout_s=_REQUEST_S)

    async def queue_retry(self, *, retry_after_s: float, failure: str | None) -> None:
        """Make the task `queued` again after an attempt that counts: for a retry after `retry_after_s`.

        Raises:
            LeaseLostError, BusError: see `release`.
        """
        await self._write(
            lambda entry: queued_again(entry, retry_after_s=retry_after_s, failure=failure, run=self.run()),
            timeout_s=_REQUEST_S,
        )

    async def update(self, change: Callable[[Entry], Entry]) -> None:
        """Change the entry while the task runs. It counts as a renewal, by which a party knows its own writes.

        Raises:
            LeaseLostError: another worker has the task, or it has its result.
            BusError: not changed, or not known to be; call again.
        """

        def changed(entry: Entry) -> Entry:
            if entry.terminal:
                raise LeaseLostError("the task has its result")
            return renewed(change(entry), self.run())

        try:
            await self._write(changed, timeout_s=_REQUEST_S)
        except LeaseLostError:
            self.interrupt()
            raise

    async def _write(self, change: Callable[[Entry], Entry], *, timeout_s: float, flush: bool = True) -> None:
        """Change the entry by compare-and-set; try again from the entry in the ledger while that has our claim.

        An unreadable entry does not end the claim: this worker has it in memory, and overwrites the entry. The same
        holds where the ledger was made anew, and this worker had noticed within a lease that the old one was gone: no
        other worker can have taken the task over and settled it in the old one.

        Only one write is in progress at a time: a renewal during the settlement would continue from the revision of the
        settled entry, and make the task `working` again.
        """
        async with self._writing:
            vacant_at_once = True
            while True:
                started = self._clock()
                try:
                    verdict = await compare_and_set(
                        self._ledger,
                        self._key,
                        change(self._entry),
                        revision=self._revision,
                        timeout_s=timeout_s,
                        lag_timeout_s=_LAG_TIMEOUT_S,
                        flush=flush,
                        vacant_at_once=vacant_at_once,
                    )
                except SetupMissingError:
                    self._notice_lost_ledger(started)
                    raise
                except CorruptEntryError as error:
                    if error.revision <= self._revision:
                        raise
                    TaskLog(self._key.id).warning("another party has written over its claim: %s", error)
                    self._revision = error.revision
                    continue
                if isinstance(verdict, Vacant) and vacant_at_once:
                    vacant_at_once = False  # a second time, no lagging replica says so
                    self._notice_lost_ledger(started)
                    if self._ledger_went:
                        TaskLog(self._key.id).warning("the ledger was made anew without its task; entering it again")
                        self._revision = verdict.revision
                    continue
                if isinstance(verdict, Lost):
                    self.lost = True
                    raise LeaseLostError("another worker has the task")
                self._held_at, self._ledger_went = started, False
                self._adopt(verdict.entry, verdict.revision)
                if not isinstance(verdict, Adopt):
                    return

    def _notice_lost_ledger(self, at: float) -> None:
        """Note that the ledger has no entry of this task; no other worker can have got it within a lease."""
        self._ledger_went = self._ledger_went or at - self._held_at < self._lease_s

    def _adopt(self, entry: Entry, revision: int) -> None:
        self._entry, self._revision, self._refused_since = entry, revision, 0.0
        if entry.cancel is not None and not self.interrupted.done():
            tracing.event("agentbus.cancel", **{"agentbus.by": entry.cancel.by})
            self.interrupt()
        self.on_change(entry)
