"""The resources: agents, inboxes, tasks and streams as JSON, listed in pages, with completions for their names."""

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.server.mcpserver.resources import FunctionResource
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, ListResourcesResult, PaginatedRequestParams, Resource
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentbus.coordinator import Coordinator
from agentbus.errors import AgentBusError, InvalidIdError, TaskNotFoundError
from agentbus.protocol import subjects
from agentbus.protocol.json_codec import Json
from agentbus.tasks.presence import Presence
from agentbus_mcp import sdk, uris
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.notifications.sessions import Sessions
from agentbus_mcp.operations import reading
from agentbus_mcp.replies import views
from agentbus_mcp.replies.sanitize import clip, to_json
from agentbus_mcp.resources.streams import CONTENT_BYTES, NEWEST, describe

PAGE: Final = 100
"""How many resources one page of the list holds."""
_LIST_S: Final = 2.0
"""How long listing waits for the bus; without it, what is always there is listed."""
_MAX_AGENTS: Final = 200
_MAX_WORKERS: Final = 50
_JSON: Final = "application/json"
Reader: TypeAlias = Callable[[], Awaitable[str]]

_STREAMS: Final = {
    subjects.TASKS_STREAM: ("Tasks", "The backlog: tasks that have no result yet. Its state and newest tasks as JSON."),
    subjects.RESULTS_STREAM: ("Results", "All result inboxes. Their state and newest results as JSON."),
}


class Resources:
    """The resources on one bus_link to the bus. Failures are exceptions here; `agentbus_mcp.errors` words them."""

    def __init__(self, bus_link: BusLink) -> None:
        self._bus_link = bus_link

    async def agents(self) -> str:
        """The agents: which have living workers, and how much waits for them."""
        overview = await (await self._bus_link.coordinator()).overview()
        account: dict[str, Json] = {"agents": [_bounded(agent) for agent in overview[:_MAX_AGENTS]]}
        if len(overview) > _MAX_AGENTS:
            account["more"] = len(overview) - _MAX_AGENTS
        return to_json(account)

    async def inbox(self, agent: str) -> str:
        """The newest messages in the inbox of an agent, oldest first, and the cursor behind them."""
        name = _known(subjects.agent_id, agent)
        coordinator = await self._bus_link.coordinator()
        messages, cursor = await reading.newest(coordinator, NEWEST, name)
        results = await reading.verified(coordinator.bus, messages, CONTENT_BYTES)
        newest = [result.model_dump(exclude_none=True) for result in results]
        return to_json({"agent": name, "newest": newest, "cursor": cursor})

    async def task(self, task_id: str) -> str:
        """The state of a task and, once it has one, its result."""
        coordinator = await self._bus_link.coordinator()
        try:
            status = await coordinator.task(task_id)
        except (TaskNotFoundError, InvalidIdError) as error:
            raise ResourceNotFoundError(str(error)) from error
        view = views.of_task_status(status)
        if status.settled:
            view = view.model_copy(update={"result": views.of_status(status, views.ANSWER_BYTES)})
        return to_json(view.model_dump(exclude_none=True))

    async def stream(self, stream: str) -> str:
        """The state, the consumers and the newest messages of a stream."""
        if stream not in _STREAMS:
            raise ResourceNotFoundError(f"Unknown resource: {uris.stream(stream)[:200]}")
        return to_json(await describe(await self._bus_link.coordinator(), stream))

    async def page(self, always: Sequence[Resource], cursor: str | None) -> ListResourcesResult:
        """One page of the list: first what is always there, then the inboxes of the living agents by name.

        Raises:
            MCPError: the cursor is not one of ours.
        """
        after = "" if cursor is None else _decoded(cursor)
        agents = [name for name in await self._living() if name > after]
        room = PAGE - len(always) if cursor is None else PAGE
        listed = [*(always if cursor is None else ()), *(_inbox_of(name) for name in agents[:room])]
        more = len(agents) > room
        return ListResourcesResult(resources=listed, next_cursor=_encoded(agents[room - 1]) if more else None)

    async def _living(self) -> list[str]:
        """The agents whose workers are alive, without one's own; none while the bus does not answer."""
        coordinator = self._bus_link.up
        workers: list[Presence] = []
        if coordinator is not None:
            with anyio.move_on_after(_LIST_S):
                workers = await _unless_refused(coordinator)
        return sorted({worker.agent for worker in workers} - {self._bus_link.agent})


