"""The limit for the throughput of a worker: the same command in an asyncio loop, with nothing around it.

A process of its own, so that it is as small as it can be. Each line `COUNT WIDTH ARGUMENT_BYTES` on stdin runs the
command COUNT times, WIDTH at once, with its output read; the answer is the seconds that took.
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
    for line in sys.stdin:  # nothing else runs meanwhile
        count, width, size = (int(word) for word in line.split())
        argument = "x" * size
        start = time.perf_counter()
        await run(count, width, argument)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
