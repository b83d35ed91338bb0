"""Serves one coordinator of the bus over HTTP.

It has its own connection to the bus, MCP server and sessions, so clients of another coordinator cannot reach its
sessions and MCP tasks.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import anyio
from anyio.abc import TaskStatus
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentbus_mcp import sdk
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.metrics import Metrics
from agentbus_mcp.server import Server
from agentbus_mcp.transports.http_settings import PATH, HttpSettings
from agentbus_mcp.transports.posted_messages import PostedMessages
from agentbus_mcp.transports.sign_in import challenge

if TYPE_CHECKING:
    from agentbus_mcp.page.served_page import ServedPage

Load: TypeAlias = Callable[[BusLink], Awaitable[Server]]
MAX_BODY_BYTES: Final = 9 * 1024 * 1024
"""Enough for the largest task that the bus accepts."""
_LAST_FRAMES_S: Final = 0.25
"""How long streams may take to send their last frames when a coordinator ends."""


@dataclass(slots=True)
class _Answer:
    """The progress of an answer: whether it has begun, and whether it may end at any point."""

    began: bool = False
    open_ended: bool = False

    def note(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.began = True
            self.open_ended = all(name.lower() != b"content-length" for name, _ in message.get("headers", ()))
        elif not message.get("more_body", False):
            self.open_ended = False


class ServedCoordinator:
    """Serves requests while `run` runs."""

    def __init__(
        self,
        bus_link: BusLink,
        settings: HttpSettings,
        load: Load,
        metrics: Metrics,
        page: "ServedPage | None" = None,
    ) -> None:
        """Serve the coordinator of a link, which `run` opens, and its page if there is one."""
        self._page = page
        self._bus_link = bus_link
        self._settings = settings
        self._load = load
        self._metrics = metrics
        self._ended = anyio.Event()
        self._requests: set[anyio.CancelScope] = set()
        self._server: Server | None = None
        self._app: ASGIApp = challenge(invalid=True)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Run the connection and the sessions until `end` is called; reports started once requests can be served."""
        async with self._bus_link.open():
            server = self._server = await self._load(self._bus_link)
            await server.measure(self._metrics)
            app = server.streamable_http_app(
                streamable_http_path=PATH,
                max_request_body_size=MAX_BODY_BYTES,
                session_idle_timeout=self._settings.idle_s,
                max_sessions=self._settings.max_sessions,
                # `RequestChecks` checks that for all paths.
                transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
            )
            self._app = PostedMessages(app, MAX_BODY_BYTES)
            async with server.session_manager.run(), anyio.create_task_group() as group:
                if self._page is not None:
                    group.start_soon(self._page.run)
                task_status.started()
                await self._ended.wait()
                server.end_waits()
                if self._page is not None:
                    self._page.end()
                group.cancel_scope.cancel()
                await anyio.sleep(_LAST_FRAMES_S)
                for request in self._requests:
                    request.cancel()

    def end(self) -> None:
        """Begin the shutdown: streams first, then sessions and requests in progress, then the connection."""
        self._ended.set()

    def end_waits(self) -> None:
        """Have every call answer soon, those that wait and those that listen as well."""
        if self._server is not None:
            self._server.end_waits()
        if self._page is not None:
            self._page.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. If the coordinator ends meanwhile, the answer ends at this point."""
        answer = _Answer()

        async def watched(message: Message) -> None:
            answer.note(message)
            await send(message)

        with anyio.CancelScope() as request:
            self._requests.add(request)
            try:
                await self._app(scope, receive, watched)
            finally:
                self._requests.discard(request)
        if request.cancelled_caught and not answer.began:
            await challenge(invalid=True)(scope, receive, send)
        elif request.cancelled_caught and answer.open_ended:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    # -- for metrics and the health of the process

    @property
    def page(self) -> "ServedPage | None":
        """What its page shows; None if it has none."""
        return self._page

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the bus."""
        return self._bus_link.up is not None

    @property
    def sessions(self) -> int:
        """How many sessions of clients of the 2025 era are open."""
        return 0 if self._server is None else sdk.open_sessions(self._server.session_manager)

    @property
    def streams(self) -> int:
        """How many `subscriptions/listen` streams are open."""
        return 0 if self._server is None else self._server.streams

    @property
    def sources(self) -> int:
        """How many sources on the bus are followed."""
        return 0 if self._server is None else self._server.sources
