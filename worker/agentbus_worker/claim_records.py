"""Records on disk what a worker has taken from the bus, for the worker after it, in case it is killed.

`claims/<worker>.claims` has a slot of fixed size for each task that the worker holds: its key, the nonce of the claim,
and the ack subject of its delivery. The first slot says which worker this is, and where it runs. A slot is written
before the claim, and emptied soon after the task is done, so the file stays as large as the most tasks held at a time.

Nothing is fsynced: a record is to survive its worker. After a crash of the machine it may be old or missing, and then
the lease decides. A thread writes, beside the claim; a command waits for it only as long as a disk takes that works.
"""

import asyncio
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Final, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from agentbus.config.private_files import open_private
from agentbus.errors import MessageError
from agentbus.protocol.json_codec import decode
from agentbus.protocol.subjects import COORDINATOR, TaskKey, is_agent_id, is_task_id
from agentbus_worker.disk.threads import AT_ONCE, DiskThreads
from agentbus_worker.identity import Place

log = logging.getLogger("agentbus.worker")

SUFFIX: Final = ".claims"
SLOT_BYTES: Final = 1024
"""Twice what the longest ids, names and numbers take. A power of two, so that no slot crosses a page of memory: SIGKILL
cuts no write within one."""
_END: Final = b"\n"
_MOST_READ_BYTES: Final = 4 * 1024 * 1024
"""More than a worker with a thousand slots writes."""
_MOST_KEPT: Final = 64
"""How many records of tasks that could not be released are kept; their leases run out in the meantime."""
_DISK_S: Final = 0.05
"""How long a command waits for the record of its claim. A write to a disk that works takes microseconds."""
_POLL_S: Final = 0.001
_CLOSE_S: Final = 1.0
_EMPTIED_S: Final = 0.05
"""How long a slot that is free may still hold its record. Where runs are quick, the next task is written over it by
then: without this, the thread would be woken twice for each task, and take Python's lock from the event loop."""


def _check(is_valid: Callable[[object], bool]) -> AfterValidator:
    def check(text: str) -> str:
        if not is_valid(text):
            raise ValueError("is not an id")
        return text

    return AfterValidator(check)


