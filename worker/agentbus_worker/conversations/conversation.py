"""What one run has to do with sessions of its agent: which one it goes on with, and what is kept of it for the next."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from agentbus.config.worker_schema import SESSION_PLACEHOLDER, WorkerConfig
from agentbus.errors import MachineFaultError
from agentbus.protocol.conversations.continuation import is_session_id
from agentbus.protocol.json_codec import object_in
from agentbus.protocol.messages import MAX_FAILURE_CHARS, Failure
from agentbus.protocol.outcomes.failure_codes import FailureCode
from agentbus.protocol.subjects import TaskKey
from agentbus_worker.asking.decisions import Decision
from agentbus_worker.conversations.plans import Plan, Refusal, Resumption, preface_of, told_of
from agentbus_worker.conversations.sessions import Session, SessionLock, Sessions
from agentbus_worker.conversations.unknown_sessions import lacks_call, lacks_session
from agentbus_worker.disk.threads import DiskThreads
from agentbus_worker.formats.events import Event, Notice
from agentbus_worker.formats.stream import EventStream
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.command import Exit, Limits
from agentbus_worker.running.orphans import end_run
from agentbus_worker.running.spawn import Command
from agentbus_worker.settling.outcome import Outcome

log = logging.getLogger("agentbus.worker")


@dataclass(frozen=True, slots=True)
class Answered:
    """What was decided about the call of a tool with which an earlier run ended.

    Attributes:
        used: the file that stands for the one use of an approval.
        was_used: whether an earlier attempt has had it.
    """

    decision: Decision
    used: Path
    was_used: bool = False


class Conversation:
    """The conversation of one task. It has the locks of its sessions until `close`.

    Args:
        plan: what the task goes on with; None of the first run of a task that begins a conversation of its own.
        sessions: None where the agent cannot go on with a session: then nothing is kept.
        answered: what the task says of a call with which an earlier run ended.
        digest: of the task, if another run may go on with the session that this one begins; else empty.
    """

    def __init__(
        self,
        config: WorkerConfig,
        key: TaskKey,
        *,
        plan: Plan | None = None,
        sessions: Sessions | None = None,
        place: str = "",
        threads: DiskThreads | None = None,
        answered: Answered | None = None,
        digest: str = "",
    ) -> None:
        self.answered = answered
        self._digest = digest
        self._config = config
        self._key = key
        self._plan = plan
        self._sessions = sessions
        self._place = place
        self._threads = threads
        self._locks = {plan.session.id: plan.lock} if isinstance(plan, Resumption) else {}
        self.keeps_folder = False
        """Whether the working folder of the run stays, for the session that was kept."""
        self._lacks_call = False

    @property
    def resumed(self) -> Session | None:
        """The session that the run goes on with; None of a new one."""
        return self._plan.session if isinstance(self._plan, Resumption) else None

    @property
    def words(self) -> tuple[str, ...]:
        """The command, with placeholders."""
        agent, session = self._config.agent, self.resumed
        return agent.resume_cmd if session is not None and agent.resume_cmd else agent.chat_cmd

    @property
    def runs_the_call(self) -> bool:
        """Whether the agent gets no prompt, because its session waits before the very call that was answered.

        It then uses the tool, or is told by the hook that it must not, and goes on.
        """
        session, answered = self.resumed, self.answered
        if session is None or answered is None or not session.open_call:
            return False
        decision = answered.decision
        told = decision.approved or bool(self._config.agent.ask_before)  # only the hook can tell of a denial
        return session.open_call == decision.call.call and told and not answered.was_used

    @property
    def values(self) -> dict[str, Callable[[], str]]:
        """What replaces the placeholders of its own."""
        session = self.resumed
        return {} if session is None else {SESSION_PLACEHOLDER: lambda: session.id}

    def limits(self, limits: Limits) -> Limits:
        """Return the limits of a command, with what is known of the session that it goes on with."""
        session = self.resumed
        if session is None:
            return limits
        return replace(limits, words=self.words, before=None if session.cut else session.totals)

    @property
    def preface(self) -> str:
        """What the prompt says of the conversation; empty for a task that goes on with none."""
        return preface_of(self._plan)

    async def refused(self) -> Outcome | None:
        """End what is left of the last run of the session; return the outcome of a task that cannot go on."""
        if isinstance(self._plan, Refusal):
            return _failed(self._plan.code, self._plan.why)
        session = self.resumed
        if session is None:
            return None
        left = await end_run(session.run_id, session.task, session.owner, self._config.worker.kill_grace_seconds)
        if not left.all_found or left.left:
            why = " and ".join(f"it {one.why}" for one in left.left.values()) or "it keeps on starting processes"
            return _failed("not_ended", f"the last run in the session could not be ended: {why}")
        return None

    async def begin(self, run_id: str) -> None:
        """Note the run in the record of its session, so that a worker after this one finds its processes.

        Raises:
            MachineFaultError: the disk refuses it.
        """
        session = self.resumed
        if told := told_of(self._plan):
            TaskLog(self._key.id, **self._key.owner_field).info("%s", told)
        if session is not None and self._sessions is not None and self._threads is not None:
            noted, sessions = replace(session, run_id=run_id, task=self._key.id, cut=True), self._sessions
            try:
                await self._threads.run(lambda: sessions.write(noted))
            except OSError as error:
                why = error.strerror or error
                raise MachineFaultError(f"the record of its session cannot be written: {why}") from None

    def followed(self, events: EventStream | None, command: Command) -> AbstractAsyncContextManager[None]:
        """Note the session that a run begins, as soon as the agent names it, for a run after one that is interrupted.

        Those who follow the run are told of an earlier one.
        """
        return nullcontext() if events is None else self._followed(events, command)

    @asynccontextmanager
    async def _followed(self, events: EventStream, command: Command) -> AsyncGenerator[None]:
        noting: asyncio.Task[None] | None = None

        def on_event(_: Event) -> None:
            nonlocal noting
            named = events.reader.session
            if noting is None and named is not None and named not in self._locks and is_session_id(named):
                noting = asyncio.create_task(self._note(named, command))

        if told := told_of(self._plan):
            events.tell(Notice(told))
        if self._digest and self._sessions is not None:
            events.listen(on_event)
        try:
            yield
        finally:
            if noting is not None:
                await asyncio.wait({noting})

    async def _note(self, named: str, command: Command) -> None:
        sessions = self._sessions
        assert sessions is not None, "without them nothing is noted"
        session = replace(self._record(named, command), cut=True)

        def note() -> None:
            sessions.write(session)
            sessions.point(session)

        self.keeps_folder = await self._written(named, note)

    async def ended(self, outcome: Outcome, ended: Exit, command: Command) -> Outcome:
        """Keep the session of a run that has ended; return the outcome with where that is."""
        plan = self._plan
        if isinstance(plan, Resumption) and self.runs_the_call and lacks_call(ended):
            self._lacks_call = await self._without_open_call(plan.session)
            return outcome
        if isinstance(plan, Resumption) and self._lacks_session(outcome, ended):
            await self._forget(plan.session)
            return _without_session(outcome, plan.session.id)
        if ended.reason != "timeout":  # all else is no reason to go on from where it stopped
            await self._end_pointer()
        run = object_in(outcome.extra.get("run"))
        if plan is not None:
            run = {**run, "resumed": isinstance(plan, Resumption)}
        if await self._keep(ended, command):
            run = {**run, "place": self._place}
        return replace(outcome, extra={**outcome.extra, "run": run}) if outcome.extra.get("run") else outcome

    def _lacks_session(self, outcome: Outcome, ended: Exit) -> bool:
        """Whether the agent has said that it does not have the session; over a protocol the driver has told so."""
        format_ = self._config.agent.output
        if format_ != "acp":
            return lacks_session(ended, format_)
        return _is_gone(outcome) and not (ended.events is not None and ended.events.productive)

    def begins_anew(self, outcome: Outcome) -> bool:
        """Whether the task is to be handed back to be run otherwise.

        It gets a new session, because the agent no longer has the one that it named, or a prompt, because that no
        longer waits before the call that was answered.
        """
        plan = self._plan
        return self._lacks_call or (isinstance(plan, Resumption) and plan.fresh and _is_gone(outcome))

    def close(self) -> None:
        """Let others have the sessions."""
        for lock in self._locks.values():
            lock.release()
        self._locks.clear()

    def _record(self, session: str, command: Command) -> Session:
        """Return the record of a session of a run, with what is known before its end."""
        before, worker = self.resumed, self._config.worker
        return Session(
            session,
            self._config.agent.output,
            before.owner if before else self._key.owner,
            self._key.id,
            command.run_id,
            str(command.cwd or Path.cwd()),
            ours=before.ours if before else worker.workdir is not None and not worker.keep_workdir,
            digest=self._digest,
        )

    async def _without_open_call(self, session: Session) -> bool:
        sessions, threads = self._sessions, self._threads
        if sessions is None or threads is None:
            return False
        known = replace(session, open_call="")
        try:
            await threads.run(lambda: sessions.write(known))
        except OSError:
            return False
        return True

    async def _end_pointer(self) -> None:
        """Let no further run of the task go on with what this one, or one before it, has begun."""
        sessions, threads, key = self._sessions, self._threads, self._key
        if self._digest and sessions is not None and threads is not None:
            with suppress(OSError):  # at worst, one that is tried again goes on with it
                await threads.run(lambda: sessions.unpoint(key.owner, key.id))

    async def _forget(self, session: Session) -> None:
        sessions, threads = self._sessions, self._threads
        if sessions is not None and threads is not None:
            await threads.run(lambda: sessions.forget(session.id))

    async def _keep(self, ended: Exit, command: Command) -> bool:
        """Write the record of the session of a run; False if there is none, or it cannot be kept."""
        sessions = self._sessions
        reader = ended.events.reader if ended.events is not None else None
        named = reader.session if reader is not None else None
        if sessions is None or reader is None or named is None or not is_session_id(named):
            return False
        open_call = reader.question.call if reader.question is not None else ""
        told = replace(self._record(named, command), totals=reader.totals, open_call=open_call)
        session = replace(told, cut=ended.reason != "exited")
        self.keeps_folder = await self._written(named, lambda: sessions.write(session))
        return self.keeps_folder

    async def _written(self, named: str, write: Callable[[], None]) -> bool:
        """Write of a session on disk, under its lock; False if another run has it, or the disk refuses it."""
        sessions, threads = self._sessions, self._threads
        if sessions is None or threads is None:
            return False

        def under_lock() -> SessionLock | None:
            lock = None if named in self._locks else sessions.take(named)
            if lock is not None or named in self._locks:
                write()
            return lock

        try:
            lock = await threads.run(under_lock)
        except OSError as error:
            TaskLog(self._key.id).warning("its session cannot be kept: %s", error.strerror or error)
            return False
        if lock is not None:
            self._locks[named] = lock
        return named in self._locks


def _is_gone(outcome: Outcome) -> bool:
    return outcome.failure is not None and outcome.failure.code == "session_gone"


def _without_session(outcome: Outcome, session: str) -> Outcome:
    failed = _failed("session_gone", f"the agent no longer has the session {session}")
    return replace(failed, extra=outcome.extra, text=outcome.text, transcript=outcome.transcript)


def _failed(code: FailureCode, why: str) -> Outcome:
    return Outcome("failed", "", why, reason=why, cause=code, failure=Failure(code, why[:MAX_FAILURE_CHARS]))
