"""Makes a call and kills itself at each point at which it waits for the bus, in turn: `killed_calls.py URL CALL`.

Each point has a process of its own, a fork of this one: nothing is cleaned up there. The task of the call at point N is
`job-N`. Prints how many points there are.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from agentbus import Coordinator, connect
from agentbus.bus.connection import Connection


async def publish(main: Coordinator, task_id: str) -> None:
    await main.publish("code", "hi", task_id=task_id)


async def answer(main: Coordinator, task_id: str) -> None:
    await main.task(task_id, agent="code", owner="main").answer(approve=True)


async def retry(main: Coordinator, task_id: str) -> None:
    await main.task(task_id, agent="code", owner="main").retry()


async def cancel(main: Coordinator, task_id: str) -> None:
    await main.task(task_id, agent="code", owner="main").cancel("no need")


CALLS = {call.__name__: call for call in (publish, answer, retry, cancel)}


async def die_at(point: int, url: str, call: Callable[[Coordinator, str], Awaitable[None]]) -> None:
    """Make the call, and kill the process at a point."""
    async with connect(url) as main:
        seen = count(1)

        def reach() -> None:
            if next(seen) == point:
                os.kill(os.getpid(), signal.SIGKILL)

        for name in ("request", "publish"):
            setattr(Connection, name, _watched(getattr(Connection, name), reach))
        await call(main, f"job-{point}")


def _watched(real: Callable[..., Awaitable[Any]], reach: Callable[[], None]) -> Callable[..., Awaitable[Any]]:
    async def exchange(*args: Any, **more: Any) -> Any:
        reach()
        answered = await real(*args, **more)
        reach()
        return answered

    return exchange


def run(url: str, name: str) -> None:
    for point in count(1):
        child = os.fork()
        if child == 0:
            asyncio.run(die_at(point, url, CALLS[name]))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            print(point - 1)
            return
        if status != -signal.SIGKILL:
            sys.exit(f"the process of point {point} ended with {status}")


if __name__ == "__main__":
    run(*sys.argv[1:])
