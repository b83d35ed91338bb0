"""What waiting costs: the waiting process for each task, and the server while others run beside many that wait.

As a program, it is the workers: `python -m benchmarks.scale.waiting URL` reads lines `FIRST COUNT`, and claims and
settles so many tasks. It answers each line once they are settled.
"""

import asyncio
import sys
import time

import psutil

from agentbus import Coordinator, PublishedTask, connect
from agentbus.concurrently import concurrently
from agentbus.protocol.ids import make_result_id, random_token
from agentbus.protocol.ledger_entry import Claim, Record, claimed, settled
from agentbus.protocol.messages import new_result
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.timestamps import now
from agentbus.tasks.ledger import Ledger
from benchmarks.environment import AGENT, BOUND_S, MeasuringProcess, bus, measuring_process
from benchmarks.harness import Row, at_most, compared, interleaved
from benchmarks.scale.sizes import ScaleSize

_AT_ONCE = 16
_FEW = 100
_MANY = {"full": (1_600, 10_000), "short": (400, 1_600), "tiny": (150,)}
_RUNNING = {"full": 1_000, "short": 200, "tiny": 10}
_WAITERS = {"full": 100, "short": 20, "tiny": 2}
_TURNS = {"full": 3, "short": 3, "tiny": 2}
_LOOK_S = {"full": 6.0, "short": 5.0, "tiny": 0.3}


async def measure(size: ScaleSize) -> list[Row]:
    return [*await _client(size), await _server(size)]


async def _client(size: ScaleSize) -> list[Row]:
    rows: list[Row] = []
    async with bus() as (server, coordinator, _), measuring_process("scale.waiting", server.url) as workers:
        first = 0

        async def cpu_ms(count: int, times: int = 1) -> float:
            nonlocal first
            took_s = 0.0
            for _ in range(times):
                took_s += await _wait(coordinator, workers, first, count)
                first += count
            return 1000 * took_s / count / times

        await cpu_ms(_FEW)
        for count in _MANY[size.name]:

            async def ours(count: int = count) -> float:
                return await cpu_ms(count)

            async def limit(count: int = count) -> float:
                return await cpu_ms(_FEW, max(1, min(count, 1_600) // _FEW))

            pairs = await interleaved(ours, limit, _TURNS[size.name])
            what = f"CPU time of a wait for {count:,} tasks, for each, against {_FEW}"
            rows.append(compared("waits", what, "ms", pairs, at_most(1.5) if size.name != "tiny" else None))
    return rows


async def _wait(coordinator: Coordinator, workers: MeasuringProcess, first: int, count: int) -> float:
    """Wait for tasks that are worked on meanwhile; return the CPU time that this process has taken."""

    async def publish(number: int) -> PublishedTask:
        return await coordinator.publish(AGENT, "x" * 300, task_type="bench", task_id=f"task-{number}")

    tasks = await concurrently(range(first, first + count), publish, at_once=_AT_ONCE)
    before = time.process_time()
    waiting = asyncio.create_task(coordinator.wait(tasks, timeout_s=10 * BOUND_S))
    await asyncio.sleep(0.05)
    await workers.ask(first, count)
    waited = await waiting
    took_s = time.process_time() - before
    if len(waited.settled) != count:
        raise RuntimeError(f"{len(waited.settled)} of {count} tasks are settled")
    return took_s


async def _server(size: ScaleSize) -> Row:
    count, look_s = _RUNNING[size.name], _LOOK_S[size.name]
    async with bus() as (server, coordinator, _), measuring_process("leases", server.url, str(count)) as running:
        await running.ask("since the start")
        process = psutil.Process(server.pid)
        waited_for = [await coordinator.publish(AGENT, "x", task_type="bench") for _ in range(_WAITERS[size.name])]

        async def percent() -> float:
            times, start = process.cpu_times(), time.perf_counter()
            before = times.user + times.system
            await asyncio.sleep(look_s)
            times = process.cpu_times()
            return 100 * (times.user + times.system - before) / (time.perf_counter() - start)

        async def ours() -> float:
            waiting = [asyncio.create_task(task.result()) for task in waited_for]
            await asyncio.sleep(2 * look_s / 10)
            try:
                return await percent()
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.wait(waiting)
                await asyncio.sleep(look_s / 5)  # their consumers go within two seconds

        pairs = await interleaved(ours, percent, _TURNS[size.name])
    # The clock of processes has steps of 10 ms.
    steps = [(max(with_waiters, 0.1), max(without, 0.1)) for with_waiters, without in pairs]
    what = f"the server with {count:,} running tasks and {_WAITERS[size.name]} that wait, against none"
    return compared("waits", what, "% CPU", steps, at_most(2) if size.name != "tiny" else None)


async def _settle(coordinator: Coordinator, number: int) -> None:
    """Do what a worker does with a task."""
    ledger, key = Ledger(coordinator.bus), TaskKey(AGENT, f"task-{number}")
    record = await ledger.read(key)
    if not isinstance(record, Record):
        raise TypeError(f"there is no task {key}")
    entry = claimed(record.entry, Claim(worker="bench", nonce=random_token(), lease_s=30, since=now()), 1)
    revision = await ledger.write(key, entry, revision=record.revision)
    task = {"id": key.id, "from": "agent-main", "to": f"agent-{AGENT}", "type": "task.request", "task_type": "bench"}
    result_id = make_result_id(AGENT, key.id, random_token())
    result = new_result(task, result_id=result_id, status="completed", result="x" * 300, extra={"worker": "bench"})
    await ledger.write(key, settled(entry, result), revision=revision)


async def main(url: str) -> None:
    async with connect(url) as coordinator:
        for line in sys.stdin:  # blocking is fine: nothing else runs in this loop
            first, count = (int(word) for word in line.split())
            await concurrently(
                range(first, first + count), lambda number: _settle(coordinator, number), at_once=_AT_ONCE
            )
            print(count, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
