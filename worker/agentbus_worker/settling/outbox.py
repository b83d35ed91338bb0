"""Keeps outcomes on disk until the bus has them.

An entry is written while the outcome is being committed, and removed once the result is in its inbox. What becomes of
those that stay: `agentbus_worker.settling.unsettled`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from agentbus.config.atomic_files import sync_to_disk
from agentbus.errors import MessageError
from agentbus.observability import tracing
from agentbus.protocol.json_codec import Json, decode, encode
from agentbus.protocol.messages import Result, ResultStatus
from agentbus.protocol.subjects import COORDINATOR, TaskKey, is_agent_id, is_task_id
from agentbus_worker.disk.threads import Disk
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.state_folder import write_atomically

log = logging.getLogger("agentbus.worker")

_SUFFIX: Final = ".json"
_WRITE_AFTER_S: Final = 0.02
"""How long the bus may take to store a result before a copy is written: usually it is faster than a disk."""
_WRITE_LATER_S: Final = 0.1
"""The same while tasks are quick and there is a backlog. Then writes to the bus wait for each other, and a copy would
cost as much as a run that is repeated."""
_SYNC_AFTER_S: Final = 0.015
"""The delay from there to the fsync of the copy, with which it survives a crash of the machine."""


class OutboxEntry(BaseModel):
    """An outcome that waits to be committed or published."""

    model_config = ConfigDict(frozen=True)

    agent: str
    task_id: str
    owner: str = COORDINATOR
    nonce: str
    status: ResultStatus
    inbox: str
    result: Result
    written_at: float
    revision: int = 0
    """The revision of the ledger entry when this was written: a replica with an older one lacks this claim."""
    trace: dict[str, str] = {}

    @classmethod
    def new(cls, key: TaskKey, nonce: str, inbox: str, result: Result, revision: int) -> Self:
        """Make the entry of an outcome that was made now, in the trace that is current."""
        return cls(
            agent=key.agent,
            task_id=key.id,
            owner=key.owner,
            nonce=nonce,
            status=result.status,
            inbox=inbox,
            result=result,
            written_at=time.time(),
            revision=revision,
            trace=tracing.headers(),
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.result_id:
            raise ValueError("the result has no id")
        if not (is_agent_id(self.agent) and is_agent_id(self.inbox) and is_task_id(self.task_id)):
            raise ValueError("an id is not valid")
        if not is_agent_id(self.owner):
            raise ValueError("the owner is not an id")
        return self

    @property
    def key(self) -> TaskKey:
        """The task that it is the outcome of."""
        return TaskKey(self.agent, self.task_id, self.owner)

    def to_json(self) -> dict[str, Json]:
        """Return the entry as it is stored on disk."""
        fields = {**dict(self), "result": self.result.to_json()}
        del fields["owner"]
        return {**fields, **self.key.owner_field}

    @property
    def result_id(self) -> str:
        """The id under which the result is, or will be, published."""
        return self.result.id


class Outbox:
    """The outcomes in one state folder, and those that its disk has refused, which are in memory."""

    def __init__(
        self, folder: Path, beside: Callable[[str], Iterable[Path]] = lambda _: (), disk: Disk | None = None
    ) -> None:
        """Take the folder of the entries.

        Args:
            beside: finds the files of a name in all outboxes of the agent on this machine.
            disk: reads and writes them; without it that is done where it is asked for.
        """
        self._folder = folder
        self._beside = beside
        self._disk = disk or Disk(threads=False)
        self._unwritten: dict[str, OutboxEntry] = {}

    async def put(self, entry: OutboxEntry) -> None:
        """Write an entry. It survives a crash of this process at once, and after an fsync that of the machine.

        The fsync is delayed: cancel this when the bus has stored the result by then, and `remove` what may be written
        nonetheless. A failure of the disk is logged, and so is one that does not answer; the outcome stays in memory.
        See `OutboxCopy`.
        """
        path = self._path(entry.nonce)
        try:
            await self._disk.state.run(lambda: write_atomically(path, encode(entry.to_json())))
            await asyncio.sleep(_SYNC_AFTER_S)
            await self._disk.syncs.run(lambda: sync_to_disk(path))
        except OSError as error:
            self._unwritten[entry.nonce] = entry
            TaskLog(entry.task_id).warning("no copy of the outcome on disk: %s", error.strerror or error)

    async def get(self, nonce: str) -> OutboxEntry | None:
        """Return the outcome of one claim of this worker; None if it keeps none.

        Raises:
            TimeoutError: the disk does not answer.
        """
        return self._unwritten.get(nonce) or await self._disk.state.run(lambda: _read(self._path(nonce)))

    async def of_claim(self, key: TaskKey, nonce: str) -> OutboxEntry | None:
        """Return the outcome of one claim, whichever worker of this machine and user has made it; None without one.

        The nonce is random and names one claim on one bus, so it is looked for in the folders of all.

        Raises:
            TimeoutError: the disk does not answer.
        """

        def look() -> OutboxEntry | None:
            found = chain([_read(self._path(nonce))], (_read(path) for path in self._beside(nonce + _SUFFIX)))
            return next((entry for entry in found if entry and _is_of(entry, key, nonce)), None)

        kept = self._unwritten.get(nonce)
        return kept if kept and _is_of(kept, key, nonce) else await self._disk.state.run(look)

    def remove(self, entry: OutboxEntry) -> None:
        """Delete an entry whose result is in its inbox, or that must not be sent. One that is left is harmless.

        That of another worker stays: its own worker removes it, when it finds the task settled.
        """
        self._unwritten.pop(entry.nonce, None)
        self._disk.state.begin(lambda: self._unlink(entry))

    def count(self) -> int:
        """Return the number of entries."""
        return len(self._unwritten) + sum(1 for _ in self._folder.glob("*" + _SUFFIX))

    async def left(self) -> list[OutboxEntry]:
        """Return the entries as `entries` does, however long the disk takes."""
        return await self._disk.state.run(self.entries, timeout_s=None)

    def entries(self) -> list[OutboxEntry]:
        """Return the entries, oldest first. An unreadable one is renamed and logged, not deleted."""
        found: list[OutboxEntry] = []
        for path in sorted(self._folder.glob("*" + _SUFFIX), key=lambda path: path.stat().st_mtime):
            try:
                found.append(_parsed(path))
            except (MessageError, ValidationError, OSError) as error:
                log.error("the outbox entry %s cannot be read and was set aside: %s", path, type(error).__name__)
                with suppress(OSError):
                    path.rename(path.with_suffix(".unreadable"))
        return found

    def _path(self, nonce: str) -> Path:
        return self._folder / f"{nonce}{_SUFFIX}"

    def _unlink(self, entry: OutboxEntry) -> None:
        try:
            self._path(entry.nonce).unlink(missing_ok=True)
        except OSError as error:
            TaskLog(entry.task_id).warning("its outcome stays on disk: %s", error.strerror or error)


def _is_of(entry: OutboxEntry, key: TaskKey, nonce: str) -> bool:
    return (entry.key, entry.nonce) == (key, nonce)


def _parsed(path: Path) -> OutboxEntry:
    return OutboxEntry.model_validate(decode(path.read_bytes()))


def _read(path: Path) -> OutboxEntry | None:
    with suppress(MessageError, ValidationError, OSError):
        return _parsed(path)
    return None


class OutboxCopy:
    """The copy on disk of one outcome during its settlement, written if the bus does not store it at once.

    It stays if the block is left by an error, or after `keep()`; then it is also synced to disk.
    """

    def __init__(self, outbox: Outbox, entry: Callable[[], OutboxEntry], *, later: bool = False) -> None:
        """Take an outcome.

        Args:
            entry: builds the entry; usually it is not called, because the bus is faster.
            later: whether writes to the bus are batched, and so take longer.
        """
        self._outbox = outbox
        self._make_entry = entry
        self._after_s = _WRITE_LATER_S if later else _WRITE_AFTER_S
        self._putting: asyncio.Task[None] | None = None
        self._kept = False

    async def __aenter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(self._after_s, self._put)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._kept or kind is not None:
            await (self._putting or self._put())
        elif self._putting is not None:
            self._putting.cancel()
            await asyncio.wait({self._putting})
            self._outbox.remove(self._written)

    def keep(self) -> None:
        """Keep the copy when the block is left, because the bus has not stored the outcome."""
        self._kept = True

    def _put(self) -> asyncio.Task[None]:
        self._written = self._make_entry()
        self._putting = asyncio.create_task(self._outbox.put(self._written))
        return self._putting
