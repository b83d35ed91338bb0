"""The conversations that a worker can go on with: those of its place, with their sessions on disk."""

import getpass
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.bus.pull_consumer import Delivery
from agentbus.config.worker_schema import WorkerConfig
from agentbus.errors import CorruptEntryError, PermissionDeniedError, SetupMissingError
from agentbus.protocol.conversations.continuation import CONTINUE, Continuation
from agentbus.protocol.conversations.places import place_id
from agentbus.protocol.ledger_entry import NoEntry, Record
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.work.task_work import FILES, WORK
from agentbus.tasks.incoming import Incoming
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.presence import is_alive
from agentbus_worker.asking.decisions import decision_of
from agentbus_worker.conversations.conversation import Answered, Conversation
from agentbus_worker.conversations.plans import Beginning, Refusal, Repetition, Resumption
from agentbus_worker.conversations.routing import (
    Elsewhere,
    Gone,
    Here,
    NotYet,
    Whereabouts,
    earlier_of,
    handing_back_s,
    whereabouts,
)
from agentbus_worker.conversations.sessions import Session, SessionLock, Sessions
from agentbus_worker.disk.threads import Disk
from agentbus_worker.identity import machine_name
from agentbus_worker.settling.server_clock import ServerClock
from agentbus_worker.state_folder import StateFolder

FOLDER: Final = "conversations"
"""Beside the numbered state folders."""
_MOST_WAITS: Final = 20
"""Deliveries of a task whose session is still in use here: half a minute."""


class HandBackError(Exception):
    """The delivery is for another worker, or for later.

    Attributes:
        delay_s: for how long it is kept from all workers.
    """

    def __init__(self, delay_s: float) -> None:
        super().__init__(f"for another worker; again in {delay_s:.1f} s")
        self.delay_s = delay_s


