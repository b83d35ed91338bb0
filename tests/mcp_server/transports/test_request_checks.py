"""Requests that two readers could understand differently, or that are for another server, by raw bytes."""

import asyncio
import json
from pathlib import Path

import pytest
from mcp_types.version import LATEST_MODERN_VERSION

from support.mcp_harness import INITIALIZE, NOWHERE, http_server
from support.raw_http import ACCEPT, KNOWN, TOKEN, Raw, head

pytestmark = pytest.mark.posix("not tried on Windows")

BODY = json.dumps(INITIALIZE).encode()
LENGTH, CHUNKED = f"Content-Length: {len(BODY)}", "Transfer-Encoding: chunked"
IN_CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
IN_ODD_CHUNKS = b'0001;a="b;c"\r\n%s\r\n%08X\r\n%s\r\n000\r\nX-Trailer: a\r\n\r\n' % (BODY[:1], len(BODY) - 1, BODY[1:])


def post(*lines: str, body: bytes = BODY, host: str | None = "localhost", version: str = "HTTP/1.1") -> bytes:
    return head(f"POST /mcp {version}", *ACCEPT, *lines, "Connection: close", host=host) + body


def get(path: str = "/healthz", *lines: str, host: str | None = "localhost", version: str = "HTTP/1.1") -> bytes:
    return head(f"GET {path} {version}", *lines, "Connection: close", host=host)


SERVED = {
    "as it is": post(KNOWN, LENGTH),
    "in HTTP/1.0": post(KNOWN, LENGTH, version="HTTP/1.0"),
    "in a chunk": post(KNOWN, CHUNKED, body=IN_CHUNKS),
    "in chunks with extensions, leading zeros and a trailer": post(KNOWN, CHUNKED, body=IN_ODD_CHUNKS),
    "with a folded header": post(KNOWN, LENGTH, "X-Folded: one\r\n two\r\n\tthree"),
    "with the host in capitals": post(KNOWN, LENGTH, host="LOCALHOST:80"),
    "with an IPv6 address for a host": post(KNOWN, LENGTH, host="[::1]:65535"),
    "health": get(),
    "health for another port": get(host="127.0.0.1:1"),
}
ODD_HOSTS = [
    "localhost:99999@evil",
    "evil@localhost",
    "user:secret@localhost:80",
    "localhost:0",
    "localhost:65536",
    "localhost:+80",
    "localhost:8 0",
    "localhost:",
    "localhost:80:80",
    "localhost/",
    "localhost,evil",
    "localhost?x",
    "localhost#x",
    "local%68ost",
    "local\x01host",
    "localhost\x7f",
    "localhost\xa0",
    "l\xf6calhost",
    "[::1",
    "[::1]80",
    "[localhost]",
    "::1",
    "http://localhost",
    "",
]
OTHER_HOSTS = ["evil.example.com", "localhost.evil.example.com", "127.0.0.2", "0.0.0.0", "[::2]:80", "localhost."]
REFUSED = {
    **{f"the host {host!r}": (post(KNOWN, LENGTH, host=host), 400) for host in ODD_HOSTS},
    **{f"the host {host!r} for health": (get(host=host), 400) for host in ODD_HOSTS},
    **{f"the host {host!r}": (post(KNOWN, LENGTH, host=host), 421) for host in OTHER_HOSTS},
    **{f"the host {host!r} for health": (get(host=host), 421) for host in OTHER_HOSTS},
    "another host without the token": (post(LENGTH, host="evil.example.com"), 421),
    "no host": (post(KNOWN, LENGTH, host=None), 400),
    "no host in HTTP/1.0": (post(KNOWN, LENGTH, host=None, version="HTTP/1.0"), 400),
    "two hosts": (post(KNOWN, LENGTH, "Host: localhost"), 400),
    "two hosts in HTTP/1.0": (get("/healthz", "Host: evil.example.com", version="HTTP/1.0"), 400),
    "two hosts for health": (get("/healthz", "Host: evil.example.com"), 400),
    "a folded host": (get(host="local\r\n host"), 400),
    "a space before a colon": (get("/healthz", "X-Space : a"), 400),
    "a header that is none": (get("/healthz", "X-None"), 400),
    "a null byte": (get("/healthz", "X-Null: a\0b"), 400),
    "a carriage return alone": (get("/healthz", "X-Return: a\rb"), 400),
    "two tokens": (post(KNOWN, KNOWN, LENGTH), 400),
    "a token and another": (post("Authorization: Bearer wrong", KNOWN, LENGTH), 400),
    "two tokens for health": (get("/healthz", KNOWN, KNOWN), 400),
    "two sessions": (post(KNOWN, LENGTH, "Mcp-Session-Id: a", "Mcp-Session-Id: b"), 400),
    "two versions": (post(KNOWN, LENGTH, *[f"MCP-Protocol-Version: {LATEST_MODERN_VERSION}"] * 2), 400),
    "two origins": (post(KNOWN, LENGTH, "Origin: http://localhost", "Origin: http://evil.example.com"), 400),
    "a length and chunks": (post(KNOWN, LENGTH, CHUNKED, body=IN_CHUNKS), 400),
    "chunks and a length": (post(KNOWN, CHUNKED, LENGTH, body=IN_CHUNKS), 400),
    "a length and chunks for health": (get("/healthz", "Content-Length: 4", CHUNKED) + b"0\r\n\r\n", 400),
    "chunks in HTTP/1.0": (post(KNOWN, CHUNKED, body=IN_CHUNKS, version="HTTP/1.0"), 400),
    "two encodings": (post(KNOWN, CHUNKED, CHUNKED, body=IN_CHUNKS), 400),
    "another encoding": (post(KNOWN, "Transfer-Encoding: gzip, chunked", body=IN_CHUNKS), 400),
    "two lengths": (post(KNOWN, LENGTH, "Content-Length: 3"), 400),
    "two lengths in one": (post(KNOWN, f"{LENGTH}, 3"), 400),
    "a length with a sign": (post(KNOWN, f"Content-Length: +{len(BODY)}"), 400),
    "a length with an underscore": (post(KNOWN, "Content-Length: 1_0"), 400),
    "a chunk whose size is none": (post(KNOWN, CHUNKED, body=b"zz\r\n"), 400),
    "a chunk with a sign": (post(KNOWN, CHUNKED, body=b"+1\r\na\r\n0\r\n\r\n"), 400),
    "a chunk that is longer than it says": (post(KNOWN, CHUNKED, body=b"1\r\nabcdef\r\n0\r\n\r\n"), 400),
    "a chunk of 2^79 bytes": (post(KNOWN, CHUNKED, body=b"8" + b"0" * 19 + b"0\r\n"), 400),
    "the page of another site": (post(KNOWN, LENGTH, "Origin: http://localhost.evil.example.com"), 403),
    "the page of a site with a name of ours in it": (post(KNOWN, LENGTH, "Origin: http://localhost:1@evil"), 403),
    "a sandboxed page": (get("/healthz", "Origin: null"), 403),
    "a whole URL": (get("http://evil.example.com/mcp", KNOWN), 404),
    "HTTP/2 without TLS": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
}
CHALLENGED = {
    "no token": post(LENGTH),
    "nothing else that is right": head("PUT /nowhere HTTP/1.1", "Connection: close"),
    "a path in which health stands": get("/healthz/../mcp"),
    "another form of health": get("/healthz%00"),
    "an upgrade": head("GET /mcp HTTP/1.1", "Connection: close, upgrade", "Upgrade: websocket"),
}


