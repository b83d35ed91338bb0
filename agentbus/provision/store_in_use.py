"""Gives the store of a local bus to one `agentbus up` at a time: of two servers, each would write over the other."""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from agentbus.bus.dialling.greeting import read_greeting
from agentbus.config.atomic_files import replace_file, why_not_written
from agentbus.config.urls import parse_urls
from agentbus.errors import ConfigError
from agentbus.provision.folder_lock import locked_if_free
from agentbus.provision.nats_server import NatsServer

Tell: TypeAlias = Callable[[NatsServer], Awaitable[None]]

_RECORD: Final = "agentbus-up.json"
_GREETING_S: Final = 2.0
"""How long a server of this machine may take to greet."""


class _User(BaseModel):
    """The `agentbus up` that uses a store. Its server is known once that serves."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    pid: int
    url: str = ""
    server_pid: int = 0
    server_id: str = ""


@asynccontextmanager
async def store_for_one(store: Path) -> AsyncGenerator[Tell]:
    """Have a store for the length of the block; it is made if it is missing. Call what this yields with the server.

    The system gives it free when this process ends, however it ends. A server that outlives its `agentbus up` is
    noticed, once it had been told.

    Raises:
        ConfigError: another process has it, which is named, or it cannot be written to.
    """
    try:
        store.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(store, error) from None
    with locked_if_free(store, "the store") as held:
        user = _read(store)
        if not held:
            raise ConfigError(_in_use(store, user))
        if user and user.server_id and await _server_id(user.url) == user.server_id:
            raise ConfigError(
                f"the nats-server (process {user.server_pid}, at {user.url}) of an `agentbus up` that was killed "
                f"still uses {store}; end that process first"
            )
        _write(store, _User(pid=os.getpid()))

        async def tell(server: NatsServer) -> None:
            server_id = await _server_id(server.url)
            _write(store, _User(pid=os.getpid(), url=server.url, server_pid=server.pid, server_id=server_id))

        yield tell


def _in_use(store: Path, user: _User | None) -> str:
    process = f" (process {user.pid})" if user else ""
    if user is None or not user.url:
        return (
            f"another `agentbus up`{process} is starting with {store}; wait for it, or take another folder with --store"
        )
    return (
        f"another `agentbus up`{process} serves {store} at {user.url}; "
        "use that bus, or take another folder with --store"
    )


def _read(store: Path) -> _User | None:
    """Read who uses the store, or used it last; None if that is not known."""
    try:
        return _User.model_validate_json((store / _RECORD).read_bytes())
    except (OSError, ValidationError):
        return None


def _write(store: Path, user: _User) -> None:
    try:
        replace_file(store / _RECORD, user.model_dump_json().encode() + b"\n", durable=False)
    except OSError as error:
        raise _not_written(store, error) from None


def _not_written(store: Path, error: OSError) -> ConfigError:
    return ConfigError(f"nats-server cannot keep its files in {store}: {why_not_written(error)}")


async def _server_id(url: str) -> str:
    """Return the id of the server at an address, which is another one after each start; empty if none answers."""
    try:
        [address] = parse_urls(url)
        async with asyncio.timeout(_GREETING_S):
            reader, writer = await asyncio.open_connection(address.host, address.port)
    except (ConfigError, OSError, ValueError):
        return ""
    try:
        return str((await read_greeting(reader, _GREETING_S)).get("server_id", ""))
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
