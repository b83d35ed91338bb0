"""Presence of workers: one key for each process, refreshed with its heartbeat; it expires 90 s after the last."""

from datetime import datetime
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.errors import BusError, InvalidIdError, MessageError
from agentbus.protocol import subjects
from agentbus.protocol.headers import KV_OPERATION
from agentbus.protocol.json_codec import decode, encode

HEARTBEAT_S: Final = 30.0

_MOST_RUNNING: Final = 1_024
"""Of the tasks that a worker names: it runs up to 256, and holds some more that it is about to run or to settle."""
_Name = Annotated[str, StringConstraints(max_length=256)]
_Count = Annotated[int, Field(ge=0, le=2**32)]
_TaskId = Annotated[str, AfterValidator(subjects.task_id)]


class Presence(BaseModel):
    """A worker as it describes itself. No secrets, no prompts: every party that may read the registry sees it."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    agent: str
    instance: _Name
    host: _Name
    pid: _Count
    version: _Name
    description: Annotated[str, StringConstraints(max_length=500)] = ""
    command: _Name = ""
    slots: _Count
    free: _Count
    running: Annotated[tuple[_TaskId, ...], Field(max_length=_MOST_RUNNING)] = ()
    started_at: _Name
    seen_at: str = ""


async def announce(bus: Bus, presence: Presence) -> None:
    """Refresh the worker's registry key and send its heartbeat.

    Raises:
        BusError: it could not be stored; the next heartbeat tries again.
    """
    data = encode(presence.model_dump(exclude={"seen_at"}))
    await bus.publish(subjects.heartbeat(presence.agent), data)
    await bus.store(subjects.presence(presence.agent, presence.instance), data, timeout_s=5)


async def withdraw(bus: Bus, presence: Presence) -> None:
    """Delete the worker's key instead of waiting until it expires. A failure does no harm."""
    try:
        await bus.store(
            subjects.presence(presence.agent, presence.instance), b"", headers={KV_OPERATION: "DEL"}, timeout_s=1
        )
    except BusError:
        return


async def present(bus: Bus, agent: str | None = None) -> list[Presence]:
    """List the workers that are online, of one agent or of all, by agent and instance.

    A worker that was killed is still listed for up to 90 seconds.

    Raises:
        SetupMissingError: there is no registry on this bus.
        PermissionDeniedError: this user may not read it.
    """
    watched = subjects.presences(agent) if agent else subjects.REGISTRY_SUBJECTS
    found: list[Presence] = []
    async with OrderedConsumer(bus, subjects.REGISTRY_STREAM, watched, after=0) as feed:
        async for message in feed.backlog():
            if message.headers.get(KV_OPERATION) is None:
                one = _read(message.subject, message.data, message.stored_at)
                found += [one] if one is not None else []
    newest = {(one.agent, one.instance): one for one in found}
    return sorted(newest.values(), key=lambda one: (one.agent, one.instance))


def _read(subject: str, data: bytes, stored_at: datetime) -> Presence | None:
    """Read an entry. Ignore one that is not valid, or that names another agent than its key."""
    try:
        presence = Presence.model_validate({**decode(data), "seen_at": stored_at.isoformat()})
    except (MessageError, InvalidIdError, ValidationError, TypeError):
        return None
    return presence if subject == subjects.presence(presence.agent, presence.instance) else None
