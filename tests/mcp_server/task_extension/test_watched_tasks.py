"""Calls that continue as MCP tasks until there are results: their creation, states, results and cancellation."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp_types import HEADER_MISMATCH, ElicitResult

from agentbus import Coordinator, connect
from agentbus.bus.setup import set_up
from agentbus.bus.wanted.retention import Keep
from agentbus.errors import TaskNotFoundError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.messages import new_task
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer, start_server
from agentbus.tasks.ledger import Ledger
from agentbus_mcp.notifications.task_notifications import TASKS_EXTENSION
from support.free_ports import free_port
from support.harness import eventually, worker, worker_toml
from support.jobs import ASKS_UNLESS_ANSWERED, agent_keys
from support.mcp_harness import (
    both_eras,
    data_of,
    error_of,
    http_server,
    in_memory,
    over_stdio,
    put,
    result_message,
    settle,
)
from support.mcp_task_client import TaskClient, Wire, knowing_tasks
from support.pace import at_this_pace
from support.restricted import READ_LEDGER, only, restricted_bus

INVALID, INTERNAL = -32602, -32603
UNREACHABLE = "the bus is unreachable; this is the last known state"
DAY_MS = 86_400_000


async def never_asked(*_: Any) -> ElicitResult:
    raise AssertionError("questions of tasks are no requests to the client")


@asynccontextmanager
async def tasks_on(server: NatsServer, *, elicits: bool = True) -> AsyncGenerator[TaskClient]:
    """Connect a client that declares the extension to a server of its own."""
    about = {"elicitation_callback": never_asked} if elicits else {}
    async with knowing_tasks(partial(in_memory, server.url), **about) as client:
        yield client


async def publish(coordinator: Coordinator, *task_ids: str, agent: str = "code") -> None:
    for task_id in task_ids:
        await coordinator.publish(agent, "work", task_type="test", task_id=task_id)


async def ask(coordinator: Coordinator, task_id: str, question: str = "status=needs_approval\nDelete it?") -> None:
    """Settle a task with `needs_approval`."""
    task = new_task(to="code", content="work", task_type="test", task_id=task_id)
    await settle(coordinator, task_id, question, status="needs_approval", task=task)


def same(task: Wire, answer: Any) -> bool:
    """Whether the result of a task is the answer of a call."""
    found = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    found.pop("_meta", None)
    return task["result"] == found


async def test_a_task_is_kept_no_longer_than_the_bus_keeps_results(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, keep=Keep(8, 16))
    await publish(coordinator, "a")
    async with tasks_on(server) as tasks:
        created = await tasks.call("watch_results", {"task_ids": ["a"]})
    assert created["ttlMs"] == 8 * DAY_MS


# -- watching ---------------------------------------------------------------------------------------------------


async def test_a_watch_continues_as_a_task_whose_result_is_the_answer_of_the_tool(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a", "b")
    async with tasks_on(server) as tasks, in_memory(server.url) as plain:
        created = await tasks.call("watch_results", {"task_ids": ["a", "b", "unknown-task"]})
        assert created["resultType"] == "task"
        assert created["taskId"].startswith("watch_results-")
        assert created["ttlMs"] == 30 * DAY_MS
        assert 2_000 <= created["pollIntervalMs"] <= 5_000
        task = await tasks.get(created["taskId"])
        assert (task["status"], task["statusMessage"]) == ("working", "2 queued")
        await settle(coordinator, "a", "first")
        task = await tasks.get(created["taskId"])
        assert (task["status"], task["statusMessage"]) == ("working", "1 completed, 1 queued")
        await settle(coordinator, "b", "second", status="failed", error="no luck")
        done = await tasks.get(created["taskId"])
        assert done["status"] == "completed"
        answer = await plain.call_tool("watch_results", {"task_ids": ["a", "b", "unknown-task"]})
        assert same(done, answer)
        data = data_of(answer)
        assert [(one["task_id"], one["output"]) for one in data["results"]] == [("a", "first"), ("b", "second")]
        assert [one["task_id"] for one in data["unknown"]] == ["unknown-task"]


async def test_a_watch_for_any_result_ends_with_the_first_and_does_not_change_afterwards(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a", "b")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a", "b"], "until": "any"}))["taskId"]
        await settle(coordinator, "b", "quick")
        done = await tasks.get(task_id)
        assert done["status"] == "completed"
        data = done["result"]["structuredContent"]
        assert [one["task_id"] for one in data["results"]] == ["b"]
        assert [one["task_id"] for one in data["pending"]] == ["a"]
        await settle(coordinator, "a", "slow")
        assert await tasks.get(task_id) == done


@pytest.mark.parametrize("arguments", [{"task_ids": ["a"]}, {"task_ids": ["a", "b"], "timeout_seconds": 0}])
async def test_a_watch_with_nothing_to_wait_for_is_answered_at_once(
    arguments: dict[str, Any], server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a", "b")
    await settle(coordinator, "a", "done")
    async with tasks_on(server) as tasks, in_memory(server.url) as plain:
        answer = await tasks.call("watch_results", arguments)
        assert answer["resultType"] == "complete"
        expected = await plain.call_tool("watch_results", {"timeout_seconds": 0, **arguments})
        assert answer["structuredContent"] == data_of(expected)


async def test_a_requested_time_out_ends_the_task_with_the_results_so_far(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"], "timeout_seconds": 0.5}))["taskId"]
        async with tasks.listening(task_id):
            assert (await tasks.told())["status"] == "working"
            done = await tasks.told()
        data = done["result"]["structuredContent"]
        assert data["results"] == []
        assert [(one["task_id"], one["state"]) for one in data["pending"]] == [("a", "queued")]
        assert data["next"] == {"tool": "watch_results", "arguments": {"task_ids": ["code/a"]}}


async def test_the_inbox_is_watched_from_the_call_on_or_after_a_cursor(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await put(coordinator, result_message("old", "before"))
    async with tasks_on(server) as tasks, in_memory(server.url) as plain:
        from_now = await tasks.call("watch_results")
        assert from_now["resultType"] == "task"
        assert (await tasks.get(from_now["taskId"]))["statusMessage"] == "no new message in the inbox of main"
        behind = await tasks.call("watch_results", {"cursor": 0})
        assert [one["task_id"] for one in behind["structuredContent"]["results"]] == ["old"]
        async with tasks.listening(from_now["taskId"]):
            assert (await tasks.told())["status"] == "working"
            await put(coordinator, result_message("new", "after"))
            done = await tasks.told()
        assert done["status"] == "completed"
        answer = await plain.call_tool("watch_results", {"cursor": behind["structuredContent"]["cursor"]})
        assert same(done, answer)
        assert [one["task_id"] for one in data_of(answer)["results"]] == ["new"]


async def test_unknown_ids_are_an_error_of_the_tool(server: NatsServer, coordinator: Coordinator) -> None:
    async with tasks_on(server) as tasks, in_memory(server.url) as plain:
        answer = await tasks.call("watch_results", {"task_ids": ["unknown-task"]})
        assert answer["isError"]
        expected = await plain.call_tool("watch_results", {"task_ids": ["unknown-task"]})
        assert answer["content"][0]["text"] == error_of(expected)


async def test_a_task_is_notified_once_for_each_state_and_not_for_the_renewals_of_a_lease(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a", "other")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        async with tasks.listening(task_id):
            assert (await tasks.told())["statusMessage"] == "1 queued"
            await settle(coordinator, "other")
            for _ in range(3):
                await claim(coordinator, "a")
            assert (await tasks.told())["statusMessage"] == "1 working"
            await settle(coordinator, "a")
            done = await tasks.told()
            assert done["status"] == "completed"
            got = await tasks.get(task_id)
            assert done == {key: value for key, value in got.items() if key != "resultType"}
        assert tasks.news.empty()


async def claim(coordinator: Coordinator, task_id: str) -> None:
    """Claim a task as a worker does, or renew its lease."""
    record = await Ledger(coordinator.bus).read(TaskKey("code", task_id))
    assert isinstance(record, Record)
    wire = {"worker": "w", "nonce": "n", "lease_s": 30, "since": "2026-11-22T00:00:00Z"}
    entry = record.entry.model_validate({**record.entry.model_dump(), "state": "working", "claim": wire})
    await Ledger(coordinator.bus).write(TaskKey("code", task_id), entry, revision=record.revision)


# -- publishing -------------------------------------------------------------------------------------------------

JOB = {"to": ["code", "doc"], "content": "work", "task_type": "test", "task_id": "job", "watch": True}


async def test_a_publication_that_is_watched_becomes_a_task_with_all_results(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        created = await tasks.call("publish_task", JOB)
        assert created["resultType"] == "task"
        assert created["taskId"].startswith("publish_task-")
        assert "no worker of code, doc is alive" in created["statusMessage"]
        assert [(await coordinator.task(one).status()).state for one in ("job-code", "job-doc")] == ["queued", "queued"]
        await settle(coordinator, "job-code", "from code")
        assert (await tasks.get(created["taskId"]))["status"] == "working"
        await settle(coordinator, "job-doc", "from doc", agent="doc")
        done = await tasks.get(created["taskId"])
        data = done["result"]["structuredContent"]
        assert [one["task_id"] for one in data["published"]] == ["job-code", "job-doc"]
        assert [(one["agent"], one["output"]) for one in data["results"]] == [
            ("code", "from code"),
            ("doc", "from doc"),
        ]
        assert "pending" not in data
        assert "next" not in data


async def test_a_publication_that_is_not_watched_is_answered_at_once(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        answer = await tasks.call("publish_task", {**JOB, "watch": False})
        assert answer["resultType"] == "complete"
        assert answer["structuredContent"]["next"]["tool"] == "watch_results"


@both_eras
async def test_without_the_extension_a_publication_waits_as_long_as_a_watch_and_returns_the_results(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async def work() -> None:
        for agent in ("code", "doc"):
            await eventually(partial(known, coordinator, f"job-{agent}"), f"job-{agent} is published")
            await settle(coordinator, f"job-{agent}", f"from {agent}", agent=agent)

    async with in_memory(server.url, era) as plain, asyncio.TaskGroup() as group:
        group.create_task(work())
        data = data_of(await plain.call_tool("publish_task", JOB))
    assert [one["task_id"] for one in data["published"]] == ["job-code", "job-doc"]
    assert [(one["agent"], one["output"]) for one in data["results"]] == [("code", "from code"), ("doc", "from doc")]


async def known(coordinator: Coordinator, task_id: str) -> bool:
    return bool((await coordinator.list_tasks()).tasks) and any(
        status.task_id == task_id for status in (await coordinator.list_tasks()).tasks
    )


async def test_a_refused_publication_is_an_error_of_the_tool_and_creates_no_task(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish_to(["code", "doc"], "another", task_type="test", task_id="job")
    async with tasks_on(server) as tasks:
        answer = await tasks.call("publish_task", JOB)
        assert answer["isError"]
        assert "belongs to another task" in answer["content"][0]["text"]


# -- approvals --------------------------------------------------------------------------------------------------


async def test_a_task_that_needs_approval_asks_for_it_and_waits_for_the_follow_up(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a", "b")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a", "b"]}))["taskId"]
        await ask(coordinator, "a", "status=needs_approval\nDelete the branch \u202e?\n\nYours\x1b[2J")
        asking = await tasks.get(task_id)
        assert asking["status"] == "input_required"
        request = asking["inputRequests"]["a"]
        assert request["method"] == "elicitation/create"
        assert "The agent code has stopped in the task a (test) before" in request["params"]["message"]
        assert "\n> Delete the branch \\u202e?\n> \n> Yours\\u001b[2J" in request["params"]["message"]
        assert request["params"]["requestedSchema"]["required"] == ["approve"]
        yes = {"action": "accept", "content": {"approve": True, "comment": "only main"}}
        assert await tasks.update(task_id, {"a": yes}) == {"resultType": "complete"}
        answer = await coordinator.task("a.answer").status()
        assert answer.state == "queued"
        again = await tasks.get(task_id)
        assert (again["status"], again["statusMessage"]) == ("working", "2 queued")
        await tasks.update(task_id, {"a": {"action": "decline"}})
        await settle(coordinator, "a.answer", "deleted")
        await settle(coordinator, "b", "done")
        done = await tasks.get(task_id)
        data = done["result"]["structuredContent"]
        assert [(one["task_id"], one["output"]) for one in data["results"]] == [("a.answer", "deleted"), ("b", "done")]


async def test_requests_of_tasks_with_one_id_are_told_apart_and_answered_one_by_one(
    server: NatsServer, coordinator: Coordinator
) -> None:
    for agent in ("code", "doc"):
        await publish(coordinator, "a", agent=agent)
        task = new_task(to=agent, content="work", task_type="test", task_id="a")
        await settle(coordinator, "a", "status=needs_approval\nMay I?", agent=agent, status="needs_approval", task=task)
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["code/a", "doc/a"]}))["taskId"]
        assert set((await tasks.get(task_id))["inputRequests"]) == {"code/a", "doc/a"}
        await tasks.update(task_id, {"doc/a": {"action": "accept", "content": {"approve": True}}})
        assert set((await tasks.get(task_id))["inputRequests"]) == {"code/a"}
        with pytest.raises(TaskNotFoundError):
            await coordinator.task("code/a.answer").status()
        assert (await coordinator.task("doc/a.answer").status()).state == "queued"


@pytest.mark.parametrize(
    ("response", "decision"),
    [
        ({"action": "accept", "content": {"approve": True}}, "approved"),
        ({"action": "accept", "content": {"approve": False, "comment": "no"}}, "denied"),
        ({"action": "decline"}, "denied"),
    ],
)
async def test_the_follow_up_says_what_was_decided(
    response: dict[str, Any], decision: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a")
    await ask(coordinator, "a")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        await tasks.update(task_id, {"a": response})
    message = await coordinator.bus.last_message(subjects.TASKS_STREAM, subjects.tasks("code"))
    assert message
    task = json.loads(message.data)
    assert (task["id"], task["payload"]["content"]["decision"]) == ("a.answer", decision)


@pytest.mark.parametrize(
    "response",
    [
        {"action": "accept"},
        {"action": "accept", "content": {}},
        {"action": "accept", "content": {"approve": "yes"}},
        {"action": "perhaps"},
        {},
        "yes",
    ],
)
async def test_only_an_explicit_yes_approves(response: Any, server: NatsServer, coordinator: Coordinator) -> None:
    await publish(coordinator, "a")
    await ask(coordinator, "a")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        with pytest.raises(MCPError) as caught:
            await tasks.update(task_id, {"a": response})
        assert caught.value.code == INVALID
        assert "a" in caught.value.message
        assert (await tasks.get(task_id))["status"] == "input_required"


async def test_a_question_that_is_put_off_stays_open(server: NatsServer, coordinator: Coordinator) -> None:
    await publish(coordinator, "a")
    await ask(coordinator, "a")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        await tasks.update(task_id, {"a": {"action": "cancel"}})
        assert (await tasks.get(task_id))["status"] == "input_required"


async def test_the_answer_of_another_party_is_followed_as_well_and_a_second_question_is_asked(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a")
    await ask(coordinator, "a")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        async with tasks.listening(task_id):
            assert set((await tasks.told())["inputRequests"]) == {"a"}
            follow_up = (await coordinator.task("a").answer(approve=True)).message
            assert (await tasks.told())["status"] == "working"
            await settle(coordinator, "a.answer", "And the tags?", status="needs_approval", task=follow_up)
            assert set((await tasks.told())["inputRequests"]) == {"a.answer"}
            await tasks.update(task_id, {"a.answer": {"action": "decline"}})
            assert (await tasks.told())["status"] == "working"
            await settle(coordinator, "a.answer.answer", "left them")
            done = await tasks.told()
        assert [one["output"] for one in done["result"]["structuredContent"]["results"]] == ["left them"]


async def test_a_client_that_cannot_ask_a_person_gets_the_question_as_a_result(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a")
    async with tasks_on(server, elicits=False) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        await ask(coordinator, "a", "status=needs_approval\nDelete it?")
        done = await tasks.get(task_id)
        [result] = done["result"]["structuredContent"]["results"]
        assert result["status"] == "needs_approval"
        assert "Delete it?" in result["output"]


# -- cancelling -------------------------------------------------------------------------------------------------


async def test_cancelling_a_publication_cancels_its_tasks_and_cancelling_a_watch_does_not(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        published = (await tasks.call("publish_task", JOB))["taskId"]
        watched = (await tasks.call("watch_results", {"task_ids": ["job-code", "job-doc"]}))["taskId"]
        await settle(coordinator, "job-doc", agent="doc")
        await tasks.cancel(watched)
        assert (await tasks.get(watched))["status"] == "cancelled"
        assert (await coordinator.task("job-code").status()).state == "queued"
        assert (await tasks.get(published))["status"] == "working"
        await tasks.cancel(published)
        assert (await tasks.get(published))["status"] == "cancelled"
        code, doc = await coordinator.task("job-code").status(), await coordinator.task("job-doc").status()
        assert (code.state, doc.state) == ("cancelled", "completed")
        assert code.record.entry.cancel
        assert code.record.entry.cancel.reason == "the MCP task that published it was cancelled"


async def test_cancelling_a_publication_cancels_the_follow_up_that_is_waited_for(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("publish_task", {**JOB, "to": "code"}))["taskId"]
        await ask(coordinator, "job")
        await tasks.update(task_id, {"job": {"action": "accept", "content": {"approve": True}}})
        await tasks.cancel(task_id)
        assert (await coordinator.task("job.answer").status()).state == "cancelled"


async def test_cancelling_a_completed_task_keeps_the_result(server: NatsServer, coordinator: Coordinator) -> None:
    await publish(coordinator, "a")
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        await settle(coordinator, "a", "done")
        await tasks.cancel(task_id)
        assert (await tasks.get(task_id))["status"] == "completed"


# -- what a task survives ---------------------------------------------------------------------------------------


async def test_another_server_of_the_same_coordinator_answers_for_a_task(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await publish(coordinator, "a")
    async with tasks_on(server) as first:
        task_id = (await first.call("watch_results", {"task_ids": ["a"]}))["taskId"]
    async with tasks_on(server) as second, tasks_on(server) as third:
        assert (await second.get(task_id))["status"] == "working"
        async with third.listening(task_id):
            assert (await third.told())["status"] == "working"
            await second.cancel(task_id)
            assert (await third.told())["status"] == "cancelled"


async def test_an_outage_of_the_bus_ends_no_task(tmp_path: Path) -> None:
    bus = await start_server(store=tmp_path, port=free_port())
    port = int(bus.url.rpartition(":")[2])
    try:
        async with connect(bus.url) as coordinator:
            await set_up(coordinator.bus)
            await publish(coordinator, "a")
        async with tasks_on(bus) as tasks, AsyncExitStack() as later:
            task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
            soon = at_this_pace(0.1)  # and not before the call is answered
            done_id = (await tasks.call("watch_results", {"task_ids": ["a"], "timeout_seconds": soon}))["taskId"]
            done = await tasks.until(done_id, "completed")
            async with tasks.listening(task_id):
                assert (await tasks.told())["status"] == "working"
                await bus.stop()
                away = await tasks.get(task_id)
                assert (away["status"], away["statusMessage"]) == ("working", UNREACHABLE)
                assert await tasks.get(done_id) == done
                next_one = await later.enter_async_context(tasks_on(bus))
                with pytest.raises(MCPError, match="call again") as caught:
                    await next_one.get(task_id)
                assert caught.value.code == INTERNAL
                bus = await start_server(store=tmp_path, port=port)
                async with connect(bus.url) as again:
                    await settle(again, "a", "at last")
                told = await tasks.told()
                assert told["status"] == "completed"
                assert (await tasks.get(task_id))["result"] == told["result"]
                assert (await next_one.until(task_id, "completed"))["result"] == told["result"]
    finally:
        await bus.stop()


async def test_a_listener_that_connects_during_an_outage_is_notified_after_it(tmp_path: Path) -> None:
    bus = await start_server(store=tmp_path, port=free_port())
    port = int(bus.url.rpartition(":")[2])
    try:
        async with connect(bus.url) as coordinator:
            await set_up(coordinator.bus)
            await publish(coordinator, "a")
        async with tasks_on(bus) as tasks:
            task_id = (await tasks.call("watch_results", {"task_ids": ["a"]}))["taskId"]
            await bus.stop()
            async with tasks.listening(task_id):
                assert (await tasks.told())["statusMessage"] == UNREACHABLE
                bus = await start_server(store=tmp_path, port=port)
                async with connect(bus.url) as again:
                    await settle(again, "a", "at last")
                while (told := await tasks.told())["status"] != "completed":
                    assert told["status"] == "working"
    finally:
        await bus.stop()


async def test_a_call_whose_record_cannot_be_stored_gets_the_ordinary_answer(tmp_path: Path) -> None:
    allowed = only([*READ_LEDGER, "agent.code.tasks", "$KV.AGENT_STATE.code.>"])
    async with (
        restricted_bus(tmp_path, {"main": allowed}) as bus,
        knowing_tasks(partial(in_memory, bus.url("main"))) as tasks,
    ):
        answer = await tasks.call("publish_task", {**JOB, "to": "code"})
        assert answer["resultType"] == "complete"
        call = answer["structuredContent"]["next"]
        assert call == {"tool": "watch_results", "arguments": {"task_ids": ["code/job"]}}
        watched = await tasks.call(call["tool"], call["arguments"])
        assert watched["resultType"] == "complete"
        assert watched["structuredContent"] == {"results": [], "next": call}


# -- with the real processes ------------------------------------------------------------------------------------


def mcp_servers() -> list[int]:
    """List the server processes that this process has started."""
    children = [
        pid
        for thread in Path("/proc/self/task").iterdir()
        for pid in (thread / "children").read_text(encoding="utf-8").split()
    ]
    return [int(pid) for pid in children if b"agentbus_mcp" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def at(server: NatsServer, log: Path, **about: Any) -> Any:
    """Connect a client to a real server process."""
    return knowing_tasks(partial(over_stdio, log, "auto", "--nats-url", server.url), **about)


async def test_a_killed_server_loses_no_task_and_the_next_one_delivers_the_result(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    await set_up(coordinator.bus, ["code"])
    async with worker(worker_toml(tmp_path, server.url)):
        async with at(server, tmp_path / "first.log") as first:
            job = {"to": "code", "content": f"wait:{go}", "task_type": "test", "watch": True}
            created = await first.call("publish_task", job)
            await first.until(created["taskId"], "working", message="1 working")
            [pid] = mcp_servers()
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(MCPError, match="Connection closed"):
                await first.get(created["taskId"])
        async with at(server, tmp_path / "second.log") as second, in_memory(server.url) as plain:
            assert (await second.get(created["taskId"]))["status"] == "working"
            async with second.listening(created["taskId"]):
                assert (await second.told())["status"] == "working"
                go.touch()
                done = await second.told()
            assert done["status"] == "completed"
            data = done["result"]["structuredContent"]
            [published] = data["published"]
            watched = data_of(await plain.call_tool("watch_results", {"task_ids": [published["task_id"]]}))
            assert data["results"] == watched["results"]
            assert (await second.get(created["taskId"]))["result"] == done["result"]


async def test_an_approval_goes_to_the_agent_and_its_work_comes_back(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    config = worker_toml(tmp_path, server.url, chat_cmd=[sys.executable, "-c", ASKS_UNLESS_ANSWERED])
    agent_keys(config, prompt_via="stdin")
    client = at(server, tmp_path / "mcp.log", elicitation_callback=never_asked)
    async with worker(config), client as tasks:
        job = {"to": "code", "content": "clean up", "task_type": "test", "watch": True}
        task_id = (await tasks.call("publish_task", job))["taskId"]
        async with tasks.listening(task_id):
            while (told := await tasks.told())["status"] != "input_required":
                assert told["status"] == "working"
            [(asking, request)] = told["inputRequests"].items()
            assert "\n> may I delete the branch?" in request["params"]["message"]
            yes = {"action": "accept", "content": {"approve": True, "comment": "only that one"}}
            await tasks.update(task_id, {asking: yes})
            while (told := await tasks.told())["status"] != "completed":
                assert told["status"] == "working"
    [result] = told["result"]["structuredContent"]["results"]
    assert (result["task_id"], result["output"]) == (f"{asking}.answer", "deleted\n")


async def test_over_http_a_killed_server_loses_no_task_and_each_client_is_notified_of_its_end(
    server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await publish(coordinator, "a")
    async with (
        http_server(tmp_path / "first.log", "--nats-url", server.url) as serving,
        knowing_tasks(partial(Client, serving.url)) as client,
    ):
        task_id = (await client.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        assert (await client.get(task_id))["status"] == "working"
        serving.process.kill()
    async with (
        http_server(tmp_path / "second.log", "--nats-url", server.url) as serving,
        knowing_tasks(partial(Client, serving.url)) as one,
        knowing_tasks(partial(Client, serving.url)) as other,
        one.listening(task_id),
        other.listening(task_id),
    ):
        assert [(await client.told())["status"] for client in (one, other)] == ["working", "working"]
        await settle(coordinator, "a", "done")
        first, second = await one.told(), await other.told()
        assert first == second
        assert first["result"]["structuredContent"]["results"][0]["output"] == "done"
        assert (await other.get(task_id))["result"] == first["result"]


@pytest.mark.parametrize("name", [None, "another"])
async def test_a_header_that_names_another_task_is_refused(
    name: str | None, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await publish(coordinator, "a")
    async with http_server(tmp_path / "mcp.log", "--nats-url", server.url) as serving:
        async with knowing_tasks(partial(Client, serving.url)) as client:
            task_id = (await client.call("watch_results", {"task_ids": ["a"]}))["taskId"]
        meta: dict[str, Any] = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS_EXTENSION: {}}},
        }
        request: dict[str, Any] = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "tasks/get",
            "params": {"taskId": task_id, "_meta": meta},
        }
        headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28"}
        headers |= {"Mcp-Method": "tasks/get"} | ({"Mcp-Name": name} if name else {})
        async with httpx2.AsyncClient() as http:
            refused = await http.post(serving.url, json=request, headers=headers)
            answered = await http.post(serving.url, json=request, headers={**headers, "Mcp-Name": task_id})
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == HEADER_MISMATCH
    assert answered.status_code == 200
    assert task_id in answered.text
