"""Waits for tasks that a command has published: says on standard error what they do, and what Ctrl-C leaves behind."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, Literal

import click

from agentbus import terminal
from agentbus.cli import exit_codes, output
from agentbus.cli.coordinator.publishing.interrupts import Interrupts
from agentbus.cli.coordinator.question_list import in_one_line
from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError
from agentbus.task_handle import TaskFailure, TaskHandle
from agentbus.tasks.presence import PausedWorker
from agentbus.tasks.questions.asked import AskedQuestion
from agentbus.tasks.status import TaskStatus, Waited
from agentbus.tasks.waiting.listeners import Listeners
from agentbus.tasks.waiting.wait import wait_for_ids

_AGAIN_S: Final = 2.0
"""How long a second Ctrl-C cancels what the first one has left."""
_CANCEL_S: Final = 5.0
"""How long cancelling may take: a bus that is away must not keep a person who wants to leave."""
_TICK_S: Final = 1.0
"""How often the line that shows the time is drawn."""


@dataclass(slots=True)
class Following:
    """One wait for tasks.

    Attributes:
        until: for which of them it is.
        states: their states, by task.
        does: what the one task does, as its run told last.
        began: when the wait began.
        showing: whether the line of what goes on is drawn.
    """

    bus: Coordinator
    tasks: Sequence[TaskHandle]
    timeout_s: float | None = None
    until: Literal["all", "any"] = "all"
    states: dict[str, str] = field(default_factory=dict[str, str])
    does: str = ""
    began: float = field(default_factory=monotonic)
    showing: bool = True

    async def run(self) -> Waited:
        """Wait; return what became of the tasks.

        Raises:
            Exit: Ctrl-C. The tasks go on, unless it was pressed again within two seconds: then they are cancelled.
        """
        with Interrupts() as interrupts:
            waiting = asyncio.create_task(self._wait())
            interrupted = asyncio.create_task(interrupts.next())
            showing = [asyncio.create_task(one) for one in (self._draw(), self._listen())]
            try:
                await asyncio.wait({waiting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (waiting, interrupted, *showing):
                    task.cancel()
                await asyncio.wait((waiting, interrupted, *showing))
                self.showing = False
                terminal.passing_line("")
            if not waiting.cancelled():
                return waiting.result()
            await self._leave(interrupts)
        raise click.exceptions.Exit(exit_codes.INTERRUPTED)

    async def _wait(self) -> Waited:
        def asked(question: AskedQuestion) -> None:
            output.remark(in_one_line(question))

        def paused(agent: str, pause: PausedWorker) -> None:
            output.remark(f"all workers of the agent {agent} are {pause.in_words}; its tasks wait")

        return await wait_for_ids(
            self.bus.bus,
            [task.query for task in self.tasks],
            asker=self.bus.agent,
            until=self.until,
            timeout_s=self.timeout_s,
            listeners=Listeners(self._tell, paused, asked),
        )

    def _tell(self, status: TaskStatus) -> None:
        """Say the state of a task that has changed."""
        name, state = str(status.name), "asks for an answer" if status.asks else status.state
        if self.states.get(name) == state:
            return
        self.states[name] = state
        self.does = ""
        if len(self.tasks) > 1 or not terminal.passing_lines_are_seen():
            output.remark(f"{status.task_id}: {state}")
        self._show()

    async def _draw(self) -> None:
        """Show what goes on in one line of the terminal, which is drawn over again."""
        if not terminal.passing_lines_are_seen():
            return
        with suppress(AgentBusError):  # what has changed before the wait began is told by no change
            for status in await self.bus.statuses(self.tasks):
                if isinstance(status, TaskStatus):
                    self.states.setdefault(str(status.name), status.state)
        while True:
            self._show()
            await asyncio.sleep(_TICK_S)

    def _show(self) -> None:
        if self.showing and terminal.passing_lines_are_seen():
            terminal.passing_line(self._line(int(monotonic() - self.began)))

    def _line(self, seconds: int) -> str:
        time = f"{seconds // 60}:{seconds % 60:02}"
        if len(self.tasks) == 1:
            state = next(iter(self.states.values()), "")
            return " · ".join(part for part in (time, self.tasks[0].agent, state, self.does) if part)
        settled = sum(state not in ("queued", "working") for state in self.states.values())
        working = sum(state == "working" for state in self.states.values())
        return f"{time} · {settled} of {len(self.tasks)} settled, {working} working"

    async def _listen(self) -> None:
        """Learn what the run of the one task does. Where the bus does not tell, the line shows its state alone."""
        if len(self.tasks) > 1 or not terminal.passing_lines_are_seen():
            return
        with suppress(AgentBusError):
            async with aclosing(self.tasks[0].events()) as events:
                async for event in events:
                    if event.kind != "usage":
                        self.does = event.in_words.strip().rpartition("\n")[2] or self.does
                        self._show()

    async def _leave(self, interrupts: Interrupts) -> None:
        """Say how to go on with the tasks; cancel them if Ctrl-C is pressed again."""
        ids = [task.id for task in self.tasks]
        them, go = ("it", "goes") if len(ids) == 1 else ("them", "go")
        named = ids[0] if len(ids) == 1 else f"{len(ids)} tasks"
        output.remark(f"{named} {go} on; Ctrl-C again within {_AGAIN_S:g} s cancels {them}")
        output.remark(f"wait again: agentbus task wait {' '.join(ids)}")
        if len(ids) == 1:
            output.remark(f"what it does: agentbus task logs -f {ids[0]}")
        try:
            async with asyncio.timeout(_AGAIN_S):
                await interrupts.next()
        except TimeoutError:
            return
        for outcome in await self._cancelled():
            if isinstance(outcome, TaskFailure):
                output.remark(f"warning: {outcome.id} is not cancelled: {outcome.error}")
            elif outcome.settled and outcome.state != "cancelled":
                output.remark(f"too late: {outcome.task_id} is {outcome.state}")
            else:
                output.remark(
                    f"{outcome.task_id}: cancelled" if outcome.settled else f"{outcome.task_id}: is being cancelled"
                )

    async def _cancelled(self) -> list[TaskStatus | TaskFailure]:
        try:
            async with asyncio.timeout(_CANCEL_S):
                return await self.bus.cancel_all(self.tasks, reason="interrupted while its sender waited for it")
        except TimeoutError:
            late = AgentBusError(f"the bus did not answer within {_CANCEL_S:g} s")
            return [TaskFailure(task.id, task.agent, late) for task in self.tasks]
