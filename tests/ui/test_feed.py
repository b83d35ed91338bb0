"""The feed of a board: read once for all who look, and each is told what is new to it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

from agentbus import Coordinator
from agentbus.errors import BusUnavailableError, PermissionDeniedError
from agentbus.protocol.roles import Role
from agentbus.ui.feed import Feed, Sections
from agentbus.ui.rows import Row
from support.harness import eventually


class _Link:
    """A link that is up or away, as the test says."""

    agent = "main"
    role: Role = "operator"

    def __init__(self) -> None:
        self.up: Coordinator | None = cast("Coordinator", object())

    async def coordinator(self) -> Coordinator:
        assert self.up is not None
        return self.up


class _Board:
    def __init__(self) -> None:
        self.rows: dict[str, Row] = {"a": {"n": 1}, "b": {"n": 1}}
        self.looks = 0
        self.error: Exception | None = None

    async def read(self, _: Coordinator) -> Sections:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return {"rows": dict(self.rows)}


@asynccontextmanager
async def running(board: _Board, link: _Link | None = None) -> AsyncGenerator[Feed]:
    feed = Feed(link or _Link(), board.read)
    work = asyncio.ensure_future(feed.run())
    try:
        yield feed
    finally:
        work.cancel()
        await asyncio.wait({work})


def rows_of(found: dict[str, Any]) -> tuple[list[str], dict[str, Row]]:
    return found["rows"]["order"], found["rows"]["rows"]


async def test_ten_who_look_cost_one_look_and_nobody_looking_costs_none():
    board = _Board()
    async with running(board) as feed:
        boards = await asyncio.gather(*(feed.current() for _ in range(10)))
        assert [rows_of(one) for one in boards] == [(["a", "b"], board.rows)] * 10
        assert board.looks == 1
        assert (await feed.current())["version"] == boards[0]["version"]
        assert board.looks == 1


async def test_a_reader_is_given_the_rows_that_are_new_to_it_however_seldom_it_takes_them():
    board = _Board()
    async with running(board) as feed, feed.reader() as reader:
        assert rows_of(await reader.next()) == (["a", "b"], board.rows)
        for number in range(2, 5):
            board.rows = {"c": {"n": number}, "a": {"n": 1}}
            looks = board.looks
            feed.hurry()
            await eventually(lambda looks=looks: board.looks > looks, "another look")
        # The link of the first look may be told apart from its rows.
        found = await reader.next()
        while "rows" not in found:
            found = await reader.next()
        order, rows = rows_of(found)
        assert order == ["c", "a"]
        assert rows["c"]["n"] >= 2
        assert "a" not in rows


async def test_a_bus_that_is_away_leaves_the_rows_as_they_were_and_says_so():
    board, link = _Board(), _Link()
    async with running(board, link) as feed, feed.reader():
        await eventually(lambda: feed.since(-1).get("rows"), "the first look")
        link.up, board.error = None, BusUnavailableError("away")
        feed.hurry()

        def away() -> bool:
            found: Any = feed.since(-1)
            return found["link"]["rows"]["link"]["connected"] is False

        await eventually(away, "it says that the bus is away")
        assert rows_of(cast("Any", feed.since(-1)))[0] == ["a", "b"]


async def test_what_this_party_may_not_read_is_said_and_ends_nothing():
    board = _Board()
    board.error = PermissionDeniedError("no", "x")
    async with running(board) as feed:
        found: Any = await feed.current()
        assert found["fault"]["rows"]["fault"]["error"] == "no"
