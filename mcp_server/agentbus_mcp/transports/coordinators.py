"""Manages the coordinators that a process serves over HTTP: one for all clients, or one for each named token."""

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeAlias

import anyio
from anyio.abc import TaskStatus

from agentbus.config.connection_settings import ConnectionSettings, connection_settings
from agentbus.config.loading import load_coordinator
from agentbus.config.mcp_tokens import NamedToken, hash_of, read_tokens
from agentbus.errors import ConfigError
from agentbus.protocol.roles import Role
from agentbus_mcp.transports.served import Served
from agentbus_mcp.transports.sign_in import SignIn

log = logging.getLogger("agentbus.mcp")

Make: TypeAlias = Callable[[str, "Client"], Served]
_POLL_S: Final = 0.5
"""How often the files are checked. A changed file is read once it is the same in two checks, so not half written."""


class Coordinators(Protocol):
    """The coordinators of a process, which `sign_in` serves while `run` runs."""

    @property
    def sign_in(self) -> SignIn:
        """Passes each request to its coordinator."""
        ...

    @property
    def served(self) -> Collection[Served]:
        """The coordinators at this moment."""
        ...

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run them until cancelled; reports started once requests can be served."""
        ...


class OneCoordinator:
    """One coordinator for all clients, which need the token if there is one."""

    def __init__(self, coordinator: Served, token: str | None) -> None:
        self.served: Collection[Served] = (coordinator,)
        self.sign_in = SignIn(everyone=None if token is not None else coordinator)
        self._coordinator = coordinator
        if token is not None:
            self.sign_in.admit({hash_of(token): coordinator})

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the coordinator until cancelled."""
        await self._coordinator.run(task_status=task_status)


@dataclass(frozen=True, slots=True)
class Client:
    """A named token, and the connection settings, the id, the role and the folders of its coordinator."""

    token: NamedToken
    connection: ConnectionSettings
    agent: str
    role: Role
    folders: tuple[Path, ...] = ()


def read_clients(path: Path) -> dict[str, Client]:
    """Read the file of tokens and the configurations of their coordinators.

    Raises:
        ConfigError: one of these files cannot be used.
    """
    clients: dict[str, Client] = {}
    for name, token in read_tokens(path).items():
        try:
            config, warnings = load_coordinator(path=token.coordinator)
            connection = connection_settings(
                config.nats, agent=config.coordinator.id, name=f"agentbus-mcp {name}", reconnect_wait_s=1
            )
        except ConfigError as error:
            raise ConfigError(f"{path}: the token {name}: {error}") from None
        for warning in warnings:
            log.warning("%s", warning)
        who = config.coordinator
        clients[name] = Client(token, connection, who.id, who.effective_role, config.mcp.folders or ())
    return clients


class NamedCoordinators:
    """A coordinator for each named token of a file. When the file changes, coordinators of removed tokens end."""

    def __init__(self, path: Path, clients: Mapping[str, Client], make: Make) -> None:
        """Serve `clients`, as `read_clients` has read them from `path`."""
        self.sign_in = SignIn()
        self._path = path
        self._clients = dict(clients)
        self._make = make
        self._running: dict[str, Served] = {}

    @property
    def served(self) -> Collection[Served]:
        """The coordinators at this moment."""
        return tuple(self._running.values())

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the coordinators, and follow changes of the files, until cancelled."""
        async with anyio.create_task_group() as group:

            async def serve(clients: Mapping[str, Client]) -> None:
                for name, client in clients.items():
                    coordinator = self._make(name, client)
                    await group.start(coordinator.run)
                    self._running[name] = coordinator

            seen: dict[Path, tuple[int, ...] | None] = {}
            await serve(self._clients)
            self._admit()
            task_status.started()
            while True:
                await anyio.sleep(_POLL_S)
                if (now := self._file_stamps()) == seen:
                    continue
                await anyio.sleep(_POLL_S)
                if self._file_stamps() != now:
                    continue  # the file is being written
                seen = now
                if (clients := self._read()) != self._clients:
                    changed = self._end_changed(clients)
                    self._clients = clients
                    await serve(changed)
                    self._admit()

    def _read(self) -> dict[str, Client]:
        """Read the files; keep the clients as they were if the files cannot be used."""
        try:
            return read_clients(self._path)
        except ConfigError as error:
            log.error("%s; the tokens that were read before stay in force", error)
            return self._clients

    def _end_changed(self, clients: Mapping[str, Client]) -> dict[str, Client]:
        """End the coordinators whose token or configuration changed; returns the clients to start."""
        for name in [name for name in self._running if clients.get(name) != self._clients[name]]:
            self._running.pop(name).end()
        self._admit()
        log.info("%s has changed; it has tokens of: %s", self._path, ", ".join(clients) or "no client")
        return {name: client for name, client in clients.items() if name not in self._running}

    def _admit(self) -> None:
        self.sign_in.admit({self._clients[name].token.sha256: one for name, one in self._running.items()})

    def _file_stamps(self) -> dict[Path, tuple[int, ...] | None]:
        files = {self._path, *(client.token.coordinator for client in self._clients.values())}
        return {file: _stamp(file) for file in files}


def _stamp(file: Path) -> tuple[int, ...] | None:
    """Return values that change when a file or its mode changes; None without the file."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode
