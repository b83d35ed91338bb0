"""Prepares the messages that clients post for the SDK: text that stands for no character, and ids that are in use."""

import json
import secrets
from typing import Final

from mcp_types import INVALID_PARAMS, JSONRPCRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentbus_mcp.transports.message_line import Refusal, read_message
from agentbus_mcp.transports.message_text import mended

_OF_THE_SDK: Final = "_GET_stream"
"""The SDK files the answers of a session under the text of the request's id; under this one, what no request is for."""


class PostedMessages:
    """Passes requests on to an application of the SDK.

    The SDK answers only the last of several requests of one session that have the same id at once. So the others get
    an id of their own on the way in, and have their own back on the way out.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Pass requests to `app`, which refuses bodies over `max_bytes`."""
        self._app = app
        self._max_bytes = max_bytes
        self._in_use: set[tuple[bytes, str]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["method"] != "POST" or _length(scope) > self._max_bytes:
            await self._app(scope, receive, send)
            return
        body, complete = await _read(receive, self._max_bytes)
        body = mended(body)
        session = _header(scope, b"mcp-session-id")
        message = read_message(body.strip()) if complete else None
        if isinstance(message, Refusal) and len(message.ids) == 1 and (session or message.code == INVALID_PARAMS):
            # In a session the SDK takes a request with an odd id for a notification, and names the id of none. Without
            # one it refuses these well; content of which the agent would get something else it takes anywhere.
            await Response(message.answer(message.ids[0]), 400, media_type="application/json")(scope, receive, send)
            return
        if not isinstance(message, JSONRPCRequest) or not session:
            await self._app(scope, _again(body, receive, complete=complete), send)
            return
        key = session, str(message.id)
        if key in self._in_use or key[1] == _OF_THE_SDK:
            other = secrets.token_hex(16)
            send = _with_id(send, other, message.id)
            body = message.model_copy(update={"id": other}).model_dump_json(exclude_unset=True).encode()
            key = session, other
        self._in_use.add(key)
        try:
            await self._app(scope, _again(body, receive, complete=True), send)
        finally:
            self._in_use.discard(key)


async def _read(receive: Receive, max_bytes: int) -> tuple[bytes, bool]:
    """Read a body, or a little more than `max_bytes` of it; returns with it whether it is complete."""
    chunks: list[bytes] = []
    size = 0
    while size <= max_bytes:
        event = await receive()
        if event["type"] != "http.request":  # the client has gone
            return b"".join(chunks), False
        chunks.append(event.get("body", b""))
        size += len(chunks[-1])
        if not event.get("more_body", False):
            return b"".join(chunks), True
    return b"".join(chunks), False


def _again(body: bytes, receive: Receive, *, complete: bool) -> Receive:
    """Give a body that was read once more, and then what comes after it."""
    first: Message | None = {"type": "http.request", "body": body, "more_body": not complete}

    async def receive_again() -> Message:
        nonlocal first
        if first is None:
            return await receive()
        event, first = first, None
        return event

    return receive_again


def _with_id(send: Send, other: str, request_id: str | int) -> Send:
    """Write the id of the request in its answer, which has the other one."""
    found, given = json.dumps(other).encode(), json.dumps(request_id).encode()
    fixed = False

    async def send_with_id(event: Message) -> None:
        nonlocal fixed
        if event["type"] == "http.response.start":
            # An answer of a known length is an error without an id; the others are streams of events.
            fixed = any(name.lower() == b"content-length" for name, _ in event.get("headers", ()))
        elif not fixed and event.get("body"):
            event = {**event, "body": event["body"].replace(found, given)}
        await send(event)

    return send_with_id


def _length(scope: Scope) -> int:
    length = _header(scope, b"content-length")
    return int(length) if length.isdigit() else 0


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for found, value in scope["headers"] if found == name), b"")
