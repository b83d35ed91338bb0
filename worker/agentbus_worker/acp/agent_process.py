"""Starts the agent itself as a child of the driver, with pipes, and ends it: some agents do not, when their input ends.

What it has started ends with the command of the task, as that of any command does: the worker sees to it.
"""

import asyncio
import contextlib
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from typing import Final

_LEAVES_S: Final = 1.0
"""How long an agent has to end by itself when its input has ended; those that do take half of it."""
_ENDS_S: Final = 1.0
"""The same after SIGTERM. Then the driver ends, and the worker ends what is left."""


async def started(command: Sequence[str]) -> Process:
    """Start an agent, in the folder and with the environment of this process; its standard error is that of this one.

    Raises:
        OSError: it cannot be started.
    """
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)


async def exit_code(process: Process, within_s: float) -> int | None:
    """Return the exit code of an agent that has ended, or ends in time; None for another."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            return await process.wait()
    return None


async def end(process: Process, *, at_once: bool) -> None:
    """End an agent: close its input, and, if it is still there a moment later, send SIGTERM.

    Args:
        at_once: do not wait for that moment.
    """
    if process.stdin is not None:
        process.stdin.close()
    if not at_once and await exit_code(process, _LEAVES_S) is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    await exit_code(process, _ENDS_S)


def folder() -> str:
    """Return the folder in which the agent works."""
    return os.getcwd()  # noqa: PTH109  # pathlib is an import
