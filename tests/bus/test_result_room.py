"""Tasks are refused before there is no room for their results, and at no cost to those that are not."""

import asyncio
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.bounds import rooms
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.errors import StreamFullError, TaskNotFoundError
from agentbus.protocol import subjects
from support.harness import BOUND_S
from support.restricted import all_but, restricted_bus

pytestmark = pytest.mark.usefixtures("room_is_asked_for")

INFO = "$JS.API.STREAM.INFO.AGENT_RESULTS"


async def bound(coordinator: Coordinator, **fields: object) -> None:
    config = (await coordinator.bus.api("STREAM.INFO.AGENT_RESULTS"))["config"]
    await coordinator.bus.api("STREAM.UPDATE.AGENT_RESULTS", {**config, **fields})


async def bound_writers(coordinator: Coordinator, count: int) -> None:
    await bound(coordinator, max_msgs_per_subject=count, discard_new_per_subject=True)


async def write_results(coordinator: Coordinator, count: int, *, inbox: str = "main", writer: str = "code") -> None:
    for _ in range(count):
        await coordinator.bus.store(subjects.results(inbox, writer), b"x")


async def test_from_nine_tenths_of_its_bound_on_an_agent_gets_no_task_for_that_inbox(coordinator: Coordinator):
    await bound_writers(coordinator, 20)
    await write_results(coordinator, 17)
    await coordinator.publish("code", "hi", task_type="x")
    await write_results(coordinator, 1)
    with pytest.raises(StreamFullError, match="code has 18 results in the inbox of main, and may have 20") as refused:
        await coordinator.publish("code", "hi", task_type="x", task_id="no-room")
    assert "nats stream purge AGENT_RESULTS --subject agent.main.results.code" in str(refused.value)
    assert "agentbus setup --update" in str(refused.value)
    with pytest.raises(TaskNotFoundError):
        await coordinator.task("no-room").status()
    assert (await coordinator.bus.stream_info(subjects.TASKS_STREAM)).state.messages == 1
    # Neither another agent nor another inbox is affected.
    await coordinator.publish("doc", "hi", task_type="x")
    await coordinator.publish("code", "hi", task_type="x", reply_to="doc")


async def test_from_nine_tenths_of_the_bytes_on_no_agent_gets_a_task(coordinator: Coordinator):
    await bound(coordinator, max_bytes=100_000)
    await coordinator.bus.store(subjects.results("other", "doc"), bytes(91_000))
    for agent in ("code", "doc"):
        with pytest.raises(StreamFullError, match=r"AGENT_RESULTS holds 0\.1 of 0\.1 MiB; from 90% on"):
            await coordinator.publish(agent, "hi", task_type="x")
    await coordinator.bus.api("STREAM.PURGE.AGENT_RESULTS")
    await coordinator.publish("code", "hi", task_type="x")


async def test_a_task_that_was_accepted_before_is_published_again_without_a_refusal(coordinator: Coordinator):
    await bound_writers(coordinator, 10)
    first = await coordinator.publish("code", "hi", task_type="x", task_id="one")
    await write_results(coordinator, 10)
    again = await coordinator.publish("code", "hi", task_type="x", task_id="one")
    assert (first.known, again.known) == (False, True)


async def test_the_answer_is_remembered_for_as_many_tasks_as_there_was_room_for(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rooms, "_REMEMBERED_S", BOUND_S)
    asked: list[str] = []
    bus, ask = coordinator.bus, coordinator.bus.stream_info

    async def counted(stream: str, *, subjects_filter: str = "") -> StreamInfo:
        asked.append(stream)
        return await ask(stream, subjects_filter=subjects_filter)

    monkeypatch.setattr(bus, "stream_info", counted)
    await bound_writers(coordinator, 10)
    for _ in range(9):
        await coordinator.publish("code", "hi", task_type="x")
    assert asked.count("AGENT_RESULTS") == 1
    await write_results(coordinator, 9)
    with pytest.raises(StreamFullError):
        await coordinator.publish("code", "hi", task_type="x")
    assert asked.count("AGENT_RESULTS") == 2


async def test_a_party_that_may_not_look_publishes_without_the_check_and_asks_once(tmp_path: Path):
    async with restricted_bus(tmp_path, {"main": all_but(INFO)}) as bus, connect(bus.url("main")) as main:
        await bound(bus.admin, max_bytes=100_000)
        await bus.admin.bus.store(subjects.results("other", "doc"), bytes(91_000))
        for _ in range(2):
            await main.publish("code", "hi", task_type="x")
        assert bus.server.log.read_text(encoding="utf-8").count("Publish Violation") == 1


async def test_a_question_without_an_answer_delays_one_task_by_its_bound_at_most(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(rooms, "_TIMEOUT_S", 0.05)
    monkeypatch.setattr(coordinator, "warns_of_unknown", False)  # that is a look of its own
    never = asyncio.Event()

    asked: list[str] = []

    async def silent(stream: str, **_options: str) -> None:
        asked.append(stream)
        await never.wait()

    monkeypatch.setattr(coordinator.bus, "stream_info", silent)
    async with asyncio.timeout(BOUND_S):
        for _ in range(2):
            await coordinator.publish("code", "hi", task_type="x")
    assert len(asked) == len(set(asked)), "and the next ones not at all, for a while"
