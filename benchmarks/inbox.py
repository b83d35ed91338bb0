"""Times reading the newest 20 results of an inbox in a stream of a million messages, against one of a thousand."""

import asyncio
import sys
import time

from agentbus import Coordinator
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.protocol.messages import new_result
from agentbus.provision.nats_server import NatsServer
from benchmarks.bare_bus import bare_bus
from benchmarks.environment import bus
from benchmarks.harness import Row, Size, at_most, compared, interleaved, p50

_FEW = 1_000
_INBOXES = 20
_MESSAGE_BYTES = 1024
_NEWEST = 20
_READS = 9
"""Reads in one turn. Each makes consumers, which the server keeps for two seconds, so a pause comes before a turn."""


async def measure(size: Size) -> list[Row]:
    rows: list[Row] = []
    async with bus() as (small_server, small, _), bus() as (large_server, large, _):
        await _fill(small_server, small, _FEW)
        await _fill(large_server, large, size.inbox_messages)
        for newest, agent in ((_NEWEST, "inbox7"), (1, "inbox7"), (_NEWEST, "empty")):

            async def ours(newest: int = newest, agent: str = agent) -> float:
                await asyncio.sleep(size.pause_s)
                return await p50(lambda: _read(large, newest, agent), _READS)

            async def limit(newest: int = newest, agent: str = agent) -> float:
                return await p50(lambda: _read(small, newest, agent), _READS)

            await ours()
            pairs = await interleaved(ours, limit, size.turns)
            what = f"newest {newest}" if agent != "empty" else "an empty inbox"
            label = f"{what}, {size.inbox_messages:,} messages against {_FEW:,}"
            rows.append(compared("inbox", label, "ms", pairs, at_most(1.5)))
    return rows


async def _fill(server: NatsServer, coordinator: Coordinator, count: int) -> None:
    """Store `count` results of 1 KiB, spread over the inboxes."""
    task = {"id": "t", "from": "agent-main", "to": "agent-code", "type": "task.request", "task_type": "x"}
    body = new_result(task, result_id="r", status="completed", result="").to_json()
    body["result"] = "x" * (_MESSAGE_BYTES - len(encode(body)))
    start = time.perf_counter()
    async with bare_bus(server.url) as bare:
        await bare.fill(lambda number: subjects.results(f"inbox{number % _INBOXES}"), encode(body), count)
    state = (await coordinator.bus.api(f"STREAM.INFO.{subjects.RESULTS_STREAM}"))["state"]
    if state["messages"] != count:
        raise RuntimeError(f"the stream holds {state['messages']} messages instead of {count}")
    print(f"  {count:,} messages stored in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)


async def _read(coordinator: Coordinator, newest: int, agent: str) -> float:
    start = time.perf_counter()
    found = await coordinator.results(newest, agent=agent)
    took = (time.perf_counter() - start) * 1000
    if len(found) != (0 if agent == "empty" else newest):
        raise RuntimeError(f"{len(found)} results of {agent} instead of {newest}")
    return took
