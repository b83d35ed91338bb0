"""Contract test of the private parts of the MCP SDK that this server uses: an update that moves one fails here."""

import asyncio
import re
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.resources import FunctionResource
from mcp.server.mcpserver.resources.templates import ResourceTemplate
from mcp.shared.message import ServerMessageMetadata, SessionMessage
from mcp_types import (
    EmptyResult,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
    ListResourcesResult,
    PaginatedRequestParams,
    Resource,
    SubscribeRequestParams,
)

from agentbus_mcp import sdk
from support.harness import BOUND_S, eventually
from support.mcp_harness import INITIALIZE, both_eras

pytestmark = pytest.mark.filterwarnings("ignore:resources/(un)?subscribe is removed")

PACKAGE = Path(sdk.__file__).parent


@both_eras
async def test_a_handler_replaces_that_of_the_sdk(era: str) -> None:
    server: MCPServer[Any] = MCPServer("test")

    async def list_resources(_: ServerRequestContext[Any, Any], params: PaginatedRequestParams) -> ListResourcesResult:
        return ListResourcesResult(resources=[Resource(uri="test://one", name="one")], next_cursor=params.cursor)

    sdk.on_request(server, "resources/list", PaginatedRequestParams, list_resources)
    async with Client(server, mode=era) as client:
        page = await client.list_resources(cursor="here")
    assert ([resource.name for resource in page.resources], page.next_cursor) == (["one"], "here")


@both_eras
async def test_a_template_of_a_class_of_its_own_says_the_media_type_of_each_resource(era: str) -> None:
    class Template(ResourceTemplate):
        async def create_resource(
            self,
            uri: str,
            params: dict[str, Any],
            context: Context[Any, Any],  # noqa: ARG002
        ) -> FunctionResource:
            kind = params["kind"]
            return FunctionResource(uri=uri, name=kind, mime_type=f"text/{kind}", fn=lambda: f"a {kind}")

    async def read(kind: str) -> str:
        raise NotImplementedError

    server: MCPServer[Any] = MCPServer("test")
    sdk.add_template(server, Template.from_function(read, "test://{kind}"))
    async with Client(server, mode=era) as client:
        [listed] = (await client.list_resource_templates()).resource_templates
        found = [(await client.read_resource(f"test://{kind}")).contents[0] for kind in ("css", "html")]
    assert listed.uri_template == "test://{kind}"
    assert [one.mime_type for one in found] == ["text/css", "text/html"]


@pytest.mark.parametrize("announced", [True, False])
async def test_changes_of_the_list_are_announced_in_the_handshake(announced: bool) -> None:
    server: MCPServer[Any] = MCPServer("test")
    if announced:
        sdk.announce_resource_changes(server)
    async with Client(server, mode="legacy") as client:
        assert client.server_capabilities
        assert client.server_capabilities.resources
        assert bool(client.server_capabilities.resources.list_changed) is announced


async def test_a_server_is_made_without_setting_up_logging_and_importing_rich() -> None:
    """With the private function moved, the SDK would import rich again, and log a second time what we log."""
    code = (
        "import logging, sys\n"
        "from mcp.server.mcpserver import MCPServer, server\n"
        "before = server.configure_logging\n"
        "import agentbus_mcp.sdk\n"
        "MCPServer('test')\n"
        "print(before.__module__, logging.getLogger().handlers, 'rich.console' in sys.modules)"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert output.decode().strip() == "mcp.server.mcpserver.utilities.logging [] False"


async def test_connections_distinguish_clients_and_end_with_their_client() -> None:
    server: MCPServer[Any] = MCPServer("test")
    seen: dict[str, list[int]] = {"a": [], "b": []}
    ended: list[str] = []

    async def subscribe(ctx: ServerRequestContext[Any, Any], params: SubscribeRequestParams) -> EmptyResult:
        name = str(params.uri).rpartition("/")[2]
        connection = sdk.connection_of(ctx)
        seen[name].append(id(connection))
        if len(seen[name]) == 1:
            connection.exit_stack.callback(ended.append, name)
        return EmptyResult()

    sdk.on_request(server, "resources/subscribe", SubscribeRequestParams, subscribe)
    async with Client(server, mode="legacy") as first:
        async with Client(server, mode="legacy") as second:
            for client, name in ((first, "a"), (second, "b"), (first, "a"), (second, "b")):
                await client.subscribe_resource(f"test://{name}")  # pyright: ignore[reportDeprecated]
            assert not ended
        assert ended == ["b"]
    assert ended == ["b", "a"]
    assert [len(set(ids)) for ids in seen.values()] == [1, 1]
    assert seen["a"] != seen["b"]


async def test_the_open_sessions_are_those_of_clients_that_are_connected() -> None:
    server: MCPServer[Any] = MCPServer("test")
    app = server.streamable_http_app()
    async with server.session_manager.run(), AsyncExitStack() as stack:
        transport = httpx2.ASGITransport(app)
        assert sdk.open_sessions(server.session_manager) == 0
        for number in (1, 2):
            http = await stack.enter_async_context(httpx2.AsyncClient(transport=transport))
            client = Client(streamable_http_client("http://127.0.0.1:8000/mcp", http_client=http), mode="legacy")
            await stack.enter_async_context(client)
            assert sdk.open_sessions(server.session_manager) == number
        await stack.aclose()
        assert sdk.open_sessions(server.session_manager) == 0


async def test_a_server_on_streams_says_of_each_request_that_it_was_answered_or_cancelled() -> None:
    """Otherwise the end of the input would be waited for with no need, or cut calls."""
    server: MCPServer[Any] = MCPServer("test")
    called = anyio.Event()

    @server.tool()
    async def wait() -> str:
        called.set()
        await anyio.sleep_forever()
        return ""

    incoming, messages = anyio.create_memory_object_stream[SessionMessage | Exception](10)
    answers, outgoing = anyio.create_memory_object_stream[SessionMessage](10)
    unanswered: list[int] = []
    handshake: Any = INITIALIZE["params"]

    async def send(request_id: int, method: str, params: dict[str, Any]) -> None:
        async def note() -> None:
            unanswered.append(request_id)

        request = JSONRPCRequest(jsonrpc="2.0", id=request_id, method=method, params=params)
        await incoming.send(SessionMessage(request, ServerMessageMetadata(on_request_unanswered=note)))

    async with asyncio.timeout(BOUND_S), asyncio.TaskGroup() as group, incoming, outgoing:
        group.create_task(sdk.serve_streams(server, messages, answers))
        await send(1, "initialize", handshake)
        first = (await outgoing.receive()).message
        await send(2, "tools/call", {"name": "wait", "arguments": {}})
        await called.wait()
        cancelled = {"requestId": 2}
        notification = JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params=cancelled)
        await incoming.send(SessionMessage(notification))
        await eventually(lambda: unanswered, "the request counts as cancelled")
        await send(3, "ping", {})
        last = (await outgoing.receive()).message
        await incoming.aclose()
    assert isinstance(first, JSONRPCResponse)
    assert isinstance(last, JSONRPCResponse)
    assert (first.id, unanswered, last.id) == (1, [2], 3)


def test_no_other_module_uses_private_parts_of_the_sdk() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "sdk.py":
            found = re.findall(r"\b(?!self|cls|_)\w+\._[a-z]\w*", path.read_text(encoding="utf-8"))
            assert not [use for use in found if use.split(".")[0] in ("server", "low", "ctx", "session", "mcp")], path
