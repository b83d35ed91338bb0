"""Listing tasks: by last change, filtered, page by page, with bounded work."""

import asyncio
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from functools import partialmethod
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agentbus import Coordinator, TaskList, TaskStatus, connect
from agentbus.admin.overview import OverviewReader
from agentbus.cli.coordinator.task_search import TaskSearch
from agentbus.errors import InvalidIdError, MessageError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Record, queued
from agentbus.protocol.messages import Failure, new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.listing import task_list
from agentbus_mcp.replies.tasks import listed_task
from support.altered_link import altered_link
from support.harness import run_cli
from support.mcp_harness import settle
from support.restricted import READ_LEDGER, only, restricted_bus


async def publish(bus: Coordinator, *task_ids: str, agent: str = "code") -> None:
    for task_id in task_ids:
        await bus.publish(agent, "work", task_type="test", task_id=task_id)


async def fill(bus: Coordinator, count: int, agent: str = "code") -> list[str]:
    """Ledger entries of queued tasks, without their messages."""
    ids = [f"n{number:04}" for number in range(count)]
    for task_id in ids:
        task = new_task(to=agent, content="", task_type="test", task_id=task_id)
        await Ledger(bus.bus).create(TaskKey(agent, task_id), queued(task, "main"))
    return ids


async def give_back(bus: Coordinator, task_ids: list[str], agent: str = "code") -> None:
    """Write the entries of queued tasks again, as workers do that give them back."""
    for task_id in task_ids:
        record = await Ledger(bus.bus).read(TaskKey(agent, task_id))
        assert isinstance(record, Record)
        await Ledger(bus.bus).write(record.key, record.entry, revision=record.revision)


def ids(found: TaskList) -> list[str]:
    return [status.task_id for status in found.tasks]


async def pages(bus: Coordinator, limit: int, **wanted: str) -> list[list[str]]:
    """All pages of a listing, to its end."""
    found: list[list[str]] = []
    cursor: int | None = None
    while True:
        page = await bus.list_tasks(limit=limit, cursor=cursor, **wanted)  # pyright: ignore[reportArgumentType]
        found.append(ids(page))
        if page.cursor is None:
            return found
        assert cursor is None or page.cursor < cursor, "a cursor goes down"
        cursor = page.cursor


async def test_the_task_that_changed_last_comes_first(coordinator: Coordinator) -> None:
    await publish(coordinator, "a", "b", "c")
    await settle(coordinator, "a")
    found = await coordinator.list_tasks()
    assert [(status.task_id, status.state) for status in found.tasks] == [
        ("a", "completed"),
        ("c", "queued"),
        ("b", "queued"),
    ]
    assert (found.cursor, found.partial, found.unreadable) == (None, False, [])


async def test_a_bus_without_tasks_has_an_empty_list(coordinator: Coordinator) -> None:
    for wanted in ({}, {"agent": "code"}, {"state": "failed"}, {"cursor": 1}, {"cursor": 1_000_000}):
        assert await coordinator.list_tasks(**wanted) == TaskList([])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 20])
async def test_cursors_lead_through_all_tasks_once(coordinator: Coordinator, limit: int) -> None:
    made = await fill(coordinator, 7)
    await publish(coordinator, "other-1", "other-2", agent="doc")
    found = await pages(coordinator, limit, agent="code")
    assert [task_id for page in found for task_id in page] == made[::-1]
    assert all(found), "no page is empty"
    assert all(len(page) == limit for page in found[:-1])


async def test_pages_of_a_sparse_agent_are_found_among_many_others(coordinator: Coordinator) -> None:
    made: list[str] = []
    for number in range(6):
        await fill_with_noise(coordinator, f"noise{number}-", 40)
        await publish(coordinator, f"t{number}")
        made.append(f"t{number}")
    assert await pages(coordinator, 4, agent="code") == [["t5", "t4", "t3", "t2"], ["t1", "t0"]]


