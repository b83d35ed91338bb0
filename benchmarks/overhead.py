"""Measures what the bus adds to one task: from its publication to its result seen, minus the run of the command."""

import statistics
import time

from agentbus import Coordinator
from agentbus.protocol import subjects
from agentbus.tasks.inbox import Inbox, open_inbox
from benchmarks.bare_bus import BareBus, bare_bus
from benchmarks.environment import AGENT, PROMPT_BYTES, MeasuringProcess, bus, measuring_process, one_worker
from benchmarks.harness import Row, Size, at_most, compared, p50

_INBOX = "bare"  # the bare round trips go into the result stream, to an inbox that no client reads


async def measure(size: Size) -> list[Row]:
    async with (
        bus() as (server, coordinator, folder),
        one_worker(server, folder),
        measuring_process("bare_loop") as bare_loop,
        bare_bus(server.url) as bare,
        open_inbox(coordinator.bus, coordinator.agent) as inbox,
    ):
        await _one_task(coordinator, inbox)
        pairs: list[tuple[float, float]] = []
        consecutive: list[tuple[float, float]] = []
        for _ in range(size.turns):
            tasks: list[float] = []
            runs: list[float] = []
            trips: list[float] = []
            # A round trip right after another one takes a third less than one after the start of a process. The round
            # trips of a task follow the start of a process, so the bare ones must too: one of each kind in turn.
            for _ in range(size.samples):
                tasks.append(await _one_task(coordinator, inbox))
                runs.append(await _command_run(bare_loop))
                trips.append(await _round_trip(bare))
            added = statistics.median(tasks) - statistics.median(runs)
            pairs.append((added, statistics.median(trips)))
            consecutive.append((added, await p50(lambda: _round_trip(bare), size.samples)))
    what = "publish to result seen, without the run, in round trips"
    return [
        compared("overhead", what, "ms", pairs, at_most(7)),
        compared("overhead", "the same, in round trips one right after another", "ms", consecutive),
    ]


async def _one_task(coordinator: Coordinator, inbox: Inbox) -> float:
    start = time.perf_counter()
    await coordinator.publish(AGENT, "x", task_type="bench")
    await inbox.next()
    return (time.perf_counter() - start) * 1000


async def _command_run(bare_loop: MeasuringProcess) -> float:
    [seconds] = await bare_loop.ask(1, 1, PROMPT_BYTES)
    return seconds * 1000


async def _round_trip(bare: BareBus) -> float:
    return await bare.round_trip(subjects.results(_INBOX), b"x" * 512)
