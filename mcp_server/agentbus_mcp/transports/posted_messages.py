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
_MOST_GIVEN_UP: Final = 10_000
"""How many requests without a client are remembered: more than run at a time, and some megabytes at most."""
_LONGEST_REMEMBERED: Final = 256
"""How long an id may be that is remembered. Clients number their requests, or use UUIDs."""


class PostedMessages:
    """Passes requests on to an application of the SDK.

    The SDK answers only the last of several requests of one session that have the same id at once. So the others get
    an id of their own on the way in, and have their own back on the way out. The same is done for a request with the id
    of one whose client has hung up: the SDK would give it that one's answer.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        """Pass requests to `app`, which refuses bodies over `max_bytes`."""
        self._app = app
        self._max_bytes = max_bytes
        self._in_use: set[tuple[bytes, str]] = set()
        self._given_up: dict[tuple[bytes, str], None] = {}

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
        await self._serve_call(session, message, body, scope, receive, send)

    async def _serve_call(
        self, session: bytes, message: JSONRPCRequest, body: bytes, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve a request of a session, under an id that no other one has at this time."""
        key = session, str(message.id)
        if key in self._in_use or key in self._given_up or key[1] == _OF_THE_SDK:
            other = secrets.token_hex(16)
            send = _with_id(send, other, message.id)
            body = message.model_copy(update={"id": other}).model_dump_json(exclude_unset=True).encode()
            key = session, other
        self._in_use.add(key)
        answer = _Answer(send)
        try:
            await self._app(scope, _again(body, receive, complete=True), answer)
        finally:
            self._in_use.discard(key)
            if not answer.complete:
                self._give_up(key)

    def _give_up(self, key: tuple[bytes, str]) -> None:
        """Note a request whose client has hung up. When it ends, and whether its session still exists, is not told."""
        if len(key[1]) <= _LONGEST_REMEMBERED:
            self._given_up[key] = None
        if len(self._given_up) > _MOST_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]


class _Answer:
    """What is sent to a client; `complete` says whether that was all of it."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.complete = False

    async def __call__(self, event: Message) -> None:
        await self._send(event)
        if event["type"] == "http.response.body" and not event.get("more_body", False):
            self.complete = True


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
