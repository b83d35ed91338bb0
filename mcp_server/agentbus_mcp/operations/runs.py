"""Reports what runs do while a call waits for their tasks."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from agentbus.bus.jetstream import Bus
from agentbus.coordinator import TaskStatus
from agentbus.errors import BusError
from agentbus.protocol.subjects import TaskKey
from agentbus.tasks.progress.last import last_of_each

_EVERY_S: Final = 3.0
"""Each look costs a request for each task that is running."""


@asynccontextmanager
async def reporting_runs(
    bus: Bus, tasks: Sequence[TaskStatus], report: Callable[[str], None], *, wanted: bool
) -> AsyncGenerator[Callable[[TaskStatus], None]]:
    """Report a line for each of `tasks` whenever its run has told something new, for the length of the block.

    Yields a function that is called with each change of a task.

    Args:
        wanted: otherwise nothing is read or reported.
    """
    working = {task.record.key for task in tasks if task.state == "working"}

    def note(task: TaskStatus) -> None:
        if task.state == "working":
            working.add(task.record.key)
        else:
            working.discard(task.record.key)

    reading = asyncio.create_task(_report(bus, working, report)) if wanted else None
    try:
        yield note
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.wait({reading})


async def _report(bus: Bus, working: set[TaskKey], report: Callable[[str], None]) -> None:
    told: dict[TaskKey, str] = {}
    while True:
        with suppress(BusError):  # the wait itself says that the bus is away
            for key, progress in (await last_of_each(bus, working)).items():
                line = f"{key.id}: {progress.in_words}"
                if told.get(key) != line and key in working:
                    told[key] = line
                    report(line)
        await asyncio.sleep(_EVERY_S)