class OwnPlace:
    """The place of a worker: which conversations it can go on with, and where all others are."""

    def __init__(self, bus: Bus, config: WorkerConfig, folder: StateFolder, clock: ServerClock, disk: Disk) -> None:
        base = folder.path.parent
        self._bus = bus
        self._ledger = Ledger(bus)
        self._config = config
        self._clock = clock
        self._disk = disk
        self._sessions = Sessions(base / FOLDER, days=config.worker.session_days)
        self.id = place_id(
            machine_name(),
            _user(),
            base.parent.name,
            config.agent.id,
            str(config.worker.state_dir.absolute()),
            os.environ,
        )
        self.can_continue = config.agent.can_resume

    @property
    def needs(self) -> tuple[str, ...]:
        """What tasks may need of this worker."""
        more = (FILES, WORK) if self._config.has_repository else (FILES,)
        return (CONTINUE, *more) if self.can_continue else more

    async def look(self) -> None:
        """Find out whether this bus tells which places are alive: without that, no follow-up is taken.

        Old records are removed meanwhile.

        Raises:
            BusError: it did not answer.
        """
        if self.can_continue:
            self._disk.folders.begin(self._sessions.remove_old)
            try:
                await is_alive(self._bus, self._config.agent.id, self.id)
            except (PermissionDeniedError, SetupMissingError):
                self.can_continue = False

    def remove_old(self) -> None:
        """Begin to remove the records of sessions that were not used for long."""
        if self.can_continue:
            self._disk.folders.begin(self._sessions.remove_old)

    async def where(self, incoming: Incoming) -> Whereabouts | None:
        """Return where the session is that a task goes on with; None of a task that goes on with none.

        Raises:
            BusError: the ledger could not be read.
        """
        wanted = incoming.continues
        if wanted is None:
            return None
        return whereabouts(wanted, incoming.key.owner, self.id, await self._earlier(wanted))

    async def is_in_use(self, session: str) -> bool:
        """Whether another run has a session of this place, or the disk does not tell."""
        try:
            lock = await self._disk.state.run(lambda: self._sessions.take(session))
        except OSError:
            return True
        if lock is not None:
            lock.release()
        return lock is None

    async def conversation(self, incoming: Incoming, delivery: Delivery) -> Conversation:
        """Return the conversation of a delivered task.

        Raises:
            HandBackError: it is not for this worker, or not yet.
            BusError, OSError: that could not be found out.
        """
        if not set(incoming.needs) <= set(self.needs):
            raise HandBackError(handing_back_s(delivery.num_delivered))
        wanted, key = incoming.continues, incoming.key
        answered = await self._answered(incoming)
        own = await self._own(key) if wanted is not None or self._may_be_repeated(delivery) else None
        if own is not None and (own.entry.terminal or own.entry.cancel is not None):
            return Conversation(self._config, key)  # it does not run any more, wherever it is
        if wanted is not None:
            plan, digest = await self._plan(wanted, incoming, delivery), ""
        else:
            digest = incoming.task.digest() if self._config.agent.resumes_interrupted else ""
            plan = await self._repeated(own, digest, delivery) if own is not None else None
        sessions = self._sessions if wanted is not None or self.can_continue else None
        return Conversation(
            self._config,
            key,
            plan=plan,
            sessions=sessions,
            place=self.id,
            threads=self._disk.state,
            answered=answered,
            digest=digest,
        )

    async def _answered(self, incoming: Incoming) -> Answered | None:
        """Return what a task says of the call of a tool before which an earlier run has ended; None of other tasks."""
        decision = await decision_of(incoming, self._ledger)
        if decision is None:
            return None

        def look() -> Answered:
            used = self._sessions.approval(decision.asked, decision.call.arguments_digest)
            return Answered(decision, used, used.exists())

        return await self._disk.state.run(look)

    def _may_be_repeated(self, delivery: Delivery) -> bool:
        return self.can_continue and delivery.num_delivered > 1

    async def _own(self, key: TaskKey) -> Record | None:
        """Return the entry of a delivered task; None if there is none that can be read, which the claim deals with."""
        try:
            found = await self._ledger.read(key)
        except CorruptEntryError:
            return None
        return found if isinstance(found, Record) else None

    async def _repeated(self, own: Record, digest: str, delivery: Delivery) -> Resumption | Repetition | None:
        """Return with what a task goes on that was delivered before: the session of a run that was interrupted here.

        Raises:
            HandBackError: that run is about to end.
            OSError: the disk refuses it.
        """
        entry, found = own.entry, None
        if digest:
            found = await self._interrupted(own, digest, delivery)
            if isinstance(found, Resumption):
                return found
        if not entry.attempt and entry.earlier is None and found is None:
            return None  # it has not run
        return Repetition(found or "its last run has left no session here that can go on")

    async def _interrupted(self, own: Record, digest: str, delivery: Delivery) -> Resumption | str | None:
        """Return the session of an interrupted run; or why it cannot go on; None of none."""
        key = own.key
        session = await self._disk.state.run(lambda: self._sessions.cut_run(key.owner, key.id, digest))
        if session is None:
            return None
        try:
            found = await self._taken(session.id, delivery)
        except HandBackError:
            # A worker that hands a task back has its session for a moment more; one that is lost may hang for ever.
            if own.entry.state == "queued" and delivery.num_delivered <= _MOST_WAITS:
                raise HandBackError(handing_back_s(delivery.num_delivered)) from None
            return "another process has the session of its last run"
        if isinstance(found, Gone):
            return f"it {found.why}"
        return Resumption(*found, task=key.id, fresh=True, interrupted=True)

    async def _plan(
        self, wanted: Continuation, incoming: Incoming, delivery: Delivery
    ) -> Beginning | Refusal | Resumption:
        found = await self.where(incoming)
        if isinstance(found, NotYet):
            raise HandBackError(handing_back_s(delivery.num_delivered, known=False))
        if isinstance(found, Elsewhere):
            found = await self._given_up(found, wanted, delivery)
        if isinstance(found, Here):
            session = await self._taken(found.session, delivery)
            if not isinstance(session, Gone):
                interrupted = session[0].cut and session[0].task == incoming.key.id
                return Resumption(*session, wanted.task, wanted.fresh, interrupted)
            found = session
        assert isinstance(found, Gone), "all else was dealt with"
        why = f"the task {wanted.task} {found.why}"
        if found.code != "session_gone" or not wanted.fresh:
            return Refusal(why, found.code)
        earlier = await self._ledger.read_known(wanted.earlier(incoming.key.agent))
        return Beginning(why, earlier if isinstance(earlier, Record) else None)

    async def _given_up(self, found: Elsewhere, wanted: Continuation, delivery: Delivery) -> Gone:
        """Return that a place is gone for good.

        Raises:
            HandBackError: it is alive, or may come back.
        """
        alive = await is_alive(self._bus, self._config.agent.id, found.place)
        if not alive and found.moved:
            return Gone("has its session in a home of the agent that is another one by now")
        wait_s = self._config.worker.continue_wait_seconds if wanted.wait_s is None else wanted.wait_s
        if not alive:
            now = await self._clock.now() or datetime.now(UTC)
            if (now - delivery.stored_at).total_seconds() >= wait_s:
                return Gone(f"has its session in a place of which no worker has been alive for {wait_s:g} s")
        raise HandBackError(handing_back_s(delivery.num_delivered, known=alive))

    async def _taken(self, name: str, delivery: Delivery) -> tuple[Session, SessionLock] | Gone:
        """Take a session of this place.

        Raises:
            HandBackError: another run has it.
            OSError: the disk refuses it.
        """
        lock = await self._disk.state.run(lambda: self._sessions.take(name))
        if lock is None:
            raise HandBackError(handing_back_s(delivery.num_delivered, known=False))
        try:
            session = await self._disk.state.run(lambda: self._sessions.read(name))
            if session is None:
                why = "has a session that its worker no longer keeps"
            elif session.kind != self._config.agent.output:
                why = f"has a session of {session.kind}, and the agent is {self._config.agent.output} by now"
            elif not await self._disk.folders.run(Path(session.folder).is_dir):
                why = f"has its session in a folder that is gone: {session.folder}"
            else:
                found, lock = (session, lock), None
                return found
            return Gone(why)
        finally:
            if lock is not None:
                lock.release()

    async def _earlier(self, wanted: Continuation) -> Record | NoEntry | None:
        key = earlier_of(wanted, self._config.agent.id)
        return None if key is None else await self._ledger.read_known(key)


def _user() -> str:
    try:
        return f"{os.getuid()} {getpass.getuser()}"
    except (KeyError, OSError, ImportError):  # a user id without a name, as in a container
        return str(os.getuid())