async def fill_with_noise(bus: Coordinator, prefix: str, count: int) -> None:
    for number in range(count):
        task = new_task(to="doc", content="", task_type="test", task_id=f"{prefix}{number}")
        await Ledger(bus.bus).create(TaskKey("doc", task.id), queued(task, "main"))


async def test_a_task_that_changes_between_two_pages_moves_to_the_front(coordinator: Coordinator) -> None:
    await publish(coordinator, "a", "b", "c", "d")
    first = await coordinator.list_tasks(limit=2)
    await settle(coordinator, "b")
    second = await coordinator.list_tasks(limit=2, cursor=first.cursor)
    assert (ids(first), ids(second)) == (["d", "c"], ["a"])
    assert ids(await coordinator.list_tasks(limit=2)) == ["b", "d"]


async def test_tasks_are_filtered_by_agent_and_state(coordinator: Coordinator) -> None:
    await publish(coordinator, "a", "b", "c")
    await publish(coordinator, "d", agent="doc")
    await settle(coordinator, "a", status="failed", error="it broke")
    await settle(coordinator, "d", agent="doc", status="failed", error="it broke")
    await coordinator.task("b").cancel()
    expected = {"failed": ["d", "a"], "queued": ["c"], "cancelled": ["b"], "working": [], "completed": []}
    for state, wanted in expected.items():
        assert ids(await coordinator.list_tasks(state=state)) == wanted, state  # pyright: ignore[reportArgumentType]
    assert ids(await coordinator.list_tasks(agent="agent-code", state="failed")) == ["a"]


