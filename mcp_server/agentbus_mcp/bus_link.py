"""Keeps a connection to the bus: dials in the background, for as long as the process lives."""

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

import anyio
from anyio import to_thread

from agentbus.bus.jetstream import Bus
from agentbus.config.connection_settings import ConnectionSettings
from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError, BusUnavailableError
from agentbus.notify.session_tasks import PublishedTasks
from agentbus.protocol.roles import Role, default_role
from agentbus.task_handle import TaskHandle

log = logging.getLogger("agentbus.mcp")

CONNECT_TIMEOUT_S: Final = 2.5
"""How long a call waits for a connection: longer than the pause between two dials, so that the next call finds a bus
that has come up."""
_CLOSE_S: Final = 2.0


class BusLink:
    """A connection that may be down: the server starts and answers without it, and calls wait for it shortly."""

    def __init__(
        self,
        settings: ConnectionSettings,
        agent: str,
        role: Role | None = None,
        *,
        folders: Sequence[Path] = (),
        on_reconnect: Callable[[], None] = lambda: None,
        label: str = "",
        published: PublishedTasks | None = None,
    ) -> None:
        """Make a link of a coordinator; `on_reconnect` is called each time a lost connection is restored.

        The role is as for `Coordinator`. `folders` are those of this machine that its tools may use. The lines that it
        logs begin with `label`. `published` keeps the tasks of the one session of a host that this serves.
        """
        self._label = label
        self._settings = settings
        self._agent = agent
        self.role: Role = role or default_role(agent)
        self.folders: tuple[Path, ...] = tuple(folders)
        self._published = published
        self._bus: Bus | None = None
        self._up = anyio.Event()
        self._wanted = anyio.Event()
        self._state = f"still dialling {settings.servers}"
        self._refusal: AgentBusError | None = None
        self._on_reconnect = on_reconnect
        self._ever_up = False

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Self]:
        """Keep a connection for the length of the block, without waiting for it."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep)
            yield self
            group.cancel_scope.cancel()

    @property
    def agent(self) -> str:
        """The agent id of the coordinator."""
        return self._agent

    @property
    def up(self) -> Coordinator | None:
        """The coordinator; None without a connection at this moment."""
        return Coordinator(self._bus, self._agent, self.role) if self._bus is not None and self._up.is_set() else None

    async def connected(self) -> Coordinator:
        """Wait for a connection, without a limit, and return the coordinator.

        A connection that was refused is dialled again for calls of `coordinator` only, not for callers of this.
        """
        while (coordinator := self.up) is None:
            await self._up.wait()
        return coordinator

    async def coordinator(self) -> Coordinator:
        """Return the coordinator on a connection that is up, waiting a moment for one.

        Raises:
            BusUnavailableError: there is no connection; says why, and what to do.
            AuthenticationError, ConfigError: there will be none until an operator acts.
        """
        self._wanted.set()
        with anyio.move_on_after(CONNECT_TIMEOUT_S):
            await self._up.wait()
            assert self._bus is not None, "only an open bus is up"
            return Coordinator(self._bus, self._agent, self.role)
        raise self._refusal or BusUnavailableError(
            f"no connection to the bus: {self._state}. For a bus elsewhere check --nats-url, AGENTBUS_NATS_URL or "
            "coordinator.toml. This MCP server keeps trying: call again once the bus is up"
        )

    async def note_published(self, tasks: Iterable[TaskHandle]) -> None:
        """Note tasks for the monitor of the session that has published them, if one session is served."""
        if self._published is not None:
            await to_thread.run_sync(self._published.note, [(task.agent, task.id) for task in tasks if task.agent])

    async def note_seen(self, tasks: Iterable[tuple[str, str]]) -> None:
        """Note tasks, each an agent and an id, whose results the model of that session has read."""
        if self._published is not None and (seen := list(tasks)):
            await to_thread.run_sync(self._published.saw, seen)

    async def close(self) -> None:
        """Send what is buffered and close, within two seconds, even when cancelled."""
        if self._bus is not None:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await self._bus.close()

    async def _keep(self) -> None:
        """Dial until a server answers, and again when a call needs a connection that was refused or has ended."""
        while True:
            self._wanted, self._refusal = anyio.Event(), None
            self._bus = Bus(self._settings, self._note)
            try:
                await self._bus.open(retry_on_failed_connect=True)
                self._refusal = await self._bus.wait_closed()
            except AgentBusError as error:
                self._refusal = error
            finally:
                await self.close()
            if self._refusal is None:
                return  # closed here, for good
            self._note(str(self._refusal))
            await self._wanted.wait()

    def _note(self, state: str) -> None:
        log.info("%s%s", self._label, state)
        self._state = state
        if self._bus is not None and self._bus.connected:
            self._refusal = None
            if self._ever_up and not self._up.is_set():
                self._on_reconnect()
            self._ever_up = True
            self._up.set()
        elif self._up.is_set():
            self._up = anyio.Event()
