"""Wraps the private parts of the MCP SDK that this server needs, each with the reason. No other module may use them.

They are of mcp 2.3. `tests/mcp_server/test_mcp_sdk.py` holds each of them: an update that moves one fails there.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from mcp.server import NotificationOptions
from mcp.server.connection import Connection
from mcp.server.context import HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver import server as mcpserver_module
from mcp.server.mcpserver.resources.templates import ResourceTemplate
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage
from pydantic import BaseModel

Params = TypeVar("Params", bound=BaseModel)


# `MCPServer` sets up logging when it is made, and imports rich for it. This program sets up its own before.
setattr(mcpserver_module, "configure_logging", bool)  # noqa: B010  # for the type checker; `bool` does nothing


def on_request(
    server: MCPServer[Any],
    method: str,
    params_type: type[Params],
    handler: Callable[[ServerRequestContext[Any, Any], Params], Awaitable[HandlerResult]],
) -> None:
    """Serve `method` with `handler`, in place of an earlier handler.

    `MCPServer` has no public hook for `resources/subscribe`, for a `resources/list` in pages, or for a
    custom `subscriptions/listen`; its own migration guide points here.
    """
    server._lowlevel_server.add_request_handler(method, params_type, handler)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def add_template(server: MCPServer[Any], template: ResourceTemplate) -> None:
    """Add a template of a class of its own.

    `MCPServer` makes templates of functions only, and all resources of such a template have one media type.
    """
    server._resource_manager._templates[template.uri_template] = template  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def announce_resource_changes(server: MCPServer[Any]) -> None:
    """Announce to clients of the 2025 era, in the handshake, notifications of changes in the list of resources.

    `MCPServer` does not pass this option to its low-level server, on either transport.
    """
    low = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    options = partial(low.create_initialization_options, NotificationOptions(resources_changed=True))
    setattr(low, "create_initialization_options", options)  # noqa: B010  # a method, for the type checker


async def serve_streams(
    server: MCPServer[Any], messages: ReadStream[SessionMessage | Exception], answers: WriteStream[SessionMessage]
) -> None:
    """Serve one client, in the era that it opens with, until `messages` ends.

    `MCPServer` serves its own reader of standard input only, which drops what is no valid message without an answer,
    and cancels all calls at the end of the input.
    """
    low = server._lowlevel_server  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    await low.run(messages, answers, low.create_initialization_options())


def connection_of(ctx: ServerRequestContext[Any, Any]) -> Connection:
    """The connection of a request: the only object that identifies a client and ends with it."""
    return ctx.session._connection  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def open_sessions(manager: StreamableHTTPSessionManager) -> int:
    """The number of open 2025 sessions over HTTP, which the manager bounds but does not publish."""
    return len(manager._server_instances)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