async def test_odd_requests_are_refused_and_others_served(tmp_path: Path, token_file: Path) -> None:
    async def answer(request: bytes) -> tuple[int, bytes]:
        async with Raw.open(mcp.url) as connection:
            await connection.send(request)
            await connection.until_closed()
            assert len(connection.statuses) == 1, connection.received
            return connection.statuses[0], connection.received

    async with http_server(tmp_path / "mcp.log", "--nats-url", NOWHERE, "--token-file", str(token_file)) as mcp:
        served = {name: (await answer(request))[0] for name, request in SERVED.items()}
        refused = {name: (await answer(request))[0] for name, (request, _) in REFUSED.items()}
        challenges = {name: (await answer(request))[1] for name, request in CHALLENGED.items()}
        said = mcp.process.log.read_text(encoding="utf-8")
    assert served == dict.fromkeys(SERVED, 200)
    assert refused == {name: status for name, (_, status) in REFUSED.items()}
    for name, challenge in challenges.items():
        first, *headers = challenge.removesuffix(b"\r\n\r\n").split(b"\r\n")
        assert first == b"HTTP/1.1 401 Unauthorized", name
        assert {line.partition(b":")[0].lower() for line in headers} == {
            b"date",
            b"content-length",
            b"connection",
            b"www-authenticate",
        }, name
    assert "Traceback" not in said
    assert TOKEN not in said


async def test_what_follows_an_odd_request_on_its_connection_is_not_served(tmp_path: Path) -> None:
    smuggled = head("GET /healthz HTTP/1.1")
    async with http_server(tmp_path / "mcp.log", "--nats-url", NOWHERE) as mcp, asyncio.timeout(60):
        for odd in (
            head("POST /mcp HTTP/1.1", *ACCEPT, "Content-Length: 5", CHUNKED) + b"0\r\n\r\n",
            head("GET /healthz HTTP/1.1", "Host: localhost"),
            head("POST /mcp HTTP/1.1", *ACCEPT, "Content-Length: 0", "Content-Length: 44"),
        ):
            async with Raw.open(mcp.url) as connection:
                await connection.send(odd + smuggled)
                await connection.until_closed()
                assert connection.statuses == [400], connection.received
        async with Raw.open(mcp.url) as connection:
            await connection.send(smuggled + head("GET /healthz HTTP/1.1", "Connection: close"))
            await connection.until_closed()
            assert connection.statuses == [200, 200]
