"""Clients that only hold connections: each is cut off in time, and honest ones are served all the while."""

import asyncio
import json
import re
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp_types.version import LATEST_MODERN_VERSION

from agentbus import Coordinator
from agentbus.provision.nats_server import NatsServer
from support.harness import BOUND_S, eventually
from support.mcp_harness import INITIALIZE, NOWHERE, HttpServer, http_server_of, settle
from support.raw_http import ACCEPT, KNOWN, TOKEN, Raw, bounded_server, head

pytestmark = pytest.mark.posix("not tried on Windows")

OTHER = "127.0.0.2"
"""Another address from which this machine can call itself, on Linux."""
BODY = json.dumps(INITIALIZE).encode()
WHOLE = head("POST /mcp HTTP/1.1", KNOWN, *ACCEPT, f"Content-Length: {len(BODY)}") + BODY
SHORT: dict[str, Any] = {"head_s": 1.5, "body_s": 1.5}

from_another_address = pytest.mark.skipif(sys.platform != "linux", reason=f"only Linux has {OTHER} on loopback")


async def post(mcp: HttpServer) -> int:
    """An honest request, on a connection of its own; returns the status."""
    async with httpx2.AsyncClient(timeout=BOUND_S) as http:
        headers = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {TOKEN}"}
        return (await http.post(mcp.url, json=INITIALIZE, headers=headers)).status_code


