"""Telling clients what has changed, in both protocol eras.

A client of 2026-07-28 opens `subscriptions/listen` streams (SEP-2575, and SEP-2663 for `taskIds`); one of the 2025 era
subscribes to resources, and is told of a changed list once it has read the list. What is told is that something has
changed, each thing once however often it changes before the client takes it up: a client that has stopped reading
costs no more memory than the list of what it asked for, and keeps nobody else waiting.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias, cast

import anyio
from anyio.abc import TaskGroup
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer, require_client_extension
from mcp.server.session import ServerSession
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourcesListChanged, ResourceUpdated, ServerEvent
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import SUBSCRIPTION_ID_META_KEY, event_matches, event_to_notification
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    EmptyResult,
    ServerNotification,
    SubscribeRequestParams,
    SubscriptionFilter,
    SubscriptionsAcknowledgedNotification,
    SubscriptionsAcknowledgedNotificationParams,
    SubscriptionsListenRequestParams,
    SubscriptionsListenResult,
    UnsubscribeRequestParams,
)
from pydantic import BaseModel

from agentbus_mcp import sdk

log = logging.getLogger("agentbus.mcp")

MAX_STREAMS: Final = 1_024
"""How many listen streams may be open at the same time."""
MAX_URIS: Final = 256
"""How many resources, and how many MCP tasks, one client may watch with one stream or session."""
_STALLED_S: Final = 30.0
"""How long a client may take for one notification before its stream is ended: it listens again and reads anew."""
_RETRY_S: Final = 5.0
_PAUSE_S: Final = 0.1
"""After each round of notifications, so that what changes all the time is not told all the time."""
_OPENED_S: Final = 1.0
"""How long the answer to a subscription waits for the bus, so that no change after it is missed."""

TASKS_EXTENSION: Final = "io.modelcontextprotocol/tasks"
Leave: TypeAlias = Callable[[], None]


class Resources(Protocol):
    """What there is to be told of resources."""

    def watch(self, uri: str, changed: Callable[[], None]) -> Leave | None:
        """Call `changed` when a resource changes; None where no change of it will ever be known."""
        ...

    def watch_list(self, changed: Callable[[], None]) -> Leave:
        """Call `changed` when the list of resources changes."""
        ...

    async def opened(self, timeout_s: float) -> None:
        """Wait until every change from now on is noticed, at most for a time."""
        ...


class Tasks(Protocol):
    """What there is to be told of MCP tasks."""

    async def watch(self, task_id: str, changed: Callable[[], None]) -> Leave | None:
        """Call `changed` when an MCP task may have changed; None where there is no such task."""
        ...

    async def get(self, task_id: str) -> dict[str, Any]:
        """The `DetailedTask`, as `tasks/get` has it."""
        ...


@dataclass(frozen=True)
class TaskUpdated:
    """An MCP task may have changed."""

    task_id: str


Event: TypeAlias = ServerEvent | TaskUpdated


class TaskNotification(BaseModel):
    """`notifications/tasks` (SEP-2663)."""

    method: Literal["notifications/tasks"] = "notifications/tasks"
    params: dict[str, Any]


class Subscriber:
    """What one client is still to be told: each thing once."""

    def __init__(self) -> None:
        self._pending: dict[Event, None] = {}
        self._wake = anyio.Event()
        self._closed = False

    def put(self, event: Event) -> None:
        """Have the client told of `event`, unless that is still to come anyway."""
        self._pending[event] = None
        self._wake.set()

    def close(self) -> None:
        """Tell what is still to be told, and then nothing more."""
        self._closed = True
        self._wake.set()

    async def next(self) -> Event | None:
        """What to tell next, whenever it comes; None once the subscriber is closed and everything is told."""
        if not self._pending and not self._closed:
            await anyio.sleep(_PAUSE_S)
            await self._wake.wait()
        self._wake = anyio.Event()
        if not self._pending:
            return None
        event = next(iter(self._pending))
        del self._pending[event]
        return event


class Listen:
    """Serves `subscriptions/listen`: one call is one stream, until the client or the server ends it."""

    def __init__(self, bus: InMemorySubscriptionBus, resources: Resources, tasks: Tasks | None) -> None:
        self._bus = bus
        self._resources = resources
        self._tasks = tasks
        self._open: set[Subscriber] = set()

    async def __call__(
        self, ctx: ServerRequestContext[Any, Any], params: SubscriptionsListenRequestParams
    ) -> SubscriptionsListenResult:
        """Acknowledge what will be told, as the first frame, and then tell it.

        Raises:
            MCPError: -32021 for `taskIds` of a client that has not declared the tasks extension; -32603 when too many
                streams are open.
        """
        if ctx.request_id is None:
            raise MCPError(INVALID_REQUEST, "subscriptions/listen requires a request id")
        if len(self._open) >= MAX_STREAMS:
            raise MCPError(INTERNAL_ERROR, "Subscription limit reached")
        meta: dict[str, Any] = {SUBSCRIPTION_ID_META_KEY: ctx.request_id}
        subscriber = Subscriber()
        with ExitStack() as leaving:
            self._open.add(subscriber)
            leaving.callback(self._open.discard, subscriber)
            honored = await self._join(ctx, params.notifications, subscriber, leaving)
            acknowledged = SubscriptionsAcknowledgedNotificationParams(notifications=honored, _meta=meta)
            stream = _Stream(ctx.session, ctx.request_id, meta, self._tasks)
            if await stream.send(SubscriptionsAcknowledgedNotification(params=acknowledged)):
                await stream.tell(subscriber)
        return SubscriptionsListenResult(_meta=meta)

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._open)

    def close(self) -> None:
        """Begin to end every stream in order; each then sends its result as the last frame."""
        for subscriber in self._open:
            subscriber.close()

    async def _join(
        self,
        ctx: ServerRequestContext[Any, Any],
        asked: SubscriptionFilter,
        subscriber: Subscriber,
        leaving: ExitStack,
    ) -> SubscriptionFilter:
        """Subscribe to what a client asks for; returns what of it will be told."""
        uris = list(dict.fromkeys(asked.resource_subscriptions or ()))[:MAX_URIS]
        task_ids = await self._join_tasks(ctx, asked, subscriber, leaving)
        watched = [uri for uri in uris if _watch(self._resources, uri, subscriber, leaving)]
        honored = SubscriptionFilter.model_validate(
            {
                "toolsListChanged": asked.tools_list_changed or None,
                "promptsListChanged": asked.prompts_list_changed or None,
                "resourcesListChanged": asked.resources_list_changed or None,
                "resourceSubscriptions": watched or None,
                **({"taskIds": task_ids} if task_ids else {}),
            }
        )

        def deliver(event: ServerEvent) -> None:
            if event_matches(honored, frozenset(watched), event):
                subscriber.put(event)

        leaving.callback(self._bus.subscribe(deliver))
        if honored.resources_list_changed:
            leaving.callback(self._resources.watch_list(lambda: subscriber.put(ResourcesListChanged())))
        await self._resources.opened(_OPENED_S)
        return honored

    async def _join_tasks(
        self,
        ctx: ServerRequestContext[Any, Any],
        asked: SubscriptionFilter,
        subscriber: Subscriber,
        leaving: ExitStack,
    ) -> list[str]:
        """Watch MCP tasks, and have their present state told first: they may have changed before."""
        found: Any = (asked.model_extra or {}).get("taskIds")
        if not found:
            return []
        require_client_extension(ctx, TASKS_EXTENSION)
        if self._tasks is None or not isinstance(found, list):
            return []
        watched: list[str] = []
        for task_id in cast("list[Any]", found)[:MAX_URIS]:
            event = TaskUpdated(str(task_id))
            leave = await self._tasks.watch(event.task_id, lambda event=event: subscriber.put(event))
            if leave is not None:
                leaving.callback(leave)
                subscriber.put(event)
                watched.append(event.task_id)
        return watched


class _Stream:
    """The stream of one `subscriptions/listen`: every frame carries the id of its request."""

    def __init__(
        self, session: ServerSession, request_id: str | int, meta: dict[str, Any], tasks: Tasks | None
    ) -> None:
        self._session = session
        self._request_id = request_id
        self._meta = meta
        self._tasks = tasks
        self._told: dict[str, dict[str, Any]] = {}

    async def tell(self, subscriber: Subscriber) -> None:
        """Send what the subscriber is to be told, until it is closed or the client has stopped reading."""
        while (event := await subscriber.next()) is not None:
            notification = await self._notification(event)
            if notification is not None and not await self.send(notification):
                log.info("a client has stopped reading its subscription; the stream is ended")
                return

    async def send(self, notification: ServerNotification) -> bool:
        """Send one notification; False if the client does not take it."""
        with anyio.move_on_after(_STALLED_S) as patience:
            await self._session.send_notification(notification, related_request_id=self._request_id)
        return not patience.cancelled_caught

    async def _notification(self, event: Event) -> ServerNotification | None:
        if not isinstance(event, TaskUpdated):
            return event_to_notification(event, self._meta)
        assert self._tasks is not None, "only MCP tasks that there are have been subscribed to"
        try:
            task = await self._tasks.get(event.task_id)
        except MCPError:
            return None  # not to be had at present; it is told of the next change
        told = {name: value for name, value in task.items() if name != "lastUpdatedAt"}
        if self._told.get(event.task_id) == told:
            return None
        self._told[event.task_id] = told
        # The SDK's union of notifications is that of the core protocol.
        return cast("ServerNotification", TaskNotification(params={**task, "_meta": self._meta}))


@dataclass(slots=True)
class _Session:
    """A client of the 2025 era."""

    subscriber: Subscriber = field(default_factory=Subscriber)
    leaving: dict[str, Leave] = field(default_factory=dict[str, Leave])

    def close(self) -> None:
        for leave in self.leaving.values():
            leave()
        self.leaving.clear()
        self.subscriber.close()


_LIST: Final = ""
"""Stands for the list of resources among the URIs that a session watches."""


class Sessions:
    """Clients of the 2025 era, which subscribe with `resources/subscribe`."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._sessions: dict[int, _Session] = {}
        self._group: TaskGroup | None = None

    def start(self, group: TaskGroup) -> None:
        """Let notifications be sent from tasks of `group`."""
        self._group = group

    async def subscribe(self, ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        """Serve `resources/subscribe`: `notifications/resources/updated` for every change from now on.

        Raises:
            MCPError: the client watches too many resources already.
        """
        session, uri = self._session(ctx), str(params.uri)
        if len(session.leaving) >= MAX_URIS and uri not in session.leaving:
            raise MCPError(INTERNAL_ERROR, "Subscription limit reached")
        if uri not in session.leaving:
            event = ResourceUpdated(uri=uri)
            leave = self._resources.watch(uri, lambda: session.subscriber.put(event))
            session.leaving[uri] = leave or (lambda: None)
        await self._resources.opened(_OPENED_S)
        return EmptyResult()

    async def unsubscribe(self, ctx: ServerRequestContext[Any, Any], params: UnsubscribeRequestParams) -> EmptyResult:
        """Serve `resources/unsubscribe`; of what was never subscribed to as well."""
        session = self._sessions.get(id(sdk.connection_of(ctx)))
        leave = session.leaving.pop(str(params.uri), None) if session else None
        if leave is not None:
            leave()
        return EmptyResult()

    def watch_list(self, ctx: ServerRequestContext[Any, Any]) -> None:
        """Tell this client from now on when the list of resources changes."""
        session = self._session(ctx)
        if _LIST not in session.leaving:
            leave = self._resources.watch_list(lambda: session.subscriber.put(ResourcesListChanged()))
            session.leaving[_LIST] = leave

    def _session(self, ctx: ServerRequestContext[Any, Any]) -> _Session:
        connection = sdk.connection_of(ctx)
        session = self._sessions.get(id(connection))
        if session is None:
            if self._group is None:
                raise RuntimeError("sessions are served while the server runs")
            session = self._sessions[id(connection)] = _Session()
            connection.exit_stack.callback(self._drop, id(connection))
            self._group.start_soon(_tell, session.subscriber, ctx.session)
        return session

    def _drop(self, key: int) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            session.close()


async def _tell(subscriber: Subscriber, session: ServerSession) -> None:
    """Tell a client of the 2025 era what there is; one that does not read is told when it reads again."""
    while (event := await subscriber.next()) is not None:
        with anyio.move_on_after(_RETRY_S) as patience:
            if isinstance(event, ResourceUpdated):
                await session.send_resource_updated(event.uri)
            else:
                await session.send_resource_list_changed()
        if patience.cancelled_caught:
            subscriber.put(event)


def _watch(resources: Resources, uri: str, subscriber: Subscriber, leaving: ExitStack) -> bool:
    """Subscribe to one resource; False where nothing will ever be known of its changes."""
    event = ResourceUpdated(uri=uri)
    leave = resources.watch(uri, lambda: subscriber.put(event))
    if leave is None:
        return False
    leaving.callback(leave)
    return True


def install(server: MCPServer[Any], listen: Listen, sessions: Sessions) -> None:
    """Have a server serve subscriptions of both eras."""
    sdk.on_request(server, "subscriptions/listen", SubscriptionsListenRequestParams, listen)
    sdk.on_request(server, "resources/subscribe", SubscribeRequestParams, sessions.subscribe)
    sdk.on_request(server, "resources/unsubscribe", UnsubscribeRequestParams, sessions.unsubscribe)
    sdk.announce_resource_changes(server)
