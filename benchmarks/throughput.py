"""Tasks per second of one worker against the same command in a bare asyncio loop."""

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
from benchmarks.harness import Promise, Row, Size, at_least, compared, in_turns
from benchmarks.setting import AGENT, BOUND_S, PROMPT_BYTES, Loop, Sync, bus, loop_of, one_worker
from support.harness import Process

_WIDTH = 32
_LAST = "last"
_LAST_TASKS = 32
"""More than a worker has under way at once, so that nearly all others are done by then."""
PROMISED = {1: at_least(0.75), 4: at_least(0.8)}


async def measure(size: Size) -> list[Row]:
    rows: list[Row] = []
    for sync in ("default", "always"):
        for concurrency in (1, 4):
            promise = PROMISED[concurrency] if sync == "default" else None
            rows += await _measure(size, sync, concurrency, promise)
    return rows


async def _measure(size: Size, sync: Sync, concurrency: int, promise: Promise | None) -> list[Row]:
    rows: list[Row] = []
    async with (
        bus(sync) as (server, coordinator, folder),
        one_worker(server, folder, concurrency=concurrency) as process,
        loop_of("bare_loop") as bare,
        _last_results(coordinator) as last,
    ):
        for what, publish in (("with a ledger entry", _with_ledger), ("without a ledger entry", _without_ledger)):

            async def ours(publish: _Publish = publish) -> float:
                return size.tasks / await _drain_backlog(coordinator, process, last, size.tasks, publish)

            async def limit() -> float:
                return await _bare_rate(bare, size.tasks, concurrency)

            await ours()
            pairs = await in_turns(ours, limit, size.turns)
            slots = "1 at a time" if concurrency == 1 else f"{concurrency} at a time"
            label = f"{slots}, {what}, sync_interval {sync}"
            rows.append(compared("throughput", label, "tasks/s", pairs, promise))
    return rows


_Publish = Callable[[Coordinator, str], Awaitable[None]]


async def _with_ledger(coordinator: Coordinator, reply_to: str) -> None:
    await coordinator.publish(AGENT, "x", task_type="bench", reply_to=reply_to)


async def _without_ledger(coordinator: Coordinator, reply_to: str) -> None:
    task = new_task(to=AGENT, content="x", task_type="bench", reply_to=reply_to)
    await coordinator.bus.store(subjects.tasks(AGENT), encode(task.to_json()), msg_id=task.id)


@asynccontextmanager
async def _last_results(coordinator: Coordinator) -> AsyncGenerator[asyncio.Semaphore]:
    """Released once for each result that reaches the inbox of the last tasks.

    Of those alone: who listens to all of them takes a part of the two cores, which the bare loop has to itself.
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
    """Seconds that the worker takes for `count` tasks that lie there when it is let go."""
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
        # They are heard of before they are stored.
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


async def _bare_rate(bare: Loop, count: int, width: int) -> float:
    [seconds] = await bare.ask(count, width, PROMPT_BYTES)
    return count / seconds
