"""Times the first view of the page and `status`, read cold, against the bare requests that they make.

The bus has a thousand workers, and a ledger with many open and many more settled tasks. Also: how many bytes a second
a page receives that shows a busy bus and a task with a talkative agent.
"""

import asyncio
import gc
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx2

from agentbus import Coordinator, connect
from agentbus.admin.overview import OverviewReader
from agentbus.bus.setup import set_up
from agentbus.protocol import subjects
from agentbus.protocol.headers import EXPECTED_LAST_SUBJECT_SEQUENCE, GROUP, NO_GROUP, STATE, Headers
from agentbus.protocol.json_codec import encode
from agentbus.protocol.ledger_entry import queued
from agentbus.protocol.messages import new_task
from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import ProgressMessage, RunEvent
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from benchmarks.environment import bus
from benchmarks.harness import Row, Size, absolute, at_most, compared, interleaved
from benchmarks.replay import recorded
from benchmarks.scale.ledger import AGENTS, settled_entry
from support.ui_page import act, browser, frames, ui_server

_SIZES: Final = {"full": (1_000, 10_000, 100_000), "short": (1_000, 2_000, 20_000), "tiny": (20, 40, 200)}
"""Workers, open tasks, settled tasks."""
_TURNS: Final = {"full": 7, "short": 3, "tiny": 1}
_BUSY_S: Final = {"full": 20.0, "short": 10.0, "tiny": 2.0}
_TARGET: Final = at_most(1.5)
_MOST_BYTES_S: Final = at_most(20_000)
_AT_ONCE: Final = 500
_GC_THRESHOLD: Final = 10_000
"""That of the command, in whose process `status` is read."""
_READ_AHEAD_S: Final = 4.0
"""After this, what the process has read ahead at its start is too old to be shown."""

Look = Callable[[str, Callable[[], None]], Awaitable[float]]
"""Looks at the bus at a URL, and calls the other one when it begins; returns the milliseconds."""


async def measure(size: Size) -> list[Row]:
    gc.set_threshold(_GC_THRESHOLD)
    async with bus() as (server, coordinator, folder):
        await _fill(coordinator, *_SIZES[size.name])
        turns, label = _TURNS[size.name], _label(size)

        async def alive() -> None:
            await _store(coordinator, [_worker(number) for number in range(_SIZES[size.name][0])])

        status = await _against_its_requests(server, _status, turns, alive)
        first = await _against_its_requests(server, _first_view(folder), turns, alive, idle_s=_READ_AHEAD_S)
        busy = await _busy(server, coordinator, folder, _BUSY_S[size.name])
    target = _TARGET if size.name != "tiny" else None
    return [
        compared("page", f"status, {label}, against its bare requests", "ms", status, target),
        compared("page", f"the first view, {label}, the same", "ms", first, target),
        absolute("page", "a page of a busy bus and a talkative agent receives", "bytes/s", busy, _MOST_BYTES_S),
    ]


def _label(size: Size) -> str:
    workers, waiting, settled = _SIZES[size.name]
    return f"{workers:,} workers, {waiting + settled:,} tasks"


async def _fill(coordinator: Coordinator, workers: int, waiting: int, settled: int) -> None:
    agents = [f"agent{number}" for number in range(AGENTS)]
    await set_up(coordinator.bus, agents)
    messages = [_settled(number) for number in range(settled)]
    for number in range(waiting):
        messages += _waiting(number)
    messages += [_worker(number) for number in range(workers)]
    await _store(coordinator, messages)


async def _store(coordinator: Coordinator, messages: Sequence["_Message"]) -> None:
    for start in range(0, len(messages), _AT_ONCE):
        batch = messages[start : start + _AT_ONCE]
        for subject, data, headers in batch[:-1]:
            await coordinator.bus.publish(subject, data, headers=headers, flush=False)
        subject, data, headers = batch[-1]
        await coordinator.bus.store(subject, data, headers=headers)  # waits for all before


_Message = tuple[str, bytes, Headers]


def _settled(number: int) -> _Message:
    key = TaskKey(f"agent{number % AGENTS}", f"job-{number:07}")
    data, headers = settled_entry(key)
    return subjects.state(key), data, headers


def _waiting(number: int) -> list[_Message]:
    agent = f"agent{number % AGENTS}"
    task = new_task(to=agent, content="Work that waits", task_type="bench", task_id=f"open-{number:06}")
    key, entry = TaskKey(agent, task.id), queued(task, "main", "nonce")
    data = entry.model_dump_json(exclude_none=True).encode()
    return [
        (subjects.state(key), data, {STATE: "queued", GROUP: NO_GROUP, EXPECTED_LAST_SUBJECT_SEQUENCE: "0"}),
        (subjects.tasks(agent), encode(task.to_json()), {}),
    ]


