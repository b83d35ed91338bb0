"""Publishes with a bare socket what no client library sends."""

import asyncio

from agentbus.config.urls import parse_urls
from support.harness import BOUND_S


async def publish_raw(url: str, *names: bytes) -> None:
    """Publish a message without headers and one with, on each of these subjects."""
    [at] = parse_urls(url)
    reader, writer = await asyncio.open_connection(at.host, at.port)
    async with asyncio.timeout(BOUND_S):
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
        for name in names:
            writer.write(b"PUB %s 2\r\n{}\r\nHPUB %s 12 14\r\nNATS/1.0\r\n\r\n{}\r\n" % (name, name))
        writer.write(b"PING\r\n")
        assert await reader.readline() == b"PONG\r\n"
    writer.close()
    await writer.wait_closed()
