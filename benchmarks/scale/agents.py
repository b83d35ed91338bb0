"""What many agents cost, each of which has a ledger, against one agent with the same tasks; and bursts over them."""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from agentbus import Coordinator
from agentbus.admin.overview import OverviewReader
from agentbus.protocol import subjects
from agentbus.protocol.subjects import TaskKey
from benchmarks.harness import Row, absolute, at_most, compared, interleaved, p50
from benchmarks.scale.bursts import burst
from benchmarks.scale.ledger import settled_entry, task_id
from benchmarks.scale.sizes import ScaleSize
from support.installation import own_bus
from support.mcp_harness import put, result_message

_AGENTS: Final = {"full": 100, "short": 100, "tiny": 5}
_ENTRIES: Final = {"full": 10_000, "short": 10_000, "tiny": 200}
_AT_ONCE: Final = 500

Look = Callable[[], Awaitable[int]]


async def measure(size: ScaleSize) -> list[Row]:
    rows: list[Row] = []
    count, entries = _AGENTS[size.name], _ENTRIES[size.name]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentbus-bench-")))
        buses: list[Coordinator] = []
        for number in (1, count):
            agents = [f"agent{at}" for at in range(number)]
            path = folder / str(number)
            path.mkdir()
            own = await stack.enter_async_context(own_bus(path, agents))
            buses.append(await stack.enter_async_context(own.coordinator("main")))
            await _fill(buses[-1], agents, entries)
        one, many = buses
        for (what, ours, bound), (_, limit, _) in zip(await _looks(many), await _looks(one), strict=True):
            pairs = await interleaved(_cpu_of(ours, size), _cpu_of(limit, size), size.turns)
            target = at_most(bound) if size.name != "tiny" else None
            label = f"CPU time of {what}, {count} agents against one"
            rows.append(compared("agents", label, "ms", pairs[1:] or pairs, target))
        await many.publish("agent0", "work", task_type="bench", task_id="open")
        for number in range(20):
            await put(many, result_message(f"result-{number}", "done"))
        failed, took_s = await burst(many, size)
        rows.append(absolute("agents", f"the bursts over {count} agents: errors", "", failed, at_most(0)))
        rows.append(absolute("agents", "until the last of these has ended", "s", took_s, at_most(40)))
    return rows


async def _fill(coordinator: Coordinator, agents: list[str], entries: int) -> None:
    """Store settled entries of the agents in turn."""
    started = time.perf_counter()
    for number in range(entries):
        key = TaskKey(agents[7 * number % len(agents)], task_id(number))
        data, headers = settled_entry(key)
        if number % _AT_ONCE == _AT_ONCE - 1 or number == entries - 1:
            await coordinator.bus.store(subjects.state(key), data, headers=headers)  # waits for all before
        else:
            await coordinator.bus.publish(subjects.state(key), data, headers=headers, flush=False)
    text = f"  {entries:,} entries of {len(agents)} agents after {time.perf_counter() - started:.0f} s"
    print(text, file=sys.stderr, flush=True)


async def _looks(coordinator: Coordinator) -> list[tuple[str, Look, float]]:
    """What looks at the tasks of all agents, and how much more it may cost; each says how many it has found."""
    first = await coordinator.list_tasks(with_results=False)
    middle = await coordinator.list_tasks(with_results=False, limit=100, cursor=first.cursor)

    async def page(cursor: int | None) -> int:
        return len((await coordinator.list_tasks(with_results=False, cursor=cursor)).tasks)

    async def status() -> int:
        return 2 * len((await OverviewReader(coordinator).read()).recent)

    return [
        ("the newest 20", lambda: page(None), 2.5),
        ("the 20 after them", lambda: page(first.cursor), 4),
        ("20 from further back", lambda: page(middle.cursor), 6),
        ("status", status, 3),
    ]


def _cpu_of(look: Look, size: ScaleSize) -> Callable[[], Awaitable[float]]:
    async def once() -> float:
        await asyncio.sleep(0)
        started = time.process_time()
        found = await look()
        took = (time.process_time() - started) * 1000
        if found != 20:
            raise RuntimeError(f"{found} tasks were found instead of 20")
        return max(took, 0.01)

    return lambda: p50(once, size.samples)
