"""Measures the tasks per second of one worker, against the same command in a bare asyncio loop."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

from agentbus import Coordinator
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import new_task
from benchmarks.environment import (
    AGENT,
    BOUND_S,
    PROMPT_BYTES,
    MeasuringProcess,
    Sync,
    bus,
    measuring_process,
    one_worker,
)
from benchmarks.harness import Row, Size, Target, at_least, compared, interleaved
from support.harness import Process

_WIDTH = 32
_LAST = "last"
_LAST_TASKS = 32
"""More than a worker holds at once, so nearly all other tasks are done when these are."""
TARGETS = {1: at_least(0.6), 4: at_least(0.65)}


async def measure(size: Size) -> list[Row]:
    rows: list[Row] = []
    for sync in ("default", "always"):
        for concurrency in (1, 4):
            target = TARGETS[concurrency] if sync == "default" else None
            rows += await _measure(size, sync, concurrency, target)
    return rows


async def _measure(size: Size, sync: Sync, concurrency: int, target: Target | None) -> list[Row]:
    rows: list[Row] = []
    async with (
        bus(sync) as (server, coordinator, folder),
        one_worker(server, folder, concurrency=concurrency) as process,
        measuring_process("bare_loop") as bare,
        _last_results(coordinator) as last,
    ):
        for what, publish in (("with a ledger entry", _with_ledger), ("without a ledger entry", _without_ledger)):

            async def ours(publish: _Publish = publish) -> float:
                return size.tasks / await _drain_backlog(coordinator, process, last, size.tasks, publish)

            async def limit() -> float:
                return await _bare_rate(bare, size.tasks, concurrency)

            await ours()
            pairs = await interleaved(ours, limit, size.turns)
            slots = "1 at a time" if concurrency == 1 else f"{concurrency} at a time"
            label = f"{slots}, {what}, sync_interval {sync}"
            rows.append(compared("throughput", label, "tasks/s", pairs, target))
    return rows


_Publish = Callable[[Coordinator, str], Awaitable[None]]


async def _with_ledger(coordinator: Coordinator, reply_to: str) -> None:
    await coordinator.publish(AGENT, "x", task_type="bench", reply_to=reply_to)


async def _without_ledger(coordinator: Coordinator, reply_to: str) -> None:
    task = new_task(to=AGENT, content="x", task_type="bench", reply_to=reply_to)
    await coordinator.bus.store(subjects.tasks(AGENT), encode(task.to_json()), msg_id=task.id)


@asynccontextmanager
async def _last_results(coordinator: Coordinator) -> AsyncGenerator[asyncio.Semaphore]:
    """Yield a semaphore that is released for each result in the inbox of the last tasks.

    Only of the last: receiving all results would take CPU time that the bare loop has for itself.
    """
    arrived = asyncio.Semaphore(0)
    unsubscribe = await coordinator.bus.subscribe(subjects.results(_LAST), lambda _: arrived.release())
    try:
        yield arrived
    finally:
        await unsubscribe()


async def _drain_backlog(
    coordinator: Coordinator, process: Process, last: asyncio.Semaphore, count: int, publish: _Publish
) -> float:
    """Publish `count` tasks while the worker is stopped; return the seconds it takes once it continues."""
    of_the_last = min(_LAST_TASKS, count)
    before = await _stored_results(coordinator)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        await _publish(coordinator, subjects.COORDINATOR, count - of_the_last, publish)
        await _publish(coordinator, _LAST, of_the_last, publish)
        start = time.perf_counter()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    async with asyncio.timeout(BOUND_S):
        for _ in range(of_the_last):
            await last.acquire()
        # The server delivers a message to core subscribers before it stores it.
        while await _stored_results(coordinator) < before + count:
            pass
    return time.perf_counter() - start


async def _publish(coordinator: Coordinator, reply_to: str, count: int, publish: _Publish) -> None:
    left = iter(range(count))

    async def lane() -> None:
        for _ in left:
            await publish(coordinator, reply_to)

    await asyncio.gather(*(lane() for _ in range(_WIDTH)))


async def _stored_results(coordinator: Coordinator) -> int:
    info = await coordinator.bus.api(f"STREAM.INFO.{subjects.RESULTS_STREAM}")
    return int(info["state"]["messages"])


async def _bare_rate(bare: MeasuringProcess, count: int, width: int) -> float:
    [seconds] = await bare.ask(count, width, PROMPT_BYTES)
    return count / seconds
