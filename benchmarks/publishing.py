"""Times publishing a task with its ledger entry, against two bare requests, and the claim by a waiting worker."""

import time

from agentbus import Coordinator
from agentbus.protocol import subjects
from agentbus.protocol.headers import STATE
from benchmarks.bare_bus import bare_bus, listening
from benchmarks.environment import AGENT, bus, one_worker
from benchmarks.harness import Row, Size, compared, interleaved, p50

_WITHOUT_WORKER = "idle"  # an agent without a worker
_BODY = b"x" * 512


async def measure(size: Size) -> list[Row]:
    return [await _publish(size), await _claim(size)]


async def _publish(size: Size) -> Row:
    async with bus() as (server, coordinator, _), bare_bus(server.url) as bare:

        async def ours() -> float:
            return await p50(lambda: _one_publish(coordinator), size.samples)

        async def limit() -> float:
            return await p50(lambda: bare.two_round_trips(subjects.results(_WITHOUT_WORKER), _BODY), size.samples)

        await ours()
        pairs = await interleaved(ours, limit, size.turns)
    return compared("publish", "a task with its ledger entry, in pairs of bare requests", "ms", pairs)


async def _one_publish(coordinator: Coordinator) -> float:
    start = time.perf_counter()
    await coordinator.publish(_WITHOUT_WORKER, "x", task_type="bench")
    return (time.perf_counter() - start) * 1000


async def _claim(size: Size) -> Row:
    async with (
        bus() as (server, coordinator, folder),
        one_worker(server, folder),
        bare_bus(server.url) as bare,
        listening(bare, subjects.states(AGENT)) as changes,
        listening(bare, subjects.results(coordinator.agent)) as results,
    ):

        async def one_claim() -> float:
            start = time.perf_counter()
            await coordinator.publish(AGENT, "x", task_type="bench")
            while (change := await changes.get()).headers is None or change.headers[STATE] != "working":
                pass
            took = (time.perf_counter() - start) * 1000
            await results.get()
            return took

        async def ours() -> float:
            return await p50(one_claim, size.samples)

        async def limit() -> float:
            return await p50(lambda: bare.round_trip(subjects.results(_WITHOUT_WORKER), _BODY), size.samples)

        await ours()
        pairs = await interleaved(ours, limit, size.turns)
    return compared("publish", "from publish to claim by a waiting worker, in round trips", "ms", pairs)
