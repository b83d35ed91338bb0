"""Runs an agent command in a session of its own, bounds its output, and ends all processes that it started.

It waits for the process and not for its pipes, so a grandchild that keeps them open delays nothing.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from agentbus_worker.asking.question_clock import QuestionClock
from agentbus_worker.disk.threads import AT_ONCE, DiskThreads
from agentbus_worker.formats.judgement import GivenUp
from agentbus_worker.formats.reading import Totals
from agentbus_worker.formats.stall import StallWatch
from agentbus_worker.formats.stream import EventStream, stream_of
from agentbus_worker.log.lines import TaskLog
from agentbus_worker.running.output import TAIL_BYTES, Output, OutputPipe
from agentbus_worker.running.process_tree import Children, Run, RunningProcess, has_younger_process
from agentbus_worker.running.spawn import Command, ExitEvent, not_started
from agentbus_worker.running.unended import Unended

_RECHECK_S: Final = 0.02
_GIVEN_UP_GRACE_S: Final = 3.0
"""The longest time between SIGTERM and SIGKILL of a command that gets nowhere: it has nothing to finish."""
_QUICK_S: Final = 0.02
"""A command that ends within this time needs no reader while it runs, and no record on disk."""

Reason: TypeAlias = Literal["exited", "timeout", "idle", "stalled", "hopeless", "stopped", "unsupervised"]


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a command: its run time, and how much of its output is kept in memory and on disk.

    Attributes:
        output: the format in which it prints.
        words: the command without its prompt, which tells whether it goes on with a session.
        before: what the agent has counted over that session, where it is known.
        stall_timeout_s: for how long no event may come that shows work; None for any time, and always for text.
        max_retry_after_s: the longest time for which it may wait before it tries again.
        leader_first: whether its first process is asked to end before the others: it tells an agent so by a protocol.
    """

    timeout_s: float
    grace_s: float
    keep_bytes: int
    spill_bytes: int = 0
    idle_timeout_s: float | None = None
    output: str = "text"
    words: tuple[str, ...] = ()
    before: Totals | None = None
    stall_timeout_s: float | None = None
    max_retry_after_s: float = float("inf")
    leader_first: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    Attributes:
        reason: `exited` by itself, ended by the `timeout` or the `idle` limit, ended because its events say that it
            has `stalled` or is `hopeless`, `stopped` by the caller, or `unsupervised` and ended, because its supervisor
            was killed.
        code: the exit code, or the negative number of the signal that ended it; None if it could not be ended.
        unended: what is left of a command that was to be ended, and that SIGKILL does not end.
        events: the events in standard output, of a command that prints such.
        given_up: why it has `stalled` or is `hopeless`.
    """

    reason: Reason
    code: int | None
    stdout: Output
    stderr: Output
    duration_s: float
    unended: Unended | None = None
    events: EventStream | None = None
    given_up: GivenUp | None = None


class Child:
    """A running command; see `running`.

    Attributes:
        events: the events in its standard output, if it prints such.
    """

    def __init__(
        self,
        process: RunningProcess,
        run: Run,
        command: Command,
        limits: Limits,
        pipes: tuple[OutputPipe, OutputPipe],
        events: EventStream | None,
        started: float,
    ) -> None:
        self._process = process
        self._run = run
        self._command = command
        self._limits = limits
        self._out, self._err = pipes
        self.events = events
        self._started = started
        self._watch = _watch(events, limits, process.pid) if events else None
        self._questions = QuestionClock(asyncio.get_running_loop().time)
        if events is not None:
            events.listen(self._questions.on_event)
        self._given_up: GivenUp | None = None
        self._clearing: asyncio.Task[Unended | None] | None = None
        self._unended = False
        self._on_gone: Callable[[], None] = lambda: None

    async def ended(
        self,
        stop: asyncio.Future[None],
        children: Children,
        *,
        stop_grace_s: Callable[[], float] | None = None,
        on_still_running: Callable[[], object] = lambda: None,
    ) -> Exit:
        """Wait until the command has exited, or end it at a limit or at `stop`; begin to end what it left behind.

        A command that is ended is so with all its processes. If SIGKILL does not end them within a second, the exit
        names them in `unended`.

        Args:
            stop: the command is ended when this future is done.
            children: writes the record of the command.
            stop_grace_s: returns the time between SIGTERM and SIGKILL after `stop`; default: that of the limits.
            on_still_running: called once if the command still runs after 20 ms.
        """
        loop, process = asyncio.get_running_loop(), self._process
        grace_left_s = self._limits.grace_s
        reason: Reason = "exited"
        if not await process.end.wait(min(self._started + _QUICK_S, self._deadline) - loop.time()):
            on_still_running()
            self._out.watch()
            self._err.watch()
            children.record(self._run, self._command.task_id, self._command.owner)
            reason = await self._wait_for_end(process.end, stop)
        unended = None
        if reason != "exited":
            if reason == "stopped" and stop_grace_s is not None:
                grace_left_s = stop_grace_s()
            elif self._given_up is not None:
                grace_left_s = min(grace_left_s, _GIVEN_UP_GRACE_S)
            if self._limits.leader_first:
                grace_left_s /= 2
                process.terminate_leader()
                await process.end.wait_exit(grace_left_s)
            process.terminate()
            unended = await process.clear(grace_left_s)
        elif process.lost:
            reason = "unsupervised"
        self._unended = unended is not None
        code, left = (None, False) if unended else process.finish()
        duration_s = loop.time() - self._started
        if process.left_nothing:
            self._command.no_process_left()
        if left:
            self._clearing = asyncio.create_task(process.clear(grace_left_s))
        stdout, stderr = await self._out.finish(), await self._err.finish()
        return Exit(reason, code, stdout, stderr, duration_s, unended, self.events, self._given_up)

    @property
    def printed(self) -> tuple[Callable[[], tuple[int, bytes]], ...]:
        """Functions that return how much it has printed so far, and the end of that: on its two outputs."""
        return lambda: self._out.printed, lambda: self._err.printed

    async def cleared(self) -> Unended | None:
        """Wait until nothing is left of a command that has ended; returns what SIGKILL does not end."""
        return None if self._clearing is None else await asyncio.shield(self._clearing)

    def on_gone(self, call: Callable[[], None]) -> None:
        """Have `call` called when a command that could not be ended has ended after all, at any later time."""
        self._on_gone = call

    async def leave(self, children: Children) -> None:
        """End what is left, at once; what could not be ended is looked after by `children` from here on."""
        if self._clearing is not None:
            self._clearing.cancel()
            await asyncio.wait({self._clearing})
        if self._unended:
            children.look_after(self._run, self._process, self._on_gone)
        else:
            await self._process.kill()
            children.forget(self._run)

    @property
    def _deadline(self) -> float:
        return self._started + self._limits.timeout_s + self._questions.stood_s

    async def _wait_for_end(self, end: ExitEvent, stop: asyncio.Future[None]) -> Reason:
        """Wait for the exit, a limit or `stop`. Output restarts the idle limit, so it is checked again when it is due.

        A limit that seems to have passed is checked twice: after this process was paused (SIGSTOP, a suspended
        machine), its timers run before it notices the exit and the output of a command that was in time.
        """
        loop = asyncio.get_running_loop()
        stop.add_done_callback(end.wake)
        if self._watch is not None:
            self._watch.on_sooner = end.wake
        rechecked = False
        try:
            while not stop.done():
                at, reason = self._next_limit()
                left_s = at - loop.time()
                if left_s > 0:
                    rechecked = False
                elif not rechecked:
                    rechecked, left_s = True, _RECHECK_S
                elif reason != "watch":
                    return reason
                elif (given_up := self._judged()) is not None:
                    return given_up.reason
                if await end.wait(left_s):
                    return "exited"
            return "stopped"
        finally:
            stop.remove_done_callback(end.wake)

    def _next_limit(self) -> tuple[float, Literal["timeout", "idle", "watch"]]:
        """Return the limit that comes first, and its time: that of the run, of its output, or of what it does."""
        limits: list[tuple[float, Literal["timeout", "idle", "watch"]]] = [(self._deadline, "timeout")]
        if self._limits.idle_timeout_s:
            last_output = max(self._started, self._out.last_read, self._err.last_read, self._questions.last_open)
            limits.append((last_output + self._limits.idle_timeout_s, "idle"))
        if self._watch is not None:
            if self._out.standing:
                self._watch.put_off()
            if (due := self._watch.due) is not None:
                limits.append((due, "watch"))
        return min(limits, key=lambda limit: limit[0])

    def _judged(self) -> GivenUp | None:
        """Return why the command is to be ended for what it does, or does not do, if it is."""
        assert self._watch is not None, "it has set the limit"
        self._given_up = self._watch.judge()
        return self._given_up


@asynccontextmanager
async def running(
    command: Command,
    limits: Limits,
    children: Children,
    tmp: Path,
    *,
    stop: asyncio.Future[None] | None = None,
    disk: DiskThreads = AT_ONCE,
) -> AsyncGenerator[Child]:
    """Start a command, and end all its processes when the block is left.

    In the block, `Child.ended()` waits for it. Processes that it leaves behind are ended while the block continues. If
    an error or a cancellation leaves the block early, all processes are killed at once. What cannot be ended holds the
    block up for two seconds at most.

    Args:
        tmp: a private folder for the standard input and for spilled output.
        stop: the same as that of `Child.ended`: a start that hangs, on a disk that does not answer, is not waited for.
        disk: writes what is spilled.

    Raises:
        CommandError: the command could not be started.
    """
    events = stream_of(limits.output, limits.words, limits.before)
    with _pipes(command, limits, tmp, disk, events) as (out, err):
        loop = asyncio.get_running_loop()
        started, stop = loop.time(), stop or loop.create_future()
        try:
            process = await children.start(command, limits.grace_s, (out.write_end, err.write_end), tmp, stop)
        finally:
            out.close_write_end()
            err.close_write_end()
        run = Run(process.pid, command.run_id)
        children.started(run)
        child = Child(process, run, command, limits, (out, err), events, started)
        try:
            yield child
            if (left := await child.cleared()) is not None:
                _log_left_behind(command, left)
                process.release()
        finally:
            await child.leave(children)


def _watch(events: EventStream, limits: Limits, pid: int) -> StallWatch:
    """Return the watch over the events of a command."""
    watch = StallWatch(
        events.reader,
        stall_s=limits.stall_timeout_s,
        max_retry_after_s=limits.max_retry_after_s,
        time=asyncio.get_running_loop().time,
        tools_run=lambda age_s: has_younger_process(pid, age_s),
    )
    events.listen(watch.on_event)
    return watch


def _log_left_behind(command: Command, left: Unended) -> None:
    pids = ", ".join(map(str, left.pids))
    TaskLog(command.task_id).warning("processes that its command has left do not end: it %s", left.why, pids=pids)


@contextlib.contextmanager
def _pipes(
    command: Command, limits: Limits, tmp: Path, disk: DiskThreads, events: EventStream | None
) -> Generator[tuple[OutputPipe, OutputPipe]]:
    """Open the pipes for standard output and standard error, and close them at the end of the block."""
    spill = (tmp, f"{command.run_id}.out") if limits.spill_bytes > limits.keep_bytes else None
    pipes: list[OutputPipe] = []
    try:
        try:
            on_chunk = events.feed if events else None
            pipes.append(OutputPipe(limits.keep_bytes, spill, limits.spill_bytes, disk, on_chunk))
            pipes.append(OutputPipe(TAIL_BYTES, on_chunk=events.feed_error if events else None))
        except OSError as error:
            raise not_started(command, error) from None
        yield pipes[0], pipes[1]
    finally:
        for pipe in pipes:
            pipe.close()
