"""Runs the coroutine of a command, over a connection to the bus that lasts as long as the command."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from agentbus.bus.jetstream import Bus, unopened_bus
from agentbus.cli import bus_hints, output
from agentbus.config.connection_settings import connection_settings
from agentbus.config.loading import administrator_file, load_coordinator
from agentbus.coordinator import Coordinator
from agentbus.errors import BusUnavailableError
from agentbus.observability import tracing
from agentbus.terminal import guard_log_of_libraries

_CONNECT_TIMEOUT_S = 4.5
"""Together with start-up, a command that cannot connect ends within five seconds: a person waits for it."""
_FLUSH_TIMEOUT_S = 2.0
"""How long a span exporter that does not answer may delay the exit."""


@asynccontextmanager
async def connected(nats_url: str | None, config: Path | None) -> AsyncGenerator[Coordinator]:
    """Connect as a coordinator for the length of the block; print warnings about the configuration.

    Raises:
        ConfigError: the configuration cannot be used.
        BusUnavailableError: the bus did not answer within `_CONNECT_TIMEOUT_S`.
        AuthenticationError: the server refused the credentials.
    """
    settings, warnings = load_coordinator(nats_url=nats_url, path=config)
    bus_hints.reached_by(nats_url, config, settings.nats)
    for warning in warnings:
        output.remark(f"warning: {warning}")
    agent = settings.coordinator.id
    connection = connection_settings(settings.nats, agent=agent, name="agentbus command line")
    bus = unopened_bus(connection, lambda _: None)
    with _finishing_on_signals(bus):
        try:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    await bus.open(retry_on_failed_connect=False)
            except TimeoutError:
                raise BusUnavailableError(
                    f"cannot reach the bus at {connection.servers}: no answer within {_CONNECT_TIMEOUT_S:g} s"
                ) from None
            yield Coordinator(bus, agent, settings.coordinator.effective_role)
        finally:
            await bus.close()


@contextmanager
def _finishing_on_signals(bus: Bus) -> Generator[None]:
    """Have SIGTERM and SIGHUP wait for the steps that are under way, for the length of the block.

    They cancel the command then, as Ctrl-C does. Without such steps they end the process at once, as they always do:
    also where it stands in a write to a terminal that has stopped.
    """
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, task, received = asyncio.get_running_loop(), asyncio.current_task(), list[int]()
    assert task is not None, "a coroutine of asyncio.run is a task"

    def end(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if bus.begun.any:
            received.append(number)
            loop.call_soon_threadsafe(task.cancel)
        else:
            os.kill(os.getpid(), number)

    # Under nohup, SIGHUP is ignored.
    taken = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if received:
            tracing.flush(_FLUSH_TIMEOUT_S)
            os.kill(os.getpid(), received[0])


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a command's coroutine to its end."""

    async def guarded() -> None:
        try:
            await work
        except BusUnavailableError as error:
            # Exit here: asyncio.run would wait for a name look-up that hangs in its thread.
            output.remark(f"error: {error}")
            tracing.flush(_FLUSH_TIMEOUT_S)  # os._exit skips the exit handler of the SDK
            os._exit(1)

    guard_log_of_libraries()
    asyncio.run(guarded())


def run_as_administrator(
    nats_url: str | None, config: Path | None, command: Callable[[Coordinator], Awaitable[None]]
) -> None:
    """The same for a command of the administrator: the bus folder on this machine comes before other defaults."""
    if config is None and (config := administrator_file(nats_url)) is not None:
        output.remark(f"as the administrator, with {config}")
    run_connected(nats_url, config, command)


def run_connected(nats_url: str | None, config: Path | None, command: Callable[[Coordinator], Awaitable[None]]) -> None:
    """Connect, run the command with the coordinator, and close the connection."""

    async def work() -> None:
        async with connected(nats_url, config) as coordinator:
            await command(coordinator)

    run(work())
