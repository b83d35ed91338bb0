"""Times one task from its publication to its result seen by the publisher, against the bare run of its command."""

import statistics
import time
from collections.abc import Awaitable, Callable

from agentbus import Coordinator
from agentbus.tasks.inbox import Inbox, open_inbox
from benchmarks.environment import AGENT, PROMPT_BYTES, MeasuringProcess, bus, measuring_process, one_worker
from benchmarks.harness import Row, Size, absolute, at_most, compared

_MOST = at_most(3)
_TAIL = at_most(2)
"""Of the slowest hundredth, in units of the median."""


async def measure(size: Size) -> list[Row]:
    async with (
        bus() as (server, coordinator, folder),
        one_worker(server, folder),
        measuring_process("bare_loop") as bare,
    ):
        rows = await _rows(size, "wait", lambda: _by_wait(coordinator), bare)
        async with open_inbox(coordinator.bus, coordinator.agent) as inbox:
            return rows + await _rows(size, "the inbox", lambda: _by_inbox(coordinator, inbox), bare)


async def _rows(size: Size, what: str, one: Callable[[], Awaitable[None]], bare: MeasuringProcess) -> list[Row]:
    targeted = size.name != "tiny"
    await one()
    pairs: list[tuple[float, float]] = []
    everything: list[float] = []
    for _ in range(size.turns):
        tasks: list[float] = []
        runs: list[float] = []
        for _ in range(size.samples):  # in turns, so that both meet the same noise
            start = time.perf_counter()
            await one()
            tasks.append((time.perf_counter() - start) * 1000)
            [seconds] = await bare.ask(1, 1, PROMPT_BYTES)
            runs.append(seconds * 1000)
        pairs.append((statistics.median(tasks), statistics.median(runs)))
        everything += tasks
    tail = statistics.quantiles(everything, n=100)[98] / statistics.median(everything)
    return [
        compared(
            "latency", f"publish to result seen by {what}, in bare runs", "ms", pairs, _MOST if targeted else None
        ),
        absolute("latency", f"the slowest hundredth of these by {what}", "medians", tail, _TAIL),
    ][: 2 if targeted else 1]


async def _by_inbox(coordinator: Coordinator, inbox: Inbox) -> None:
    await coordinator.publish(AGENT, "x", task_type="bench")
    await inbox.next()


async def _by_wait(coordinator: Coordinator) -> None:
    task = await coordinator.publish(AGENT, "x", task_type="bench")
    await task.result()
