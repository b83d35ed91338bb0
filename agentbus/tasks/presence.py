"""The presence of workers: one registry key for each process, refreshed by its heartbeat and expiring 90 s later."""

from collections.abc import Iterable
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from agentbus.bus.jetstream import Bus
from agentbus.bus.ordered_consumer import OrderedConsumer
from agentbus.bus.pull_consumer import Delivery
from agentbus.errors import BusError, InvalidIdError
from agentbus.protocol import subjects
from agentbus.protocol.conversations import places
from agentbus.protocol.conversations.continuation import MAX_NEEDS
from agentbus.protocol.headers import KV_OPERATION
from agentbus.protocol.json_codec import encode
from agentbus.protocol.timestamps import time_text
from agentbus.visible_text import one_line

HEARTBEAT_S: Final = 30.0
_READ_AT_ONCE: Final = 1_000
"""How many entries of the registry one request asks for: a round trip for each 32 takes longer than to read these."""

MOST_RUNNING: Final = 1_024
"""Of the tasks that a worker names: it runs up to 256, and holds some more that it is about to run or to settle."""
MAX_REASON_CHARS: Final = 500
_Name = Annotated[str, StringConstraints(max_length=256)]
_Count = Annotated[int, Field(ge=0, le=2**32)]
_TaskId = Annotated[str, AfterValidator(subjects.task_id)]
_Need = Annotated[str, StringConstraints(min_length=1, max_length=32)]


_Reason = Annotated[str, StringConstraints(max_length=MAX_REASON_CHARS)]


class PausedWorker(BaseModel):
    """Why a worker takes no tasks now, since when, and when it tries one again, by the clock of its machine.

    Some versions do not say since when. `until` is empty while an operator has paused the agent.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    code: _Name
    reason: _Reason
    until: _Name
    since: _Name | None = None

    @property
    def in_words(self) -> str:
        """The pause on one line, as the end of a sentence."""
        since = f" since {self.since[:19]}" if self.since else ""
        return one_line(f"paused{since} ({self.code}): {self.reason}")


class RefusedResults(BaseModel):
    """Results that the bus has refused for longer than a lease: how many, since when, and why the oldest one."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    count: _Count
    since: _Name
    reason: _Reason


class Presence(BaseModel):
    """A worker's description of itself. It holds no secret and no prompt: all readers of the registry see it.

    Of its `slots`, `free` take a task at once, and `lost` are held by commands that could not be ended. `needs` is what
    tasks may need of it, and `place` where it has the sessions of its agent; workers of earlier versions say neither.
    """

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
    lost: _Count = 0
    running: Annotated[tuple[_TaskId, ...], Field(max_length=MOST_RUNNING)] = ()
    started_at: _Name
    paused: PausedWorker | None = None
    refused: RefusedResults | None = None
    place: _Name | None = None
    needs: Annotated[tuple[_Need, ...], Field(max_length=MAX_NEEDS)] | None = None
    seen_at: str = ""

    @property
    def troubles(self) -> tuple[str, ...]:
        """What keeps this worker from its work, each as one line for a person."""
        return _troubles_of(self) if self.paused or self.refused or self.lost else ()


def _troubles_of(worker: Presence) -> tuple[str, ...]:
    found: list[str] = []
    if (paused := worker.paused) is not None:
        since = f"since {paused.since[:19]}, " if paused.since else ""
        until = f"until {paused.until[:19]}" if paused.until else "until an operator resumes the agent"
        found.append(f"paused {since}{until} ({paused.code}): {paused.reason}")
    if (refused := worker.refused) is not None:
        results = "1 result has" if refused.count == 1 else f"{refused.count} results have"
        found.append(f"{results} been refused by the bus since {refused.since[:19]}: {refused.reason}")
    if worker.lost:
        slots = "1 slot is" if worker.lost == 1 else f"{worker.lost} slots are"
        found.append(f"{slots} lost: a command could not be ended; its log names the processes")
    return tuple(f"{worker.instance}: {trouble}" for trouble in found)


