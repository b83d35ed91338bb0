"""Times what looks at all tasks, in a large ledger against a small one, and the search for a rare state."""

import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from mcp import Client
from mcp_types import PromptReference

from agentbus import Coordinator
from agentbus.admin.overview import OverviewReader
from benchmarks.environment import bus, measuring_process
from benchmarks.harness import Row, absolute, at_most, compared, interleaved, p50
from benchmarks.scale.ledger import RARE, fill, task_id
from benchmarks.scale.sizes import FEW, ScaleSize
from benchmarks.scale.tops import publications
from support.mcp_harness import in_memory

_GROWTH = at_most(1.5)
_LOST = "the search for lost tasks"
_OF_TWICE_AS_MUCH = at_most(3)
"""It looks at the last 2,000 entries, and the small ledger has 1,000."""
_SEARCH_S = 2.0
_SEARCH_IN_MCP_S = 10.0
_SLACK_S = 1.0
"""How much longer than its bound a search may take: a window is read to its end, and what is found."""

Look = Callable[[], Awaitable[int]]


async def measure(size: ScaleSize) -> list[Row]:
    rows: list[Row] = []
    async with AsyncExitStack() as stack:
        small_server, small, _ = await stack.enter_async_context(bus())
        large_server, large, _ = await stack.enter_async_context(bus())
        in_small = await stack.enter_async_context(in_memory(small_server.url))
        in_large = await stack.enter_async_context(in_memory(large_server.url))
        tops = await stack.enter_async_context(measuring_process("scale.tops", large_server.url))
        await fill(small, 0, FEW)
        filled = 0
        for entries in size.entries:
            await fill(large, filled, entries)
            filled = entries
            against = zip(_looks(large, in_large, entries), _looks(small, in_small, FEW), strict=True)
            for (what, ours), (_, limit) in against:
                pairs = await interleaved(_timed(ours, size), _timed(limit, size), size.turns)
                label = f"{what}, {entries:,} tasks against {FEW:,}"
                target = _OF_TWICE_AS_MUCH if what == _LOST else _GROWTH
                rows.append(compared("reads", label, "ms", pairs[1:] or pairs, target))
            rows += await _rare(large, entries)
            rows.append(await publications(large, tops, entries, size))
    return rows


def _looks(coordinator: Coordinator, client: Client, entries: int) -> list[tuple[str, Look]]:
    """What looks at all tasks; each says how many it has found."""
    top = OverviewReader(coordinator)

    async def newest() -> int:
        return len((await coordinator.list_tasks(with_results=False)).tasks)

    async def with_results() -> int:
        return sum(status.result is not None for status in (await coordinator.list_tasks()).tasks)

    async def old() -> int:
        return len((await coordinator.list_tasks(with_results=False, cursor=entries // 2)).tasks)

    async def status() -> int:
        return 2 * len((await OverviewReader(coordinator).read()).recent)

    async def look_of_top() -> int:
        return 2 * len((await top.read()).recent)

    async def completion() -> int:
        found = await client.complete(PromptReference(name="collect"), {"name": "task_ids", "value": "job"})
        return min(20, len(found.completion.values))

    async def lost() -> int:
        return 20 + len(await coordinator.lost_tasks())

    return [
        ("the newest 20", newest),
        ("the same with results", with_results),
        ("20 from the middle", old),
        ("status", status),
        ("a look of top", look_of_top),
        ("completion of a task's id", completion),
        (_LOST, lost),
    ]


def _timed(look: Look, size: ScaleSize) -> Callable[[], Awaitable[float]]:
    async def once() -> float:
        started = time.perf_counter()
        found = await look()
        took = (time.perf_counter() - started) * 1000
        if found != 20:
            raise RuntimeError(f"{found} tasks were found instead of 20")
        return took

    return lambda: p50(once, size.samples)


async def _rare(coordinator: Coordinator, entries: int) -> list[Row]:
    """Search for the oldest tasks of all, call after call, with the bounds of the command and of the MCP server."""
    rows: list[Row] = []
    for search_s in (_SEARCH_S, _SEARCH_IN_MCP_S):
        found, cursor, calls, longest, total = list[str](), None, 0, 0.0, 0.0
        while not calls or cursor is not None:
            started = time.perf_counter()
            page = await coordinator.list_tasks(state="failed", cursor=cursor, with_results=False, search_s=search_s)
            took = time.perf_counter() - started
            found += [status.task_id for status in page.tasks]
            cursor, calls, longest, total = page.cursor, calls + 1, max(longest, took), total + took
        if found != [task_id(number) for number in reversed(range(RARE))]:
            raise RuntimeError(f"the search has found {found}")
        label = f"the {RARE} oldest of {entries:,}, {search_s:g} s a call"
        rows.append(absolute("reads", f"{label}: the longest", "s", longest, at_most(search_s + _SLACK_S)))
        rows.append(absolute("reads", f"{label}: calls", "", calls, at_most(1 + entries / 10_000 / search_s)))
        print(f"  {label}: {calls} calls, {entries / total:,.0f} entries a second", file=sys.stderr, flush=True)
    return rows
