"""What the bus adds to one task: from its publication to its result seen, without the command's own run."""

import statistics
import time

from agentbus import Coordinator
from agentbus.protocol import subjects
from agentbus.tasks.inbox import Inbox, open_inbox
from benchmarks.bare_bus import BareBus, bare_bus
from benchmarks.harness import Row, Size, at_most, compared, p50
from benchmarks.setting import AGENT, PROMPT_BYTES, Loop, bus, loop_of, one_worker

_INBOX = "bare"  # of the bare round trips: the stream of the results, which has no reader


async def measure(size: Size) -> list[Row]:
    async with (
        bus() as (server, coordinator, folder),
        one_worker(server, folder),
        loop_of("bare_loop") as bare_loop,
        bare_bus(server.url) as bare,
        open_inbox(coordinator.bus, coordinator.agent) as inbox,
    ):
        await _one_task(coordinator, inbox)
        pairs: list[tuple[float, float]] = []
        alone: list[tuple[float, float]] = []
        for _ in range(size.turns):
            tasks: list[float] = []
            runs: list[float] = []
            trips: list[float] = []
            # A round trip right after another one is faster by a third than one after a process was started, and so
            # is each of the round trips of a task: so one of each follows one of each.
            for _ in range(size.samples):
                tasks.append(await _one_task(coordinator, inbox))
                runs.append(await _one_run(bare_loop))
                trips.append(await _round_trip(bare))
            added = statistics.median(tasks) - statistics.median(runs)
            pairs.append((added, statistics.median(trips)))
            alone.append((added, await p50(lambda: _round_trip(bare), size.samples)))
    what = "publish to result seen, without the run, in round trips"
    return [
        compared("overhead", what, "ms", pairs, at_most(6)),
        compared("overhead", "the same, in round trips one right after another", "ms", alone),
    ]


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
