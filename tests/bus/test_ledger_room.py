"""Tasks are refused before the ledger is full, so that what was accepted can be claimed, renewed and settled."""

import asyncio
from pathlib import Path

import pytest

from agentbus import Coordinator, connect
from agentbus.bus.bounds import rooms
from agentbus.bus.jetstream_answers import StreamInfo
from agentbus.errors import StreamFullError, TaskNotFoundError
from agentbus.protocol import subjects
from support.harness import BOUND_S, run_cli
from support.restricted import all_but, restricted_bus

pytestmark = pytest.mark.usefixtures("room_is_asked_for")

INFO = "$JS.API.STREAM.INFO.KV_AGENT_STATE"
LEDGER = subjects.STATE_STREAM


async def bound(coordinator: Coordinator, max_bytes: int, **fields: object) -> None:
    config = (await coordinator.bus.stream_info(LEDGER)).config
    await coordinator.bus.api(f"STREAM.UPDATE.{LEDGER}", {**config, "max_bytes": max_bytes, **fields})


async def fill(coordinator: Coordinator, size: int) -> None:
    await coordinator.bus.store("$KV.AGENT_STATE.doc.filler", bytes(size))


async def used(coordinator: Coordinator) -> int:
    return (await coordinator.bus.stream_info(LEDGER)).state.bytes


async def test_from_nine_tenths_of_the_ledger_on_no_task_is_taken_and_the_refusal_says_what_to_do(
    coordinator: Coordinator,
):
    await bound(coordinator, 1 << 20)
    await coordinator.publish("code", "hi", task_type="x", task_id="before")
    await fill(coordinator, 950_000)
    async with connect(coordinator.bus.settings.servers) as other:
        with pytest.raises(StreamFullError, match=r"the ledger, KV_AGENT_STATE, holds 0\.9 of 1\.0 MiB") as refused:
            await other.publish("code", "hi", task_type="x", task_id="no-room")
        assert "agentbus setup --keep-results 11 --keep-states 19" in str(refused.value)
        assert "Nothing was queued" in str(refused.value)
        with pytest.raises(TaskNotFoundError):
            await other.task("no-room").status()
        again = await other.publish("code", "hi", task_type="x", task_id="before")
        assert again.known
        assert (await other.bus.stream_info(subjects.TASKS_STREAM)).state.messages == 1
        await bound(coordinator, 2 << 20)
        assert not (await other.publish("code", "hi", task_type="x", task_id="no-room")).known


async def test_tasks_that_were_accepted_count_with_what_they_will_add(coordinator: Coordinator):
    await bound(coordinator, 100_000)
    await coordinator.publish("code", "x" * 60_000, task_type="x")
    assert await used(coordinator) < 1_000
    async with connect(coordinator.bus.settings.servers) as other:
        more = [other.publish("code", "x" * 1_000, task_type="x") for _ in range(30)]
        refused = [one for one in await asyncio.gather(*more, return_exceptions=True) if isinstance(one, Exception)]
    assert 1 < len(refused) < 30
    assert "holds 0.0 of 0.1 MiB, and accepted tasks will add 0.1" in str(refused[-1])


async def test_refused_tasks_leave_one_mark_in_the_ledger_and_not_one_each(coordinator: Coordinator):
    await bound(coordinator, 1 << 20)
    await fill(coordinator, 950_000)
    for number in range(5):
        with pytest.raises(StreamFullError):
            await coordinator.publish("code", "hi", task_type="x", task_id=f"job-{number}")
    assert (await coordinator.bus.stream_info(LEDGER)).state.messages == 2


async def test_the_fill_is_read_once_for_tasks_that_are_published_at_the_same_time(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []
    monkeypatch.setattr(coordinator, "warns_of_unknown", False)  # that is a look of its own
    bus, ask = coordinator.bus, coordinator.bus.stream_info

    async def counted(stream: str, *, subjects_filter: str = "") -> StreamInfo:
        asked.append(stream)
        return await ask(stream, subjects_filter=subjects_filter)

    monkeypatch.setattr(rooms, "_REMEMBERED_S", BOUND_S)
    monkeypatch.setattr(bus, "stream_info", counted)
    await bound(coordinator, 10 << 20)
    asked.clear()
    await asyncio.gather(*(coordinator.publish("code", "hi", task_type="x") for _ in range(50)))
    for _ in range(5):
        await coordinator.publish("code", "hi", task_type="x")
    assert sorted(asked) == ["AGENT_RESULTS", "AGENT_TASKS", "KV_AGENT_STATE"]


async def test_a_ledger_at_its_limit_refuses_with_the_same_advice(coordinator: Coordinator):
    await fill(coordinator, 20_000)
    await bound(coordinator, 10_000)
    done = await run_cli(
        "task", "publish", "--nats-url", coordinator.bus.settings.servers, "--to", "code", "--task-type", "x", "hi"
    )
    assert (done.code, done.out) == (1, "")
    assert "--keep-results 11 --keep-states 19" in done.err


async def test_a_party_that_may_not_look_at_the_ledger_publishes_without_the_check_and_asks_once(tmp_path: Path):
    async with restricted_bus(tmp_path, {"main": all_but(INFO)}) as bus, connect(bus.url("main")) as main:
        await bound(bus.admin, 1 << 20)
        await fill(bus.admin, 950_000)
        for _ in range(2):
            await main.publish("code", "hi", task_type="x")
        assert bus.server.log.read_text(encoding="utf-8").count("Publish Violation") == 1


async def test_an_age_that_is_lowered_makes_room_at_once(coordinator: Coordinator):
    await bound(coordinator, 1 << 20)
    await fill(coordinator, 950_000)
    with pytest.raises(StreamFullError):
        await coordinator.publish("code", "hi", task_type="x")
    await bound(coordinator, 1 << 20, max_age=200_000_000, duplicate_window=200_000_000)
    async with asyncio.timeout(BOUND_S):
        while True:
            try:
                await coordinator.publish("code", "hi", task_type="x")
            except StreamFullError:
                continue
            break