async def test_a_search_stops_when_its_time_is_over_and_goes_on_from_its_cursor(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(coordinator, "old-1", "old-2")
    await settle(coordinator, "old-1")
    await settle(coordinator, "old-2")
    await fill(coordinator, 30)
    monkeypatch.setattr(task_list, "_SCAN_FIRST", 4)  # a first window of sixteen entries
    first = await coordinator.list_tasks(state="completed", search_s=0, limit=3)
    assert (ids(first), first.partial, first.left) == ([], True, 16)
    [entry] = [one for one in (await coordinator.list_tasks(limit=20)).tasks if one.task_id == "n0014"]
    assert first.reached == entry.record.changed_at
    second = await coordinator.list_tasks(state="completed", cursor=first.cursor)
    assert (ids(second), second.partial, second.cursor) == (["old-2", "old-1"], False, None)


async def test_reading_queued_tasks_for_cancelled_ones_stops_when_the_time_is_over(coordinator: Coordinator) -> None:
    await publish(coordinator, "old")
    await coordinator.task("old").cancel()
    await give_back(coordinator, await fill(coordinator, 40))
    found, cursor, calls = list[str](), None, 0
    while not calls or cursor is not None:
        page = await coordinator.list_tasks(state="cancelled", search_s=0, cursor=cursor)
        assert page.partial == (page.cursor is not None)
        assert page.left in (None, 41 - 16 * (calls + 1))
        found, cursor, calls = found + ids(page), page.cursor, calls + 1
    assert (found, calls) == (["old"], 3)


async def test_queued_tasks_that_were_never_changed_are_not_read_to_find_cancelled_ones(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(coordinator, "old", "older")
    await coordinator.task("old").cancel()
    await fill(coordinator, 40)
    read: list[str] = []
    last_message = coordinator.bus.last_message

    async def counted(stream: str, subject: str):
        read.append(subject)
        return await last_message(stream, subject)

    monkeypatch.setattr(coordinator.bus, "last_message", counted)
    assert ids(await coordinator.list_tasks(state="cancelled")) == ["old"]
    assert read == [subjects.state(TaskKey("code", "old"))]
    read.clear()
    shown = await OverviewReader(coordinator).read()
    assert [status.task_id for status in shown.recent] == ["old"]
    assert {*read} == {subjects.state(TaskKey("code", name)) for name in ("old", "older")}  # both are in the queue


async def test_a_full_page_of_matches_can_be_followed_by_more(coordinator: Coordinator) -> None:
    await publish(coordinator, "a", "b", "c", "d", "e")
    for task_id in ("a", "c", "e"):
        await settle(coordinator, task_id)
    assert await pages(coordinator, 2, state="completed") == [["e", "c"], ["a"]]


async def test_a_removed_entry_is_not_listed_and_a_broken_one_is_named(coordinator: Coordinator) -> None:
    await publish(coordinator, "a", "b")
    record = await Ledger(coordinator.bus).read(TaskKey("code", "a"))
    assert isinstance(record, Record)
    await Ledger(coordinator.bus).remove(TaskKey("code", "a"), revision=record.revision)
    await coordinator.bus.store(
        subjects.state(TaskKey("code", "broken")), b"{", headers={"Bus-State": "queued"}, msg_id="x"
    )
    found = await coordinator.list_tasks(state="queued")
    assert ids(found) == ["b"]
    [fault] = found.unreadable
    assert "the ledger entry of broken (agent code) cannot be read" in fault


@pytest.mark.parametrize("limit", [0, 201])
async def test_a_limit_out_of_bounds_is_refused(coordinator: Coordinator, limit: int) -> None:
    with pytest.raises(MessageError, match="limit must be from 1 to 200"):
        await coordinator.list_tasks(limit=limit)
    with pytest.raises(InvalidIdError):
        await coordinator.list_tasks(agent="*")


async def test_records_of_mcp_tasks_are_not_listed_and_hide_nothing(coordinator: Coordinator) -> None:
    await publish(coordinator, "a")
    for number in range(12):
        await coordinator.bus.store(subjects.mcp_task("main", f"watch-{number}"), b"{}")
    await publish(coordinator, "b")
    for number in range(12, 24):
        await coordinator.bus.store(subjects.mcp_task("main", f"watch-{number}"), b"{}")
    assert await pages(coordinator, 1) == [["b"], ["a"]]
    listed = await coordinator.list_tasks(limit=2)
    assert (ids(listed), listed.unreadable) == (["b", "a"], [])


async def test_a_look_at_all_tasks_makes_a_consumer_and_no_more(coordinator: Coordinator) -> None:
    await fill(coordinator, 30)
    cursor = None
    for wanted in (4, 8, 20):
        before = await consumers(coordinator)
        page = await coordinator.list_tasks(limit=wanted, cursor=cursor)
        made = await consumers(coordinator) - before
        assert len(made) <= (1 if cursor is None else 2)
        assert {one.filter_subject for one in made} == {">"}
        cursor = page.cursor
    before = await consumers(coordinator)
    await OverviewReader(coordinator).read()
    assert len(await consumers(coordinator) - before) == 1


class _ByName(NamedTuple):
    name: str
    filter_subject: str | None


async def consumers(bus: Coordinator) -> set[_ByName]:
    return {_ByName(one.name, one.filter_subject) for one in await bus.bus.consumers(subjects.STATE_STREAM)}


async def test_one_list_finds_what_is_far_behind_many_changes_of_few_tasks(coordinator: Coordinator) -> None:
    await publish(coordinator, "old")
    [key] = [TaskKey("code", task_id) for task_id in await fill(coordinator, 1)]
    record = await Ledger(coordinator.bus).read(key)
    assert isinstance(record, Record)
    revision = record.revision
    for _ in range(700):
        revision = await Ledger(coordinator.bus).write(key, record.entry, revision=revision)
    assert await pages(coordinator, 1) == [["n0000"], ["old"]]


# -- what a list shows of settled tasks, without their results --------------------------------------------------


async def test_a_list_without_results_shows_the_same_but_for_them(coordinator: Coordinator) -> None:
    await publish(coordinator, "a", "b", "c", "d")
    await settle(coordinator, "a", "a long output")
    await settle(coordinator, "b", status="failed", error="it broke\nin two lines: \u00e9\u202e")
    await settle(coordinator, "c", status="needs_approval")
    await coordinator.task("d").cancel("no longer needed")
    whole = await coordinator.list_tasks()
    assert [status.result is not None for status in whole.tasks] == [False, True, True, True]
    brief = await coordinator.list_tasks(with_results=False)
    assert [status.result for status in brief.tasks] == [None] * 4
    assert [shown(status) for status in brief.tasks] == [shown(status) for status in whole.tasks]
    assert [status.error for status in brief.tasks] == [None, None, "it broke\nin two lines: \u00e9\u202e", None]


def shown(status: TaskStatus) -> tuple[object, ...]:
    view = listed_task(status).model_dump()
    return status.to_json(with_result=False), view, status.settled, status.state_in_words, str(status.name)


async def test_a_list_without_results_reads_no_settled_entry_and_the_others_whole(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a", "b")
    await settle(coordinator, "a", "x" * 100_000)
    async with altered_link(server.url) as link, connect(link.url) as reader:
        asked: list[bytes] = []
        link.changes["$JS.API.DIRECT.GET"] = lambda data: asked.append(data) or data
        assert ids(await reader.list_tasks(with_results=False)) == ["a", "b"]
        assert len(asked) == 1
        assert ids(await reader.list_tasks()) == ["a", "b"]
        assert len(asked) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"sender":"agent-x","inbox":"main"}',
        '{"sender":"agent-x","inbox":"no id!","task_type":"t"}',
        '{"sender":"agent-x","inbox":"main","task_type":"t","attempt":-1}',
        '{"sender":"agent-x","inbox":"main","task_type":"t","error":' + '"' + "e" * 161 + '"}',
        '{"sender":"agent-x","inbox":"main","task_type":"t","x":"' + "y" * 800 + '"}',
        '{"sender":"agent-x","inbox":"main","task_type":"t","attempt":1e400}',
    ],
)
async def test_an_entry_whose_summary_cannot_be_used_is_read_whole(coordinator: Coordinator, text: str) -> None:
    await publish(coordinator, "a")
    await settle(coordinator, "a", "the output")
    stored = await coordinator.bus.last_message(subjects.STATE_STREAM, subjects.state(TaskKey("code", "a")))
    assert stored
    assert "Bus-Summary" in stored.headers
    headers = {"Bus-State": "completed", **({"Bus-Summary": text} if text else {})}
    await coordinator.bus.store(stored.subject, stored.data, headers=headers, msg_id="again")
    [status] = (await coordinator.list_tasks(with_results=False)).tasks
    assert (status.state, status.record.entry.sender) == ("completed", "agent-main")
    assert status.record.summary is None