def listen(*uris: str) -> bytes:
    """A request for a stream that stays open."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": LATEST_MODERN_VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    params: dict[str, Any] = {"notifications": {"resourceSubscriptions": uris}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}).encode()
    modern = (f"MCP-Protocol-Version: {LATEST_MODERN_VERSION}", "Mcp-Method: subscriptions/listen")
    return head("POST /mcp HTTP/1.1", KNOWN, *ACCEPT, *modern, f"Content-Length: {len(body)}") + body


CHUNKED = head("POST /mcp HTTP/1.1", KNOWN, *ACCEPT, "Transfer-Encoding: chunked")
UNFINISHED: dict[str, tuple[bytes, list[int]]] = {
    "nothing at all": (b"", []),
    "a blank line": (b"\r\n", [400]),
    "half a method": (b"PO", [408]),
    "half a head": (b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-Half", [408]),
    "a head without its last line": (head("GET /healthz HTTP/1.1")[:-2], [408]),
    "a head of HTTP/1.0 without its last line": (head("GET /healthz HTTP/1.0")[:-2], [408]),
    "a header that is folded and goes on": (
        head("GET /healthz HTTP/1.1", "X-Folded: one\r\n two\r\n\tthree")[:-2],
        [408],
    ),
    "line feeds alone": (b"GET /healthz HTTP/1.1\nHost: localhost\nX: ", [408]),
    "no body": (head("POST /mcp HTTP/1.1", KNOWN, *ACCEPT, "Content-Length: 100"), [408]),
    "half a body": (head("POST /mcp HTTP/1.1", KNOWN, *ACCEPT, "Content-Length: 100") + b'{"jsonrpc"', [408]),
    "half a body in HTTP/1.0": (head("POST /mcp HTTP/1.0", KNOWN, *ACCEPT, "Content-Length: 100") + b"{", [408]),
    "no chunk": (CHUNKED, [408]),
    "half the size of a chunk": (CHUNKED + b"00000", [408]),
    "half a chunk": (CHUNKED + b"a\r\n01234", [408]),
    "chunks with leading zeros and extensions, and no last one": (
        CHUNKED + b'000A;a="b c";d\r\n0123456789\r\n1 \r\n{\r\n0001\r\n[\r\n',
        [408],
    ),
    "a trailer without its end": (CHUNKED + b"2\r\n{}\r\n0\r\nX-Trailer: a\r\n", [408]),
    "a body that is announced and never sent": (
        head("POST /mcp HTTP/1.1", KNOWN, *ACCEPT, "Content-Length: 100", "Expect: 100-continue"),
        [100, 408],
    ),
    "a request, and half of another": (WHOLE + WHOLE[:100], [200, 408]),
    "two requests, and half a body": (WHOLE + WHOLE + WHOLE[:-5], [200, 200, 408]),
    "a request, and silence": (WHOLE, [200]),
    "a body without the token": (head("POST /mcp HTTP/1.1", "Content-Length: 100000") + b"{", [401]),
    "a body to nowhere": (head("PUT /nowhere HTTP/1.1", KNOWN, "Transfer-Encoding: chunked") + b"5\r\n", [404]),
}


async def test_a_request_that_does_not_arrive_in_time_is_cut_off_while_others_are_served(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        mcp = await stack.enter_async_context(bounded_server(tmp_path / "mcp.log", token=TOKEN, **SHORT))
        connections = {name: await stack.enter_async_context(Raw.open(mcp.url)) for name in UNFINISHED}
        for name, connection in connections.items():
            await connection.send(UNFINISHED[name][0])
        closing = asyncio.gather(*(connection.until_closed() for connection in connections.values()))
        while not closing.done():
            assert await post(mcp) == 200
        await closing
        said = mcp.process.log.read_text(encoding="utf-8")
    assert {name: connection.statuses for name, connection in connections.items()} == {
        name: statuses for name, (_, statuses) in UNFINISHED.items()
    }
    assert "Traceback" not in said
    assert "ERROR" not in said


async def test_sending_byte_by_byte_extends_no_deadline(tmp_path: Path) -> None:
    endless = b"x" * 100_000
    slow = {
        "in the head": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ", [408]),
        "in the body": (head("POST /mcp HTTP/1.1", KNOWN, *ACCEPT, "Content-Length: 100000"), [408]),
        "in a chunk": (CHUNKED + b"186a0\r\n", [408]),
        "in an extension of a chunk": (CHUNKED + b"1;", [408]),
        "in a body that is refused": (head("POST /mcp HTTP/1.1", "Content-Length: 100000"), [401]),
        "in the head after a request": (WHOLE + b"GET / HTTP/1.1\r\nX-Long: ", [200, 408]),
    }
    async with AsyncExitStack() as stack:
        mcp = await stack.enter_async_context(bounded_server(tmp_path / "mcp.log", token=TOKEN, **SHORT))
        connections = {name: await stack.enter_async_context(Raw.open(mcp.url)) for name in slow}
        async with asyncio.TaskGroup() as group:
            for name, connection in connections.items():
                await connection.send(slow[name][0])
                group.create_task(connection.trickle(endless))
                group.create_task(connection.until_closed())
        assert not mcp.process.said("Traceback")
    assert {name: connection.statuses for name, connection in connections.items()} == {
        name: statuses for name, (_, statuses) in slow.items()
    }


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_no_deadline_ends_a_stream_of_answers(
    version: str, server: NatsServer, coordinator: Coordinator, tmp_path: Path
) -> None:
    await coordinator.publish("code", "work", task_type="test", task_id="a")
    settings: dict[str, Any] = {"nats_url": server.url, "token": TOKEN, **SHORT}
    async with bounded_server(tmp_path / "mcp.log", **settings) as mcp, Raw.open(mcp.url) as stream:
        await stream.send(listen("agentbus://tasks/a").replace(b"HTTP/1.1", version.encode()))
        await stream.until(b"notifications/subscriptions/acknowledged")
        for _ in range(2):  # each takes as long as the deadlines
            async with Raw.open(mcp.url) as slow:
                await slow.send(b"GET /")
                assert b"408" in await slow.until_closed()
        await settle(coordinator, "a")
        await stream.until(b"notifications/resources/updated")
        assert stream.statuses == [200]


async def test_bytes_after_a_last_request_break_nothing(tmp_path: Path) -> None:
    async with bounded_server(tmp_path / "mcp.log", token=TOKEN) as mcp, Raw.open(mcp.url) as stream:
        await stream.send(listen().replace(b"HTTP/1.1", b"HTTP/1.0"))
        await stream.until(b"notifications/subscriptions/acknowledged")
        await stream.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        await stream.until_closed()
        assert stream.statuses == [200]
        assert await post(mcp) == 200
        said = mcp.process.log.read_text(encoding="utf-8")
    assert "Traceback" not in said
    assert "Fatal error" not in said


# -- places -----------------------------------------------------------------------------------------------------


@from_another_address
async def test_one_address_has_its_share_of_the_places_and_the_oldest_connection_gives_way(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        mcp = await stack.enter_async_context(bounded_server(tmp_path / "mcp.log", token=TOKEN, connections=8))
        held = [await stack.enter_async_context(Raw.open(mcp.url, source=OTHER)) for _ in range(7)]
        for connection in held:
            await connection.send(b"GET / HTTP")
        for connection in held[:3]:
            await connection.until_closed()
        assert await post(mcp) == 200
        for connection in held[3:]:  # still there
            await connection.send(b"/1.1\r\nConnection: close\r\nHost: localhost\r\n\r\n")
            await connection.until_closed()
    assert [connection.statuses for connection in held[3:]] == [[401]] * 4


@from_another_address
async def test_open_answers_keep_their_places(tmp_path: Path) -> None:
    async def streaming(stack: AsyncExitStack, mcp: HttpServer, source: str) -> Raw:
        stream = await stack.enter_async_context(Raw.open(mcp.url, source=source))
        await stream.send(listen())
        return stream

    async with AsyncExitStack() as stack:
        mcp = await stack.enter_async_context(bounded_server(tmp_path / "mcp.log", token=TOKEN, connections=4))
        theirs = [await streaming(stack, mcp, OTHER) for _ in range(2)]
        for stream in theirs:
            await stream.until(b"notifications/subscriptions/acknowledged")
        one_more = await streaming(stack, mcp, OTHER)
        assert b"429 " in await one_more.until_closed()
        ours = [await streaming(stack, mcp, "127.0.0.1") for _ in range(2)]
        for stream in ours:
            await stream.until(b"notifications/subscriptions/acknowledged")
        third = await streaming(stack, mcp, "127.0.0.3")
        assert b"503 " in await third.until_closed()
        async with Raw.open(mcp.url, source="127.0.0.4") as waits:  # takes no place from those that are served
            await waits.send(b"GET / HTTP")
            await streaming(stack, mcp, "127.0.0.5")
            await waits.until_closed()
        await ours[0].close()

        async def served() -> bool:
            return await post(mcp) == 200

        await eventually(served, "a place is free again")


async def test_more_half_sent_heads_than_the_process_may_have_files_keep_no_client_out(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "agentbus_mcp", "--http", "127.0.0.1:0", "--nats-url", NOWHERE]
    limited = ["sh", "-c", 'ulimit -n 256 && exec "$@"', "sh", *argv]
    async with AsyncExitStack() as stack:
        mcp = await stack.enter_async_context(http_server_of(limited, tmp_path / "mcp.log"))
        for number in range(400):
            connection = await stack.enter_async_context(Raw.open(mcp.url))
            await connection.send(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nX-")
            if number % 50 == 49:
                assert await post(mcp) == 200, number
        assert not re.search("Traceback|Too many open files", mcp.process.log.read_text(encoding="utf-8"))
