"""What the commands of a coordinator share: how to reach the bus, ids as option types, running a coroutine."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agentbus.errors import BusUnavailableError, InvalidIdError
from agentbus.protocol import subjects

if TYPE_CHECKING:
    from agentbus.coordinator import Coordinator

_T = TypeVar("_T")
_F = TypeVar("_F", bound=Callable[..., Any])
_CONNECT_WITHIN_S = 4.5


class AgentId(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]  # generic in new versions only
    """An agent id, with or without the prefix `agent-`."""

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Strip the prefix and validate."""
        try:
            return subjects.agent_id(str(value))
        except InvalidIdError as error:
            self.fail(str(error), param, ctx)


class TaskId(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A task id."""

    name = "ID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Validate."""
        try:
            return subjects.task_id(str(value))
        except InvalidIdError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """An amount of storage such as 512MiB, as bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        from agentbus.errors import ConfigError  # noqa: PLC0415
        from agentbus.provision.bus_folder import in_bytes, size  # noqa: PLC0415

        try:
            return in_bytes(size(str(value)))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def bus_options(command: _F) -> _F:
    """Add `--nats-url` and `--config`."""
    url = click.option(
        "--nats-url",
        metavar="URL",
        help="The bus, e.g. nats://host:4222 or tls://host:4222. Put a password into a file instead (see --config).",
    )
    config = click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Configuration of the coordinator; default: $AGENTBUS_NATS_URL, ~/.agentbus/coordinator.toml, "
        "then the local bus of `agentbus up`.",
    )
    return url(config(command))


@asynccontextmanager
async def coordinator(nats_url: str | None, config: Path | None) -> "AsyncGenerator[Coordinator]":
    """A connected coordinator; fails within five seconds if the bus cannot be reached."""
    from agentbus.bus.jetstream import Bus  # noqa: PLC0415
    from agentbus.config.connection_settings import connection_settings  # noqa: PLC0415
    from agentbus.config.loading import load_coordinator  # noqa: PLC0415
    from agentbus.coordinator import Coordinator  # noqa: PLC0415

    settings, warnings = load_coordinator(nats_url=nats_url, path=config)
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    agent = settings.coordinator.id
    connection = connection_settings(settings.nats, agent=agent, name="agentbus command line")
    bus = Bus(connection, lambda _: None)
    try:
        try:
            async with asyncio.timeout(_CONNECT_WITHIN_S):
                await bus.open(patient=False)
        except TimeoutError:
            raise BusUnavailableError(
                f"cannot reach the bus at {connection.servers}: no answer within {_CONNECT_WITHIN_S:g} s"
            ) from None
        yield Coordinator(bus, agent)
    finally:
        await bus.close()


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's coroutine to its end."""

    async def guarded() -> _T:
        try:
            return await work
        except BusUnavailableError as error:
            # asyncio would wait for a name look-up that hangs in its thread; the person has the answer already.
            click.echo(f"error: {error}", err=True)
            os._exit(1)

    return asyncio.run(guarded())