async def test_a_summary_says_nothing_of_a_task_that_is_not_settled(coordinator: Coordinator) -> None:
    await publish(coordinator, "a")
    stored = await coordinator.bus.last_message(subjects.STATE_STREAM, subjects.state(TaskKey("code", "a")))
    assert stored
    assert "Bus-Summary" not in stored.headers
    summary = '{"sender":"agent-x","inbox":"main","task_type":"forged"}'
    headers = {"Bus-State": "queued", "Bus-Summary": summary}
    await coordinator.bus.store(stored.subject, stored.data, headers=headers, msg_id="again")
    [status] = (await coordinator.list_tasks(with_results=False)).tasks
    assert (status.state, status.record.entry.task_type) == ("queued", "test")


async def test_a_summary_that_would_be_too_long_is_left_out(coordinator: Coordinator) -> None:
    await publish(coordinator, "a")
    await settle(coordinator, "a", status="failed", error="e" * 160)
    await publish(coordinator, "b")
    await settle(coordinator, "b", status="failed", error="e" * 160, failure=Failure("not_started", "m" * 500))
    found = await coordinator.list_tasks(with_results=False)
    assert [(one.task_id, one.record.summary is None, one.error) for one in found.tasks] == [
        ("b", True, "e" * 160),
        ("a", False, "e" * 160),
    ]


