"""Reads one line of JSON-RPC as a message, or says why it is refused, and which requests in it wait for an answer."""

import json
import re
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, TypeAlias

from mcp_types import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError
from pydantic_core import from_json

from agentbus.errors import MessageError
from agentbus.protocol.json_codec import object_in, refuse_changes
from agentbus_mcp.transports.message_text import mended

Id: TypeAlias = str | int | float | None

_TOKEN: Final = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)'  # a string; where the line is cut within one, its rest
    rb'|[{}\[\]:,]|[^\s"{}\[\]:,]++',
    re.DOTALL,
)
_MAX_ID_BYTES: Final = 256
"""A longer id is that of no request: it would only make the answer long."""
_ID: Final = re.compile(rb'["\-0-9]')
_CHANGED: Final = (
    "publish_task: content: an object has a key twice, or a number has more digits than a reader keeps; send it as text"
)
_RESPONSE: Final = frozenset((b'"result"', b'"error"'))


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a line is no message.

    Attributes:
        code: JSON-RPC's number of the error.
        reason: what is wrong with the line, without its content.
        ids: what to answer: the id of each request that can be seen; None where none can; nothing for what may not
            be answered, such as a notification.
    """

    code: int
    reason: str
    ids: tuple[Id, ...]

    def answer(self, request_id: Id) -> bytes:
        """Return the error for one of the ids, as a line."""
        error = {"code": self.code, "message": self.reason}
        return json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode() + b"\n"


def read_message(line: bytes) -> JSONRPCMessage | Refusal:
    """Read a line that is not blank, without blanks around it."""
    try:
        message = _read(line)
    except ValidationError:
        line = mended(line)
        try:
            message = _read(line)
        except ValidationError as error:
            return _refusal(line, error)
    if isinstance(message, JSONRPCRequest):
        return _refused_content(message, line) or message
    members: dict[str, Any] = from_json(line)
    # The SDK ignores members that it does not expect: it takes a request with an odd id for a notification.
    if "method" in members and ("id" in members or not isinstance(message, JSONRPCNotification)):
        return Refusal(INVALID_REQUEST, _fault(members), _ids(line, cut=False))
    return message


def _refused_content(request: JSONRPCRequest, line: bytes) -> Refusal | None:
    """Refuse to publish content of which the agent would get something else: once it is parsed, no one can tell."""
    params = object_in(request.params)
    if request.method != "tools/call" or params.get("name") != "publish_task":
        return None
    if isinstance(object_in(params.get("arguments")).get("content"), str):
        return None  # text is text, whatever it looks like
    try:
        refuse_changes(line)
    except MessageError:
        return Refusal(INVALID_PARAMS, _CHANGED, (request.id,))
    return None


def _read(line: bytes) -> JSONRPCMessage:
    return jsonrpc_message_adapter.validate_json(line, by_name=False)


def _refusal(line: bytes, error: ValidationError) -> Refusal:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        why = first.get("ctx", {}).get("error", first["msg"])
        return Refusal(PARSE_ERROR, f"not JSON that can be read: {why}", _ids(line, cut=True))
    return Refusal(INVALID_REQUEST, _fault(from_json(line)), _ids(line, cut=False))


def _fault(value: Any) -> str:
    """Say what is wrong with JSON that is no message."""
    match value:
        case list():
            return "a list of messages: send each on a line of its own"
        case {"jsonrpc": "2.0", "method": str()}:
            usable = "id" not in value or type(value["id"]) in (str, int)
            return "params must be an object" if usable else "id must be a string or an integer"
        case {"jsonrpc": "2.0", "method": _}:
            return "method must be a string"
        case {"jsonrpc": "2.0"}:
            return "neither a request, nor a notification, nor a response"
        case dict():
            return 'jsonrpc must be "2.0"'
        case _:
            return "a message is an object"


def _ids(line: bytes, *, cut: bool) -> tuple[Id, ...]:
    """Return the ids to answer; what the end of a `cut` line would say is unknown, so it is answered in any case."""
    found = _objects(line, cut=cut)
    ids: list[Id] = []
    for members in found:
        if b'"method"' not in members and _RESPONSE & members.keys():
            continue
        if b'"id"' in members:
            ids.append(_id(members[b'"id"']))
        elif cut or not members.get(b'"method"', b"").startswith(b'"'):
            ids.append(None)
    return tuple(ids) if found else (None,)


def _objects(line: bytes, *, cut: bool) -> list[dict[bytes, bytes]]:
    """Find the members of each message on a line: of the object that it is, or of the items of the list.

    Reads tokens, as no parser takes a line that is cut or nested too deeply. The value of a member is its first token.
    """
    outer = 2 if line.startswith(b"[") else 1
    found: list[dict[bytes, bytes]] = []
    depth, before, name = 0, b"", b""
    for match in _TOKEN.finditer(line):
        token = match[0]
        depth -= token in (b"}", b"]")
        whole = not cut or match.end() < len(line)  # else the value may go on behind the cut
        if depth == outer and found and before == b":" and whole:
            found[-1][name] = token
        elif depth == outer and token.startswith(b'"'):
            name = token
        depth += token in (b"{", b"[")
        if depth == outer and token == b"{":
            found.append({})
        before = token
    return found


def _id(token: bytes) -> Id:
    """Read an id; None for what is none, or cannot be written again."""
    if len(token) > _MAX_ID_BYTES or not _ID.match(token):
        return None
    try:
        value: str | int | float = json.loads(token)
    except ValueError:
        return None
    return value if isinstance(value, str) or isfinite(value) else None
