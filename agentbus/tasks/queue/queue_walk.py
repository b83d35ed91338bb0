"""Walks the messages that wait for an agent, to learn which tasks the queue holds for sure.

The leader of the stream is asked for each message, because a replica may lag behind, and because counts say nothing
about single messages. A walk costs a round trip for each, many of them at the same time, so what it has found counts
for some time.
"""

import asyncio
import sys
from collections.abc import Collection
from typing import Final
from weakref import WeakKeyDictionary

from agentbus.bus.jetstream import Bus
from agentbus.concurrently import concurrently
from agentbus.errors import MessageError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import decode
from agentbus.protocol.stored_message import StoredMessage
from agentbus.protocol.subjects import COORDINATOR, TaskKey

_REMEMBERED_S: Final = 30.0
"""How long a task that was seen in the queue is not looked for again: a wait polls, and losing tasks is rare."""
_MOST_REMEMBERED: Final = 20_000
_AT_ONCE: Final = 16
"""How many messages are asked for at the same time: over a line with a delay of 30 ms, that reads 500 in a second."""


class _Memory:
    """What the walks over one connection have seen, by the time until which it counts."""

    def __init__(self) -> None:
        self.walking = asyncio.Lock()  # the second caller finds what the first has seen
        self.seen: dict[TaskKey, float] = {}


_memories: WeakKeyDictionary[Bus, _Memory] = WeakKeyDictionary()


async def missing_in_queue(bus: Bus, agent: str, wanted: Collection[TaskKey]) -> set[TaskKey]:
    """Return the tasks among `wanted`, all of `agent`, that have no message in the queue.

    That is proved where the ledger has them at the same revision before and after: each message of the agent was read,
    to the end of the queue.

    Raises:
        PermissionDeniedError: this user may not read the queue.
        BusError: it could not be read to its end.
    """
    clock = asyncio.get_running_loop().time
    memory = _memories.setdefault(bus, _Memory())
    async with memory.walking:
        missing = {key for key in wanted if memory.seen.get(key, 0.0) < clock()}
        if len(memory.seen) >= _MOST_REMEMBERED:
            memory.seen.clear()

        async def walk(part: range) -> None:
            seq = part.start
            while missing and seq < part.stop:
                message = await bus.next_at_the_leader(subjects.TASKS_STREAM, subjects.all_of(agent), seq)
                if message is None:
                    return
                seq = message.seq + 1
                if (key := task_of(message)) is not None:
                    memory.seen[key] = clock() + _REMEMBERED_S
                    missing.discard(key)

        if missing:
            stream = (await bus.stream_info(subjects.TASKS_STREAM)).state
            await concurrently(_parts(range(stream.first_seq, stream.last_seq + 1)), walk, at_once=_AT_ONCE)
            await walk(range(stream.last_seq + 1, sys.maxsize))  # what was stored meanwhile
        return missing


def _parts(whole: range) -> list[range]:
    """Cut a range into parts that are walked at the same time."""
    step = max(1, -(-len(whole) // _AT_ONCE))
    return [whole[start : start + step] for start in range(0, len(whole), step)]


def task_of(message: StoredMessage) -> TaskKey | None:
    """Return the task that a message of the queue may be taken for, also if a worker would find fault with it."""
    named = subjects.agent_and_party(message.subject, "tasks")
    try:
        task_id = decode(message.data).get("id")
    except (MessageError, AttributeError):
        return None
    return TaskKey(named[0], task_id, named[1] or COORDINATOR) if named and isinstance(task_id, str) else None
