"""The Tasks extension with tools of these tests: its messages, its records on the bus, and refused requests."""

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from mcp import Client, MCPError

from agentbus import Coordinator
from agentbus.config.connection_settings import connection_settings
from agentbus.config.schema import NatsSection
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import encode
from agentbus.provision.nats_server import NatsServer
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.notifications.task_notifications import TASKS_EXTENSION
from agentbus_mcp.server import Server
from support.mcp_harness import both_eras, text_of
from support.mcp_task_client import TaskClient, knowing_tasks, request
from support.task_tools import POLL_MS, SCRIPTED, Scripted, add_task_tools

UNKNOWN, INTERNAL, UNDECLARED, METHOD_NOT_FOUND = -32602, -32603, -32021, -32601


@asynccontextmanager
async def scripted(url: str, **client: Any) -> AsyncGenerator[Client]:
    """Connect a client to a server with the tools of these tests."""
    bus_link = BusLink(
        connection_settings(NatsSection(url=url), agent="main", name="test", reconnect_wait_s=0.2), "main"
    )
    tasks = {**SCRIPTED, "short_lived": Scripted(ttl_ms=1)}
    server = Server(bus_link, tasks=tasks)
    add_task_tools(server)
    async with bus_link.open(), Client(server, **client) as open_client:
        yield open_client


@asynccontextmanager
async def tasks_on(server: NatsServer) -> AsyncGenerator[TaskClient]:
    """Connect a client that declares the extension."""
    async with knowing_tasks(partial(scripted, server.url)) as client:
        yield client


async def refused(request: Any) -> tuple[int, str]:
    with pytest.raises(MCPError) as caught:
        await request
    return caught.value.code, caught.value.message


# -- creation ---------------------------------------------------------------------------------------------------


