"""What the bus adds to one task: from its publication to its result seen, without the command's own run."""

import statistics
import time

from agentbus import Coordinator, subjects
from agentbus.results import Inbox, open_inbox
from benchmarks.bare_bus import BareBus, bare_bus
from benchmarks.harness import Row, Size, at_most, compared, in_turns, p50
from benchmarks.setting import AGENT, PROMPT_BYTES, Loop, bus, loop_of, one_worker

_INBOX = "bare"  # of the bare round trips: the stream of the results, and nobody reads it


async def measure(size: Size) -> list[Row]:
    async with (
        bus() as (server, coordinator, folder),
        one_worker(server, folder),
        loop_of("bare_loop") as bare_loop,
        bare_bus(server.url) as bare,
        open_inbox(coordinator.bus, coordinator.agent) as inbox,
    ):
        await _one_task(coordinator, inbox)

        async def ours() -> float:
            """The medians of both are taken in turns as well: they are subtracted from each other."""
            tasks: list[float] = []
            runs: list[float] = []
            for _ in range(size.samples):
                tasks.append(await _one_task(coordinator, inbox))
                runs.append(await _one_run(bare_loop))
            return statistics.median(tasks) - statistics.median(runs)

        async def limit() -> float:
            return await p50(lambda: _round_trip(bare), size.samples)

        pairs = await in_turns(ours, limit, size.turns)
    return [compared("overhead", "publish to result seen, without the run, in round trips", "ms", pairs, at_most(6))]


async def _one_task(coordinator: Coordinator, inbox: Inbox) -> float:
    start = time.perf_counter()
    await coordinator.publish(AGENT, "x", task_type="bench")
    await inbox.next()
    return (time.perf_counter() - start) * 1000


async def _one_run(bare_loop: Loop) -> float:
    [seconds] = await bare_loop.ask(1, 1, PROMPT_BYTES)
    return seconds * 1000


async def _round_trip(bare: BareBus) -> float:
    return await bare.round_trip(subjects.results(_INBOX), b"x" * 512)
