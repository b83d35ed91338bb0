"""How soon a watcher sees a result, against a bare core subscription to the same subject."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from agentbus import subjects
from agentbus.results import open_inbox
from benchmarks.bare_bus import BareBus, bare_bus, listening
from benchmarks.harness import Row, Size, compared, in_turns, p50
from benchmarks.setting import bus

_BODY = b"x" * 1024


async def measure(size: Size) -> list[Row]:
    async with bus() as (server, coordinator, _), bare_bus(server.url) as sender, bare_bus(server.url) as reader:
        subject = subjects.results(coordinator.agent)

        async def ours() -> float:
            async with open_inbox(coordinator.bus, coordinator.agent) as inbox:
                return await p50(lambda: _until_seen(sender, subject, inbox.next), size.samples)

        async def limit() -> float:
            async with listening(reader, subject) as arrived:
                return await p50(lambda: _until_seen(sender, subject, arrived.get), size.samples)

        await ours()
        pairs = await in_turns(ours, limit, size.turns)
    return [compared("watch", "from publish to seen, against a core subscription", "ms", pairs)]


async def _until_seen(sender: BareBus, subject: str, see: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    publishing = asyncio.create_task(sender.round_trip(subject, _BODY))
    await see()
    took = (time.perf_counter() - start) * 1000
    await publishing
    return took
