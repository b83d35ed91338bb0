"""What a worker costs that waits for tasks: memory, and its share of one core."""

import asyncio

import psutil

from benchmarks.harness import Row, Size, alone, at_most
from benchmarks.setting import bus, one_worker

_SETTLED_S = 2.0
"""The first seconds after the start do not count."""


async def measure(size: Size) -> list[Row]:
    async with bus() as (server, _, folder), one_worker(server, folder) as worker:
        process = psutil.Process(worker.pid)
        await asyncio.sleep(_SETTLED_S)
        before = process.cpu_times()
        await asyncio.sleep(size.idle_s)
        after = process.cpu_times()
        percent = (after.user + after.system - before.user - before.system) / size.idle_s * 100
        resident = process.memory_info().rss / 2**20
    return [
        alone("idle", "resident memory of a worker", "MiB", resident, at_most(60)),
        alone("idle", f"its share of a core over {size.idle_s:g} s", "%", percent, at_most(1)),
    ]
