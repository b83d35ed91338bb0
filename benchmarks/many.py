"""Times publishing many tasks with one command, against the bare requests that they take: two for each task."""

import asyncio
import json
import sys
import time

from agentbus.protocol import subjects
from agentbus.protocol.ids import random_token
from benchmarks.bare_bus import BareBus, bare_bus
from benchmarks.environment import bus
from benchmarks.harness import Row, Size, at_most, compared, interleaved

_TASKS = {"full": 10_000, "short": 2_000, "tiny": 40}
_TURNS = 5
_AT_ONCE = 32
_AGENT = "idle"  # without a worker
_BODY = b"x" * 512


async def measure(size: Size) -> list[Row]:
    count = _TASKS[size.name]
    async with bus() as (server, _, _), bare_bus(server.url) as bare:

        async def ours() -> float:
            batch = random_token()
            lines = b"".join(
                json.dumps({"content": f"{number} " + "x" * 300}).encode() + b"\n" for number in range(count)
            )
            return await _command(server.url, batch, lines, count)

        async def in_turn() -> float:
            return await _requests(bare, count, at_once=1)

        async def together() -> float:
            return await _requests(bare, count, at_once=_AT_ONCE)

        target = at_most(3) if size.name != "tiny" else None
        turns = min(size.turns, _TURNS)
        what = f"task publish --lines with {count:,} lines, against the bare requests"
        return [
            compared("many", f"{what}, one after the other", "s", await interleaved(ours, in_turn, turns), target),
            compared("many", f"{what}, {_AT_ONCE} at a time", "s", await interleaved(ours, together, turns)),
        ]


async def _command(url: str, batch: str, lines: bytes, count: int) -> float:
    start = time.perf_counter()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agentbus", "task", "publish", "--lines", "--batch", batch),
        *("--to", _AGENT, "--task-type", "bench", "--nats-url", url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate(lines)
    took_s = time.perf_counter() - start
    if child.returncode or len(out.splitlines()) != count:
        raise RuntimeError(f"not all lines are published: {err.decode()}")
    return took_s


async def _requests(bare: BareBus, count: int, *, at_once: int) -> float:
    left = iter(range(count))

    async def lane() -> None:
        for _ in left:
            await bare.two_round_trips(subjects.results(_AGENT), _BODY)

    start = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(at_once)))
    return time.perf_counter() - start
