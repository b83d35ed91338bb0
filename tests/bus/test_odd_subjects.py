"""A subject may hold any byte but blanks: a message with an odd one costs no reader its connection, and hides none."""

import asyncio

import pytest

from agentbus import Coordinator
from agentbus.bus import ordered_consumer
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.protocol import subjects
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.presence import Presence, announce
from support.harness import BOUND_S, eventually
from support.raw_publisher import publish_raw

TAKEN = bytes(byte for byte in range(1, 256) if byte not in b" \t\r\n.*>\x7f")
"""What the server takes in a token and counts: it stores subjects with a DEL, and leaves them out of its counts."""


async def test_messages_with_every_byte_in_their_subjects_are_read(server: NatsServer, coordinator: Coordinator):
    odd = [b"$KV.AGENT_STATE.code.x" + bytes([byte]) for byte in TAKEN]
    await publish_raw(server.url, *odd)
    await stored(coordinator, 2 * len(odd))
    async with (
        asyncio.timeout(BOUND_S),
        OrderedConsumer(coordinator.bus, subjects.STATE_STREAM, subjects.STATE_SUBJECTS, after=0) as consumer,
    ):
        read = {message.subject async for message in consumer.backlog()}
    assert read == {name.decode(errors="backslashreplace") for name in odd}


async def test_a_list_of_tasks_names_odd_keys_and_shows_the_others(server: NatsServer, coordinator: Coordinator):
    await coordinator.publish("code", "x", task_type="x", task_id="job")
    await publish_raw(server.url, b"$KV.AGENT_STATE.code.\x0b", b"$KV.AGENT_STATE.code.\x9b")
    await stored(coordinator, 5)
    found = await coordinator.list_tasks()
    assert [status.task_id for status in found.tasks] == ["job"]
    # A key that is no UTF-8 cannot be asked for by its name.
    assert found.unreadable == ["$KV.AGENT_STATE.code.\x0b is not a ledger key"]


async def publish_with_del(coordinator: Coordinator, count: int) -> None:
    """Write ledger and registry keys of one agent that the server stores and does not count."""
    for number in range(count):
        await coordinator.bus.store(subjects.state(TaskKey("code", f"job\x7f{number % 3}")), b"{}")
        await coordinator.bus.store(subjects.presence("code", f"machine\x7f{number % 3}"), b"{}")


@pytest.mark.parametrize("between", [1, 7])
async def test_keys_that_the_server_does_not_count_hide_no_task_and_no_worker(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, between: int
):
    monkeypatch.setattr(ordered_consumer, "_SILENCE_S", 2 * BOUND_S)  # no message is waited for in vain
    names = [f"job-{number}" for number in range(4)]
    for name in names:
        await publish_with_del(coordinator, between)
        await coordinator.publish("doc", "x", task_type="x", task_id=name)
        worker = Presence(
            agent="doc", instance=name, host="h", pid=1, version="0", slots=1, free=1, started_at="2026-11-22T00:00:00Z"
        )
        await announce(coordinator.bus, worker)
    await publish_with_del(coordinator, between)
    async with asyncio.timeout(BOUND_S):
        found = await coordinator.list_tasks(limit=len(names))
        online = await coordinator.overview()
    assert [status.task_id for status in found.tasks] == names[::-1]
    assert (found.cursor, found.partial, found.unreadable) == (None, False, [])
    [agent] = [agent for agent in online if agent.workers]
    assert [worker.instance for worker in agent.workers] == names


async def test_a_reader_goes_on_behind_messages_that_the_server_does_not_count(coordinator: Coordinator):
    await publish_with_del(coordinator, 3)
    await coordinator.publish("doc", "x", task_type="x", task_id="before")
    async with (
        asyncio.timeout(BOUND_S),
        OrderedConsumer(coordinator.bus, subjects.STATE_STREAM, subjects.STATE_SUBJECTS, after=0) as consumer,
    ):
        assert [message.subject async for message in consumer.backlog()] == [subjects.state(TaskKey("doc", "before"))]
        await publish_with_del(coordinator, 3)
        await coordinator.publish("doc", "x", task_type="x", task_id="after")
        assert (await consumer.next()).subject == subjects.state(TaskKey("doc", "after"))


async def stored(coordinator: Coordinator, count: int) -> None:
    """Wait until the ledger was written so often: the server stores what was published a moment later."""

    async def there() -> bool:
        return (await coordinator.bus.stream_info(subjects.STATE_STREAM)).state.last_seq == count

    await eventually(there, f"{count} changes")
