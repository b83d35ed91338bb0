"""Measures the limit for the throughput of a worker: the same command in a bare asyncio loop.

It runs in a process of its own, which loads nothing else. Each line `COUNT WIDTH ARGUMENT_BYTES` on stdin runs the
command COUNT times, WIDTH at a time, and reads its output. The answer on stdout is the number of seconds.
"""

import asyncio
import sys
import time

COMMAND = "/bin/true"


async def run(count: int, width: int, argument: str) -> None:
    left = iter(range(count))

    async def lane() -> None:
        for _ in left:
            child = await asyncio.create_subprocess_exec(
                COMMAND,
                argument,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            await child.communicate()

    await asyncio.gather(*(lane() for _ in range(width)))


async def main() -> None:
    for line in sys.stdin:  # blocking is fine: nothing else runs in this loop
        count, width, size = (int(word) for word in line.split())
        argument = "x" * size
        start = time.perf_counter()
        await run(count, width, argument)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
