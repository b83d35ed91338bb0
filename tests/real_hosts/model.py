"""A model for Claude Code that does what the last line of its user says: use the skill, publish a task, or answer.

`skill` calls the skill of the plugin, `publish ID` the tool of its MCP server; what follows the result of a tool, and
every other line, is answered with a sentence. It keeps the bodies of the requests of each session, by the first part
of the path.
"""

import contextlib
import http.server
import itertools
import json
import re
import threading
from collections import defaultdict
from collections.abc import Generator
from typing import Any, Final, cast

SKILL: Final = "agentbus:agentbus"
PUBLISH: Final = "mcp__plugin_agentbus_agentbus__publish_task"
_COMMAND: Final = re.compile(r"^(skill|publish) ?([\w-]*)$", re.MULTILINE)
_numbers = itertools.count(1)


class Model(http.server.ThreadingHTTPServer):
    """The server, with the requests that it got."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: defaultdict[str, list[str]] = defaultdict(list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a host that is ended leaves its connections open."""

    def events(self, session: str) -> list[str]:
        """Return the lines of the monitor that the model of a session was told, each once."""
        found = re.findall(r"<event>(agentbus: .*?)</event>", "\n".join(self.asked[session]))
        return list(dict.fromkeys(found))

    def was_told(self, session: str, text: str) -> bool:
        return any(text in body for body in self.asked[session])


@contextlib.contextmanager
def model() -> Generator[Model]:
    """Serve for the length of the block."""
    server = Model()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name of the base class
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._send(b"{}", "application/json")

    def do_GET(self) -> None:
        self._send(b"{}", "application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        session, _, path = self.path.partition("?")[0].strip("/").partition("/")
        if not path.endswith("/messages"):
            self._send(b'{"input_tokens": 10}', "application/json")
            return
        request: dict[str, Any] = json.loads(body or b"{}")
        cast("Model", self.server).asked[session].append(json.dumps(request["messages"], ensure_ascii=False))
        message, events = _answer(request)
        if request.get("stream"):
            text = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
            self._send(text.encode(), "text/event-stream")
        else:
            self._send(json.dumps(message).encode(), "application/json")

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(data)


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the answer, whole and as a stream."""
    number = next(_numbers)
    call = _wanted(request)
    if call is None:
        block: dict[str, Any] = {"type": "text", "text": f"Answer {number}."}
        empty: dict[str, Any] = {"type": "text", "text": ""}
        delta = {"type": "text_delta", "text": block["text"]}
    else:
        name, arguments = call
        block = {"type": "tool_use", "id": f"toolu_{number:08}", "name": name, "input": arguments}
        empty = {**block, "input": dict[str, Any]()}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}
    usage = {"input_tokens": 10, "output_tokens": 5}
    stop = {"stop_reason": "tool_use" if call else "end_turn", "stop_sequence": None}
    message = {"id": f"msg_{number:08}", "type": "message", "role": "assistant", "model": request.get("model"),
               "content": [block], **stop, "usage": usage}  # fmt: skip
    return message, [
        {"type": "message_start", "message": {**message, "content": [], "stop_reason": None}},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": stop, "usage": usage},
        {"type": "message_stop"},
    ]


def _wanted(request: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return the tool that is to be called: what the last user's line says, unless its result is there."""
    listed = cast("list[dict[str, Any]]", request.get("tools") or [])
    tools = [str(tool.get("name")) for tool in listed]
    for message in reversed(request["messages"]):
        if message["role"] != "user":
            if message["role"] == "assistant":
                return None
            continue
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if any(block.get("type") == "tool_result" for block in blocks):
            return None
        texts = [str(block.get("text", "")) for block in blocks]
        found = next((match for text in texts if (match := _COMMAND.search(text))), None)
        if found is None:
            continue
        if found[1] == "skill" and "Skill" in tools:
            return "Skill", {"skill": SKILL}
        if found[1] == "publish" and PUBLISH in tools:
            return PUBLISH, {"to": ["code"], "content": "say:done", "task_type": "test", "task_id": found[2]}
        return None
    return None
