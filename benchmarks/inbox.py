"""How long reading the newest results of one inbox takes in a long stream.

The figure is set beside the physical limit measured in the same run: one plain request to the same server. Run it with
`make bench`; the number of messages can be given as an argument.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agentbus import Coordinator, connect, subjects
from agentbus.messages import encode, new_result
from agentbus.server import run_server
from agentbus.streams import set_up

INBOXES = 200
MESSAGE_BYTES = 1024
NEWEST = 20
ROUNDS = 15
PUBLISHERS = 64


async def fill(bus: Coordinator, messages: int) -> None:
    """Store `messages` results of 1 KiB, spread over the inboxes."""
    task = {"id": "t", "from": "agent-main", "to": "agent-code", "type": "task.request", "task_type": "x"}
    body = new_result(task, result_id="r", status="completed", result="").to_json()
    body["result"] = "x" * (MESSAGE_BYTES - len(encode(body)))
    data = encode(body)
    numbers = iter(range(messages))

    async def publish() -> None:
        for number in numbers:
            await bus.bus.store(subjects.results(f"inbox{number % INBOXES}"), data, msg_id=str(number))

    await asyncio.gather(*(publish() for _ in range(PUBLISHERS)))


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    """Median milliseconds of `action` over the rounds."""
    took: list[float] = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        await action()
        took.append((time.perf_counter() - start) * 1000)
    return statistics.median(took)


async def main(messages: int) -> int:
    """Fill, measure, print; returns 1 if a read is slower than the promised 100 ms."""
    with tempfile.TemporaryDirectory() as folder:
        conf = Path(folder) / "fast.conf"  # filling with an fsync for each message would take minutes
        conf.write_text(f'listen: "127.0.0.1:-1"\njetstream {{ store_dir: "{folder}" }}\n')
        async with run_server(store=Path(folder), config=conf) as server, connect(server.url) as bus:
            await set_up(bus.bus)
            start = time.perf_counter()
            await fill(bus, messages)
            print(f"{messages} messages of {MESSAGE_BYTES} bytes in {INBOXES} inboxes "
                  f"({time.perf_counter() - start:.0f} s to fill)")  # fmt: skip
            request = await timed(lambda: bus.bus.api(f"STREAM.INFO.{subjects.RESULTS_STREAM}"))
            print(f"one plain request (stream info):           {request:7.2f} ms     1.0 x")
            worst = 0.0
            for label, agent in (
                (f"newest {NEWEST} of one inbox", "inbox7"),
                ("newest of one inbox", "inbox7"),
                ("an inbox with nothing in it", "empty"),
            ):
                newest = 1 if label.startswith("newest of") else NEWEST
                took = await timed(lambda agent=agent, newest=newest: bus.results(newest, agent=agent))
                worst = max(worst, took)
                print(f"{label + ':':42} {took:7.2f} ms  {took / request:6.1f} x")
            await bus.bus.store(subjects.results("rare"), b"{}", msg_id="rare")
            await bus.bus.store(subjects.results("inbox7"), b"{}", msg_id="last")
            took = await timed(lambda: bus.results(NEWEST, agent="rare"))
            print(f"{'an inbox with one message:':42} {took:7.2f} ms  {took / request:6.1f} x")
            assert len(await bus.results(NEWEST, agent="inbox7")) == NEWEST
            print(f"promised: below 100 ms; slowest: {max(worst, took):.1f} ms")
            return int(max(worst, took) > 100)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)))
