"""A message that the server was made to copy into a ledger key is not taken for an entry, however it is read."""

import pytest

from agentbus import Coordinator
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.errors import CorruptEntryError
from agentbus.protocol import subjects
from agentbus.protocol.headers import parse
from agentbus.protocol.ledger_entry import Record, read_entry
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.task_names import TaskQuery
from agentbus.tasks.find import find
from agentbus.tasks.ledger import Ledger
from support.harness import eventually

VICTIM = subjects.state(TaskKey("review", "t2"))


async def copy(coordinator: Coordinator, original: str, to: str) -> StoredMessage:
    """Have the server store its answer to a direct get, as a hostile worker can."""
    bus = coordinator.bus
    await bus.publish(subjects.last_of(subjects.STATE_STREAM, original), reply=to)
    return await eventually(lambda: bus.last_message(subjects.STATE_STREAM, to), "the copy is stored")


async def entry(coordinator: Coordinator, **headers: str) -> str:
    """A genuine entry of another task, with headers of its author's choice."""
    await coordinator.publish("code", "hello", task_type="x", task_id="t1")
    key = subjects.state(TaskKey("code", "t1"))
    stored = await coordinator.bus.last_message(subjects.STATE_STREAM, key)
    assert stored is not None
    # Without a compare-and-set: the server would hold the copy against its headers, and refuse it.
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    await coordinator.bus.store(key, stored.data, headers=given)
    return key


async def test_a_copy_is_refused_when_read_by_a_direct_get(coordinator: Coordinator) -> None:
    found = await copy(coordinator, await entry(coordinator), VICTIM)
    assert (found.relayed, found.subject) == (True, VICTIM)
    with pytest.raises(CorruptEntryError, match="copy of another message"):
        await Ledger(coordinator.bus).read(TaskKey("review", "t2"))
    with pytest.raises(CorruptEntryError, match="t2"):
        await find(coordinator.bus, TaskQuery("t2"))


async def test_a_copy_is_refused_when_read_through_a_consumer(coordinator: Coordinator) -> None:
    await copy(coordinator, await entry(coordinator), VICTIM)
    async with OrderedConsumer(coordinator.bus, subjects.STATE_STREAM, VICTIM, after=0) as consumer:
        stored = (await consumer.next()).stored
    assert stored.relayed
    with pytest.raises(CorruptEntryError, match="copy of another message"):
        read_entry(stored)


async def test_what_a_publisher_writes_into_headers_does_not_replace_what_the_server_says(
    coordinator: Coordinator,
) -> None:
    key = await entry(coordinator, Nats_Subject=VICTIM, Nats_Time_Stamp="1999-01-01T00:00:00Z", Status="404")
    stored = await coordinator.bus.last_message(subjects.STATE_STREAM, key)
    assert stored is not None
    assert (stored.subject, stored.relayed, stored.time.year > 2000) == (key, False, True)
    assert isinstance(read_entry(stored), Record)


async def test_an_entry_that_claims_to_be_a_copy_is_refused(coordinator: Coordinator) -> None:
    key = await entry(coordinator, Nats_Sequence="7")
    stored = await coordinator.bus.last_message(subjects.STATE_STREAM, key)
    assert stored is not None
    assert stored.relayed
    with pytest.raises(CorruptEntryError):
        read_entry(stored)


@pytest.mark.parametrize(
    ("block", "headers", "repeated"),
    [
        (b"NATS/1.0\r\nA: 1\r\nB:2\r\n\r\n", {"A": "1", "B": "2"}, set[str]()),
        (b"NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n", {"A": "2"}, {"A"}),
        (b"NATS/1.0 404 No Messages\r\n\r\n", {"Status": "404", "Description": "No Messages"}, set[str]()),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}, set[str]()),
        (
            b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Stream: 7\r\n\r\n",
            {"Status": "100", "Description": "Idle Heartbeat", "Nats-Last-Stream": "7"},
            set[str](),
        ),
        (b"NATS/1.0\r\nStatus: 503\r\nDescription: x\r\n\r\n", {}, set[str]()),
        (b"NATS/1.0 no\r\nno colon\r\n: x\r\na b: x\r\n\xc3\xa4: x\r\nC: \xff\r\n\r\n", {"C": "\ufffd"}, set[str]()),
        (b"", {}, set[str]()),
    ],
)
def test_a_header_block_is_read_as_the_server_means_it(
    block: bytes, headers: dict[str, str], repeated: set[str]
) -> None:
    assert parse(block) == (headers, repeated)
