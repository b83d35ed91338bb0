"""The part of outputs that an answer holds, and reading the rest, with clients of both protocol eras."""

import json
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import TextResourceContents

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.protocol.messages import Failure
from agentbus.protocol.outcomes.run_report import Run, Usage
from agentbus.provision.nats_server import NatsServer
from support.harness import worker, worker_toml
from support.jobs import outcome
from support.mcp_harness import both_eras, data_of, error_of, in_memory, links_of, put, result_message, settle, text_of

pytestmark = both_eras

CONCISE_BYTES = 4_096


async def done(coordinator: Coordinator, task_id: str, output: Any, **more: Any) -> None:
    """Publish a task and settle it with an output."""
    await coordinator.publish("code", "work", task_type="test", task_id=task_id)
    await settle(coordinator, task_id, output, **more)


async def read_all(client: Client, task_id: str, max_bytes: int) -> tuple[str, int]:
    """Read the whole output of a task by following `next`; return it and the number of its parts."""
    arguments: dict[str, Any] | None = {"task_ids": [task_id], "max_bytes": max_bytes}
    parts: list[str] = []
    while arguments is not None:
        data = data_of(await client.call_tool("get_results", arguments))
        [result] = data["results"]
        parts.append(result["output"])
        assert len(result["output"].encode()) <= arguments["max_bytes"]
        assert ("next_offset" in result) is ("next" in data)
        arguments = {**data["next"]["arguments"], "max_bytes": max_bytes} if "next" in data else None
    return "".join(parts), len(parts)


async def test_ten_failed_results_with_all_figures_and_long_outputs_fit_into_4_kb_and_say_why(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    ids = [f"task-20260518-k3v9qz7h2m5c8x4w0r{number:02}" for number in range(10)]
    usage = Usage(1_234_567, 1_034_567, 23_456)
    run = Run("claude", kind="claude", session="s" * 36, model="claude-opus-5-5", usage=usage, cost_usd=1.234567)
    why = "API Error: 429 " + json.dumps(
        {"type": "error", "error": {"type": "rate_limit_error", "message": "This request exceeds your rate limit."},
         "request_id": "req_" + "x" * 200}
    )  # fmt: skip
    for task_id in ids:
        more = {"failure": Failure("rate_limit", why, 429, 60), "extra": {"run": run.to_json()}}
        await done(coordinator, task_id, "x" * 5_000, status="failed", error=why, **more)
    async with in_memory(server.url, era) as client:
        answer = await client.call_tool("get_results", {"task_ids": ids})
    data = data_of(answer)
    assert len(text_of(answer).encode()) <= CONCISE_BYTES
    assert len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()) <= CONCISE_BYTES
    for result in data["results"]:
        assert result["error"] == "API Error: 429 This request exceeds your rate limit."
        assert result["failure"] == {"code": "rate_limit", "retry_after_s": 60}
        assert result["tokens"] == {"input": 1_234_567, "cached_input": 1_034_567, "output": 23_456}
        assert (result["model"], result["cost_usd"]) == ("claude-opus-5-5", 1.234567)
        assert result["output"].startswith("xxxx")
        assert result["truncated"]
    assert ["next_offset" in result for result in data["results"]] == [True] + [False] * 9
    assert data["next"]["arguments"]["task_ids"] == [f"code/{ids[0]}"]


@pytest.mark.parametrize("text", ["x", "ä", "漢", '"\n'], ids=["ascii", "two bytes", "three bytes", "escapes"])
async def test_ten_results_fit_into_4_kb_and_long_outputs_share_what_short_ones_leave(
    era: str, text: str, server: NatsServer, coordinator: Coordinator
) -> None:
    ids = [f"task-20260518-k3v9qz7h2m5c8x4w0r{number:02}" for number in range(10)]
    for number, task_id in enumerate(ids):
        output = "short" if number < 8 else text * 20_000
        await done(coordinator, task_id, output, status="failed", error="it broke " * 200)
    async with in_memory(server.url, era) as client:
        answers = [await client.call_tool(tool, {"task_ids": ids}) for tool in ("get_results", "watch_results")]
        answers.append(await client.call_tool("get_results", {"newest": 10}))
    for answer in answers:
        data = data_of(answer)
        assert [result["task_id"] for result in data["results"]] == ids
        assert len(text_of(answer).encode()) <= CONCISE_BYTES
        assert len(json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()) <= CONCISE_BYTES
        assert all(result["output"] == "short" and "truncated" not in result for result in data["results"][:8])
        for result in data["results"][8:]:
            assert result["truncated"]
            assert result["output_bytes"] == 20_000 * len(text.encode())
            assert result["output"]
            assert result["error"].startswith("it broke")
        assert links_of(answer) == [f"agentbus://tasks/code/{task_id}" for task_id in ids[8:]]
        assert data["next"]["arguments"]["task_ids"] == [f"code/{ids[8]}"]


