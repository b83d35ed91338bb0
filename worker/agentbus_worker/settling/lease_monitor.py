"""Calculates when the lease of another worker expires."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.errors import BusUnavailableError
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import TaskKey
from agentbus_worker.settling.server_clock import ServerClock

_SEEN_LIMIT: Final = 1000
"""How many revisions are remembered if the server's time is not available: more than a worker sees at once."""


class LeaseMonitor:
    """Calculates the rest of another worker's lease, or of the pause before a retry, by the server's clock.

    Leases do not expire within half a lease after our own reconnect, so that owners hit by the same outage can renew.
    """

    def __init__(self, bus: Bus, clock: ServerClock) -> None:
        self._bus = bus
        self._clock = clock
        self._seen: dict[TaskKey, tuple[int, float]] = {}

    async def remaining_s(self, record: Record) -> float:
        """Return the seconds until the lease of `record` expires, or its retry is due; 0 or less if it has or is.

        Raises:
            BusUnavailableError: the server's time cannot be read now.
        """
        if record.entry.state == "queued" and record.entry.retry_after_s is not None:
            return await self._until_retry(record, record.entry.retry_after_s)
        claim = record.entry.claim
        if claim is None or record.entry.state != "working":
            return 0.0
        return await self.lease_left_s(record.key, record.revision, record.changed_at, claim.lease_s)

    async def lease_left_s(self, key: TaskKey, revision: int, changed_at: datetime | None, lease_s: float) -> float:
        """Return the seconds until a lease of `lease_s` expires that was renewed with `revision`; 0 or less if it has.

        Args:
            changed_at: when the server stored that revision; None where it is not known.

        Raises:
            BusUnavailableError: the server's time cannot be read now.
        """
        now = await self._clock.now()
        if now is not None and changed_at is not None:
            left = lease_s - (now - changed_at).total_seconds()
        else:
            left = lease_s - self._unchanged_for(key, revision)
        return max(left, lease_s / 2 - self._bus.seconds_since_reconnect)

    async def _until_retry(self, record: Record, pause_s: float) -> float:
        now = await self._clock.now() or datetime.now(UTC)
        return min(pause_s, pause_s - (now - record.changed_at).total_seconds())

    async def now(self) -> datetime:
        """Return the server's time, or that of this machine where this worker may not ask for it or gets no answer."""
        with suppress(BusUnavailableError):
            return await self._clock.now() or datetime.now(UTC)
        return datetime.now(UTC)

    def _unchanged_for(self, key: TaskKey, revision: int) -> float:
        """Return for how many seconds this worker has seen the same revision: used without the server's time."""
        now = asyncio.get_running_loop().time()
        seen, since = self._seen.pop(key, (0, now))
        if seen != revision:
            since = now
        self._seen[key] = (revision, since)  # at the end, so that the first is the one not seen for longest
        while len(self._seen) > _SEEN_LIMIT:
            del self._seen[next(iter(self._seen))]
        return now - since
