"""Listing tasks: by last change, filtered, page by page, with bounded work."""

import json
from pathlib import Path

import pytest

from agentbus import Coordinator, TaskList, connect
from agentbus.errors import InvalidIdError, MessageError, PermissionDeniedError, SetupMissingError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Record, queued
from agentbus.protocol.messages import new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks import task_list
from agentbus.tasks.ledger import Ledger
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


async def test_a_search_stops_after_a_bounded_number_of_entries_and_goes_on_from_its_cursor(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await publish(coordinator, "old-1", "old-2")
    await settle(coordinator, "old-1")
    await settle(coordinator, "old-2")
    await fill(coordinator, 30)
    monkeypatch.setattr(task_list, "SCAN_LIMIT", 20)
    monkeypatch.setattr(task_list, "_SCAN_STEP", 7)
    first = await coordinator.list_tasks(state="completed")
    assert (ids(first), first.partial) == ([], True)
    second = await coordinator.list_tasks(state="completed", cursor=first.cursor)
    assert (ids(second), second.partial, second.cursor) == (["old-2", "old-1"], False, None)


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
    second = await run_cli("task", "list", *option, "--agent", "code", "--state", "queued", "--nats-url", server.url)
    assert [json.loads(line)["id"] for line in second.out.splitlines()] == ["a"]
    assert (second.code, second.err) == (0, "")
