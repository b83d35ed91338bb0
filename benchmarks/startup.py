"""The whole command `agentbus task publish` against what importing its two libraries takes."""

import asyncio
import sys
import time

from benchmarks.harness import Row, Size, compared, in_turns
from benchmarks.setting import AGENT, bus


async def measure(size: Size) -> list[Row]:
    async with bus() as (server, _, _):
        task = ("task", "publish", "--to", AGENT, "--task-type", "bench", "--nats-url", server.url, "x")

        async def ours() -> float:
            return await _run("-m", "agentbus", *task)

        async def limit() -> float:
            return await _run("-c", "import nats, pydantic")

        await ours()
        await limit()
        pairs = await in_turns(ours, limit, size.turns)
    return [compared("startup", 'task publish, against python -c "import nats, pydantic"', "ms", pairs)]


async def _run(*arguments: str) -> float:
    start = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    took = (time.perf_counter() - start) * 1000
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {said.decode()}")
    return took
