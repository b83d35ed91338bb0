"""The stream of events of one page: what changes on the board, and what the task does that it shows.

It never sends more than 18 kB within a second, whatever happens on the bus: what changes meanwhile is sent once, as it
is then.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Final

from agentbus.errors import AgentBusError
from agentbus.protocol.json_codec import Json, encode, object_in
from agentbus_mcp.page.served_page import ServedPage

RATE_BYTES_S: Final = 12_000
BURST_BYTES: Final = 6_000
PING_S: Final = 15.0
"""A page that hears nothing for longer than two of these asks again."""
_FRAME_BYTES: Final = 5_000

_Next = Callable[[], Awaitable[dict[str, Json]]]


class Allowance:
    """How much may be sent now: it grows with time, up to a bound."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = float(BURST_BYTES)
        self._at = clock()

    def wait_s(self, count: int) -> float:
        """Take what is to be sent off it; return how long to wait before."""
        now = self._clock()
        self._left = min(float(BURST_BYTES), self._left + (now - self._at) * RATE_BYTES_S)
        self._at = now
        lacking = min(count, BURST_BYTES) - self._left
        self._left -= count
        return max(0.0, lacking / RATE_BYTES_S)


async def events(page: ServedPage, task: str | None, since: int, ended: asyncio.Event) -> AsyncGenerator[bytes]:
    """Yield the frames of a page, until `ended` is set or its coordinator ends.

    Args:
        task: the name of the task whose log is sent, too.
        since: the version of the board that the page has.
    """
    allowance = Allowance(asyncio.get_running_loop().time)
    page.streams += 1
    waiting: dict[str, asyncio.Future[Any]] = {
        "ended": asyncio.ensure_future(ended.wait()),
        "closed": asyncio.ensure_future(page.ended.wait()),
    }
    try:
        async with AsyncExitStack() as stack:
            sources: dict[str, _Next] = {"board": (await stack.enter_async_context(page.feed.reader(since))).next}
            yield _frame("hello", {"boot": page.boot, "now": datetime.now(UTC).isoformat()})
            if task is not None:
                sources["log"] = await _log(page, task, stack)
            while not (waiting["ended"].done() or waiting["closed"].done()):
                for name, source in sources.items():
                    if name not in waiting:
                        waiting[name] = asyncio.ensure_future(source())
                done, _ = await asyncio.wait(waiting.values(), timeout=PING_S, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    yield b"event: ping\ndata: {}\n\n"
                for name in [name for name in sources if waiting[name].done()]:
                    for frame in frames(name, waiting.pop(name).result()):
                        await asyncio.sleep(allowance.wait_s(len(frame)))
                        yield frame
    finally:
        page.streams -= 1
        for one in waiting.values():
            one.cancel()


async def _log(page: ServedPage, task: str, stack: AsyncExitStack) -> _Next:
    """Return what reads the log of a task; without a bus, the page asks again."""
    try:
        bus = await page.coordinator()
        reader = await stack.enter_async_context(page.logs.reader(bus, task))
    except AgentBusError as error:
        said = iter([{"lines": [{"kind": "notice", "text": str(error)}]}])

        async def say() -> dict[str, Json]:
            if (told := next(said, None)) is not None:
                return dict(told)
            return await asyncio.Future[dict[str, Json]]()

        return say
    return reader.next


def frames(source: str, found: dict[str, Json]) -> Iterator[bytes]:
    """Yield what was found as frames of a bounded size: a section is cut by its rows."""
    if source != "board":
        yield _frame(source, found)
        return
    version = found.pop("version")
    for name, section in found.items():
        order, rows = object_in(section).get("order"), object_in(object_in(section).get("rows"))
        batch: dict[str, Json] = {}
        size = 0
        for key, row in rows.items():
            row_bytes = len(encode(row))
            if batch and size + row_bytes > _FRAME_BYTES:
                yield _frame("rows", {"section": name, "rows": batch})
                batch, size = {}, 0
            batch[key], size = row, size + row_bytes
        # The order comes last: a page that has it has all the rows.
        yield _frame("section", {"section": name, "order": order, "rows": batch})
    yield _frame("version", {"version": version})


def _frame(event: str, data: Json) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), encode(data))
