"""What running tasks cost a server that syncs every write: each renews its lease in the ledger every ten seconds.

As a program, it is the workers of those tasks: `python -m benchmarks.leases URL COUNT` claims them and renews each in
its turn. It answers each line on its standard input with what it renewed since the last one, and the longest delay.
"""

import asyncio
import contextlib
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Final

import psutil

from agentbus import Coordinator, connect
from agentbus.bus.topology import ACK_WAIT_S
from agentbus.concurrently import concurrently
from agentbus.errors import BusUnavailableError, WrongRevisionError
from agentbus.protocol.ledger_entry import Claim, Entry, claimed, queued, renewed
from agentbus.protocol.messages import new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.tasks.ledger import Ledger
from benchmarks.environment import AGENT, bus, measuring_process
from benchmarks.harness import Row, Size, absolute, at_most, compared

RENEWED_EVERY_S: Final = ACK_WAIT_S / 3
_AT_ONCE: Final = 64
_PROMPT: Final = "x" * 700
"""With what stands around it in an entry, a task of about a kilobyte."""
_MOST_OF_CORE: Final = 50
"""Percent of a core that the leases of 1,000 running tasks may take: a small server has two, and other work to do."""
_COUNTS: Final = {"full": (1_000, 10_000), "short": (100, 1_000), "tiny": (10, 20)}


@dataclass(frozen=True, slots=True)
class _Look:
    """What publishing took in milliseconds, and what the server took of a core in percent meanwhile."""

    p50: float
    p95: float
    percent: float
    seconds: float


async def measure(size: Size) -> list[Row]:
    rows: list[Row] = []
    async with bus("always") as (server, coordinator, _):
        process = psutil.Process(server.pid)
        alone = await _look(coordinator, process, size)
        idle = max(alone.percent, 0.1)  # the clock of processes has steps of 10 ms
        for count in _COUNTS[size.name]:
            async with measuring_process("leases", server.url, str(count)) as workers:
                await workers.ask("since the start")
                busy = await _look(coordinator, process, size)
                done, late_s = await workers.ask("since then")
            due = count * busy.seconds / RENEWED_EVERY_S
            label = f"{count:,} running"
            # A renewal that comes two thirds of a lease late lets another worker have the task. Of 10,000 on one small
            # server nothing is promised.
            lost = at_most(2 / 3) if count <= 1_000 else None
            rows += [
                absolute("leases", f"{label}: the server's share of a core", "%", busy.percent, at_most(_MOST_OF_CORE))
                if count <= 1_000
                else compared("leases", f"{label}: the server, against none", "%", [(busy.percent, idle)]),
                compared("leases", f"{label}: renewals, of those that were due", "", [(done, due)]),
                compared("leases", f"{label}: longest delay of one, of a lease", "s", [(late_s, ACK_WAIT_S)], lost),
                compared("leases", f"{label}: p50 of publishing, against none", "ms", [(busy.p50, alone.p50)]),
                compared("leases", f"{label}: p95 of publishing, against none", "ms", [(busy.p95, alone.p95)]),
            ]
    return rows


async def _look(coordinator: Coordinator, server: psutil.Process, size: Size) -> _Look:
    """Publish a few tasks a second for as long as an idle worker is looked at."""
    times: list[float] = []
    before, start = server.cpu_times(), time.perf_counter()
    while (seconds := time.perf_counter() - start) < size.idle_s:
        began = time.perf_counter()
        with contextlib.suppress(BusUnavailableError):  # the server has too much to do: the time is what it took
            await coordinator.publish("idle", "x", task_type="bench")
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(size.idle_s / (3 * size.samples))
    after = server.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    quantiles = statistics.quantiles([*times, *times], n=20)
    return _Look(statistics.median(times), quantiles[-1], 100 * cpu_s / seconds, seconds)


class _Running:
    """The running tasks of some workers: their entries, and how the renewals went."""

    def __init__(self, coordinator: Coordinator, count: int) -> None:
        self._ledger = Ledger(coordinator.bus)
        self._keys = [TaskKey(AGENT, f"{count}-{number}") for number in range(count)]
        self._entries: dict[TaskKey, tuple[Entry, int]] = {}
        self.done = 0
        self.late_s = 0.0

    async def claim(self) -> None:
        await concurrently(self._keys, self._claim, at_once=_AT_ONCE)

    async def _claim(self, key: TaskKey) -> None:
        task = new_task(to=AGENT, content=_PROMPT, task_type="bench", task_id=key.id)
        claim = Claim(worker="bench", nonce=f"n-{key.id}", lease_s=ACK_WAIT_S, since=now())
        entry = claimed(queued(task, "main"), claim, 1)
        self._entries[key] = (entry, await self._ledger.write(key, entry, revision=0))

    async def renew(self) -> None:
        """Renew each in its turn, all of them in ten seconds, for ever."""
        clock = asyncio.get_running_loop().time
        due, step = clock(), RENEWED_EVERY_S / len(self._keys)
        async with asyncio.TaskGroup() as group:
            while True:
                for key in self._keys:
                    due += step
                    if (ahead := due - clock()) > 0:
                        await asyncio.sleep(ahead)
                    group.create_task(self._renew(key, due))

    async def _renew(self, key: TaskKey, due: float) -> None:
        entry, revision = self._entries[key]
        with contextlib.suppress(BusUnavailableError, WrongRevisionError):  # counts as not renewed
            self._entries[key] = (renewed(entry), await self._ledger.write(key, renewed(entry), revision=revision))
            self.done += 1
        self.late_s = max(self.late_s, asyncio.get_running_loop().time() - due)


async def _be_workers(url: str, count: int) -> None:
    async with connect(url) as coordinator:
        running = _Running(coordinator, count)
        await running.claim()
        renewing = asyncio.create_task(running.renew())
        try:
            while await asyncio.to_thread(sys.stdin.readline):
                if renewing.done():
                    renewing.result()
                print(running.done, running.late_s, flush=True)
                running.done, running.late_s = 0, 0.0
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing


if __name__ == "__main__":
    asyncio.run(_be_workers(sys.argv[1], int(sys.argv[2])))
