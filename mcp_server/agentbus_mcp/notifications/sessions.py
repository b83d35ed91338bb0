"""Notifications for clients of the 2025 era: `resources/subscribe`, and list changes for clients that read the list."""

from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.session import ServerSession
from mcp.server.subscriptions import ResourcesListChanged, ResourceUpdated
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from agentbus_mcp import sdk
from agentbus_mcp.notifications.bus_events import Unsubscribe
from agentbus_mcp.notifications.pending_events import MAX_URIS, OPENED_S, PendingEvents
from agentbus_mcp.notifications.resource_changes import ResourceChanges

_SEND_S: Final = 5.0
"""How long sending one notification may take; after that, its event is pending again."""
_LIST: Final = ""
"""The key of the resource list among the URIs that a session watches."""


@dataclass(slots=True)
class _Session:
    pending: PendingEvents = field(default_factory=PendingEvents)
    subscriptions: dict[str, Unsubscribe] = field(default_factory=dict[str, Unsubscribe])

    def close(self) -> None:
        for unsubscribe in self.subscriptions.values():
            unsubscribe()
        self.subscriptions.clear()
        self.pending.close()


class Sessions:
    """The subscriptions of 2025 clients, by connection."""

    def __init__(self, resources: ResourceChanges) -> None:
        self._resources = resources
        self._sessions: dict[int, _Session] = {}
        self._group: TaskGroup | None = None

    def start(self, group: TaskGroup) -> None:
        """Send notifications from tasks of `group`."""
        self._group = group

    async def subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        """Serve `resources/subscribe`: `notifications/resources/updated` for every change from now on.

        Raises:
            MCPError: the client watches too many resources already.
        """
        session, uri = self._session(ctx), str(params.uri)
        if len(session.subscriptions) >= MAX_URIS and uri not in session.subscriptions:
            raise MCPError(INTERNAL_ERROR, "Subscription limit reached")
        if uri not in session.subscriptions:
            event = ResourceUpdated(uri=uri)
            unsubscribe = self._resources.watch(uri, lambda: session.pending.put(event))
            session.subscriptions[uri] = unsubscribe or (lambda: None)
        await self._resources.opened(OPENED_S)
        return EmptyResult()

    async def unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        """Serve `resources/unsubscribe`; a resource without a subscription is no error."""
        session = self._sessions.get(id(sdk.connection_of(ctx)))
        unsubscribe = session.subscriptions.pop(str(params.uri), None) if session else None
        if unsubscribe is not None:
            unsubscribe()
        return EmptyResult()

    def watch_list(self, ctx: ServerRequestContext[Any, Any]) -> None:
        """Notify this client from now on when the list of resources changes."""
        session = self._session(ctx)
        if _LIST not in session.subscriptions:
            unsubscribe = self._resources.watch_list(lambda: session.pending.put(ResourcesListChanged()))
            session.subscriptions[_LIST] = unsubscribe

    def _session(self, ctx: ServerRequestContext[Any, Any]) -> _Session:
        connection = sdk.connection_of(ctx)
        session = self._sessions.get(id(connection))
        if session is None:
            if self._group is None:
                raise RuntimeError("sessions are served only while the server runs")
            session = self._sessions[id(connection)] = _Session()
            connection.exit_stack.callback(self._drop, id(connection))
            self._group.start_soon(_send_events, session.pending, ctx.session)
        return session

    def _drop(self, key: int) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            session.close()


async def _send_events(pending: PendingEvents, session: ServerSession) -> None:
    while (event := await pending.next()) is not None:
        with anyio.move_on_after(_SEND_S) as sending:
            if isinstance(event, ResourceUpdated):
                await session.send_resource_updated(event.uri)
            else:
                await session.send_resource_list_changed()
        if sending.cancelled_caught:
            pending.put(event)


def add_resource_subscriptions(server: MCPServer[Any], sessions: Sessions) -> None:
    """Serve `resources/subscribe` and `resources/unsubscribe`, and announce list changes in the handshake."""
    sdk.on_request(server, "resources/subscribe", SubscribeRequestParams, sessions.subscribe)
    sdk.on_request(server, "resources/unsubscribe", UnsubscribeRequestParams, sessions.unsubscribe)
    sdk.announce_resource_changes(server)
