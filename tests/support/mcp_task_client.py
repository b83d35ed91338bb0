"""A client that knows MCP tasks, and shows what is on the wire."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Literal

from mcp import Client, MCPError
from mcp.client import ClaimContext, ClientExtension, NotificationBinding, ResultClaim
from mcp_types import (
    CallToolResult,
    NotificationParams,
    Request,
    RequestParams,
    Result,
    SubscriptionFilter,
    SubscriptionsListenRequestParams,
)
from pydantic import ConfigDict

from agentbus_mcp.notifications.task_notifications import TASKS_EXTENSION
from support.harness import BOUND_S

Wire = dict[str, Any]


class Anything(Result):
    """A result as it came."""

    model_config = ConfigDict(extra="allow")


class Created(Result):
    """`CreateTaskResult`."""

    model_config = ConfigDict(extra="allow")

    result_type: Literal["task"] = "task"


class AnyParams(RequestParams):
    model_config = ConfigDict(extra="allow")


class AnyRequest(Request[AnyParams, str]):
    name_param = None


class ListenRequest(Request[SubscriptionsListenRequestParams, Literal["subscriptions/listen"]]):
    method: Literal["subscriptions/listen"] = "subscriptions/listen"


class News(NotificationParams):
    """`notifications/tasks`."""

    model_config = ConfigDict(extra="allow")


class TasksExtension(ClientExtension):
    """Declares the extension; a call that became a task is polled until its end when the client calls a tool."""

    identifier = TASKS_EXTENSION

    def __init__(self, told: Callable[[News], Awaitable[None]]) -> None:
        self._told = told

    def claims(self) -> list[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Created, resolve=self._resolve)]

    def notifications(self) -> list[NotificationBinding[Any]]:
        return [NotificationBinding(method="notifications/tasks", params_type=News, handler=self._told)]

    async def _resolve(self, created: Created, ctx: ClaimContext) -> CallToolResult:
        async with asyncio.timeout(BOUND_S):
            while True:
                task = await request(ctx.session, "tasks/get", {"taskId": wire(created)["taskId"]})
                if task["status"] == "completed":
                    return CallToolResult.model_validate(task["result"])
                await asyncio.sleep(0.05)


def wire(model: Result) -> Wire:
    """A result as it was on the wire, without what the protocol adds to every one."""
    found = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in found.items() if key != "_meta"}


async def request(session: Any, method: str, params: Mapping[str, Any]) -> Wire:
    """Send a request of the extension, as SEP-2663 has it."""

    class Sent(AnyRequest):
        name_param = "taskId" if isinstance(params.get("taskId"), str) else None

    return wire(await session.send_request(Sent(method=method, params=AnyParams.model_validate(params)), Anything))


class TaskClient:
    """A client with the requests of the extension."""

    def __init__(self, client: Client, news: asyncio.Queue[Wire]) -> None:
        self.client = client
        self.news = news

    async def call(self, tool: str, arguments: Mapping[str, Any] | None = None) -> Wire:
        """Call a tool; the answer as it comes, a task or a result."""
        return wire(await self.client.session.call_tool(tool, dict(arguments or {}), allow_claimed=True))

    async def get(self, task_id: str) -> Wire:
        return await request(self.client.session, "tasks/get", {"taskId": task_id})

    async def update(self, task_id: str, responses: Mapping[str, Any]) -> Wire:
        return await request(
            self.client.session, "tasks/update", {"taskId": task_id, "inputResponses": dict(responses)}
        )

    async def cancel(self, task_id: str) -> Wire:
        return await request(self.client.session, "tasks/cancel", {"taskId": task_id})

    async def until(self, task_id: str, *statuses: str, message: str | None = None) -> Wire:
        """Poll until the task has one of the statuses, with a message if one is named."""
        async with asyncio.timeout(BOUND_S):
            while True:
                task = await self.get(task_id)
                if task["status"] in statuses and message in (None, task.get("statusMessage")):
                    return task
                await asyncio.sleep(0.05)

    async def told(self) -> Wire:
        """The next notification."""
        async with asyncio.timeout(BOUND_S):
            return await self.news.get()

    @asynccontextmanager
    async def listening(self, *task_ids: str) -> AsyncGenerator[asyncio.Task[Any]]:
        """Listen for notifications of tasks; the first is the present state of each."""
        asked = SubscriptionFilter.model_validate({"taskIds": list(task_ids)})
        listen = ListenRequest(params=SubscriptionsListenRequestParams(notifications=asked))
        listening = asyncio.create_task(self.client.session.send_request(listen, Anything))
        try:
            yield listening
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError, MCPError):
                await listening


@asynccontextmanager
async def knowing_tasks(
    connect: Callable[..., AbstractAsyncContextManager[Client]], **about: Any
) -> AsyncGenerator[TaskClient]:
    """A client that declares the extension, made by `connect`."""
    news: asyncio.Queue[Wire] = asyncio.Queue()

    async def told(found: News) -> None:
        news.put_nowait(wire_of_news(found))

    async with connect(extensions=[TasksExtension(told)], **about) as client:
        yield TaskClient(client, news)


def wire_of_news(news: News) -> Wire:
    found = news.model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in found.items() if key != "_meta"}
