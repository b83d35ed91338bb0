"""When the lease of another worker is over."""

import asyncio
from datetime import UTC, datetime
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.protocol.ledger_entry import Record
from agentbus_worker.settling.server_clock import ServerClock

_SEEN_LIMIT: Final = 1000
"""Tasks whose revision is remembered where the server's time is not to be had: more than a worker meets at once."""


class LeaseMonitor:
    """Tells how long another worker's lease, or the pause before an attempt, still lasts, by the server's clock.

    Leases do not expire within half a lease after our own reconnect, so that owners hit by the same outage can renew.
    """

    def __init__(self, bus: Bus, clock: ServerClock) -> None:
        self._bus = bus
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[int, float]] = {}

    async def remaining_s(self, record: Record) -> float:
        """Seconds until the lease of `record` is over, or its next attempt is due; 0 or less when it is.

        Raises:
            BusUnavailableError: the server does not tell its time now.
        """
        if record.entry.state == "queued" and record.entry.retry_after_s is not None:
            return await self._until_retry(record, record.entry.retry_after_s)
        claim = record.entry.claim
        if claim is None or record.entry.state != "working":
            return 0.0
        return await self.lease_left_s(
            (record.agent, record.task_id), record.revision, record.changed_at, claim.lease_s
        )

    async def lease_left_s(
        self, key: tuple[str, str], revision: int, changed_at: datetime | None, lease_s: float
    ) -> float:
        """Seconds until a lease of `lease_s` is over that was renewed with `revision`; 0 or less when it is.

        Args:
            key: agent and task id.
            changed_at: when the server stored that revision; None where it is not known.

        Raises:
            BusUnavailableError: the server does not tell its time now.
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

    def _unchanged_for(self, key: tuple[str, str], revision: int) -> float:
        """How long this worker has seen the same revision: what counts where it may not ask for the server's time."""
        now = asyncio.get_running_loop().time()
        seen, since = self._seen.pop(key, (0, now))
        if seen != revision:
            since = now
        self._seen[key] = (revision, since)  # at the end: the first one is the one not seen for longest
        while len(self._seen) > _SEEN_LIMIT:
            del self._seen[next(iter(self._seen))]
        return now - since