class LeftClaim(BaseModel):
    """A task that a worker held when it died: under which claim, and how its delivery is handed back.

    `released` says that the worker wanted to release it, and could not.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    agent: Annotated[str, _check(is_agent_id)]
    task_id: Annotated[str, _check(is_task_id)]
    owner: Annotated[str, _check(is_agent_id)] = COORDINATOR
    nonce: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    reply: Annotated[str, StringConstraints(max_length=SLOT_BYTES)]
    released: bool = False

    @property
    def key(self) -> TaskKey:
        """The task."""
        return TaskKey(self.agent, self.task_id, self.owner)


class _Head(BaseModel):
    """The first slot of a file of records."""

    worker: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
    machine: str = ""
    boot: str = ""
    processes: str = ""


class ClaimRecord:
    """The record of one task that a worker holds, from its delivery to its end."""

    def __init__(self, records: "ClaimRecords", key: TaskKey, nonce: str, reply: str) -> None:
        self.nonce = nonce
        self._records = records
        self._fields = {"agent": key.agent, "task_id": key.id, **key.owner_field, "nonce": nonce, "reply": reply}
        self._slot: int | None
        self._slot, self._number = records.fill(self._fields)

    async def written(self) -> None:
        """Wait until the record is on disk, but no longer than a disk takes that works.

        Those that wait go on in the order of their records: tasks run in the order in which they were taken.
        """
        if self._number is not None:
            await self._records.written(self._number)

    def remove(self) -> None:
        """Empty the record, because the task is done or was handed back; nothing if it was emptied or kept before."""
        if self._slot is not None:
            self._records.empty(self._slot)
            self._slot = None

    def keep(self, *, released: bool = False) -> None:
        """Leave the record to the next worker, because the bus could not be told what became of the task."""
        if self._slot is not None:
            self._records.keep(self._slot, {**self._fields, "released": True} if released else self._fields)
            self._slot = None


class ClaimRecords:
    """The records of one worker. Their file exists for a `with` block, and beyond it if any are kept."""

    def __init__(self, folder: Path, worker: str, place: Place) -> None:
        """`worker` is the token with which the run ids of the worker's commands begin."""
        self._path = folder / (worker + SUFFIX)
        self._head = {"worker": worker, **place._asdict()}
        self._free: list[int] = []
        self._count = 1
        self._filled = 0
        self._kept: deque[int] = deque()
        self._outdated: set[int] = set()
        self._emptying: asyncio.TimerHandle | None = None
        self._disk: _Disk | None = None

    def __enter__(self) -> Self:
        """Make the file. A failure is logged; without records, the lease decides if the worker is killed."""
        try:
            self._disk = _Disk(open_private(self._path, truncate=True))
        except OSError as error:
            log.warning(
                "claims are not on record, so tasks wait for their leases if this worker is killed: %s",
                error.strerror or error,
            )
        else:
            self._write(0, self._head)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._disk is not None:
            self._write_emptied()
            self._disk.close(None if self._filled else self._path)

    def fill(self, fields: dict[str, Any]) -> tuple[int, int | None]:
        """Have a record written into a free slot; returns the slot, and the number for `written`."""
        slot = self._free.pop() if self._free else self._count
        self._count = max(self._count, slot + 1)
        self._filled += 1
        self._outdated.discard(slot)
        return slot, self._write(slot, fields)

    async def written(self, number: int) -> None:
        """Wait for a write; see `ClaimRecord.written`."""
        if self._disk is not None:
            await self._disk.written(number)

    def empty(self, slot: int) -> None:
        """Free a slot. Nothing waits for that: what is settled, or claimed by another worker, is known by its entry."""
        self._filled -= 1
        self._free.append(slot)
        self._outdated.add(slot)
        if self._emptying is None:
            self._emptying = asyncio.get_running_loop().call_later(_EMPTIED_S, self._write_emptied)

    def keep(self, slot: int, fields: dict[str, Any]) -> None:
        """Keep a record beyond the end of this worker, the newest ones."""
        self._write(slot, fields)
        self._kept.append(slot)
        if len(self._kept) > _MOST_KEPT:
            self.empty(self._kept.popleft())

    def _write_emptied(self) -> None:
        """Empty the slots that were freed, and were not filled again since."""
        if self._emptying is not None:
            self._emptying.cancel()
            self._emptying = None
        while self._outdated and self._disk is not None:
            self._disk.write(self._outdated.pop() * SLOT_BYTES, _END)

    def _write(self, slot: int, fields: dict[str, Any]) -> int | None:
        data = json.dumps(fields).encode() + _END
        if self._disk is None or len(data) > SLOT_BYTES:
            return None
        return self._disk.write(slot * SLOT_BYTES, data)


class _Waiter(NamedTuple):
    """One that waits for a write, for its turn, and until a time of the event loop."""

    number: int
    turn: asyncio.Future[None]
    until: float


