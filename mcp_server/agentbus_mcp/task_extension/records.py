"""Stores the records of MCP tasks: one key each in the ledger's bucket, changed by compare-and-set.

A record is stored on the bus only, so it outlives the server that made it, and any server of the same coordinator
serves it.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.coordinator import Coordinator
from agentbus.errors import BusError, CorruptEntryError, MessageError, WrongRevisionError
from agentbus.protocol import subjects
from agentbus.protocol.headers import KV_OPERATION
from agentbus.protocol.ids import random_token
from agentbus.protocol.json_codec import decode, encode

_LAG_PAUSE_S: Final = 0.1
_TOKEN_CHARS: Final = 28
"""137 random bits: the id of an MCP task is the right to read and cancel it."""

_LOOK_S: Final = 1.0
"""How long a new task waits to learn how long the bus keeps results."""
_MAX_TTL_MS: Final = 366 * 86_400_000


class End(BaseModel):
    """The end of an MCP task, which never changes. `body` is the result, or the error."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    status: Literal["completed", "failed", "cancelled"]
    body: dict[str, Any] | None = None


class TaskRecord(BaseModel):
    """The stored form of an MCP task: its tool, the state that the tool needs to continue, and its end."""

    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)

    tool: str
    state: dict[str, Any]
    created_at: AwareDatetime
    changed_at: AwareDatetime
    ttl_ms: Annotated[int, Field(ge=0, le=_MAX_TTL_MS)]
    end: End | None = None

    @property
    def expired(self) -> bool:
        """Whether it is older than its time to live."""
        return datetime.now(UTC) - self.created_at >= timedelta(milliseconds=self.ttl_ms)


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it was read, with its revision."""

    task_id: str
    record: TaskRecord
    revision: int


def new_task_id(tool: str) -> str:
    """Make an id that names the tool, sorts by day and cannot be guessed: `watch_results-20260518-…`."""
    return f"{tool[:64]}-{datetime.now(UTC):%Y%m%d}-{random_token(_TOKEN_CHARS)}"


async def create(coordinator: Coordinator, tool: str, state: dict[str, Any], *, ttl_ms: int) -> StoredRecord:
    """Store a new record; when this returns, JetStream has it. It is removed again if the caller is cancelled before.

    Args:
        ttl_ms: how long it counts; less on a bus that keeps results for a shorter time.

    Raises:
        BusError: it cannot be stored.
    """
    with suppress(BusError, TimeoutError):  # a user may not look; the promise is then that of a bus as set-up makes it
        async with asyncio.timeout(_LOOK_S):
            if kept_s := (await coordinator.bus.stream_info(subjects.RESULTS_STREAM)).max_age_s:
                ttl_ms = min(ttl_ms, int(kept_s * 1000))
    now = datetime.now(UTC)
    record = TaskRecord(tool=tool, state=state, created_at=now, changed_at=now, ttl_ms=ttl_ms)
    return await coordinator.bus.begun.finish(_create(coordinator, new_task_id(record.tool), record))


async def _create(coordinator: Coordinator, task_id: str, record: TaskRecord) -> StoredRecord:
    bus, subject = coordinator.bus, subjects.mcp_task(coordinator.agent, task_id)
    try:
        made = StoredRecord(task_id, record, (await bus.store(subject, _encoded(record), expected_revision=0)).seq)
    except WrongRevisionError:
        found = await read(coordinator, task_id)  # the answer was lost: no other process knows this id
        if found is None:
            raise
        made = found
    if bus.begun.given_up:  # no client will ever learn the id
        await bus.store(subject, b"", expected_revision=made.revision, headers={KV_OPERATION: "DEL"})
    return made


async def read(coordinator: Coordinator, task_id: str) -> StoredRecord | None:
    """Read the record of an MCP task; None where there is none, or `task_id` is not an id that this server makes.

    Raises:
        CorruptEntryError: the key holds another value.
        BusError: it cannot be read.
    """
    subject = subjects.mcp_task(coordinator.agent, task_id)
    if subjects.parse_mcp_task(subject) is None:
        return None
    bus = coordinator.bus
    async for _ in retry_until(deadline_after(bus.lag_s), _LAG_PAUSE_S):
        message = await bus.last_message(subjects.STATE_STREAM, subject)
        if message is not None and KV_OPERATION not in message.headers:
            return StoredRecord(task_id, record_in(message.data, task_id), message.seq)
    return None  # by now every replica has what was stored


def record_in(data: bytes, task_id: str) -> TaskRecord:
    """Decode a record.

    Raises:
        CorruptEntryError: the bytes are not a valid record.
    """
    try:
        return TaskRecord.model_validate(decode(data))
    except (MessageError, ValidationError):
        raise CorruptEntryError(f"the record of the MCP task {task_id} cannot be read") from None


async def change(coordinator: Coordinator, before: StoredRecord, **fields: Any) -> StoredRecord | None:
    """Change a record; None if another process changed it first: read it again.

    Raises:
        BusError: it cannot be written.
    """
    record = before.record.model_copy(update={**fields, "changed_at": datetime.now(UTC)})
    subject = subjects.mcp_task(coordinator.agent, before.task_id)
    try:
        stored = await coordinator.bus.store(subject, _encoded(record), expected_revision=before.revision)
    except WrongRevisionError:
        return None
    return StoredRecord(before.task_id, record, stored.seq)


def _encoded(record: TaskRecord) -> bytes:
    return encode(record.model_dump(mode="json", exclude_none=True))
