"""Measures a worker that waits for tasks: its memory, and its share of one core."""

import asyncio

import psutil

from benchmarks.environment import bus, one_worker
from benchmarks.harness import Row, Size, absolute, at_most

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
        absolute("idle", "resident memory of a worker", "MiB", resident, at_most(60)),
        absolute("idle", f"its share of a core over {size.idle_s:g} s", "%", percent, at_most(1)),
    ]
