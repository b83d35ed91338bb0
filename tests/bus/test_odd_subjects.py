"""A subject may hold any byte but blanks: one message with an odd one costs no reader its connection."""

import asyncio

from agentbus import Coordinator
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.protocol import subjects
from agentbus.provision.nats_server import NatsServer
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


async def stored(coordinator: Coordinator, count: int) -> None:
    """Wait until the ledger was written so often: the server stores what was published a moment later."""

    async def there() -> bool:
        return (await coordinator.bus.stream_info(subjects.STATE_STREAM)).state.last_seq == count

    await eventually(there, f"{count} changes")
