"""Whether the ledger and the queue of a bus agree on which tasks are queued."""

from collections import Counter

from agentbus import Coordinator
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import decode
from agentbus.protocol.ledger_entry import Record, read_entry


async def queue(bus: Coordinator) -> Counter[str]:
    """The ids of the tasks that lie in the queue."""
    last = (await bus.bus.stream_info(subjects.TASKS_STREAM)).state.last_seq
    messages = [await bus.bus.message_without_headers(subjects.TASKS_STREAM, seq) for seq in range(1, last + 1)]
    return Counter(str(decode(message.data)["id"]) for message in messages if message is not None)


async def ledger(bus: Coordinator) -> dict[str, Record]:
    """The entries of all tasks."""
    info = await bus.bus.stream_info(subjects.STATE_STREAM, subjects_filter=subjects.STATE_SUBJECTS)
    found: dict[str, Record] = {}
    for subject in info.state.subjects or ():
        message = await bus.bus.last_message(subjects.STATE_STREAM, subject)
        record = read_entry(message) if message is not None else None
        if isinstance(record, Record):
            found[record.task_id] = record
    return found


async def agreed(bus: Coordinator) -> None:
    """Each queued task has one message, and each message belongs to a task."""
    entries, messages = await ledger(bus), await queue(bus)
    assert set(messages) <= set(entries), "a message without an entry"
    assert {id_ for id_, record in entries.items() if record.entry.state == "queued"} <= set(messages), "no message"
    assert set(messages.values()) <= {1}, "two messages of one task"