class _Disk:
    """Writes on a thread of its own, in order, so that a disk that stands still holds up nothing else.

    `done` is how many writes are done.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._queue: SimpleQueue[tuple[int, bytes] | None] = SimpleQueue()
        self._asked = 0
        self.done = 0
        self._waiting: list[_Waiter] = []
        self._looking: asyncio.TimerHandle | None = None
        self._late = False
        self._refused = ""
        self._remove: Path | None = None
        self._thread = threading.Thread(target=self._run, name="claim records", daemon=True)
        self._thread.start()

    def write(self, offset: int, data: bytes) -> int | None:
        """Have something written; returns its number. None if the disk stands still or refuses: nothing is queued."""
        if self._late and self.done < self._asked:
            return None
        self._late = False
        self._asked += 1
        self._queue.put((offset, data))
        return None if self._refused else self._asked

    async def written(self, number: int) -> None:
        """Wait until a write is done, but no longer than a disk takes that works, and behind those that wait already.

        One that finds its write done would otherwise overtake one that is yet to be woken.
        """
        if not self._waiting and (self.done >= number or self._late):
            return
        loop = asyncio.get_running_loop()
        waiter = _Waiter(number, loop.create_future(), loop.time() + _DISK_S)
        self._waiting.append(waiter)
        self._wake()
        try:
            if waiter.turn.done():
                await asyncio.sleep(0)  # those before it are woken, and run first
            await waiter.turn
        finally:
            self._waiting.remove(waiter)

    def _wake(self) -> None:
        """Wake those whose writes are done, in order; look again for the others, until the disk counts as standing."""
        loop = asyncio.get_running_loop()
        for waiter in self._waiting:
            if waiter.number > self.done and not self._late:
                if loop.time() < waiter.until:
                    self._looking = self._looking or loop.call_later(_POLL_S, self._look)
                    return
                self._late = True
                log.warning("claims are not on record while the disk under %s stands still", self._file.name)
            if not waiter.turn.done():
                waiter.turn.set_result(None)

    def _look(self) -> None:
        self._looking = None
        self._wake()

    def close(self, remove: Path | None) -> None:
        """Write what is left, and remove the file if it is given; waits for that for a second at most."""
        self._remove = remove
        self._queue.put(None)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        with self._file as file:
            while (item := self._queue.get()) is not None:
                self._try_to_write(file.fileno(), *item)
                self.done += 1
        if self._remove is not None:
            with suppress(OSError):  # one that is left is harmless: nothing in it is claimed any more
                self._remove.unlink(missing_ok=True)

    def _try_to_write(self, file: int, offset: int, data: bytes) -> None:
        try:
            refused = "" if os.pwrite(file, data, offset) == len(data) else "the disk is full"
        except OSError as error:
            refused = error.strerror or str(error)
        if refused and refused != self._refused:
            log.warning(
                "claims are not on record, so tasks wait for their leases if this worker is killed: %s", refused
            )
        if refused or data != _END:  # that much has room on a full disk, too
            self._refused = refused


class LeftClaims:
    """The records that one dead worker has left.

    `worker` is its token, and `place` where it ran; both are empty where the file cannot be read.
    """

    def __init__(self, path: Path, disk: DiskThreads = AT_ONCE) -> None:
        """Read them; `disk` writes them."""
        self._path = path
        self._disk = disk
        self._slots: dict[LeftClaim, int] = {}
        self.worker, self.place = "", Place()
        with suppress(OSError, ValidationError, MessageError):
            with path.open("rb") as file:
                lines = _lines(file.read(_MOST_READ_BYTES))
            head = _Head.model_validate(decode(next(lines)[1]))
            self.worker, self.place = head.worker, Place(head.machine, head.boot, head.processes)
            for slot, line in lines:
                with suppress(ValidationError, MessageError):  # cut by the crash of a machine
                    self._slots[LeftClaim.model_validate(decode(line))] = slot

    @property
    def claims(self) -> list[LeftClaim]:
        """The tasks that it held."""
        return [*self._slots]

    def forget(self, claim: LeftClaim) -> None:
        """Empty one record. One that stays on disk is harmless: the next worker finds nothing to do for it."""
        slot = self._slots.pop(claim)
        self._disk.begin(lambda: self._empty(slot))
        if not self._slots:
            self.remove()

    def remove(self) -> None:
        """Delete the file."""
        self._slots.clear()
        self._disk.begin(self._delete)

    def _empty(self, slot: int) -> None:
        with suppress(OSError), self._path.open("r+b") as file:
            os.pwrite(file.fileno(), _END, slot * SLOT_BYTES)

    def _delete(self) -> None:
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the filled slots, each with its number; the first one always."""
    for slot in range(max(1, len(data) // SLOT_BYTES + 1)):
        line, end, _ = data[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES].partition(_END)
        if (line and end) or slot == 0:
            yield slot, line


def left_claims(folder: Path, disk: DiskThreads = AT_ONCE) -> list[LeftClaims]:
    """Read the records that dead workers have left in a folder; `disk` writes them later."""
    return [LeftClaims(path, disk) for path in sorted(folder.glob("*" + SUFFIX))]
