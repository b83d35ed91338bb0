"""Keep outcomes on disk that a worker has finished and the bus may not know yet.

An entry is written before (or while) the outcome is committed and removed once the result is in its inbox. A worker
that finds entries at its start commits them if the claim is still theirs, publishes again what was committed, and
drops the rest.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from agentbus.bus.jetstream import Bus
from agentbus.config.atomic_files import sync_to_disk
from agentbus.errors import BusError, BusUnavailableError, MessageError, StreamFullError
from agentbus.observability import tracing
from agentbus.protocol.json_codec import Json, decode, encode
from agentbus.protocol.ledger_entry import NoEntry, Record
from agentbus.protocol.messages import Result, ResultStatus
from agentbus.protocol.subjects import is_agent_id, is_task_id
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.settle import Won, publish_committed, settle
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.metrics import Metrics
from agentbus_worker.settling.decisions import CommitOutbox, DropOutbox, RepublishOutbox, on_outbox
from agentbus_worker.settling.server_clock import ServerClock
from agentbus_worker.state_folder import write_atomically

log = logging.getLogger("agentbus.worker")

_SUFFIX: Final = ".json"
_WRITE_AFTER_S: Final = 0.02
"""How long the bus has to take a result before a copy of it is written: usually it is faster than a disk."""
_SYNC_AFTER_S: Final = 0.015
"""How long it has from there before the copy is made to survive the machine as well."""
_MEMORY_OF_IDS_S: Final = 8 * 86_400
"""The duplicate window of AGENT_RESULTS: a result older than this is never published, it could appear twice."""


class Unsent(BaseModel):
    """An outcome that waits to be committed or published."""

    model_config = ConfigDict(frozen=True)

    agent: str
    task_id: str
    nonce: str
    status: ResultStatus
    inbox: str
    result: Result
    written_at: float
    revision: int = 0
    """That of the ledger entry when this was written: a replica that has an older one knows nothing of this claim."""
    trace: dict[str, str] = {}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.result_id:
            raise ValueError("the result has no id")
        if not (is_agent_id(self.agent) and is_agent_id(self.inbox) and is_task_id(self.task_id)):
            raise ValueError("an id is not valid")
        return self

    def to_json(self) -> dict[str, Json]:
        """The entry as it lies on disk."""
        return {**dict(self), "result": self.result.to_json()}

    @property
    def result_id(self) -> str:
        """The id under which the result is, or will be, published."""
        return self.result.id


class Outbox:
    """The outcomes in one state folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def put(self, unsent: Unsent) -> None:
        """Write an entry, which survives the death of this process at once and, after the fsync, that of the machine.

        The fsync waits a moment: cancel this when the bus has the result by then, and there is no need for it. A disk
        that takes nothing is logged, and the outcome goes on from memory. See `Copy`.
        """
        path = self._path(unsent)
        try:
            write_atomically(path, encode(unsent.to_json()))
            await asyncio.sleep(_SYNC_AFTER_S)
            await asyncio.to_thread(sync_to_disk, path)
        except OSError as error:
            TaskLog(unsent.task_id).warning("no copy of the outcome on disk: %s", error.strerror or error)

    def remove(self, unsent: Unsent) -> None:
        """Forget an entry whose result is in its inbox, or that must not be sent; one that stays is harmless."""
        try:
            self._path(unsent).unlink(missing_ok=True)
        except OSError as error:
            TaskLog(unsent.task_id).warning("its outcome stays on disk: %s", error.strerror or error)

    def waiting(self) -> int:
        """How many outcomes lie here."""
        return sum(1 for _ in self._folder.glob("*" + _SUFFIX))

    def entries(self) -> list[Unsent]:
        """What a worker has left here, oldest first. What cannot be read is moved aside and logged, not deleted."""
        found: list[Unsent] = []
        for path in sorted(self._folder.glob("*" + _SUFFIX), key=lambda path: path.stat().st_mtime):
            try:
                found.append(Unsent.model_validate(decode(path.read_bytes())))
            except (MessageError, ValidationError, OSError) as error:
                log.error("the outbox entry %s cannot be read and was set aside: %s", path, type(error).__name__)
                with suppress(OSError):
                    path.rename(path.with_suffix(".unreadable"))
        return found

    def _path(self, unsent: Unsent) -> Path:
        return self._folder / f"{unsent.nonce}{_SUFFIX}"


class Copy:
    """The copy on disk of one outcome, for the length of its settlement; made when the bus does not take it at once.

    It stays if the block is left by an error, or after `keep()`: then it survives the machine too, on a sound disk.
    """

    def __init__(self, outbox: Outbox, unsent: Callable[[], Unsent]) -> None:
        """`unsent` builds what to write; usually it is not called, because the bus is faster."""
        self._outbox = outbox
        self._unsent = unsent
        self._putting: asyncio.Task[None] | None = None
        self._kept = False

    async def __aenter__(self) -> Self:
        self._timer = asyncio.get_running_loop().call_later(_WRITE_AFTER_S, self._put)
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
        """The bus has not taken the outcome."""
        self._kept = True

    def _put(self) -> asyncio.Task[None]:
        self._written = self._unsent()
        self._putting = asyncio.create_task(self._outbox.put(self._written))
        return self._putting


async def replay(bus: Bus, outbox: Outbox, clock: ServerClock, metrics: Metrics) -> None:
    """Settle what an earlier worker has left in `outbox`; what the bus refuses for good is logged, and stays.

    Raises:
        BusUnavailableError, StreamFullError: the bus does not take it now; the entries stay.
    """
    for unsent in outbox.entries():
        try:
            with tracing.resumed(unsent.trace):
                delivered = await _replay_one(bus, Ledger(bus), clock, unsent)
            if delivered:
                metrics.count("stored late")
        except (BusUnavailableError, StreamFullError):
            raise
        except BusError as error:
            TaskLog(unsent.task_id).error("its outcome from before the restart is refused: %s", error)
            metrics.count("result refused")
        else:
            outbox.remove(unsent)


async def _replay_one(bus: Bus, ledger: Ledger, clock: ServerClock, unsent: Unsent) -> bool:
    """Deliver an outcome; False if it must not be."""
    while True:
        found = await ledger.read_newer(unsent.agent, unsent.task_id, unsent.revision - 1)
        expired = await _age_s(found, clock, unsent) > _MEMORY_OF_IDS_S
        decision = on_outbox(found, nonce=unsent.nonce, result_id=unsent.result_id, expired=expired)
        match decision:
            case DropOutbox(reason):
                TaskLog(unsent.task_id).warning("an outcome from before the restart is dropped: %s", reason)
                return False
            case CommitOutbox(record):
                verdict = await settle(
                    bus,
                    unsent.agent,
                    unsent.task_id,
                    record.entry,
                    unsent.result,
                    revision=record.revision,
                )
                if not isinstance(verdict, Won):
                    continue  # another party has written meanwhile: decide anew
            case RepublishOutbox(record):
                await publish_committed(bus, record.entry)
        TaskLog(unsent.task_id).info("its outcome from before the restart is delivered", status=unsent.status)
        return True


async def _age_s(found: Record | NoEntry, clock: ServerClock, unsent: Unsent) -> float:
    """How old an outcome is, at the least: a clock of this machine that was set back would make it look fresh."""
    age_s = time.time() - unsent.written_at
    if isinstance(found, Record) and found.entry.terminal and (now := await clock.now()) is not None:
        age_s = max(age_s, (now - found.changed_at).total_seconds())
    return age_s
