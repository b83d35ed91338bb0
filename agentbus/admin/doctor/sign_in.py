"""Opens the connection for the checks, and names the credential."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from agentbus.admin.doctor.check_context import Role
from agentbus.bus.jetstream import Bus, unopened_bus
from agentbus.config.connection_settings import ConnectionSettings
from agentbus.errors import BusError

_CONNECT_S: Final = 5.0  # an operator waits for the report, and a server that needs longer is not usable


@asynccontextmanager
async def signed_in(settings: ConnectionSettings, messages: list[str]) -> AsyncGenerator[Bus]:
    """Open a connection for the length of the block; errors that the server sends on it are added to `messages`.

    Raises:
        BusError: the server refused it, or did not answer in time.
    """
    bus = unopened_bus(settings, messages.append)
    try:
        async with asyncio.timeout(_CONNECT_S):
            await bus.open(retry_on_failed_connect=False)
        yield bus
    except TimeoutError:
        raise BusError(f"no answer from {settings.servers} within {_CONNECT_S:g} s") from None
    finally:
        await bus.close()


def identity(settings: ConnectionSettings) -> str:
    """Return the user name, or the kind of credential if it has no user name."""
    credentials = settings.credentials
    if credentials.user:
        return f"as {credentials.user}"
    kinds = {
        "a .creds file": credentials.jwt,
        "an nkey": credentials.nkey_seed,
        "a token": credentials.token,
        "a client certificate": settings.cert_file,
    }
    return next((f"with {kind}" for kind, value in kinds.items() if value), "without credentials")


def how_to_sign_in(role: Role) -> str:
    """Say what to do about refused credentials."""
    command = {"worker": "agentbus agent bundle ID", "coordinator": "agentbus agent bundle main"}.get(role)
    return f"take credentials of this bus: {command}" if command else "take the administrator's credentials of this bus"
