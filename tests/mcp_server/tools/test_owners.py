"""Tools over tasks of several coordinators: who asked for what, and whose task a call is about."""

import json
from typing import Any

from agentbus import Coordinator, Task, connect
from agentbus.provision.nats_server import NatsServer
from support.mcp_harness import both_eras, data_of, in_memory, settle

JOB: dict[str, Any] = {"to": "code", "content": "work", "task_type": "test", "task_id": "job"}


async def publish_as(server: NatsServer, name: str) -> Task:
    async with connect(server.url) as connected:
        return (await Coordinator(connected.bus, name).publish("code", f"of {name}", task_id="job")).message


@both_eras
async def test_an_operator_sees_who_asked_and_acts_on_the_task_of_another_by_its_name(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await publish_as(server, "alice")
    async with in_memory(server.url, era) as client:
        await client.call_tool("publish_task", JOB)
        listed = data_of(await client.call_tool("list_tasks", {}))
        of_alice = data_of(await client.call_tool("list_tasks", {"asked_by": "alice"}))
        mine = data_of(await client.call_tool("get_task", {"task_id": "code/job"}))
        theirs = data_of(await client.call_tool("get_task", {"task_id": "code/~alice/job"}))
        await settle(coordinator, "job", "of main")
        done = await client.call_tool("get_results", {"task_ids": ["code/job", "code/~alice/job"]})
        cancelled = data_of(await client.call_tool("cancel_task", {"task_ids": ["code/~alice/job"]}))
        resource = await client.read_resource("agentbus://tasks/code/~alice/job")
    assert [(one["task_id"], one.get("asked_by")) for one in listed["tasks"]] == [("job", None), ("job", "alice")]
    assert [one["asked_by"] for one in of_alice["tasks"]] == ["alice"]
    assert (mine.get("asked_by"), theirs["asked_by"]) == (None, "alice")
    assert theirs["next"]["arguments"]["task_ids"] == ["code/~alice/job"]
    results, [pending] = data_of(done)["results"], data_of(done)["pending"]
    assert [one["output"] for one in results] == ["of main"]
    assert (pending["task_id"], pending["asked_by"]) == ("job", "alice")
    assert cancelled["tasks"][0]["effect"] == "it will not be started"
    assert json.loads(resource.contents[0].model_dump()["text"])["asked_by"] == "alice"


@both_eras
async def test_a_member_gives_and_sees_its_own_tasks_only(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "of main", task_id="other")
    async with in_memory(server.url, era, coordinator="alice") as client:
        published = data_of(await client.call_tool("publish_task", JOB))
        listed = data_of(await client.call_tool("list_tasks", {}))
        answer = await client.call_tool("get_task", {"task_id": "code/other"})
        waited = data_of(
            await client.call_tool(published["next"]["tool"], {**published["next"]["arguments"], "timeout_seconds": 0})
        )
    assert [one["task_id"] for one in listed["tasks"]] == ["job"]
    assert answer.is_error
    assert waited["pending"][0]["task_id"] == "job"
    assert (await coordinator.task("code/~alice/job").status()).owner == "alice"


async def test_an_operator_other_than_main_is_led_to_the_very_task_that_it_looked_at(
    server: NatsServer, coordinator: Coordinator
) -> None:
    """Its own task of the same id is another one, and so is that of a third one."""
    for name in ("main", "alice", "bob"):
        await publish_as(server, name)
    await settle(coordinator, "job", "line of main\n" * 3_000)
    async with in_memory(server.url, coordinator="bob", role="operator") as client:
        listed = data_of(await client.call_tool("list_tasks", {}))
        names = ["code/~main/job", "code/~alice/job", "code/job"]
        watched = data_of(await client.call_tool("watch_results", {"task_ids": names, "timeout_seconds": 0}))
        first = data_of(await client.call_tool("get_results", {"task_ids": names[:1]}))
        rest = data_of(await client.call_tool(first["next"]["tool"], first["next"]["arguments"]))
    assert [(one["task_id"], one["asked_by"]) for one in listed["tasks"]] == [
        ("job", "main"),
        ("job", "bob"),
        ("job", "alice"),
    ]
    assert [(one["asked_by"], one["status"]) for one in watched["results"]] == [("main", "completed")]
    assert [one["asked_by"] for one in watched["pending"]] == ["alice", "bob"]
    assert watched["next"]["arguments"]["task_ids"] == ["code/~alice/job", "code/~bob/job"]
    assert first["next"]["arguments"]["task_ids"] == ["code/~main/job"]
    assert "line of main" in rest["results"][0]["output"]


async def test_an_answer_of_another_coordinator_is_named_and_not_given_again(
    server: NatsServer, coordinator: Coordinator
) -> None:
    task = await publish_as(server, "alice")
    await publish_as(server, "bob")
    await settle(coordinator, "job", "status=needs_approval\nMay I?", owner="alice", status="needs_approval", task=task)
    asked = {"task_id": "code/~alice/job", "approve": True}
    async with in_memory(server.url, coordinator="bob", role="operator") as client:
        before = data_of(await client.call_tool("get_task", {"task_id": "code/~alice/job"}))
        await coordinator.task("code/~alice/job").answer(approve=False)
        after = data_of(await client.call_tool("get_task", {"task_id": "code/~alice/job"}))
        refused = await client.call_tool("answer_approval", asked)
    assert "answered_by" not in before
    assert before["next"]["arguments"] == {"task_id": "code/~alice/job"}
    assert (after["answered_by"], after["next"]["arguments"]["task_id"]) == ("job.answer", "code/~main/job.answer")
    assert refused.is_error
    assert "main answers the task job" in str(refused.content)
