"""Reads what runs told last: how far a running task is."""

from collections.abc import Iterable
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.concurrently import concurrently
from agentbus.errors import BusError, PermissionDeniedError
from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import ProgressMessage, read_progress
from agentbus.protocol.subjects import TaskKey

_AT_ONCE: Final = 16


async def last_progress(bus: Bus, key: TaskKey) -> ProgressMessage | None:
    """Read what the runs of a task told last; None if nothing is kept, or if it cannot be read now: it is an extra."""
    if not bus.reads_progress:
        return None
    try:
        found = await bus.last_message_if_any(names.stream(key.agent), names.of_task(key))
    except PermissionDeniedError:
        bus.reads_progress = False  # a bus of an older layout: the server logs each refusal
        return None
    except BusError:
        return None
    return read_progress(found) if found is not None else None


async def last_of_each(bus: Bus, keys: Iterable[TaskKey]) -> dict[TaskKey, ProgressMessage]:
    """Read the same of several tasks, some at a time; leaves out those of which nothing is kept."""

    async def one(key: TaskKey) -> tuple[TaskKey, ProgressMessage | None]:
        return key, await last_progress(bus, key)

    found = await concurrently(keys, one, at_once=_AT_ONCE)
    return {key: message for key, message in found if message is not None}