async def test_a_call_is_answered_with_a_task_that_can_be_read_at_once(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        created = await tasks.call("slow_compute", {"seconds": 0.5, "label": "x"})
        assert created["resultType"] == "task"
        assert created["status"] == "working"
        assert (created["ttlMs"], created["pollIntervalMs"]) == (600_000, POLL_MS)
        assert not {"task", "result", "error", "inputRequests", "requestState"} & created.keys()
        age = datetime.now(UTC) - datetime.fromisoformat(created["createdAt"])
        assert timedelta(0) <= age < timedelta(minutes=1)
        first = await tasks.get(created["taskId"])
        assert first["resultType"] == "complete"
        assert first["status"] == "working"
        assert "result" not in first
        done = await tasks.until(created["taskId"], "completed")
        assert done["result"]["content"] == [{"type": "text", "text": "computed x in 0.5 s"}]
        assert done["createdAt"] == created["createdAt"]
        assert done["lastUpdatedAt"] > created["lastUpdatedAt"]
        assert await tasks.get(created["taskId"]) == done, "an end never changes"


async def test_task_ids_name_their_tool_and_cannot_be_guessed(server: NatsServer, coordinator: Coordinator) -> None:
    async with tasks_on(server) as tasks:
        ids = [(await tasks.call("slow_compute", {"seconds": 60}))["taskId"] for _ in range(5)]
        for task_id in ids:
            tool, day, token = task_id.split("-")
            assert tool == "slow_compute"
            assert day == f"{datetime.now(UTC):%Y%m%d}"
            assert len(token) == 28
        assert len(set(ids)) == 5


async def test_a_call_with_nothing_to_wait_for_is_answered_at_once(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        for tool, arguments in (("slow_compute", {"seconds": 0}), ("greet", {"name": "World"})):
            answer = await tasks.call(tool, arguments)
            assert answer["resultType"] == "complete"
            assert "taskId" not in answer
            assert answer["content"]


async def test_a_client_of_the_sdk_gets_the_result_of_the_task(server: NatsServer, coordinator: Coordinator) -> None:
    async with tasks_on(server) as tasks:
        answer = await tasks.client.call_tool("slow_compute", {"seconds": 0.3, "label": "sdk"})
        assert text_of(answer) == "computed sdk in 0.3 s"


async def test_bad_arguments_are_an_error_of_the_tool_and_create_no_task(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        answer = await tasks.call("slow_compute", {"seconds": "many"})
        assert answer["isError"]
        assert "seconds" in answer["content"][0]["text"]
        answer = await tasks.call("slow_compute", {"second": 1})
        assert answer["isError"]
        assert "the nearest is 'seconds'" in answer["content"][0]["text"]


async def test_an_error_of_the_tool_is_a_result_and_one_of_the_protocol_is_a_failure(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        job = await tasks.call("failing_job")
        broken = await tasks.call("protocol_error_job")
        completed = await tasks.until(job["taskId"], "completed", "failed")
        assert completed["status"] == "completed"
        assert completed["result"]["isError"] is True
        failed = await tasks.until(broken["taskId"], "completed", "failed")
        assert failed["status"] == "failed"
        assert failed["error"] == {"code": INTERNAL, "message": "the job has broken the protocol"}
        assert failed["statusMessage"] == "the job has broken the protocol"
        assert "result" not in failed


# -- input ------------------------------------------------------------------------------------------------------


async def test_a_task_requests_input_and_continues_with_the_answer(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("confirm_delete", {"filename": "a.txt"}))["taskId"]
        asking = await tasks.get(task_id)
        assert asking["status"] == "input_required"
        assert asking["inputRequests"]["confirm"]["method"] == "elicitation/create"
        assert asking["inputRequests"]["confirm"]["params"]["message"] == "Delete a.txt?"
        answer = {"action": "accept", "content": {"confirm": True}}
        assert await tasks.update(task_id, {"confirm": answer}) == {"resultType": "complete"}
        done = await tasks.until(task_id, "completed")
        assert done["result"]["content"][0]["text"] == "deleted a.txt {'confirm': True}"


async def test_requests_are_answered_one_at_a_time_and_unknown_answers_are_ignored(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("multi_input"))["taskId"]
        assert set((await tasks.get(task_id))["inputRequests"]) == {"name", "sure"}
        await tasks.update(
            task_id, {"name": {"action": "accept", "content": {"name": "x"}}, "other": {"action": "accept"}}
        )
        left = await tasks.get(task_id)
        assert left["status"] == "input_required"
        assert set(left["inputRequests"]) == {"sure"}
        await tasks.update(task_id, {"name": {"action": "accept", "content": {"name": "y"}}})
        await tasks.update(task_id, {"sure": {"action": "accept", "content": {"confirm": True}}})
        done = await tasks.until(task_id, "completed")
        assert done["result"]["content"][0]["text"] == "asked twice {'name': 'x'} {'confirm': True}"


async def test_a_request_for_input_before_the_task_is_answered_by_calling_again(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        asked = await tasks.client.session.call_tool("test_tool_with_task", {}, allow_input_required=True)
        assert asked.result_type == "input_required"


# -- ends -------------------------------------------------------------------------------------------------------


async def test_a_cancelled_task_is_cancelled_for_good_and_cancelling_again_is_harmless(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("slow_compute", {"seconds": 0.3}))["taskId"]
        for _ in range(2):
            assert await tasks.cancel(task_id) == {"resultType": "complete"}
            assert (await tasks.get(task_id))["status"] == "cancelled"
        done = (await tasks.call("slow_compute", {"seconds": 0.1}))["taskId"]
        await tasks.until(done, "completed")
        assert await tasks.cancel(done) == {"resultType": "complete"}
        assert (await tasks.get(done))["status"] == "completed"
        assert (await tasks.get(task_id))["status"] == "cancelled"


@pytest.mark.parametrize(
    "task_id",
    [
        "slow_compute-20261122-zzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        "",
        "a.b",
        "*",
        ">",
        "x" * 300,
        "a b",
        "ä",
        "../x",
        "=a",
    ],
)
async def test_an_unknown_id_is_refused_by_every_method(
    task_id: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        for sent in (tasks.get(task_id), tasks.cancel(task_id), tasks.update(task_id, {})):
            code, text = await refused(sent)
            assert code == UNKNOWN
            assert "Task not found" in text
            assert "\n" not in text
            assert len(text) < 400


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tasks/get", {}),
        ("tasks/get", {"taskId": 7}),
        ("tasks/cancel", {"taskId": None}),
        ("tasks/update", {"taskId": "x"}),
        ("tasks/update", {"taskId": "x", "inputResponses": []}),
    ],
)
async def test_parameters_that_do_not_fit_are_refused(
    method: str, params: dict[str, Any], server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        code, _ = await refused(request(tasks.client.session, method, params))
        assert code == UNKNOWN


async def test_the_methods_of_the_2025_tasks_do_not_exist(server: NatsServer, coordinator: Coordinator) -> None:
    async with tasks_on(server) as tasks:
        for method in ("tasks/list", "tasks/result"):
            assert (await refused(request(tasks.client.session, method, {})))[0] == METHOD_NOT_FOUND


async def test_an_expired_task_has_another_error_than_an_unknown_one(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("slow_compute", {"seconds": 60}))["taskId"]
        record = await kept(coordinator, task_id)
        await keep(coordinator, task_id, {**record, "ttl_ms": 1})
        code, text = await refused(tasks.get(task_id))
        assert code == UNKNOWN
        assert "Task has expired" in text


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"tool": 1}'])
async def test_a_record_that_cannot_be_read_is_an_internal_error(
    data: bytes, coordinator: Coordinator, server: NatsServer
) -> None:
    async with tasks_on(server) as tasks:
        await coordinator.bus.store(subjects.mcp_task("main", "broken"), data)
        code, text = await refused(tasks.get("broken"))
        assert code == INTERNAL
        assert text.startswith("the record of the MCP task broken cannot be read")


async def kept(coordinator: Coordinator, task_id: str) -> dict[str, Any]:
    """Read the record of an MCP task from the bus."""
    message = await coordinator.bus.last_message(subjects.STATE_STREAM, subjects.mcp_task("main", task_id))
    assert message
    return json.loads(message.data)


async def keep(coordinator: Coordinator, task_id: str, record: dict[str, Any]) -> None:
    await coordinator.bus.store(subjects.mcp_task("main", task_id), encode(record))


# -- access -----------------------------------------------------------------------------------------------------


@both_eras
async def test_a_client_without_the_extension_gets_the_ordinary_answer(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async with scripted(server.url, mode=era) as client:
        answer = await client.call_tool("slow_compute", {"seconds": 0.1, "label": "y"})
        assert text_of(answer) == "computed y in 0.1 s"


async def test_a_tool_that_needs_tasks_is_refused_to_a_client_without_the_extension(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with scripted(server.url) as client:
        with pytest.raises(MCPError) as caught:
            await client.call_tool("failing_job", {})
    assert caught.value.code == UNDECLARED
    assert caught.value.data["requiredCapabilities"]["extensions"] == {TASKS_EXTENSION: {}}


async def test_the_methods_are_refused_to_a_client_that_has_not_declared_the_extension(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("slow_compute", {"seconds": 60}))["taskId"]
        async with scripted(server.url) as client:
            other = TaskClient(client, tasks.news)
            for sent in (other.get(task_id), other.cancel(task_id), other.update(task_id, {})):
                assert (await refused(sent))[0] == UNDECLARED
        assert (await tasks.get(task_id))["status"] == "working"


async def test_the_extension_is_announced(server: NatsServer, coordinator: Coordinator) -> None:
    async with tasks_on(server) as tasks:
        capabilities = tasks.client.server_capabilities
        assert capabilities
        assert capabilities.extensions == {TASKS_EXTENSION: {}}


async def test_two_clients_see_the_same_task(server: NatsServer, coordinator: Coordinator) -> None:
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("confirm_delete", {"filename": "a"}))["taskId"]
        async with knowing_tasks(partial(scripted, server.url)) as other:
            assert (await other.get(task_id))["status"] == "input_required"
            await other.update(task_id, {"confirm": {"action": "accept", "content": {"confirm": True}}})
            done = await tasks.until(task_id, "completed")
            assert await other.get(task_id) == done


# -- notifications ----------------------------------------------------------------------------------------------


async def test_each_state_is_notified_once(server: NatsServer, coordinator: Coordinator) -> None:
    async with tasks_on(server) as tasks:
        task_id = (await tasks.call("slow_compute", {"seconds": 0.5}))["taskId"]
        async with tasks.listening(task_id):
            first = await tasks.told()
            assert (first["taskId"], first["status"]) == (task_id, "working")
            second = await tasks.told()
            assert second["status"] == "completed"
            got = await tasks.get(task_id)
            assert second == {key: value for key, value in got.items() if key != "resultType"}
            other = (await tasks.call("slow_compute", {"seconds": 60}))["taskId"]
            async with tasks.listening(other, "no-such-task"):
                assert (await tasks.told())["taskId"] == other
                await tasks.cancel(other)
                last = await tasks.told()
                assert (last["taskId"], last["status"]) == (other, "cancelled")
        assert tasks.news.empty()


async def test_listening_for_tasks_is_refused_to_a_client_without_the_extension(
    server: NatsServer, coordinator: Coordinator
) -> None:
    async with tasks_on(server) as tasks, scripted(server.url) as client:
        other = TaskClient(client, tasks.news)
        async with other.listening("x") as listening:
            assert (await refused(listening))[0] == UNDECLARED
