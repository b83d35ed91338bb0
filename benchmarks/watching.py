"""Times a result from publication until a watcher sees it, against a core subscription to the same subject."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from agentbus.protocol import subjects
from agentbus.tasks.inbox import open_inbox
from benchmarks.bare_bus import BareBus, bare_bus, listening
from benchmarks.environment import BOUND_S, bus
from benchmarks.harness import Row, Size, compared, interleaved, p50

_BODY = b"x" * 1024


async def measure(size: Size) -> list[Row]:
    async with (
        bus() as (server, coordinator, _),
        bare_bus(server.url) as sender,
        bare_bus(server.url) as reader,
        listening(reader, subjects.results(coordinator.agent)) as arrived,
    ):
        subject = subjects.results(coordinator.agent)

        async def ours() -> float:
            async with open_inbox(coordinator.bus, coordinator.agent) as inbox:
                return await p50(lambda: _until_seen(sender, subject, inbox.next), size.samples)

        async def limit() -> float:
            await reader.client.flush()
            while not arrived.empty():
                arrived.get_nowait()  # drop the results of the other measurement
            return await p50(lambda: _until_seen(sender, subject, arrived.get), size.samples)

        await ours()
        pairs = await interleaved(ours, limit, size.turns)
    return [compared("watch", "from publish to seen, against a core subscription", "ms", pairs)]


async def _until_seen(sender: BareBus, subject: str, see: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group:
        group.create_task(sender.round_trip(subject, _BODY))
        await see()
        return (time.perf_counter() - start) * 1000