async def announce(bus: Bus, presence: Presence) -> None:
    """Refresh the worker's registry key and send its heartbeat.

    Raises:
        BusError: the server did not store the key; the next heartbeat tries again.
    """
    without = {"seen_at"} if presence.lost else {"seen_at", "lost"}
    data = encode(presence.model_dump(exclude=without, exclude_none=True))
    await bus.publish(subjects.heartbeat(presence.agent), data)
    await bus.store(subjects.presence(presence.agent, presence.instance), data, timeout_s=5)
    if presence.place is not None:
        await bus.store(places.mark(presence.agent, presence.place), b"{}", timeout_s=5)


async def is_alive(bus: Bus, agent: str, place: str) -> bool:
    """Return whether some worker of a place has lived within the last 90 seconds, for a worker of the agent.

    Raises:
        PermissionDeniedError, SetupMissingError: this bus does not tell that: it is of an older layout.
        BusError: it did not answer.
    """
    found = await bus.last_message(places.STREAM, places.mark(agent, place))
    return found is not None and found.headers.get(KV_OPERATION) is None


async def withdraw(bus: Bus, presence: Presence) -> None:
    """Delete the worker's key, which would otherwise expire later. Ignores failures for that reason."""
    try:
        await bus.store(
            subjects.presence(presence.agent, presence.instance), b"", headers={KV_OPERATION: "DEL"}, timeout_s=1
        )
    except BusError:
        return


Seen: TypeAlias = dict[str, tuple[int, Presence | None]]
"""Entries of the registry as they were read, by their subjects, with their sequences."""


async def present(bus: Bus, agent: str | None = None) -> list[Presence]:
    """List the online workers, of one agent or of all, by agent and instance.

    A worker that was killed is still listed for up to 90 seconds.

    Raises:
        SetupMissingError: there is no registry on this bus.
        PermissionDeniedError: this user may not read it.
    """
    return workers_in(await registered(bus, agent))


async def registered(bus: Bus, agent: str | None = None) -> list[Delivery]:
    """Return the entries of the registry as they lie there: see `present`, and `workers_in`."""
    watched = subjects.presences(agent) if agent else subjects.REGISTRY_SUBJECTS
    found: list[Delivery] = []
    async with OrderedConsumer(bus, subjects.REGISTRY_STREAM, watched, after=0, batch=_READ_AT_ONCE) as consumer:
        async for part in consumer.backlog_in_parts():
            found += [message for message in part if KV_OPERATION not in message.headers]
    return found


def workers_in(entries: Iterable[Delivery], seen: Seen | None = None) -> list[Presence]:
    """Read entries of the registry; returns the workers by agent and instance.

    Args:
        seen: what the call before has read, for one who looks again and again: an entry that has not changed is not
            read anew. It is replaced by what this call reads.
    """
    newest: dict[tuple[str, str], Presence] = {}
    before, now = seen or {}, Seen()
    for message in entries:
        known = before.get(message.subject)
        if known is None or known[0] != message.stream_seq:
            known = message.stream_seq, _read(message.subject, message.data, message.stored_at_us)
        now[message.subject] = known
        if (presence := known[1]) is not None:
            newest[presence.agent, presence.instance] = presence
    if seen is not None:
        seen.clear()
        seen.update(now)
    return [newest[name] for name in sorted(newest)]


def _read(subject: str, data: bytes, stored_at_us: int) -> Presence | None:
    """Read an entry. Returns None for one that is not valid, or that does not belong to its key."""
    try:
        presence = Presence.model_validate_json(data)
    except (InvalidIdError, ValidationError):
        return None
    object.__setattr__(presence, "seen_at", time_text(stored_at_us))  # it is frozen; a copy costs as much as reading
    return presence if subject == subjects.presence(presence.agent, presence.instance) else None
