"""The state of a task: one key of the bucket AGENT_STATE, and every change to it a compare-and-set.

JetStream's acknowledgements are neither durable nor fencing; this one key decides. An entry that is terminal carries
the whole result message, so that any reader can publish the result again under the same id.
"""

from collections.abc import Callable, Mapping
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.retry_until import deadline_after, retry_until
from agentbus.errors import WrongRevisionError
from agentbus.observability import tracing
from agentbus.protocol import subjects
from agentbus.protocol.headers import GROUP, KV_OPERATION, NO_GROUP, QUESTIONS, STATE, SUMMARY
from agentbus.protocol.ledger_entry import Entry, NoEntry, Record, read_entry
from agentbus.protocol.listed.summary import summary_of
from agentbus.protocol.questions.questions_of_entries import state_of, waiting_in
from agentbus.protocol.subjects import TaskKey

WRITE_TIMEOUT_S: Final = 10.0
LAG_TIMEOUT_S: Final = 3.0
"""How long a replica may lag behind a write that was acknowledged: a healthy cluster takes milliseconds."""
_LAG_PAUSE_S: Final = 0.05


class Ledger:
    """The bucket of one bus."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def read(self, key: TaskKey) -> Record | NoEntry:
        """The present entry of a task.

        In a cluster it may be an older one: the replica that answers may lag behind, by milliseconds as a rule and
        without a bound. It may show an entry that was taken back, or not show a new one. Only a write decides.

        Raises:
            CorruptEntryError: the key holds something that is not an entry.
            SetupMissingError: there is no ledger on this bus.
        """
        message = await self._bus.last_message(subjects.STATE_STREAM, subjects.state(key))
        return NoEntry() if message is None else read_entry(message)

    async def read_newer(self, key: TaskKey, revision: int, *, timeout_s: float = LAG_TIMEOUT_S) -> Record | NoEntry:
        """Read the entry, retrying until its revision is newer than `revision` (replica lag).

        A replica that lags behind is asked again for `timeout_s`. Then this is what it says: the ledger may have been
        restored to an older state.

        Raises:
            CorruptEntryError, SetupMissingError: see `read`.
        """
        found: Record | NoEntry = NoEntry()
        async for _ in retry_until(deadline_after(timeout_s), _LAG_PAUSE_S):
            found = await self.read(key)
            if found.revision > revision:
                break
        return found

    async def read_refused(
        self, key: TaskKey, revision: int, refusal: WrongRevisionError, *, timeout_s: float = LAG_TIMEOUT_S
    ) -> Record | NoEntry:
        """Read the entry for which a write at `revision` was refused: as it was then, or newer; see `read_newer`."""
        return await self.read_newer(key, max(revision, refusal.revision - 1), timeout_s=timeout_s)

    async def read_known(self, key: TaskKey, as_new: Callable[[Record], bool] = lambda _: True) -> Record | NoEntry:
        """Read an entry that was written before: again for `Bus.lag_s`, while a replica lags behind.

        Then this is what the server says: the entry may be gone.

        Args:
            as_new: whether an entry is as new as what is known of it.

        Raises:
            CorruptEntryError, SetupMissingError: see `read`.
        """
        found: Record | NoEntry = NoEntry()
        async for _ in retry_until(deadline_after(self._bus.lag_s), _LAG_PAUSE_S):
            found = await self.read(key)
            if isinstance(found, Record) and as_new(found):
                break
        return found

    async def write(
        self,
        key: TaskKey,
        entry: Entry,
        *,
        revision: int,
        timeout_s: float = WRITE_TIMEOUT_S,
        flush: bool = True,
        trace: Mapping[str, str] | None = None,
    ) -> int:
        """Compare-and-set: store `entry` if the key still is at `revision` (0: does not exist); returns the new one.

        Args:
            flush: see `Bus.publish`.
            trace: the trace of the run that a final entry is of, where that is not the one of the writer.

        Raises:
            WrongRevisionError: the key has changed; if an answer was lost on the way, the change may be this one.
            StreamFullError: the ledger is full.
        """
        if trace is None:  # who reads the result can link to the run it came from
            trace = tracing.headers() if entry.terminal else {}
        stored = await self._bus.store(
            subjects.state(key),
            entry.model_dump_json(exclude_none=True).encode(),
            expected_revision=revision,
            headers={STATE: entry.state, **_said_of(entry), **trace},
            timeout_s=timeout_s,
            flush=flush,
        )
        return stored.seq

    async def remove(self, key: TaskKey, *, revision: int) -> None:
        """Take back an entry whose task was refused by the bus.

        Raises:
            WrongRevisionError: another party has changed it meanwhile.
        """
        await self._bus.store(subjects.state(key), b"", expected_revision=revision, headers={KV_OPERATION: "DEL"})

    async def create(self, key: TaskKey, entry: Entry) -> Record | int:
        """Make the entry unless there is one: returns the revision of the new entry, or the entry that is there.

        An entry that a replica still shows, and that was taken back before, is not there.
        """
        revision = 0
        while True:
            try:
                return await self.write(key, entry, revision=revision)
            except WrongRevisionError as refusal:
                found = await self.read_refused(key, revision, refusal)
                if isinstance(found, Record):
                    return found
                if found.revision == revision:
                    raise
                revision = found.revision


def _said_of(entry: Entry) -> dict[str, str]:
    """Return the headers that spare a reader the entry."""
    found = {GROUP: entry.group or NO_GROUP, SUMMARY: summary_of(entry), QUESTIONS: _questions_of(entry)}
    return {name: text for name, text in found.items() if text}


def _questions_of(entry: Entry) -> str:
    """Say how many questions wait, and of how many the run is gone: so it is seen in a header that a run has ended."""
    waiting = waiting_in(entry)
    gone = sum(state_of(entry, question) == "interrupted" for question in waiting)
    return f"{len(waiting)}{f' interrupted={gone}' if gone else ''}" if waiting else ""
