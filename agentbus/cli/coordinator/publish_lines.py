"""`agentbus task publish --lines`: publishes a task for each line of JSON on standard input."""

import asyncio
import codecs
import threading
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from agentbus import terminal
from agentbus.cli import output, session
from agentbus.cli.coordinator.publishing.new_agents import refuse_unknown
from agentbus.cli.coordinator.task_line import Line, LineSplitter, read_task
from agentbus.cli.waiting_tasks import warn_without_worker
from agentbus.concurrently import in_order
from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError, ArgumentError, MessageError
from agentbus.many_tasks import AT_ONCE, ManyTasks, NewTask
from agentbus.protocol.json_codec import Json
from agentbus.task_handle import TaskFailure

DEFAULT_BATCH: Final = "lines"
_FINISHING_S: Final = 2.0
"""How long a command that is told to end waits for what it has begun: a healthy bus takes milliseconds."""
_READ_BYTES: Final = 65_536
_READ_AHEAD: Final = 4
"""How many pieces of standard input are read before the ones in them are published."""
_MOST_AGENTS: Final = 16
"""About how many agents the command says that no worker is alive."""


@dataclass(slots=True)
class LinePublisher:
    """One run of the command.

    Attributes:
        stop: set when nothing more is to be begun.
        unprinted: what is begun, and not told yet, by its line.
        failed, known, told: how many lines are.
        over: nothing more is told.
        agents: those that tasks were published for, in order.
        new_agents: tasks are also published for agents that the bus has never seen.
        folder: the one below which lines may name files.
    """

    bus: Coordinator
    defaults: Mapping[str, str]
    batch: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    unprinted: dict[int, NewTask] = field(default_factory=dict[int, NewTask])
    failed: int = 0
    known: int = 0
    told: int = 0
    over: bool = False
    agents: dict[str, None] = field(default_factory=dict[str, None])
    new_agents: bool = False
    folder: Path | None = None
    _looked_for: dict[str, "asyncio.Task[None]"] = field(default_factory=dict[str, "asyncio.Task[None]"])

    async def run(self) -> None:
        """Publish what is on standard input, to its end.

        A command that is told to end meanwhile begins nothing more, and tells what became of what it had begun.

        Raises:
            ClickException: tasks of some lines are not published.
        """
        begun = self.bus.bus.begun  # so that a signal waits for this
        running = asyncio.create_task(begun.finish(self._publish()))
        try:
            await asyncio.wait((running,))
        except asyncio.CancelledError:
            self.stop.set()
            await asyncio.wait((running,), timeout=_FINISHING_S)
            self._give_up()
            raise
        running.result()
        if self.known:
            output.remark(f"{self.known} of {self.told} were published before")
        for agent in tuple(self.agents)[:_MOST_AGENTS]:
            await warn_without_worker(self.bus, agent)
        if self.failed:
            raise click.ClickException(f"{self.failed} of {self.told} not published; publish the same lines again")

    async def _publish(self) -> None:
        many = ManyTasks(self.bus.bus, self.bus.agent, self.batch)

        async def one(line: Line) -> dict[str, Json]:
            return await self._one(many, line)

        async with aclosing(in_order(self._lines(), one, at_once=AT_ONCE)) as outcomes:
            async for outcome in outcomes:
                self.unprinted.pop(outcome["line"], None)
                if not self.over:
                    self._tell(outcome)

    async def _one(self, many: ManyTasks, line: Line) -> dict[str, Json]:
        try:
            wanted = read_task(line, self.defaults, self.folder)
        except AgentBusError as error:
            return {"line": line.number, "error": str(error)}
        if (refusal := await self._refusal(wanted.to)) is not None:
            return {"line": line.number, "agent": wanted.to, "error": refusal}
        self.unprinted[line.number] = wanted
        outcome = await many.one(wanted)
        ids = {"line": line.number, "id": outcome.id or None, "agent": outcome.agent}
        if isinstance(outcome, TaskFailure):
            return {**{name: value for name, value in ids.items() if value is not None}, "error": str(outcome.error)}
        self.agents[outcome.message.agent] = None
        return {**ids, "state": outcome.state_at_publish, "known": outcome.known}

    async def _refusal(self, agent: str) -> str | None:
        """Return why no task is published for an agent; the bus is asked once for each."""
        if self.new_agents:
            return None
        if agent not in self._looked_for:
            self._looked_for[agent] = asyncio.create_task(refuse_unknown(self.bus, [agent]))
        try:
            await asyncio.shield(self._looked_for[agent])
        except ArgumentError as error:
            return str(error)
        except AgentBusError:
            return None  # no id, or a bus that is away: the publication says so
        return None

    def _tell(self, outcome: dict[str, Any]) -> None:
        self.told += 1
        self.failed += "error" in outcome
        self.known += bool(outcome.get("known"))
        output.json_line(outcome)

    def _give_up(self) -> None:
        """Tell the lines of which nothing is known, and nothing more."""
        self.over = True
        for number, task in self.unprinted.items():
            named = {"id": task.task_id} if task.task_id is not None else {}
            why = "interrupted; it may or may not be queued: publish the line again to be sure"
            self._tell({"line": number, **named, "agent": task.to, "error": why})

    async def _lines(self) -> AsyncGenerator[Line]:
        splitter = LineSplitter()
        async with aclosing(_pieces(self.stop)) as pieces:
            async for piece in pieces:
                for line in splitter.feed(piece):
                    if self.stop.is_set():
                        return
                    if line.number == 1 and (line.data or b"").startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        raise MessageError("standard input is UTF-16: convert it to UTF-8 first")
                    if line.data is None or line.data.removeprefix(codecs.BOM_UTF8).strip():
                        yield line


async def _pieces(stop: asyncio.Event) -> AsyncGenerator[bytes]:
    """Yield what is on standard input, and an empty piece at its end; end early, without one, when `stop` is set.

    A thread reads, which nothing waits for: no read of a terminal or a pipe can be broken off.
    """
    loop, arrived, wanted = asyncio.get_running_loop(), asyncio.Queue[bytes | AgentBusError](), threading.Semaphore(0)

    def read() -> None:
        piece: bytes | AgentBusError = b"-"
        while piece and not isinstance(piece, AgentBusError):
            wanted.acquire()
            try:
                piece = terminal.read_standard_input(_READ_BYTES)
            except AgentBusError as error:
                piece = error
            try:
                loop.call_soon_threadsafe(arrived.put_nowait, piece)
            except RuntimeError:  # the loop is closed: the command has ended
                return

    threading.Thread(target=read, daemon=True, name="standard input").start()
    wanted.release(_READ_AHEAD)
    stopping = asyncio.create_task(stop.wait())
    stopping.add_done_callback(lambda _: arrived.put_nowait(b""))
    try:
        while piece := await arrived.get():
            if isinstance(piece, AgentBusError):
                raise piece
            yield piece
            wanted.release()
        if not stop.is_set():
            yield b""
    finally:
        stopping.cancel()


def run(
    nats_url: str | None,
    config: Path | None,
    batch: str | None,
    *,
    targets: tuple[str, ...],
    new_agent: bool,
    folder: Path | None,
    **options: Any,
) -> None:
    """Run the command; its other options are what lines mean that leave them out."""
    del options["task_id"]  # a line has its own
    given = {**options, "to": next(iter(targets), None), "from": options.pop("sender")}
    defaults = {name: value for name, value in given.items() if value is not None and name != "sender"}

    async def publish(bus: Coordinator) -> None:
        await LinePublisher(bus, defaults, batch or DEFAULT_BATCH, new_agents=new_agent, folder=folder).run()

    session.run_connected(nats_url, config, publish)
