"""Publishes with a bare socket what no client library sends."""

import asyncio
from dataclasses import dataclass

from agentbus.config.urls import parse_urls
from support.harness import BOUND_S


async def publish_raw(url: str, *names: bytes) -> None:
    """Publish a message without headers and one with, on each of these subjects."""
    await _send(url, *(b"PUB %s 2\r\n{}\r\nHPUB %s 12 14\r\nNATS/1.0\r\n\r\n{}\r\n" % (name, name) for name in names))


@dataclass(frozen=True)
class RawMessage:
    """A message as its bytes; `head` is the block of headers, with its first line, empty for none."""

    subject: bytes
    data: bytes
    head: bytes = b""


def head(*lines: bytes, first: bytes = b"NATS/1.0") -> bytes:
    """A block of headers of these lines."""
    return b"\r\n".join([first, *lines, b"", b""])


async def publish_messages(url: str, *messages: RawMessage) -> None:
    """Publish messages; when this returns, the server has them, and will store them before any later one."""
    await _send(url, *(_frame(message) for message in messages))


def _frame(message: RawMessage) -> bytes:
    block, size = message.head, len(message.head) + len(message.data)
    first = b"HPUB %s %d %d" % (message.subject, len(block), size) if block else b"PUB %s %d" % (message.subject, size)
    return b"%s\r\n%s%s\r\n" % (first, block, message.data)


async def _send(url: str, *frames: bytes) -> None:
    [at] = parse_urls(url)
    reader, writer = await asyncio.open_connection(at.host, at.port)
    async with asyncio.timeout(BOUND_S):
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false,"headers":true}\r\n')
        for frame in frames:
            writer.write(frame)
            await writer.drain()
        writer.write(b"PING\r\n")
        assert await reader.readline() == b"PONG\r\n"
    writer.close()
    await writer.wait_closed()
