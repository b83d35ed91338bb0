"""Notifications for clients of 2026-07-28: `subscriptions/listen` streams (SEP-2575, and SEP-2663 for `taskIds`)."""

import logging
from contextlib import ExitStack
from typing import Any, Final

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer, require_client_extension
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY, event_matches, event_to_notification
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    ServerNotification,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
)

from agentbus_mcp import sdk
from agentbus_mcp.notifications.pending_events import MAX_URIS, OPENED_S, Event, PendingEvents, TaskUpdated
from agentbus_mcp.notifications.resource_changes import ResourceChanges
from agentbus_mcp.notifications.task_notifications import (
    TASKS_EXTENSION,
    McpTaskChanges,
    TaskNotifications,
    requested_task_ids,
)

log = logging.getLogger("agentbus.mcp")

MAX_STREAMS: Final = 1_024
"""How many listen streams may be open at the same time."""
_STALLED_S: Final = 30.0
"""How long a client may take for one notification before its stream is ended. It can then listen again."""


class Listen:
    """Serves `subscriptions/listen`: each call is one stream, until the client or the server ends it."""

    def __init__(self, bus: InMemorySubscriptionBus, resources: ResourceChanges, tasks: McpTaskChanges | None) -> None:
        self._bus = bus
        self._resources = resources
        self._tasks = tasks
        self._open: set[PendingEvents] = set()
        self._closed = False

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Acknowledge the subscriptions with the first frame, then send notifications.

        Raises:
            MCPError: -32021 for `taskIds` of a client that has not declared the tasks extension; -32603 when too many
                streams are open.
        """
        if ctx.request_id is None:
            raise MCPError(INVALID_REQUEST, "subscriptions/listen requires a request id")
        if len(self._open) >= MAX_STREAMS:
            raise MCPError(INTERNAL_ERROR, "Subscription limit reached")
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        pending = PendingEvents()
        with ExitStack() as cleanup:
            self._open.add(pending)
            if self._closed:
                pending.close()
            cleanup.callback(self._open.discard, pending)
            accepted = await self._subscribe(ctx, params.notifications, pending, cleanup)
            acknowledged = SubscriptionsAcknowledgedNotificationParams(notifications=accepted, _meta=meta)
            task_notifications = TaskNotifications(self._tasks, meta) if self._tasks is not None else None
            stream = _Stream(ctx.session, ctx.request_id, meta, task_notifications)
            if await stream.send(SubscriptionsAcknowledgedNotification(params=acknowledged)):
                await stream.send_events(pending)
        return SubscriptionsListenResult(_meta=meta)

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._open)

    def close(self) -> None:
        """End every stream gracefully, and those that begin later; each sends its result as the last frame."""
        self._closed = True
        for pending in self._open:
            pending.close()

    async def _subscribe(
        self,
        ctx: ServerRequestContext[Any, Any],
        requested: SubscriptionFilter,
        pending: PendingEvents,
        cleanup: ExitStack,
    ) -> SubscriptionFilter:
        """Subscribe to what a client requests; returns the part of it that is accepted."""
        uris = list(dict.fromkeys(requested.resource_subscriptions or ()))[:MAX_URIS]
        task_ids = await self._subscribe_to_tasks(ctx, requested, pending, cleanup)
        watched = [uri for uri in uris if self._subscribe_to_resource(uri, pending, cleanup)]
        accepted = SubscriptionFilter.model_validate(
            {
                "toolsListChanged": requested.tools_list_changed or None,
                "promptsListChanged": requested.prompts_list_changed or None,
                "resourcesListChanged": requested.resources_list_changed or None,
                "resourceSubscriptions": watched or None,
                **({"taskIds": task_ids} if task_ids else {}),
            }
        )

        def deliver(event: ServerEvent) -> None:
            if event_matches(accepted, frozenset(watched), event):
                pending.put(event)

        cleanup.callback(self._bus.subscribe(deliver))
        if accepted.resources_list_changed:
            cleanup.callback(self._resources.watch_list(lambda: pending.put(ResourcesListChanged())))
        await self._resources.opened(OPENED_S)
        return accepted

    def _subscribe_to_resource(self, uri: str, pending: PendingEvents, cleanup: ExitStack) -> bool:
        """Subscribe to one resource; returns False if its changes cannot be detected."""
        event = ResourceUpdated(uri=uri)
        unsubscribe = self._resources.watch(uri, lambda: pending.put(event))
        if unsubscribe is None:
            return False
        cleanup.callback(unsubscribe)
        return True

    async def _subscribe_to_tasks(
        self,
        ctx: ServerRequestContext[Any, Any],
        requested: SubscriptionFilter,
        pending: PendingEvents,
        cleanup: ExitStack,
    ) -> list[str]:
        """Subscribe to MCP tasks. Their present state is sent first: they may have changed before."""
        if not (requested.model_extra or {}).get("taskIds"):
            return []
        require_client_extension(ctx, TASKS_EXTENSION)
        if self._tasks is None:
            return []
        watched: list[str] = []
        for task_id in requested_task_ids(requested)[:MAX_URIS]:
            event = TaskUpdated(task_id)
            unsubscribe = await self._tasks.watch(task_id, lambda event=event: pending.put(event))
            if unsubscribe is not None:
                cleanup.callback(unsubscribe)
                pending.put(event)
                watched.append(task_id)
        return watched


class _Stream:
    """The stream of one `subscriptions/listen` request; every frame carries the id of the request."""

    def __init__(
        self, session: ServerSession, request_id: str | int, meta: dict[str, Any], tasks: TaskNotifications | None
    ) -> None:
        self._session = session
        self._request_id = request_id
        self._meta = meta
        self._tasks = tasks

    async def send_events(self, pending: PendingEvents) -> None:
        """Send a notification for each event, until the queue is closed or the client has stopped reading."""
        while (event := await pending.next()) is not None:
            notification = await self._notification(event)
            if notification is not None and not await self.send(notification):
                log.info("a client has stopped reading its subscription; the stream is ended")
                return

    async def send(self, notification: ServerNotification) -> bool:
        """Send one notification; returns False if the client does not read it in time."""
        with anyio.move_on_after(_STALLED_S) as sending:
            await self._session.send_notification(notification, related_request_id=self._request_id)
        return not sending.cancelled_caught

    async def _notification(self, event: Event) -> ServerNotification | None:
        if not isinstance(event, TaskUpdated):
            return event_to_notification(event, self._meta)
        assert self._tasks is not None, "a stream subscribes to MCP tasks only where the server has some"
        return await self._tasks.of(event.task_id)


def add_listen(server: MCPServer[Any], listen: Listen) -> None:
    """Serve `subscriptions/listen`."""
    sdk.on_request(server, "subscriptions/listen", SubscriptionsListenRequestParams, listen)
