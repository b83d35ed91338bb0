"""What five `agentbus top` on a large ledger cost those that publish: the slowest twentieth of their publications.

As a program, it is these: `python -m benchmarks.scale.tops URL` reads lines `COUNT SECONDS`, and looks with so many, as
`top` does, for so long. It answers each line with how often they have looked.
"""

import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack
from typing import Final

from agentbus import Coordinator, connect
from agentbus.admin.overview import OverviewReader
from agentbus.protocol import subjects
from agentbus.protocol.subjects import TaskKey
from benchmarks.environment import AGENT, MeasuringProcess
from benchmarks.harness import Row, at_most, compared, interleaved
from benchmarks.scale.ledger import settle_all
from benchmarks.scale.sizes import ScaleSize

TOPS: Final = 5
_EVERY_S: Final = 2.0
"""How often `agentbus top` looks, unless it is told otherwise."""
_PAUSE_S: Final = 0.01
"""Between two publications, so that a look meets some tasks and not some thousands."""
_LOOK_S: Final = {"full": 10.0, "short": 6.0, "tiny": 1.0}
_TURNS: Final = {"full": 5, "short": 3, "tiny": 1}


async def publications(coordinator: Coordinator, tops: MeasuringProcess, entries: int, size: ScaleSize) -> Row:
    """Compare publications beside the tops with those beside none."""
    look_s = _LOOK_S[size.name]
    published: list[TaskKey] = []

    async def slowest_twentieth(count: int) -> float:
        looking = asyncio.create_task(tops.ask(count, look_s))
        times: list[float] = []
        try:
            while not looking.done():
                started = time.perf_counter()
                task = await coordinator.publish(AGENT, "x", task_type="bench")
                times.append((time.perf_counter() - started) * 1000)
                published.append(TaskKey(AGENT, task.id))
                await asyncio.sleep(_PAUSE_S)
        finally:
            [looks] = await looking
        if looks < count:
            raise RuntimeError(f"{count} tops have looked {looks:g} times")
        return statistics.quantiles(times, n=20)[-1]

    pairs = await interleaved(lambda: slowest_twentieth(TOPS), lambda: slowest_twentieth(0), _TURNS[size.name])
    # Tasks that wait would be in the way of the next stage, which compares with a ledger that has none.
    await settle_all(coordinator, published)
    await coordinator.bus.api(f"STREAM.PURGE.{subjects.TASKS_STREAM}")
    what = f"the slowest twentieth of publications beside {TOPS} tops, {entries:,} tasks, against none"
    return compared("reads", what, "ms", pairs, at_most(2) if size.name != "tiny" else None)


async def _look(reader: OverviewReader, delay_s: float, until: float) -> int:
    await asyncio.sleep(delay_s)
    looks = 0
    while time.monotonic() < until:
        await reader.read()
        looks += 1
        await asyncio.sleep(max(0.0, min(_EVERY_S, until - time.monotonic())))
    return looks


async def main(url: str) -> None:
    for line in sys.stdin:  # blocking is fine: nothing else runs in this loop
        count, seconds = line.split()
        print(await _looks(url, int(count), float(seconds)), flush=True)


async def _looks(url: str, count: int, seconds: float) -> int:
    async with AsyncExitStack() as stack:
        readers = [OverviewReader(await stack.enter_async_context(connect(url))) for _ in range(count)]
        until = time.monotonic() + seconds
        apart_s = min(_EVERY_S, seconds) / max(1, count)  # who started them did not do that in one instant
        looks = await asyncio.gather(*(_look(reader, n * apart_s, until) for n, reader in enumerate(readers)))
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        return sum(looks)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