def _worker(number: int) -> _Message:
    agent, instance = f"agent{number % AGENTS}", f"box{number}-1"
    worker = {
        "agent": agent, "instance": instance, "host": f"box{number}", "pid": 1, "version": "0.1.0", "slots": 2,
        "free": 1, "started_at": "2026-12-01T00:00:00+00:00", "description": "works", "command": "claude -p",
    }  # fmt: skip
    return subjects.presence(agent, instance), json.dumps(worker).encode(), {}


def _port(server: NatsServer) -> int:
    return int(server.url.rpartition(":")[2])


async def _status(url: str, begins: Callable[[], None]) -> float:
    """What `status` shows, read over a new connection."""
    async with connect(url) as coordinator:
        begins()
        started = time.perf_counter()
        await OverviewReader(coordinator).read()
        return (time.perf_counter() - started) * 1000


def _first_view(folder: Path) -> Look:
    """The first board of a new `agentbus ui`, as a browser gets it."""

    async def look(url: str, begins: Callable[[], None]) -> float:
        log = folder / f"ui-{time.monotonic_ns()}.log"
        async with ui_server(log, "--nats-url", url) as ui, browser(ui) as http:
            await ui.process.until_said("connected to")
            reader, writer = await asyncio.open_connection("127.0.0.1", ui.port)
            await asyncio.sleep(_READ_AHEAD_S)
            begins()
            started = time.perf_counter()
            answer = await _answer(reader, writer, "/api/board", http)
            took_s = time.perf_counter() - started
            writer.close()
            if not json.loads(answer)["head"]["order"]:
                raise RuntimeError("the first view is empty")
            return took_s * 1000

    return look


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, signed_in: httpx2.AsyncClient
) -> bytes:
    """Ask over an open connection, as a browser has one: a client in Python takes longer for it than the page does."""
    cookies = "; ".join(f"{name}={value}" for name, value in signed_in.cookies.items())
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {signed_in.base_url.netloc.decode()}\r\nCookie: {cookies}\r\n\r\n".encode()
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    if " 200 " not in head.partition("\r\n")[0]:
        raise RuntimeError(f"the page answers {head}")
    return await reader.readexactly(int(head.partition("content-length:")[2].partition("\r\n")[0]))


async def _against_its_requests(
    server: NatsServer, look: Look, turns: int, prepare: Callable[[], Awaitable[None]], *, idle_s: float = 0.0
) -> list[tuple[float, float]]:
    """Look, and say to the server what was said for that, in turns; a look beside these shows what that is.

    Args:
        prepare: called before each: an entry of a worker goes after 90 seconds.
        idle_s: how long a connection is idle before the look.
    """
    await prepare()
    async with recorded(_port(server)) as (url, recordings):
        await look(url, lambda: recordings[0].begin())  # noqa: PLW0108  # it is there once the look has connected
        recordings[0].end()

    async def ours() -> float:
        await prepare()
        return await look(server.url, lambda: None)

    async def bare() -> float:
        await prepare()
        return await recordings[0].again(server.url, idle_s=idle_s)

    return await interleaved(ours, bare, turns)


async def _busy(server: NatsServer, coordinator: Coordinator, folder: Path, seconds: float) -> float:
    """Show a task whose agent says as much as its stream takes, on a bus on which tasks come and go."""
    async with ui_server(folder / "ui.log", "--nats-url", server.url) as ui, browser(ui) as http:
        await act(http, "publish", to="agent0", content="Say much", task_id="talkative")
        received, started = 0, 0.0
        async with _talking(coordinator):
            async with asyncio.timeout(seconds + 60):
                async for _, _, count in _all(http):
                    started = started or time.perf_counter()
                    received += count
                    if time.perf_counter() - started > seconds:
                        break
        return received / (time.perf_counter() - started)


def _all(http: httpx2.AsyncClient) -> AsyncIterator[tuple[str, dict[str, object], int]]:
    return frames(http, task="agent0/talkative")


@asynccontextmanager
async def _talking(coordinator: Coordinator) -> AsyncGenerator[None]:
    key = TaskKey("agent0", "talkative")

    async def talk() -> None:
        number = 0
        while True:
            events = tuple(RunEvent("text", number / 10, "x" * 900) for _ in range(4))
            message = ProgressMessage("run", 1, number / 10, events, before=4 * number)
            await coordinator.bus.store(names.of_task(key), encode(message.to_json()))
            await coordinator.publish(f"agent{number % AGENTS}", f"Work {number}", task_type="bench")
            number += 1
            await asyncio.sleep(0.02)

    talking = asyncio.ensure_future(talk())
    try:
        yield
    finally:
        talking.cancel()
        await asyncio.wait({talking})
