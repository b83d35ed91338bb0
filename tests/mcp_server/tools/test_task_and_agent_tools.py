"""get_task, list_tasks, list_agents, cancel_task and answer_approval over a real bus, with clients of both eras."""

from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.protocol.ledger_entry import Claim, Record, claimed
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.listing import task_list
from agentbus_mcp.tools import list_tasks
from support.harness import eventually, worker, worker_toml
from support.jobs import WAIT_S
from support.mcp_harness import both_eras, data_of, error_of, in_memory, settle, text_of

pytestmark = both_eras


async def claim(coordinator: Coordinator, task_id: str, agent: str = "code") -> None:
    """Claim a task as a worker does."""
    ledger = Ledger(coordinator.bus)
    record = await ledger.read(TaskKey(agent, task_id))
    assert isinstance(record, Record)
    taken = Claim(worker="machine-1", nonce="n", lease_s=30, since="2026-05-18T00:00:00+00:00")
    await ledger.write(TaskKey(agent, task_id), claimed(record.entry, taken, 1), revision=record.revision)


# -- get_task ---------------------------------------------------------------------------------------------------


async def test_a_task_is_shown_with_its_state_since_when_and_the_next_call(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for task_id in ("waits", "runs", "done"):
        await coordinator.publish("code", "the work", task_type="test", task_id=task_id)
    await claim(coordinator, "runs")
    await settle(coordinator, "done", "the output")
    async with in_memory(server.url, era) as client:
        waits, runs, done = [
            data_of(await client.call_tool("get_task", {"task_id": task_id})) for task_id in ("waits", "runs", "done")
        ]
    assert (waits["state"], waits["online"], waits["agent"], waits["sender"]) == ("queued", False, "code", "agent-main")
    assert waits["next"] == {"tool": "watch_results", "arguments": {"task_ids": ["code/waits"]}}
    assert (runs["state"], runs["worker"], runs["attempt"]) == ("working", "machine-1", 1)
    assert runs["since"] == "2026-05-18T00:00:00+00:00"
    assert (done["state"], done["result"]["output"], done["result"]["agent"]) == ("completed", "the output", "code")
    assert "not instructions" in done["note"]
    assert "next" not in done


async def test_a_task_with_a_long_output_names_the_call_that_reads_the_rest(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    await settle(coordinator, "a", "x" * 10_000)
    async with in_memory(server.url, era) as client:
        task = data_of(await client.call_tool("get_task", {"task_id": "a"}))
        rest = data_of(await client.call_tool(task["next"]["tool"], task["next"]["arguments"]))
    assert task["result"]["output"] + rest["results"][0]["output"] == "x" * 10_000


async def test_a_task_of_an_unknown_id_is_an_error_that_names_the_way_to_find_it(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async with in_memory(server.url, era) as client:
        text = error_of(await client.call_tool("get_task", {"task_id": "nope"}))
    assert text.startswith("get_task: no task nope is known on this bus")
    assert "list_tasks finds others" in text


# -- list_tasks -------------------------------------------------------------------------------------------------


async def test_tasks_are_listed_by_their_last_change_in_pages_and_by_state(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for number in range(5):
        agent = "doc" if number == 4 else "code"
        await coordinator.publish(agent, "work", task_type="test", task_id=f"t{number}")
    await settle(coordinator, "t1", status="failed", error="it broke")
    async with in_memory(server.url, era) as client:
        first = data_of(await client.call_tool("list_tasks", {"limit": 2}))
        second = data_of(await client.call_tool(first["next"]["tool"], first["next"]["arguments"]))
        failed = data_of(await client.call_tool("list_tasks", {"state": "failed"}))
        of_doc = data_of(await client.call_tool("list_tasks", {"agent": "agent-doc"}))
    assert [task["task_id"] for task in first["tasks"] + second["tasks"]] == ["t1", "t4", "t3", "t2"]
    assert [(task["task_id"], task["error"]) for task in failed["tasks"]] == [("t1", "it broke")]
    assert "next" not in failed
    assert [(task["task_id"], task["state"]) for task in of_doc["tasks"]] == [("t4", "queued")]


async def test_a_search_that_stops_early_says_how_far_it_came_and_goes_on(
    era: str, server: NatsServer, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="old")
    await settle(coordinator, "old", "x" * 10_000)
    for number in range(30):
        await coordinator.publish("code", "work", task_type="test", task_id=f"t{number}")
    monkeypatch.setattr(list_tasks, "_SEARCH_S", 0)
    monkeypatch.setattr(task_list, "_SCAN_FIRST", 1)
    wanted = {"state": "completed", "limit": 2}
    async with in_memory(server.url, era) as client:
        first = data_of(await client.call_tool("list_tasks", wanted))
        second = data_of(await client.call_tool(first["next"]["tool"], first["next"]["arguments"]))
        third = data_of(await client.call_tool(second["next"]["tool"], second["next"]["arguments"]))
    assert (first["tasks"], first["partial"]) == ([], True)
    reached = (await coordinator.list_tasks(limit=30)).tasks[11].record.changed_at.isoformat(timespec="seconds")
    assert first["note"] == f"searched back to {reached}; 19 older entries are left: call next to go on"
    assert [task["task_id"] for task in third["tasks"]] == ["old"]
    assert "note" not in third


# -- list_agents ------------------------------------------------------------------------------------------------


async def test_agents_are_listed_with_their_workers_and_their_backlog(
    era: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code", "doc"])
    await coordinator.publish("doc", "work", task_type="test")

    async def counted() -> bool:
        return [agent.waiting for agent in await coordinator.overview("doc")] == [1]

    await eventually(counted, "the server has counted it, a moment after it has acknowledged it")
    config = worker_toml(tmp_path, server.url, agent="code")
    async with worker(config), in_memory(server.url, era) as client:
        concise = data_of(await client.call_tool("list_agents", {}))
        detailed = data_of(await client.call_tool("list_agents", {"agent": "code", "response_format": "detailed"}))
        sent = data_of(
            await client.call_tool("publish_task", {"to": ["code", "doc"], "content": "say:hi", "task_type": "test"})
        )
    code, doc = concise["agents"]
    assert (code["agent"], code["online"], code["workers"], code["waiting"]) == ("code", True, 1, 0)
    assert (doc["agent"], doc["online"], doc["workers"], doc["waiting"]) == ("doc", False, 0, 1)
    assert "details" not in code
    [only] = detailed["agents"]
    assert only["details"][0]["instance"]
    assert [(task["agent"], task["online"]) for task in sent["published"]] == [("code", True), ("doc", False)]
    assert sent["published"][1]["waiting"] == 2
    assert sent["note"].startswith("no worker of doc is alive now")
    assert sent["note"].endswith("Alive: code")


async def test_a_name_that_the_bus_has_never_seen_is_published_with_the_one_that_was_probably_meant(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with in_memory(server.url, era) as client:
        sent = data_of(await client.call_tool("publish_task", {"to": ["cod"], "content": "x", "task_type": "test"}))
    assert "This bus has never seen cod: did you mean code?" in sent["note"]


# -- cancel_task ------------------------------------------------------------------------------------------------


async def test_cancelling_reports_its_effect_on_each_task(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for task_id in ("waits", "runs", "done"):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    await claim(coordinator, "runs")
    await settle(coordinator, "done")
    ids = ["waits", "runs", "done", "nope"]
    async with in_memory(server.url, era) as client:
        data = data_of(await client.call_tool("cancel_task", {"task_ids": ids, "reason": "not needed"}))
        again = data_of(await client.call_tool("cancel_task", {"task_ids": ids}))
        pending = data_of(
            await client.call_tool(data["next"]["tool"], {**data["next"]["arguments"], "timeout_seconds": 0})
        )
        none = error_of(await client.call_tool("cancel_task", {"task_ids": ["nope"]}))
    assert [(task["task_id"], task["state"]) for task in data["tasks"]] == [
        ("waits", "cancelled"),
        ("runs", "working"),
        ("done", "completed"),
    ]
    assert [task["effect"].split(":")[0].split(";")[0] for task in data["tasks"]] == [
        "it will not be started",
        "it is being ended",
        "too late",
    ]
    assert [task["task_id"] for task in data["unknown"]] == ["nope"]
    assert data["next"] == {"tool": "watch_results", "arguments": {"task_ids": ["code/runs"]}}
    assert again["tasks"] == data["tasks"]
    assert pending["pending"][0]["cancel"].endswith(": not needed")
    assert none.startswith("cancel_task: no task nope is known on this bus")


async def test_a_running_task_is_ended(era: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path) -> None:
    await set_up(coordinator.bus, ["code"])
    pid = tmp_path / "pid"
    async with worker(worker_toml(tmp_path, server.url)), in_memory(server.url, era) as client:
        call = {"to": "code", "content": f"pid:{pid} sleep:600", "task_type": "test", "task_id": "long"}
        await client.call_tool("publish_task", call)
        async with coordinator.inbox() as inbox:
            working = await coordinator.wait(["long"], timeout_s=0)
            while working.pending["long"].state != "working":
                working = await coordinator.wait(["long"], timeout_s=0.1)
            sent = data_of(await client.call_tool("cancel_task", {"task_ids": "long"}))
            # A worker may be as fast as the answer: then it tells the end, and there is nothing left to wait for.
            following = sent["next"]["arguments"] if "next" in sent else {"task_ids": "long"}
            data = data_of(await client.call_tool("watch_results", {**following, "timeout_seconds": 60}))
            assert (await inbox.next()).result
    assert data["results"][0]["status"] == "cancelled"


# -- answer_approval --------------------------------------------------------------------------------------------


async def test_an_approval_goes_back_to_the_agent_as_a_task_of_its_own(
    era: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with worker(worker_toml(tmp_path, server.url)), in_memory(server.url, era) as client:
        call = {"to": "code", "content": "approval", "task_type": "test", "task_id": "risky"}
        sent = data_of(await client.call_tool("publish_task", call))
        asked = data_of(await client.call_tool("watch_results", {**sent["next"]["arguments"], "timeout_seconds": 60}))
        seen = data_of(await client.call_tool("get_task", {"task_id": "risky"}))
        assert seen["next"] == {"tool": "answer_approval", "arguments": {"task_id": "code/risky"}}
        decision = {**seen["next"]["arguments"], "approve": True, "comment": "only this branch"}
        answered = data_of(await client.call_tool("answer_approval", decision))
        again = data_of(await client.call_tool("answer_approval", decision))
        other = error_of(await client.call_tool("answer_approval", {**decision, "approve": False}))
        await coordinator.wait([answered["task_id"]], timeout_s=WAIT_S)
        after = data_of(await client.call_tool("get_task", {"task_id": "risky"}))
    assert asked["results"][0]["status"] == "needs_approval"
    assert "ask the user, then call answer_approval" in asked["note"]
    assert (answered["decision"], answered["task_id"], answered["agent"]) == ("approved", "risky.answer", "code")
    assert answered["next"] == {"tool": "watch_results", "arguments": {"task_ids": ["code/risky.answer"]}}
    assert "note" not in answered
    assert (answered["known"], again["known"]) == (False, True)
    assert "was answered before, with another decision or comment" in other
    assert after["answered_by"] == "risky.answer"
    assert after["next"] == {"tool": "get_task", "arguments": {"task_id": "code/risky.answer"}}


async def test_only_a_task_that_needs_approval_can_be_answered(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    async with in_memory(server.url, era) as client:
        text = error_of(await client.call_tool("answer_approval", {"task_id": "a", "approve": True}))
        missing = await client.call_tool("answer_approval", {"task_id": "a"})
    assert "only a task whose result is needs_approval can be answered" in text
    assert text_of(missing) == "answer_approval: approve: is missing"
