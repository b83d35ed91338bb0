"""Very many at the same time: none of them may fail. What takes part holds a consumer of its stream for a while."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AsyncExitStack

from agentbus import Coordinator
from agentbus.errors import AgentBusError
from benchmarks.environment import AGENT, bus
from benchmarks.harness import Row, absolute, at_most
from benchmarks.scale.ledger import fill
from benchmarks.scale.sizes import FEW, ScaleSize
from support.mcp_harness import http_server, over_http, put, result_message


async def measure(size: ScaleSize) -> list[Row]:
    async with bus() as (server, coordinator, folder):
        await fill(coordinator, 0, FEW)
        await coordinator.publish(AGENT, "work", task_type="bench", task_id="open")
        for number in range(20):
            await put(coordinator, result_message(f"job-{number}", "done"))
        failed, took = await burst(coordinator, size)
        what = f"{size.waits} waits, {size.reads} reads and {size.lists} lists in the same instant"
        args = ("--nats-url", server.url)
        async with http_server(folder / "mcp.log", *args) as mcp, AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(over_http(mcp.url)) for _ in range(size.clients)]
            answers = await asyncio.gather(
                *(client.call_tool("list_tasks", {}) for client in clients), return_exceptions=True
            )
            refused = [one for one in answers if isinstance(one, BaseException) or one.is_error]
        return [
            absolute("bursts", f"{what}: errors", "", failed, at_most(0)),
            absolute("bursts", "until the last of them has ended", "s", took, at_most(40)),
            absolute("bursts", f"{size.clients} MCP clients that list at once: errors", "", len(refused), at_most(0)),
        ]


async def burst(coordinator: Coordinator, size: ScaleSize) -> tuple[int, float]:
    """Begin all in the same instant; return how many failed, and how many seconds the last one took."""
    started = time.perf_counter()
    waits = [_wait(coordinator, size.wait_s) for _ in range(size.waits)]
    reads = [_read(coordinator) for _ in range(size.reads)]
    lists = [_list(coordinator) for _ in range(size.lists)]
    failed = _failures(await asyncio.gather(*waits, *reads, *lists, return_exceptions=True))
    return failed, time.perf_counter() - started


def _failures(outcomes: Iterable[int | BaseException]) -> int:
    """Count what failed or found nothing; anything but an error of ours is a fault of this program."""
    failed = Counter[str]()
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, AgentBusError):
            raise outcome
        if outcome != 20:
            failed[str(outcome) if isinstance(outcome, AgentBusError) else f"found {outcome}"] += 1
    for text, times in failed.most_common(5):
        print(f"  {times} times: {text}", file=sys.stderr, flush=True)
    return failed.total()


async def _list(coordinator: Coordinator) -> int:
    return len((await coordinator.list_tasks(with_results=False)).tasks)


async def _read(coordinator: Coordinator) -> int:
    return len(await coordinator.results(20))


async def _wait(coordinator: Coordinator, timeout_s: float) -> int:
    """Wait in vain; the last look at the task may take longer than it has, while so many others look, too."""
    waited = await coordinator.wait(["open"], timeout_s=timeout_s)
    return 20 if "open" in waited.pending else 0