async def test_an_answer_about_one_task_holds_more_of_its_output(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await done(coordinator, "a", "x" * 20_000)
    async with in_memory(server.url, era) as client:
        answer = await client.call_tool("get_results", {"task_ids": ["a"]})
    [result] = data_of(answer)["results"]
    assert 3_000 < len(result["output"]) < CONCISE_BYTES
    assert len(text_of(answer).encode()) <= CONCISE_BYTES


async def test_a_detailed_answer_has_more_fields_and_more_of_the_outputs(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await done(coordinator, "a", "x" * 10_000)
    async with in_memory(server.url, era) as client:
        for tool in ("get_results", "watch_results"):
            call = {"task_ids": ["a"], "response_format": "detailed"}
            [detailed] = data_of(await client.call_tool(tool, call))["results"]
            [concise] = data_of(await client.call_tool(tool, {"task_ids": ["a"]}))["results"]
            assert detailed["output"] == "x" * 10_000
            assert (detailed["worker"], detailed["task_type"]) == ("machine-1", "test")
            assert detailed["completed_at"]
            assert not {"worker", "task_type", "completed_at"} & set(concise)


@pytest.mark.parametrize("max_bytes", [101, 4_096, 65_536])
async def test_the_parts_of_an_output_make_up_the_whole(
    era: str, max_bytes: int, server: NatsServer, coordinator: Coordinator
) -> None:
    whole = "aä漢😀\n" * 500
    await done(coordinator, "a", whole)
    async with in_memory(server.url, era) as client:
        read, parts = await read_all(client, "a", max_bytes)
    assert read == whole
    assert parts >= len(whole.encode()) / max_bytes


async def test_an_output_in_the_object_store_is_read_in_parts_as_well(
    era: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await set_up(coordinator.bus, ["code"])
    async with worker(worker_toml(tmp_path, server.url, worker={"inline_output_bytes": 2_000})):
        task_id = (await outcome(coordinator, "bytes:200000")).task_id
    async with in_memory(server.url, era) as client:
        first = data_of(await client.call_tool("get_results", {"task_ids": [task_id]}))
        read, parts = await read_all(client, task_id, 65_536)
        beyond = error_of(await client.call_tool("get_results", {"task_ids": [task_id], "offset": 200_001}))
        end = data_of(await client.call_tool("get_results", {"task_ids": [task_id], "offset": 199_990}))
    assert first["results"][0]["output_bytes"] == 200_000
    assert first["next"]["tool"] == "get_results"
    assert first["next"]["arguments"]["offset"] == len(first["results"][0]["output"])
    assert (read, parts) == ("x" * 200_000, 4)
    assert beyond == "get_results: offset: 200001 is beyond the end; this output has 200000 bytes"
    assert end["results"][0]["output"] == "x" * 10


async def test_an_offset_within_a_character_starts_at_the_next_one(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await done(coordinator, "a", "漢字" * 100)
    async with in_memory(server.url, era) as client:
        [part] = data_of(await client.call_tool("get_results", {"task_ids": ["a"], "offset": 1}))["results"]
        several = error_of(await client.call_tool("get_results", {"task_ids": ["a", "b"], "offset": 1}))
        none = error_of(await client.call_tool("get_results", {"offset": 1}))
    assert (part["offset"], part["output"]) == (3, ("漢字" * 100)[1:])
    assert several == none == ("get_results: offset: reads on in the output of one task; name exactly one in task_ids")


async def test_many_long_outputs_share_the_budget_of_an_answer(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    for number in range(8):
        await put(coordinator, result_message(f"t{number}", "x" * 60_000))
    async with in_memory(server.url, era) as client:
        answer = await client.call_tool("get_results", {"newest": 8, "max_bytes": 65_536})
    data = data_of(answer)
    assert [len(result["output"]) for result in data["results"]] == [65_536 // 8] * 8
    assert len(text_of(answer)) < 70_000
    # The ledger does not know these tasks, so no call could read the rest, and none is named.
    assert data["next"]["tool"] == "watch_results"
    assert not links_of(answer)


async def test_a_resource_link_leads_to_the_task_with_its_output(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await done(coordinator, "a", "x" * 30_000)
    async with in_memory(server.url, era) as client:
        [link] = links_of(await client.call_tool("get_results", {"task_ids": ["a"]}))
        [content] = (await client.read_resource(link)).contents
    assert isinstance(content, TextResourceContents)
    assert json.loads(content.text)["result"]["output"] == "x" * 30_000


async def test_a_result_without_output_says_that_the_command_printed_nothing(
    era: str, server: NatsServer, coordinator: Coordinator
) -> None:
    await done(coordinator, "quiet", "")
    await done(coordinator, "loud", "x")
    async with in_memory(server.url, era) as client:
        data = data_of(await client.call_tool("get_results", {"task_ids": ["quiet", "loud"]}))
    assert [result.get("remark") for result in data["results"]] == ["the command printed nothing", None]
