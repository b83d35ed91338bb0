"""Adds the resources, and the list of them, to a server."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.resources import FunctionResource
from mcp_types import ListResourcesResult, PaginatedRequestParams
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from agentbus_mcp import sdk, uris
from agentbus_mcp.bus_link import BusLink
from agentbus_mcp.notifications.sessions import Sessions
from agentbus_mcp.resources.contents import STREAMS, ResourceContents
from agentbus_mcp.resources.left_files import add_left_files
from agentbus_mcp.resources.listing import JSON_TYPE, list_page

Reader: TypeAlias = Callable[[], Awaitable[str]]


def add_resources(server: MCPServer[Any], bus_link: BusLink, sessions: Sessions) -> None:
    """Have a server offer the resources and list them in pages; 2025 clients that list them get list changes."""
    contents = ResourceContents(bus_link)
    for resource in _static_resources(contents, bus_link.agent):
        server.add_resource(resource)
    for uri, name, title, function in (
        (uris.INBOX, "inbox", "Inbox of an agent", contents.inbox),
        (uris.TASK, "task", "Task of an agent", contents.task),
        (uris.TASK_OF_OWNER, "task-of-owner", "Task of a coordinator", contents.task_of_owner),
        (uris.TASK_BY_ID, "task-by-id", "Task", contents.task_by_id),
        (uris.STREAM, "stream", "Stream", contents.stream),
    ):
        server.resource(uri, name=name, title=title, description=_summary(function), mime_type=JSON_TYPE)(function)

    add_left_files(server, bus_link)

    async def list_resources(
        ctx: ServerRequestContext[Any, Any], params: PaginatedRequestParams
    ) -> ListResourcesResult:
        if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            sessions.watch_list(ctx)
        return await list_page(bus_link, await server.list_resources(), params.cursor)

    sdk.on_request(server, "resources/list", PaginatedRequestParams, list_resources)


def _static_resources(contents: ResourceContents, own: str) -> list[FunctionResource]:
    """Make the resources that always exist. Hosts list these, but not the resources of a template."""

    def resource(uri: str, name: str, title: str, description: str, fn: Reader) -> FunctionResource:
        return FunctionResource(uri=uri, name=name, title=title, description=description, mime_type=JSON_TYPE, fn=fn)

    return [
        resource(uris.AGENTS, "agents", "Agents", _summary(contents.agents), contents.agents),
        resource(uris.inbox(own), "inbox", "Inbox", "The newest results in this coordinator's own inbox, as JSON.",
                 partial(contents.inbox, own)),
        *(
            resource(uris.stream(name), name, title, description, partial(contents.stream, name))
            for name, (title, description) in STREAMS.items()
        ),
        resource(uris.QUESTIONS, "questions", "Open questions", _summary(contents.questions), contents.questions),
    ]  # fmt: skip


def _summary(function: Callable[..., Any]) -> str:
    """Make a description for clients from the first line of a docstring."""
    return f"{(function.__doc__ or '').splitlines()[0].rstrip('.')}, as JSON."
