"""People with roles of their own on one bus: each does its work without one refusal, and sees what is its own."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.shared.subscriptions import ResourceUpdated

from agentbus import Coordinator
from agentbus.errors import PermissionDeniedError, TaskNotFoundError
from agentbus.protocol import subjects
from agentbus.protocol.parties.ledger_streams import ledger_of
from agentbus.protocol.roles import Role
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.output_store import read_output
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.server import create_server
from support.harness import BOUND_S, eventually, worker
from support.installation import OwnBus
from support.mcp_harness import until_watched
from support.mcp_task_client import knowing_tasks
from support.messages_on_bus import contents

pytestmark = pytest.mark.posix("a worker needs process groups and signals")


async def is_working(coordinator: Coordinator, task_id: str) -> bool:
    return (await coordinator.task(task_id).status()).state == "working"


async def settled(coordinator: Coordinator, task_id: str) -> Any:
    return (await coordinator.wait([task_id], timeout_s=BOUND_S)).settled[task_id]


@pytest.mark.parametrize("name", ["alice", "dave", "carol", "main"])
async def test_who_gives_tasks_does_so_without_a_violation(team: OwnBus, tmp_path: Path, name: str) -> None:
    role: Role = "operator" if name in ("carol", "main") else "member"
    async with team.coordinator(name, role) as me, worker(team.worker_toml(tmp_path, "code")), me.inbox() as inbox:
        task = await me.publish("code", "bytes:700000", task_type="test")
        status = await settled(me, task.id)
        assert (status.state, status.owner) == ("completed", name)
        assert b"".join([piece async for piece in read_output(me.bus, status)]) == b"x" * 700_000
        message = await inbox.next()
        assert message.result
        assert message.result.task_id == task.id
        assert (await me.publish("code", "bytes:700000", task_type="test", task_id=task.id)).known

        running = await me.publish("code", "sleep:30", task_type="test")
        await eventually(lambda: is_working(me, running.id), "the task is being worked on")
        await me.task(running.id).cancel("not needed")
        assert (await settled(me, running.id)).state == "cancelled"

        again = await me.task(task.id).retry()
        assert (await settled(me, again.id)).state == "completed"
        asking = await me.publish("code", "approval", task_type="test")
        assert (await settled(me, asking.id)).state in ("needs_approval", "completed")
        assert {one.task_id for one in (await me.list_tasks()).tasks} >= {task.id, running.id, again.id}
        assert [agent.agent for agent in await me.overview() if agent.online] == ["code"]
        assert [one.agent for one in await me.agents()] == ["code"]
    assert team.violations() == []


async def test_an_agent_serves_all_owners_and_each_sees_its_own(team: OwnBus, tmp_path: Path) -> None:
    async with (
        team.coordinator("alice") as alice,
        team.coordinator("dave") as dave,
        team.coordinator("carol", "operator") as carol,
        team.coordinator("main") as main,
        worker(team.worker_toml(tmp_path, "code")),
    ):
        everyone = {"alice": alice, "dave": dave, "carol": carol, "main": main}
        for name, one in everyone.items():
            await one.publish("code", f"say:for_{name}", task_type="test", task_id="release-1")
        for name, one in everyone.items():
            status = await settled(one, "release-1")
            assert (status.owner, status.result.result) == (name, f"for {name}\n")
            [message] = await eventually(partial(one.results, newest=5), f"the result is in the inbox of {name}")
            assert message.result.result == f"for {name}\n"
        for one in (alice, dave):
            [listed] = (await one.list_tasks()).tasks
            assert listed.owner == one.agent
        for one in (carol, main):
            assert {listed.owner for listed in (await one.list_tasks()).tasks} == set(everyone)
        assert (await carol.task("release-1", owner="dave").status()).owner == "dave"
    assert team.violations() == []


async def test_a_member_does_not_find_the_task_of_another_one(team: OwnBus) -> None:
    async with team.coordinator("alice") as alice, team.coordinator("dave") as dave:
        task = await dave.publish("code", "x", task_type="test")
        with pytest.raises(TaskNotFoundError):
            await alice.task(task.id).status()
        with pytest.raises(TaskNotFoundError):
            await alice.task(task.id).cancel()
        assert (await dave.task(task.id).status()).state == "queued"
    assert team.violations() == []


@pytest.mark.parametrize(
    ("name", "agent", "at_a_time"), [("alice", "code", "all"), ("lead", "doc", "all"), ("main", "code", "each")]
)
async def test_who_waits_for_several_tasks_follows_what_it_may_see(
    team: OwnBus, name: str, agent: str, at_a_time: str
) -> None:
    """A member has one filter that is bound to its own name; with several, it could name the tasks of others."""
    async with team.coordinator(name, "operator" if name == "main" else "member") as me:
        tasks = [await me.publish(agent, "x", task_type="test") for _ in range(3)]
        waiting = asyncio.create_task(me.wait(tasks, timeout_s=BOUND_S))
        async with team.coordinator("admin") as admin:
            [consumer] = await eventually(lambda: admin.bus.consumers(ledger_of(agent)), "the ledger is followed")
        filters = [subjects.state(TaskKey(agent, task.id, name)) for task in tasks]
        if at_a_time == "each":
            assert sorted(consumer.config["filter_subjects"]) == sorted(filters)
        else:
            assert consumer.filter_subject == subjects.states(agent, name)
        for task in tasks:
            await task.cancel()
        assert (await waiting).pending == {}
        assert team.violations() == []
        if at_a_time == "all":
            others = [subjects.state(TaskKey(agent, "job", "dave")), *filters]
            with pytest.raises(PermissionDeniedError):
                await me.bus.create_consumer(ledger_of(agent), "feed-x", {"filter_subjects": others})


async def test_a_wait_whose_filters_are_refused_has_a_wider_one_and_tries_no_second_time(team: OwnBus) -> None:
    """As on a bus of an older layout: here by a member that takes itself for an operator."""
    async with team.coordinator("alice", "operator") as alice:
        for _ in range(2):
            tasks = [await alice.publish("code", "x", task_type="test") for _ in range(3)]
            waiting = asyncio.create_task(alice.wait(tasks, timeout_s=BOUND_S))
            async with team.coordinator("admin") as admin:
                await until_watched(admin.bus, ledger_of("code"))
            for task in tasks:
                await alice.task(task.id, agent="code", owner="alice").cancel()
            assert (await waiting).pending == {}
    assert len([line for line in team.violations() if "CONSUMER.CREATE.KV_AGENT_STATE" in line]) == 1


async def test_a_task_for_an_agent_that_a_member_has_not_is_refused(team: OwnBus) -> None:
    async with team.coordinator("alice") as alice:
        before = await contents(team)
        with pytest.raises(PermissionDeniedError):
            await alice.publish("doc", "no", task_type="test")
        assert await contents(team) == before


async def test_an_operator_sees_and_cancels_the_tasks_of_a_member(team: OwnBus, tmp_path: Path) -> None:
    async with (
        team.coordinator("alice") as alice,
        team.coordinator("carol", "operator") as carol,
        worker(team.worker_toml(tmp_path, "code")),
    ):
        task = await alice.publish("code", "sleep:30", task_type="test")
        await eventually(lambda: is_working(alice, task.id), "the task is being worked on")
        await carol.task(task.id, owner="alice").cancel("the day is over")
        status = await settled(alice, task.id)
        assert (status.state, status.owner) == ("cancelled", "alice")
        [message] = await eventually(lambda: alice.results(newest=5), "the result is in the inbox of its owner")
        assert message.result.status == "cancelled"
        assert await carol.results(newest=5) == []
    assert team.violations() == []


async def test_a_viewer_sees_all_and_its_looks_write_nothing(team: OwnBus, tmp_path: Path) -> None:
    async with team.coordinator("alice") as alice, team.coordinator("bob", "viewer") as bob:
        async with worker(team.worker_toml(tmp_path, "code")):
            task = await alice.publish("code", "bytes:700000", task_type="test")
            await settled(alice, task.id)
        waiting = await alice.publish("code", "later", task_type="test")
        before = await contents(team)
        assert {one.task_id for one in (await bob.list_tasks()).tasks} == {task.id, waiting.id}
        status = await bob.task(task.id, owner="alice").status()
        assert b"".join([piece async for piece in read_output(bob.bus, status)]) == b"x" * 700_000
        waited = await bob.wait([bob.task(waiting.id, owner="alice")], timeout_s=0.1)
        assert list(waited.pending) == [waiting.id]
        assert await bob.results(newest=5) == []
        assert [agent.agent for agent in await bob.overview()] == ["code", "doc", "lead"]
        assert await bob.agents() == []
        assert team.violations() == []

        for refused in (bob.publish("code", "x", task_type="test"), bob.task(waiting.id, owner="alice").cancel()):
            with pytest.raises(PermissionDeniedError):
                await refused
        assert await contents(team) == before


# -- over MCP ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def mcp_client(team: OwnBus, name: str, role: Role, **about: Any) -> AsyncGenerator[Client]:
    link = BusLink(team.settings(name), name, role)
    async with link.open(), Client(create_server(link), **about) as client:
        yield client


async def test_every_mcp_tool_does_the_work_of_a_member_without_a_violation(team: OwnBus, tmp_path: Path) -> None:
    async with mcp_client(team, "alice", "member") as client, worker(team.worker_toml(tmp_path, "code")):
        calls: list[tuple[str, dict[str, Any]]] = [
            ("publish_task", {"to": "code", "content": "say:done", "task_type": "test", "task_id": "job"}),
            ("watch_results", {"task_ids": ["job"], "timeout_seconds": 25}),
            ("watch_results", {"cursor": 0, "timeout_seconds": 0}),
            ("get_results", {"task_ids": ["job"]}),
            ("get_results", {}),
            ("get_task", {"task_id": "job"}),
            ("list_tasks", {}),
            ("list_questions", {}),
            ("list_agents", {"response_format": "detailed"}),
            ("cancel_task", {"task_ids": ["job"]}),
        ]
        for tool, arguments in calls:
            answer = await client.call_tool(tool, arguments)
            assert not answer.is_error, (tool, answer)
        for uri in ("agentbus://streams/AGENT_TASKS", "agentbus://agents", "agentbus://questions"):
            [content] = (await client.read_resource(uri)).contents
            assert json.loads(getattr(content, "text", ""))
    assert team.violations() == []


async def test_a_member_follows_its_tasks_as_mcp_tasks(team: OwnBus, tmp_path: Path) -> None:
    async with (
        knowing_tasks(partial(mcp_client, team, "alice", "member")) as tasks,
        worker(team.worker_toml(tmp_path, "code")),
    ):
        job = {"to": "code", "content": "say:done", "task_type": "test", "watch": True}
        done = await tasks.until((await tasks.call("publish_task", job))["taskId"], "completed")
        [result] = done["result"]["structuredContent"]["results"]
        assert result["output"] == "done\n"
    assert team.violations() == []


async def test_a_member_is_told_of_changes_of_its_task_and_of_no_other_one(team: OwnBus) -> None:
    async with team.coordinator("alice") as alice, team.coordinator("main") as main:
        mine = await alice.publish("code", "later", task_type="test", task_id="job")
        await main.publish("code", "later", task_type="test", task_id="job")
        async with mcp_client(team, "alice", "member") as client:
            uri = "agentbus://tasks/code/~alice/job"
            async with client.listen(resource_subscriptions=[uri]) as changes:
                await mine.cancel()
                async with asyncio.timeout(BOUND_S):
                    told = await anext(aiter(changes))
    assert isinstance(told, ResourceUpdated)
    assert told.uri == uri
    assert team.violations() == []


async def test_the_mcp_tools_that_look_work_for_a_viewer_without_a_violation(team: OwnBus) -> None:
    async with team.coordinator("alice") as alice:
        task = await alice.publish("code", "later", task_type="test")
    before = await contents(team)
    async with mcp_client(team, "bob", "viewer") as client:
        for tool, arguments in (
            ("list_tasks", {}),
            ("list_questions", {}),
            ("list_agents", {}),
            ("get_task", {"task_id": task.id}),
            ("get_results", {}),
            ("watch_results", {"cursor": 0, "timeout_seconds": 0}),
        ):
            answer = await client.call_tool(tool, arguments)
            assert not answer.is_error, (tool, answer)
        refused = await client.call_tool("publish_task", {"to": "code", "content": "x", "task_type": "test"})
        assert refused.is_error or "permission" in str(refused)
    assert await contents(team) == before
