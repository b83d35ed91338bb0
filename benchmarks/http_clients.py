"""Measures one MCP server over HTTP with many clients of both eras: its memory, and the time of one more call.

Each client watches 20 tasks: it has one `watch_results` call in progress and a subscription to each task. Tasks are
settled during the measurement. At the end every client must have the results of its own 20.
"""

import asyncio
import time
import warnings
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import psutil
from mcp import Client
from mcp_types import ResourceUpdatedNotification

from agentbus import Coordinator
from benchmarks.environment import AGENT, bus
from benchmarks.harness import Row, Size, absolute, at_most, compared, p50
from support.mcp_harness import http_server, over_http, settle

_TASKS_EACH: Final = 20
_CALL_S: Final = 200
_PART_OF_TIME: Final = 6
"""The memory at the beginning is the median of the first sixth of the time, that at the end of the last sixth."""


@dataclass
class UpdateCounter:
    """Counts the notifications of task changes that clients receive."""

    updates: int = 0

    async def handle(self, message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            self.updates += 1


async def measure(size: Size) -> list[Row]:
    count, hold_s = (4, 1.5) if size.name == "tiny" else (50, 3 * size.idle_s)
    warnings.filterwarnings("ignore", "resources/subscribe is removed")
    async with bus() as (server, coordinator, folder), http_server(folder / "mcp.log", "--nats-url", server.url) as mcp:
        await coordinator.publish(AGENT, "work", task_type="bench", task_id="beside")
        watched = [[f"c{client}-t{number}" for number in range(_TASKS_EACH)] for client in range(count)]
        for ids in watched:
            await asyncio.gather(
                *(coordinator.publish(AGENT, "work", task_type="bench", task_id=task_id) for task_id in ids)
            )
        async with over_http(mcp.url) as beside:

            async def call() -> float:
                start = time.perf_counter()
                await beside.call_tool("get_results", {"task_ids": ["beside"]})
                return (time.perf_counter() - start) * 1000

            await p50(call, size.samples)
            unloaded = await p50(call, size.samples)
            async with AsyncExitStack() as stack:
                counter = UpdateCounter()
                watches = [
                    await _watch(stack, mcp.url, ("auto", "legacy")[number % 2], ids, counter)
                    for number, ids in enumerate(watched)
                ]
                resident = await _measure_memory(coordinator, watched, psutil.Process(mcp.process.pid), hold_s)
                loaded = await p50(call, size.samples)
                await _settle(coordinator, [task_id for ids in watched for task_id in ids[2:]])
                _check(watched, await asyncio.gather(*watches), counter)
    part = max(1, len(resident) // _PART_OF_TIME)
    before, after = median(resident[:part]), median(resident[-part:])
    what = f"{count} clients that watch {_TASKS_EACH} tasks each"
    return [
        absolute("http", f"{what}: resident memory", "MiB", after, at_most(300)),
        absolute("http", f"its growth over {hold_s:g} s", "%", (after / before - 1) * 100, at_most(5)),
        compared("http", "a call while they are connected, against one without them", "ms", [(loaded, unloaded)]),
    ]


async def _watch(
    stack: AsyncExitStack, url: str, era: str, ids: Sequence[str], counter: UpdateCounter
) -> asyncio.Task[Any]:
    """Connect a client that watches tasks, and return its `watch_results` call, which is in progress."""
    if era == "legacy":
        client = await stack.enter_async_context(Client(url, mode=era, message_handler=counter.handle))
        for task_id in ids:
            await client.subscribe_resource(f"agentbus://tasks/{task_id}")  # pyright: ignore[reportDeprecated]
    else:
        client = await stack.enter_async_context(over_http(url, era))
        uris = [f"agentbus://tasks/{task_id}" for task_id in ids]
        listening = await stack.enter_async_context(client.listen(resource_subscriptions=uris))

        async def count() -> None:
            async for _ in listening:
                counter.updates += 1

        counting = asyncio.create_task(count())
        stack.callback(counting.cancel)
    watch = {"task_ids": list(ids), "timeout_seconds": _CALL_S}
    return asyncio.create_task(client.call_tool("watch_results", watch))


async def _measure_memory(
    coordinator: Coordinator, watched: Sequence[Sequence[str]], server: psutil.Process, hold_s: float
) -> list[float]:
    """Settle two tasks of each client, spread over `hold_s`; return the server's memory in MiB after each."""
    changing = [ids[number] for number in range(2) for ids in watched]
    resident: list[float] = []
    for task_id in changing:
        await settle(coordinator, task_id)
        await asyncio.sleep(hold_s / len(changing))
        resident.append(server.memory_info().rss / 2**20)
    return resident


async def _settle(coordinator: Coordinator, task_ids: Sequence[str]) -> None:
    for first in range(0, len(task_ids), 50):
        await asyncio.gather(*(settle(coordinator, task_id) for task_id in task_ids[first : first + 50]))


def _check(watched: Sequence[Sequence[str]], answers: Sequence[Any], counter: UpdateCounter) -> None:
    for ids, answer in zip(watched, answers, strict=True):
        data: dict[str, Any] = answer.structured_content or {}
        results: list[dict[str, Any]] = data.get("results", [])
        found = [result["task_id"] for result in results]
        if found != list(ids):
            raise RuntimeError(f"a client that watched {ids} got {answer}")
    if counter.updates < 2 * len(watched):
        raise RuntimeError(f"clients were notified of {counter.updates} changes only")
