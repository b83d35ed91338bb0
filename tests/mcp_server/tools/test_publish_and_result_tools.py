"""publish_task, watch_results and get_results over a real bus, with clients of both protocol eras."""

import asyncio
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.protocol.json_codec import decode
from agentbus.protocol.messages import Failure
from agentbus.protocol.outcomes.run_report import Denied, Run, Usage
from agentbus.provision.nats_server import NatsServer
from support.mcp_harness import both_eras, data_of, error_of, in_memory, put, result_message, settle, until_watched

pytestmark = both_eras


async def stored_task(coordinator: Coordinator, agent: str) -> Any:
    message = await coordinator.bus.last_message("AGENT_TASKS", f"agent.{agent}.tasks")
    assert message is not None
    return decode(message.data)


# -- publish_task -----------------------------------------------------------------------------------------------


async def test_publish_gives_each_target_a_task_of_its_own(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async with in_memory(server.url, era) as client:
        answer = await client.call_tool(
            "publish_task", {"to": ["code", "agent-doc"], "content": "Review it", "task_type": "review"}
        )
    data = data_of(answer)
    assert [(task["agent"], task["state"], task["known"]) for task in data["published"]] == [
        ("code", "queued", False),
        ("doc", "queued", False),
    ]
    ids = [task["task_id"] for task in data["published"]]
    names = [f"{agent}/{task_id}" for agent, task_id in zip(["code", "doc"], ids, strict=True)]
    assert data["next"] == {"tool": "watch_results", "arguments": {"task_ids": names}}
    assert "failed" not in data
    stored = await stored_task(coordinator, "code")
    assert (stored["id"], stored["from"], stored["to"], stored["reply_to"]) == (
        ids[0],
        "agent-main",
        "agent-code",
        "agent-main",
    )
    assert stored["payload"] == {"fmt": "text", "content": "Review it"}


async def test_publishing_again_under_the_same_id_is_the_same_task(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    call = {"to": "code", "content": "once", "task_type": "test", "task_id": "mine", "reply_to": "ops"}
    async with in_memory(server.url, era) as client:
        first = data_of(await client.call_tool("publish_task", call))
        await settle(coordinator, "mine")
        again = data_of(await client.call_tool("publish_task", call))
        other = await client.call_tool("publish_task", {**call, "content": "something else"})
    assert first["published"] == [
        {"agent": "code", "task_id": "mine", "state": "queued", "known": False, "online": False, "waiting": 1}
    ]
    assert again["published"] == [{"agent": "code", "task_id": "mine", "state": "completed", "known": True}]
    assert error_of(other).startswith("publish_task: the id mine belongs to another task of code (completed)")
    assert len(await coordinator.results(10, agent="ops")) == 1


async def test_publish_says_which_targets_failed_and_why(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("doc", "taken", task_type="test", task_id="job-doc")
    call = {"to": ["code", "doc"], "content": "new", "task_type": "test", "task_id": "job"}
    async with in_memory(server.url, era) as client:
        data = data_of(await client.call_tool("publish_task", call))
    assert [task["task_id"] for task in data["published"]] == ["job-code"]
    [failed] = data["failed"]
    assert (failed["agent"], failed["task_id"]) == ("doc", "job-doc")
    assert "belongs to another task" in failed["error"]
    assert data["next"]["arguments"] == {"task_ids": ["code/job-code"]}


@pytest.mark.parametrize(
    ("payload_fmt", "content", "stored"),
    [
        ("text", '{"a": [1,  2]}', '{"a": [1,  2]}'),
        ("text", "null", "null"),
        ("json", {"a": [1, 2]}, {"a": [1, 2]}),
        ("json", '{"a": [1, 2]}', {"a": [1, 2]}),
        ("json", "just text", "just text"),
        ("json", [True, 0.5], [True, 0.5]),
        (None, '{"a": 1}', '{"a": 1}'),
        (None, {"a": 1}, {"a": 1}),
    ],
)
async def test_content_arrives_as_it_was_written(
    era: str, payload_fmt: str | None, content: Any, stored: Any, server: NatsServer, coordinator: Coordinator
) -> None:
    call = {"to": ["code"], "content": content, "task_type": "test"}
    given = {} if payload_fmt is None else {"payload_fmt": payload_fmt}
    async with in_memory(server.url, era) as client:
        data_of(await client.call_tool("publish_task", {**call, **given}))
    written = payload_fmt or ("text" if isinstance(content, str) else "json")
    assert (await stored_task(coordinator, "code"))["payload"] == {"fmt": written, "content": stored}


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("publish_task", {}, "publish_task: to: is missing; content: is missing; task_type: is missing"),
        ("publish_task", {"to": [], "content": "x", "task_type": "t"}, "to: Value should have at least 1 item"),
        ("publish_task", {"to": ["a.b"], "content": "x", "task_type": "t"}, "agent id 'a.b' is not valid"),
        ("publish_task", {"to": ["a"], "content": "x", "task_type": "t", "task_id": ".."}, "task id '..' is not valid"),
        (
            "publish_task",
            {"to": ["a"], "content": {}, "task_type": "t", "payload_fmt": "text"},
            "set fmt to json for anything else",
        ),
        ("publish_task", {"to": ["a"], "content": "x", "task_type": "t", "payload_fmt": "xml"}, "'text' or 'json'"),
        ("watch_results", {"timeout": 3}, "no argument 'timeout'; the nearest is 'timeout_seconds'"),
        ("watch_results", {"timeout_seconds": 999}, "timeout_seconds: should be less than or equal to 240"),
        ("get_results", {"newest": 0}, "newest: should be greater than or equal to 1"),
        ("get_results", {"newest": 51}, "newest: should be less than or equal to 50"),
        ("get_results", {"agent": "*"}, "agent id '*' is not valid"),
    ],
)
async def test_bad_arguments_are_named_with_what_is_wrong(
    era: str, tool: str, arguments: dict[str, Any], said: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async with in_memory(server.url, era) as client:
        text = error_of(await client.call_tool(tool, arguments))
    assert said in text
    assert "pydantic" not in text
    assert "\n" not in text


# -- watch_results ----------------------------------------------------------------------------------------------


async def test_watch_returns_early_when_all_have_a_result(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for task_id in ("a", "b"):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    told: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))
        if message == "a: completed (1 queued, 1 completed)":
            await settle(coordinator, "b", {"as": "json"}, status="failed", error="it broke")

    async with in_memory(server.url, era) as client, asyncio.TaskGroup() as group:
        group.create_task(settle_when_watched(coordinator, "a"))
        answer = await client.call_tool(
            "watch_results",
            {"task_ids": ["a", "b"], "timeout_seconds": 60, "response_format": "detailed"},
            progress_callback=on_progress,
        )
    data = data_of(answer)
    first, second = data["results"]
    assert first == {
        "task_id": "a",
        "agent": "code",
        "worker": "machine-1",
        "task_type": "test",
        "status": "completed",
        "completed_at": first["completed_at"],
        "output": "done",
        "output_bytes": 4,
    }
    assert (second["status"], second["output"], second["error"]) == ("failed", '{"as":"json"}', "it broke")
    assert "next" not in data
    assert "pending" not in data
    # The answer itself reports the last change.
    assert [message for _, _, message in told[:2]] == ["2 queued", "a: completed (1 queued, 1 completed)"]
    assert told[0][0] < told[1][0]
    assert told[0][1] == 60


async def settle_when_watched(coordinator: Coordinator, task_id: str, output: str = "done") -> None:
    """Settle a task once a watch has its consumer on the ledger."""
    await until_watched(coordinator.bus, "KV_AGENT_STATE")
    await settle(coordinator, task_id, output)


async def test_watch_any_returns_with_the_first_and_names_the_rest(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for task_id in ("a", "b"):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    async with in_memory(server.url, era) as client, asyncio.TaskGroup() as group:
        group.create_task(settle_when_watched(coordinator, "b"))
        data = data_of(
            await client.call_tool("watch_results", {"task_ids": ["a", "b"], "until": "any", "timeout_seconds": 60})
        )
    assert [result["task_id"] for result in data["results"]] == ["b"]
    [pending] = data["pending"]
    assert (pending["task_id"], pending["agent"], pending["state"]) == ("a", "code", "queued")
    assert pending["since"]
    assert data["next"] == {"tool": "watch_results", "arguments": {"task_ids": ["code/a"], "timeout_seconds": 60}}


async def test_reaching_the_timeout_is_not_an_error(era: str, server: NatsServer, coordinator: Coordinator) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    async with in_memory(server.url, era) as client:
        data = data_of(await client.call_tool("watch_results", {"task_ids": "a", "timeout_seconds": 0}))
        nothing = data_of(await client.call_tool("watch_results", {"timeout_seconds": 0}))
    assert data["results"] == []
    assert [task["state"] for task in data["pending"]] == ["queued"]
    assert nothing["results"] == []
    assert nothing["cursor"] == 0


async def test_unknown_ids_are_named_and_the_others_watched(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    await settle(coordinator, "a")
    async with in_memory(server.url, era) as client:
        for tool in ("watch_results", "get_results"):
            data = data_of(await client.call_tool(tool, {"task_ids": ["nope", "a", "b c"]}))
            assert [result["task_id"] for result in data["results"]] == ["a"]
            assert [task["task_id"] for task in data["unknown"]] == ["nope", "b c"]
            assert "no task nope is known" in data["unknown"][0]["error"]
            assert "not valid" in data["unknown"][1]["error"]
            only = error_of(await client.call_tool(tool, {"task_ids": ["nope"]}))
            assert only.startswith(f"{tool}: no task nope is known on this bus")


async def test_an_inbox_is_watched_from_a_cursor_without_a_gap(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for task_id in ("a", "b", "c"):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    async with in_memory(server.url, era) as client:
        await settle(coordinator, "a")
        before = data_of(await client.call_tool("get_results", {}))
        await settle(coordinator, "b")
        await settle(coordinator, "c")
        after = data_of(await client.call_tool("watch_results", before["next"]["arguments"]))
        rest = data_of(await client.call_tool("watch_results", {**after["next"]["arguments"], "timeout_seconds": 0}))
    assert [result["task_id"] for result in before["results"]] == ["a"]
    assert [result["task_id"] for result in after["results"]] == ["b", "c"]
    assert after["cursor"] > before["cursor"]
    assert (rest["results"], rest["cursor"]) == ([], after["cursor"])


async def test_watching_the_inbox_waits_for_new_messages(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    async def put_when_watched() -> None:
        await until_watched(coordinator.bus, "AGENT_RESULTS")
        await put(coordinator, result_message("foreign", "hello"))

    async with in_memory(server.url, era) as client, asyncio.TaskGroup() as group:
        group.create_task(put_when_watched())
        data = data_of(await client.call_tool("watch_results", {"timeout_seconds": 60}))
    assert [(result["task_id"], result["output"]) for result in data["results"]] == [("foreign", "hello")]


async def test_a_cancelled_watch_does_nothing_to_the_task(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    async with in_memory(server.url, era) as client:
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(client.call_tool("watch_results", {"task_ids": ["a"], "timeout_seconds": 240}))
            await until_watched(coordinator.bus, "KV_AGENT_STATE")
            watch.cancel()
        assert (await coordinator.task("a").status()).state == "queued"
        await settle(coordinator, "a")
        data = data_of(await client.call_tool("watch_results", {"task_ids": ["a"]}))
    assert [result["status"] for result in data["results"]] == ["completed"]


# -- get_results ------------------------------------------------------------------------------------------------


async def test_the_newest_results_come_oldest_first(era: str, server: NatsServer, coordinator: Coordinator) -> None:
    for task_id in ("a", "b", "c"):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
        await settle(coordinator, task_id)
    async with in_memory(server.url, era) as client:
        own = data_of(await client.call_tool("get_results", {"newest": 2}))
        foreign = data_of(await client.call_tool("get_results", {"agent": "doc"}))
    assert [result["task_id"] for result in own["results"]] == ["b", "c"]
    assert foreign["results"] == []
    assert own["next"] == {"tool": "watch_results", "arguments": {"cursor": own["cursor"]}}
    assert foreign["next"]["arguments"] == {"agent": "doc", "cursor": foreign["cursor"]}


async def test_results_of_given_tasks_say_what_is_pending(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for task_id in ("a", "b"):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    await settle(coordinator, "b", "status=needs_approval", status="needs_approval")
    async with in_memory(server.url, era) as client:
        data = data_of(await client.call_tool("get_results", {"task_ids": ["a", "b"]}))
    assert [(result["task_id"], result["status"]) for result in data["results"]] == [("b", "needs_approval")]
    assert [task["task_id"] for task in data["pending"]] == ["a"]
    assert data["next"] == {"tool": "watch_results", "arguments": {"task_ids": ["code/a"]}}


async def test_a_task_that_was_cancelled_before_it_started_is_settled(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    await coordinator.task("a").cancel("not needed")
    async with in_memory(server.url, era) as client:
        data = data_of(await client.call_tool("watch_results", {"task_ids": ["a"], "timeout_seconds": 60}))
    [result] = data["results"]
    assert (result["status"], result["output"]) == ("cancelled", "")
    assert result["error"] == "cancelled by agent-main: not needed"


async def test_the_code_of_a_failure_stands_in_every_answer_and_its_message_once(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for task_id, message in (("a", "it runs as root"), ("b", "Permission denied")):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
        failure = Failure("not_ended" if task_id == "a" else "not_started", message)
        await settle(coordinator, task_id, status="failed", error="cancelled; it runs as root", failure=failure)
    async with in_memory(server.url, era) as client:
        got = data_of(await client.call_tool("get_results", {"task_ids": ["a", "b"]}))
        one = data_of(await client.call_tool("get_task", {"task_id": "b"}))
        listed = data_of(await client.call_tool("list_tasks", {}))
    expected = [{"code": "not_ended"}, {"code": "not_started", "message": "Permission denied"}]
    assert [result["failure"] for result in got["results"]] == expected
    assert one["result"]["failure"] == expected[1]
    assert [task["failure"] for task in listed["tasks"]] == ["not_started", "not_ended"]


async def test_an_answer_tells_the_model_the_cost_and_what_was_denied_and_why_a_task_failed(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    run = Run("claude", kind="claude", session="s-1", model="m-1", usage=Usage(10, 4, 5), cost_usd=0.25,
              denied=(Denied("Bash", "git push"),))  # fmt: skip
    why = "the command exited with status 1: …" + "a warning; " * 60 + "the model is overloaded"
    for task_id in ("a", "b", "c", "d", "e"):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
        failure = Failure("overloaded", why[-400:], 529, 2.5)
        await settle(coordinator, task_id, status="failed", error=why, failure=failure, extra={"run": run.to_json()})
    async with in_memory(server.url, era) as client:
        got = data_of(await client.call_tool("get_results", {"task_ids": ["a", "b", "c", "d", "e"]}))
        call = {"task_ids": ["a"], "response_format": "detailed"}
        [detailed] = data_of(await client.call_tool("get_results", call))["results"]
        one = data_of(await client.call_tool("get_task", {"task_id": "a"}))["result"]
        listed = data_of(await client.call_tool("list_tasks", {}))["tasks"]
    for result in got["results"]:
        assert result["failure"] == {"code": "overloaded", "http_status": 529, "retry_after_s": 2.5}
        denied = [{"tool": "Bash", "summary": "git push"}]
        assert result["run"] == {"denied": denied}
        assert (result["model"], result["cost_usd"]) == ("m-1", 0.25)
        assert result["tokens"] == {"input": 10, "cached_input": 4, "output": 5}
        assert result["error"].startswith("the command exited with status 1")
        assert result["error"].endswith("the model is overloaded")
        assert len(result["error"]) <= 200
    assert (detailed["run"]["session"], detailed["tokens"], detailed["cost_usd"]) == ("s-1", one["tokens"], 0.25)
    assert [task["cost_usd"] for task in listed] == [0.25] * 5


async def test_the_same_id_at_two_agents_is_distinguished_by_the_agent(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for agent in ("code", "doc"):
        await coordinator.publish(agent, "work", task_type="test", task_id="same")
    await settle(coordinator, "same", "of doc", agent="doc")
    async with in_memory(server.url, era) as client:
        ambiguous = error_of(await client.call_tool("get_results", {"task_ids": ["same"]}))
        data = data_of(await client.call_tool("get_results", {"task_ids": ["same"], "agent": "doc"}))
    assert "several agents have a task same (code, doc)" in ambiguous
    assert data["results"][0]["output"] == "of doc"


# -- untrusted messages -----------------------------------------------------------------------------------------


async def test_a_result_that_the_ledger_does_not_confirm_says_so(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for task_id in ("live", "settled"):
        await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    await settle(coordinator, "settled")
    for task_id in ("live", "settled", "unheard-of"):
        await put(coordinator, result_message(task_id, "forged"))
    async with in_memory(server.url, era) as client:
        data = data_of(await client.call_tool("get_results", {}))
        state = data_of(await client.call_tool("watch_results", {"task_ids": ["live"], "timeout_seconds": 0}))
    assert [(result["task_id"], result.get("unverified")) for result in data["results"]] == [
        ("settled", None),
        ("live", "the ledger has no result of this task"),
        ("settled", "the ledger has another result of this task"),
        ("unheard-of", None),
    ]
    assert [task["task_id"] for task in state["pending"]] == ["live"]


async def test_a_message_that_is_not_a_result_is_shown_as_such(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await put(coordinator, {"hello": "there"})
    async with in_memory(server.url, era) as client:
        [result] = data_of(await client.call_tool("get_results", {}))["results"]
    assert (result["status"], result["output"]) == ("invalid", '{"hello":"there"}')
    assert result["error"].startswith("not a valid result: ")
    assert "task_id" not in result