async def test_a_bus_that_is_not_set_up_says_so(server: NatsServer) -> None:
    async with connect(server.url) as bare:
        with pytest.raises(SetupMissingError, match="agentbus setup"):
            await bare.list_tasks()


async def test_listing_needs_no_right_beyond_reading_the_ledger(tmp_path: Path) -> None:
    users = {"main": only(READ_LEDGER), "other": only(["x"], "other"), "follower": only(READ_LEDGER[:2], "follower")}
    async with restricted_bus(tmp_path, users) as bus:
        await publish(bus.admin, "a", "b")
        async with connect(bus.url("main")) as main:
            assert await pages(main, 1) == [["b"], ["a"]]
            assert ids(await main.list_tasks(agent="code", state="queued")) == ["b", "a"]
        for user in ("other", "follower"):
            async with connect(bus.url(user)) as restricted:
                with pytest.raises(PermissionDeniedError, match="an administrator must grant it"):
                    await restricted.list_tasks()


# -- the command ------------------------------------------------------------------------------------------------


async def test_the_command_prints_a_line_for_each_task_and_says_how_to_go_on(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a", "b", "c")
    await settle(coordinator, "c", "a long output")
    first = await run_cli("task", "list", "--limit", "2", "--nats-url", server.url)
    lines = [json.loads(line) for line in first.out.splitlines()]
    assert [(line["id"], line["agent"], line["state"]) for line in lines] == [
        ("c", "code", "completed"),
        ("b", "code", "queued"),
    ]
    assert "a long output" not in first.out
    assert first.err.startswith("older tasks: --cursor ")
    option = first.err.removeprefix("older tasks: ").split()
    assert len(first.err.splitlines()) == 1
    second = await run_cli("task", "list", *option, "--agent", "code", "--state", "queued", "--nats-url", server.url)
    assert [json.loads(line)["id"] for line in second.out.splitlines()] == ["a"]
    assert (second.code, second.err) == (0, "")


async def test_the_command_searches_on_by_itself_and_says_how_far_it_is(
    server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await publish(coordinator, "old")
    await settle(coordinator, "old")
    await fill(coordinator, 40)
    monkeypatch.setattr(task_list, "_SCAN_FIRST", 5)
    monkeypatch.setattr(Coordinator, "list_tasks", partialmethod(Coordinator.list_tasks, search_s=0))
    await TaskSearch(coordinator, 5, None).run(agent=None, owner=None, state="completed")
    printed = capsys.readouterr()
    assert [json.loads(line)["id"] for line in printed.out.splitlines()] == ["old"]
    [reached] = printed.err.splitlines()
    assert re.fullmatch(r"searched back to \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC; 17 entries are left", reached)


async def test_an_interrupted_search_prints_what_it_has_and_how_to_go_on(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await publish(coordinator, "a", "b")
    await settle(coordinator, "b")
    await fill(coordinator, 8)
    whole, reached = Coordinator.list_tasks, asyncio.Event()

    async def stands_still(bus: Coordinator, cursor: int | None, **wanted: Any) -> TaskList:
        if cursor is not None:
            reached.set()
            await asyncio.Event().wait()
        found = await whole(bus, cursor=cursor, **wanted)
        return replace(found, partial=True, cursor=3, left=2, reached=datetime.now(UTC))

    monkeypatch.setattr(Coordinator, "list_tasks", stands_still)
    search = asyncio.create_task(TaskSearch(coordinator, 5, None).run(agent=None, owner=None, state="completed"))
    await reached.wait()
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    printed = capsys.readouterr()
    assert [json.loads(line)["id"] for line in printed.out.splitlines()] == ["b"]
    assert printed.err.splitlines()[-1] == "older tasks: --cursor 3"
