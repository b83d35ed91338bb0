"""Runs one agent that speaks the Agent Client Protocol, for one prompt: the command of a task of `output = "acp"`.

It prints what happens as lines, which `agentbus_worker.acp.reader` reads, so that limits, transcripts and the end of
all processes are those of any other command. SIGTERM cancels the turn first; a second one ends it.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import Process
from collections.abc import Sequence
from typing import Final

from agentbus_worker.acp import agent_process
from agentbus_worker.acp.answers import answers_from
from agentbus_worker.acp.assignment import Assignment, assignment_in
from agentbus_worker.acp.conversation import Conversation
from agentbus_worker.acp.event_lines import EventLines, standard_output

CANCELLED: Final = 128 + signal.SIGTERM
"""The exit code of a run that was asked to end."""
_CANCELS_S: Final = 10.0
"""How long an agent may take to cancel its turn: longer than any worker waits before it sends SIGTERM to the agent."""
_EXIT_S: Final = 2.0
"""How long after the end of its output an agent may take to exit."""


async def drive(assignment: Assignment, command: Sequence[str]) -> int:
    """Run the agent for one prompt; returns the exit code: 0 whatever the agent has said, which the lines tell."""
    lines = EventLines(await standard_output())
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    try:
        process = await agent_process.started(command)
    except OSError as error:
        reason = error.strerror or str(error)
        await lines.write("error", during="start", message=f"cannot start {command[0]!r}: {reason}")
        await lines.close()
        return 0
    try:
        with contextlib.suppress(ConnectionError), answers_from(assignment.answers) as answers:
            assert process.stdout is not None, "it is a pipe"
            assert process.stdin is not None, "it is a pipe"
            conversation = Conversation(
                process.stdout, process.stdin, lines, assignment, folder=agent_process.folder(), answers=answers
            )
            await _hold(conversation, process, lines, stopping)
    finally:
        await agent_process.end(process, at_once=stopping.is_set())
    await lines.close()
    return CANCELLED if stopping.is_set() else 0


async def _hold(conversation: Conversation, process: Process, lines: EventLines, stopping: asyncio.Event) -> None:
    """Hold the conversation, until it is over or is to be stopped."""
    loop = asyncio.get_running_loop()
    reading = asyncio.create_task(conversation.peer.read())
    talking = asyncio.create_task(conversation.hold())
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({talking, stopped, reading}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set() and not talking.done():
            loop.add_signal_handler(signal.SIGTERM, talking.cancel)
            if not await conversation.cancel() or not (await asyncio.wait({talking}, timeout=_CANCELS_S))[0]:
                talking.cancel()
        await asyncio.wait({talking})
        if reading.done():
            reading.result()
        if not talking.cancelled():
            talking.result()
        if conversation.gone:
            code = await agent_process.exit_code(process, _EXIT_S)
            await lines.write("exit", during=conversation.during, code=code)
    finally:
        await conversation.close()
        for task in (reading, talking, stopped):
            task.cancel()
        await asyncio.gather(reading, talking, stopped, return_exceptions=True)


def main(given: bytes, command: Sequence[str]) -> None:
    """Be the driver. It ends at once, without a word about an agent that is left to the worker."""
    os._exit(asyncio.run(drive(assignment_in(given), command)))