def add_resources(server: MCPServer[Any], bus_link: BusLink, sessions: Sessions) -> None:
    """Have a server offer the resources on `bus_link`, and list them in pages."""
    resources = Resources(bus_link)
    for resource in _concrete(resources, bus_link.agent):
        server.add_resource(resource)
    for uri, name, title, function in (
        (uris.INBOX, "inbox", "Inbox of an agent", resources.inbox),
        (uris.TASK, "task", "Task", resources.task),
        (uris.STREAM, "stream", "Stream", resources.stream),
    ):
        server.resource(uri, name=name, title=title, description=_summary(function), mime_type=_JSON)(function)

    async def list_resources(
        ctx: ServerRequestContext[Any, Any], params: PaginatedRequestParams
    ) -> ListResourcesResult:
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            sessions.watch_list(ctx)
        return await resources.page(await server.list_resources(), params.cursor)

    sdk.on_request(server, "resources/list", PaginatedRequestParams, list_resources)


def _concrete(resources: Resources, own: str) -> list[FunctionResource]:
    """What is always there, listed one by one: hosts do not list what a template could match."""

    def resource(uri: str, name: str, title: str, description: str, fn: Reader) -> FunctionResource:
        return FunctionResource(uri=uri, name=name, title=title, description=description, mime_type=_JSON, fn=fn)

    return [
        resource(uris.AGENTS, "agents", "Agents", _summary(resources.agents), resources.agents),
        resource(uris.inbox(own), "inbox", "Inbox", "The newest results in this coordinator's own inbox, as JSON.",
                 partial(resources.inbox, own)),
        *(
            resource(uris.stream(name), name, title, description, partial(resources.stream, name))
            for name, (title, description) in _STREAMS.items()
        ),
    ]  # fmt: skip


def _inbox_of(agent: str) -> Resource:
    return Resource(
        uri=uris.inbox(agent),
        name=f"inbox of {agent}",
        title=f"Inbox of {agent}",
        description=f"The newest results that the agent {agent} got for tasks that it gave to others, as JSON.",
        mime_type=_JSON,
    )


async def _unless_refused(coordinator: Coordinator) -> list[Presence]:
    try:
        return await coordinator.agents()
    except AgentBusError:
        return []


def _bounded(agent: dict[str, Json]) -> dict[str, Json]:
    """An agent as the overview has it; what its workers say of themselves is cut."""
    workers: list[dict[str, Json]] = agent["workers"]
    short = [
        {name: _cut(value) for name, value in worker.items() if value or value == 0}
        for worker in workers[:_MAX_WORKERS]
    ]
    return {**agent, "workers": short}


def _cut(value: Json) -> Json:
    return clip(value) if isinstance(value, str) else value


def _known(check: Callable[[str], str], name: str) -> str:
    try:
        return check(name)
    except InvalidIdError as error:
        raise ResourceNotFoundError(str(error)) from error


def _summary(function: Callable[..., Any]) -> str:
    """The first line of a docstring, for clients."""
    return f"{(function.__doc__ or '').splitlines()[0].rstrip('.')}, as JSON."


def _encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _decoded(cursor: str) -> str:
    try:
        name = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
    except (binascii.Error, ValueError):
        name = ""
    if not subjects.is_agent_id(name):
        raise MCPError(INVALID_PARAMS, "the cursor is not one that this server has given")
    return name
