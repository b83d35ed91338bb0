"""Times tasks from a backlog until their publisher has read all results, against the same command in a bare loop.

Publisher, server and worker share the cores of the machine, as the bare loop has them for itself.
"""

import os
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from agentbus import Coordinator, PublishedTask
from agentbus.concurrently import concurrently
from agentbus.tasks.inbox import Inbox, open_inbox
from benchmarks.environment import AGENT, BOUND_S, PROMPT_BYTES, MeasuringProcess, bus, measuring_process, one_worker
from benchmarks.harness import Row, Size, Target, at_least, compared, interleaved
from support.harness import Process

_TASKS = {"full": 500, "short": 200, "tiny": 8}
_TURNS = 7
_AT_ONCE = 32
_WAIT, _INBOX = at_least(0.5), at_least(0.55)

Read = Callable[[list[PublishedTask]], Awaitable[None]]


async def measure(size: Size) -> list[Row]:
    rows: list[Row] = []
    for concurrency in (1, 4):
        rows += await _measure(size, concurrency)
    return rows


async def _measure(size: Size, concurrency: int) -> list[Row]:
    count = _TASKS[size.name]
    rows: list[Row] = []
    async with (
        bus() as (server, coordinator, folder),
        one_worker(server, folder, concurrency=concurrency) as process,
        measuring_process("bare_loop") as bare,
    ):
        for what, reading, target in (("wait", _waiting, _WAIT), ("the inbox", _inbox, _INBOX)):

            async def ours(reading: "_Reading" = reading) -> float:
                return count / await _drain(coordinator, process, count, reading)

            async def limit() -> float:
                return await _bare_rate(bare, count, concurrency)

            await ours()
            pairs = await interleaved(ours, limit, min(size.turns, _TURNS))
            slots = "1 at a time" if concurrency == 1 else f"{concurrency} at a time"
            rows.append(compared("backlog", f"{slots}, results read by {what}", "tasks/s", pairs, _of(size, target)))
    return rows


def _of(size: Size, target: Target) -> Target | None:
    return target if size.name != "tiny" else None


async def _drain(coordinator: Coordinator, process: Process, count: int, reading: "_Reading") -> float:
    """Publish tasks while the worker is stopped; return the seconds until all results are read once it continues."""

    async def publish(_: int) -> PublishedTask:
        return await coordinator.publish(AGENT, "x", task_type="bench")

    async with reading(coordinator) as read:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            tasks = await concurrently(range(count), publish, at_once=_AT_ONCE)
            start = time.perf_counter()
        finally:
            os.kill(process.pid, signal.SIGCONT)
        await read(tasks)
        return time.perf_counter() - start


_Reading = Callable[[Coordinator], "AbstractAsyncContextManager[Read]"]


@asynccontextmanager
async def _waiting(coordinator: Coordinator) -> AsyncGenerator[Read]:
    async def read(tasks: list[PublishedTask]) -> None:
        waited = await coordinator.wait(tasks, timeout_s=BOUND_S)
        if len(waited.settled) != len(tasks):
            raise RuntimeError(f"{len(waited.settled)} of {len(tasks)} tasks are settled")

    yield read


@asynccontextmanager
async def _inbox(coordinator: Coordinator) -> AsyncGenerator[Read]:
    async with open_inbox(coordinator.bus, coordinator.agent) as inbox:
        yield lambda tasks: _read(inbox, tasks)


async def _read(inbox: Inbox, tasks: list[PublishedTask]) -> None:
    left = {task.id for task in tasks}
    while left:
        message = await inbox.next()
        if message.result is not None:
            left.discard(message.result.task_id)


async def _bare_rate(bare: MeasuringProcess, count: int, width: int) -> float:
    [seconds] = await bare.ask(count, width, PROMPT_BYTES)
    return count / seconds
