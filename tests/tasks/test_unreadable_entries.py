"""Ledger entries that cannot be read, as coordinators meet them: each hides no other task, and no wait hangs on one."""

import asyncio

import pytest

from agentbus import Coordinator
from agentbus.errors import CorruptEntryError, MessageError, TaskNotFoundError
from agentbus.protocol import subjects
from agentbus.protocol.ledger_entry import Record
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.task_handle import TaskFailure
from agentbus.tasks.ledger import Ledger
from support.harness import BOUND_S, eventually
from support.mcp_harness import settle
from support.raw_publisher import RawMessage, head, publish_messages


async def publish(bus: Coordinator, *task_ids: str, agent: str = "code") -> None:
    for task_id in task_ids:
        await bus.publish(agent, "work", task_type="test", task_id=task_id)


async def write_garbage(bus: Coordinator, task_id: str, agent: str = "code") -> None:
    await bus.bus.store(subjects.state(TaskKey(agent, task_id)), b"{}")


async def test_a_key_of_another_agent_that_cannot_be_read_does_not_hide_a_task(coordinator: Coordinator):
    await publish(coordinator, "job")
    await write_garbage(coordinator, "job", agent="doc")
    assert (await coordinator.task("job").status()).agent == "code"
    assert "job" in (await coordinator.wait(["job"], timeout_s=0)).pending
    assert (await coordinator.task("job").cancel()).state == "cancelled"


async def test_an_id_that_only_unreadable_entries_have_is_an_error_that_says_why(coordinator: Coordinator):
    await write_garbage(coordinator, "job", agent="doc")
    with pytest.raises(CorruptEntryError, match=r"of job \(agent doc\) cannot be read: state: is missing"):
        await coordinator.task("job").status()
    with pytest.raises(CorruptEntryError, match="cannot be read"):
        await coordinator.wait(["job"], timeout_s=60)


@pytest.mark.parametrize("status", [b"503", b"404 no", b"100 Idle Heartbeat", b"408", b"99999999999999999999"])
async def test_an_entry_that_says_it_is_a_status_of_the_server_hides_no_other_one(
    server: NatsServer, coordinator: Coordinator, status: bytes
):
    await publish(coordinator, "good")
    first = b"NATS/1.0 " + status
    keys = (subjects.state(TaskKey("code", "bad")), subjects.state(TaskKey("doc", "good")))
    await publish_messages(server.url, *(RawMessage(key.encode(), b"", head(first=first)) for key in keys))
    await publish(coordinator, "last")
    async with asyncio.timeout(BOUND_S):
        found = await coordinator.list_tasks()
        assert (await coordinator.task("good").status()).agent == "code"
        with pytest.raises(CorruptEntryError):
            await coordinator.task("bad").status()
    assert [status.task_id for status in found.tasks] == ["last", "good"]
    assert len(found.unreadable) == 2


async def test_a_wait_for_several_tasks_returns_the_others_and_names_the_unreadable_one(coordinator: Coordinator):
    await publish(coordinator, "good", "bad")
    await write_garbage(coordinator, "bad")
    waiting = asyncio.create_task(coordinator.wait(["good", "bad"], agent="code"))
    await settle(coordinator, "good")
    async with asyncio.timeout(60):
        waited = await waiting
    assert waited.settled["good"].state == "completed"
    assert waited.pending == {}
    assert "cannot be read" in str(waited.unreadable["bad"])


async def test_a_task_whose_entry_becomes_unreadable_ends_no_wait_for_others(coordinator: Coordinator):
    await publish(coordinator, "good", "bad")
    waiting = asyncio.create_task(coordinator.wait(["good", "bad"]))

    async def followed() -> bool:
        return bool(await coordinator.bus.consumers(subjects.STATE_STREAM))

    await eventually(followed, "a consumer follows the ledger")
    await write_garbage(coordinator, "bad")
    await settle(coordinator, "good")
    async with asyncio.timeout(60):
        waited = await waiting
    assert waited.settled["good"].state == "completed"
    assert waited.pending["bad"].state == "queued"  # as it was seen last
    assert list(waited.unreadable) == ["bad"]


async def test_a_task_whose_entry_can_be_read_again_is_waited_for_again(coordinator: Coordinator):
    await publish(coordinator, "job", "other")
    before = await Ledger(coordinator.bus).read(TaskKey("code", "job"))
    assert isinstance(before, Record)
    waiting = asyncio.create_task(coordinator.wait(["job", "other"]))

    async def followed() -> bool:
        return bool(await coordinator.bus.consumers(subjects.STATE_STREAM))

    await eventually(followed, "a consumer follows the ledger")
    await write_garbage(coordinator, "job")
    await coordinator.bus.store(
        subjects.state(TaskKey("code", "job")), before.entry.model_dump_json(exclude_none=True).encode()
    )
    await settle(coordinator, "job")
    await settle(coordinator, "other")
    async with asyncio.timeout(60):
        waited = await waiting
    assert {task_id: one.state for task_id, one in waited.settled.items()} == {"job": "completed", "other": "completed"}
    assert waited.unreadable == {}


async def test_states_and_cancellations_of_many_fail_for_the_unreadable_one_alone(coordinator: Coordinator):
    await publish(coordinator, "good", "bad")
    await write_garbage(coordinator, "bad")
    for outcomes in (
        await coordinator.statuses(["good", "bad"], agent="code"),
        await coordinator.cancel_all(["good", "bad"], agent="code"),
    ):
        good, bad = outcomes
        assert not isinstance(good, TaskFailure)
        assert isinstance(bad, TaskFailure)
        assert isinstance(bad.error, CorruptEntryError)


async def test_a_reason_that_would_leave_no_room_for_the_result_is_refused(coordinator: Coordinator):
    await publish(coordinator, "job")
    with pytest.raises(MessageError, match="the reason has 2001 characters; it may have up to 2000"):
        await coordinator.task("job").cancel("x" * 2001)
    assert (await coordinator.task("job").status()).state == "queued"
    assert (await coordinator.task("job").cancel("x" * 2000)).state == "cancelled"


async def test_an_unknown_id_among_known_ones_is_still_an_error(coordinator: Coordinator):
    await publish(coordinator, "good")
    with pytest.raises(TaskNotFoundError, match="missing"):
        await coordinator.wait(["good", "missing"], timeout_s=0)
