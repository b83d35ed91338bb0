"""A model server on this machine that fails as it is told to, in the protocols of four vendors.

The first part of the path of a request is the case; what follows is the path of the vendor: Anthropic's messages,
OpenAI's responses and chat completions, Gemini's generateContent. A case is an answer, a tool call, a refused request
(`REFUSED`), or a stream that stops (`STOPPING`). It keeps no state: which step a conversation is at can be seen from
the tool results that the request holds.
"""

import contextlib
import http.server
import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

Dialect: TypeAlias = Literal["anthropic", "responses", "chat", "gemini"]
Event: TypeAlias = dict[str, Any]

ANSWER: Final = "The answer is 42."
COMMAND: Final = "echo hello from the tool"
FORBIDDEN_COMMAND: Final = "touch ../made_by_the_tool"

DANGEROUS: Final = "dangerous"
"""The case `denied` of an agent that asks before commands that look dangerous, and no others."""
LONG_COMMAND: Final = "timeout 40 tail -f /dev/null; " + COMMAND
"""A tool that is silent for longer than a run of `make real-agents` may go without doing anything."""
TOUCHING: Final = ("denied", "unasked", "approved", "not_approved", "hooks_off", "bare", DANGEROUS)
_USES_A_TOOL: Final = ("tool", "long_tool", *TOUCHING)
EDITED_FILE: Final = "README"
"""The file that is changed in the case `edit`; it holds the line `one`."""
EDITED: Final = "two\n"
_TREE: Final = re.compile(rb"/var/tmp/real-agents-[\w./-]+/clones/[\w./-]+/tree")
"""The clone of a task, which an agent tells its model as the folder that it works in."""
SAID: Final = "The word of today is "
_WORD: Final = re.compile(SAID.encode() + rb"([a-z]+)")
_SAYS: Final = "says: "
_EDITS: Final = "edits: "
REQUESTS: Final = "requests"
"""What a path ends with that tells how often the model was asked in a case."""
_SLOW_PART_CHARS, _SLOW_S = 2, 5.0
"""An answer in the case `slow`: how long its parts are, and how long each event takes."""

STOPPING: Final = ("cut", "hang", "keepalive", "hang_before")
"""A stream that is cut, that stands still, that stands still but for keep-alives, and a request without an answer."""

_INPUT_TOKENS, _CACHED_TOKENS, _OUTPUT_TOKENS = 1_200, 300, 57
_SHELLS: Final = ("Bash", "bash", "exec_command", "shell_command", "shell", "run_shell_command", "terminal")
"""What the agents call the tool that runs a command."""
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Refusal:
    """A request that is refused: the status, and for each vendor its word for the reason and the sentence."""

    status: int
    anthropic: tuple[str, str]
    openai: tuple[str | None, str]
    gemini: tuple[str, str]
    retry_after: str | None = None
    gemini_status: int | None = None


_LATER: Final = ("rate_limit_error", "This request would exceed the rate limit of your organization.")
REFUSED: Final[dict[str, Refusal]] = {
    "auth": Refusal(
        401,
        ("authentication_error", "invalid x-api-key"),
        ("invalid_api_key", "Incorrect API key provided."),
        ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    ),
    "forbidden": Refusal(
        403,
        ("permission_error", "Your API key does not have permission to use the specified resource."),
        ("permission_denied", "You are not allowed to use this model."),
        ("PERMISSION_DENIED", "The caller does not have permission."),
    ),
    "rate_limit": Refusal(
        429,
        _LATER,
        ("rate_limit_exceeded", "Rate limit reached for requests. Please try again in 2s."),
        ("RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
        retry_after="2",
    ),
    "rate_limit_long": Refusal(
        429,
        _LATER,
        ("rate_limit_exceeded", "Rate limit reached for requests. Please try again in 3600s."),
        ("RESOURCE_EXHAUSTED", "You exceeded your current quota. Please retry in 3600s."),
        retry_after="3600",
    ),
    "quota": Refusal(
        429,
        ("rate_limit_error", "You have exceeded your quota."),
        ("insufficient_quota", "You exceeded your current quota, please check your plan and billing details."),
        ("RESOURCE_EXHAUSTED", "You exceeded your current quota. Metric: GenerateRequestsPerDayPerProjectPerModel"),
    ),
    "billing": Refusal(
        400,
        ("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        ("billing_hard_limit_reached", "Billing hard limit has been reached."),
        ("PERMISSION_DENIED", "This API method requires billing to be enabled."),
        gemini_status=403,
    ),
    "overloaded": Refusal(
        529,
        ("overloaded_error", "Overloaded"),
        (None, "The server is overloaded."),
        ("UNAVAILABLE", "The model is overloaded. Please try again later."),
        gemini_status=503,
    ),
    "server_error": Refusal(
        500,
        ("api_error", "Internal server error"),
        (None, "The server had an error while processing your request."),
        ("INTERNAL", "An internal error has occurred."),
    ),
    "context": Refusal(
        400,
        ("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
        ("context_length_exceeded", "Your input exceeds the context window of this model."),
        ("INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."),
    ),
    "model": Refusal(
        404,
        ("not_found_error", "model: no-such-model"),
        ("model_not_found", "The model `no-such-model` does not exist or you do not have access to it."),
        ("NOT_FOUND", "models/no-such-model is not found for API version v1beta."),
    ),
}  # fmt: skip


class Step(NamedTuple):
    """What the model says: a text, a call of a tool, or nothing."""

    text: str = ""
    tool: str | None = None
    arguments: dict[str, Any] | None = None


def next_step(case: str, results: int, tools: list[str]) -> Step:
    """Return what the model says next, given how many results of tools it has got."""
    if case in ("empty", "refusal"):
        return Step()
    if case == "approval":
        return Step("I stopped.\nstatus=needs_approval\nMay I push to the branch main?")
    if case.startswith(_SAYS):
        return Step(case.removeprefix(_SAYS))
    if case.startswith(_EDITS):
        return _edit_step(results, tools, case.removeprefix(_EDITS))
    if case in (*_USES_A_TOOL, "loop") and (case == "loop" or not results):
        known = {"tool": COMMAND, "long_tool": LONG_COMMAND, **dict.fromkeys(TOUCHING, FORBIDDEN_COMMAND)}
        known[DANGEROUS] += " && chmod 777 ../made_by_the_tool"
        command = known.get(case, f"echo step {results}")
        shell = next((name for name in _SHELLS if name in tools), None)
        if shell is None:
            return Step("There is no tool that runs commands." if tools else "A title")
        key = "cmd" if shell == "exec_command" else "command"
        arguments: dict[str, Any] = {key: command}
        if key == "command":
            arguments["description"] = "Runs a command"
        if shell == "run_shell_command":
            arguments["is_background"] = False
        return Step("Let me do that.", shell, arguments)
    return Step("I ran it. " + ANSWER if results else ANSWER)


def _edit_step(results: int, tools: list[str], tree: str) -> Step:
    """Return the next step of an agent that edits: a look at the file where its tool asks for that, and the edit."""
    path, change = f"{tree}/{EDITED_FILE}", ("one", EDITED.strip())
    patch = f"*** Begin Patch\n*** Update File: {EDITED_FILE}\n@@\n-{change[0]}\n+{change[1]}\n*** End Patch"
    snake: dict[str, Any] = {"file_path": path, "old_string": change[0], "new_string": change[1]}
    camel: dict[str, Any] = {"filePath": path, "oldString": change[0], "newString": change[1]}
    steps: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "Edit": [("Read", {"file_path": path}), ("Edit", snake)],
        "apply_patch": [("apply_patch", {"input": patch})],
        "replace": [("read_file", {"file_path": path}), ("replace", {**snake, "instruction": "Write two."})],
        "edit": [("read", {"filePath": path}), ("edit", camel)],
    }
    if "read_file" in tools and "edit" in tools:  # Qwen Code
        steps["edit"] = [("read_file", {"file_path": path}), ("edit", snake)]
    own = next((steps[name] for name in steps if name in tools), None) or []
    if results < len(own):
        return Step("Let me edit that.", *own[results])
    return Step("I edited it. " + ANSWER if own else "There is no tool that edits.")


def _parts(text: str, case: str) -> list[str]:
    """Return the parts in which an answer comes: two, and many of one that is slow."""
    size = _SLOW_PART_CHARS if case == "slow" else len(text) // 2 + 1
    return [text[start : start + size] for start in range(0, len(text), size)] or [""]


def _id(kind: str) -> str:
    return f"{kind}_{next(_numbers):06}"


def _dicts(value: object) -> list[dict[str, Any]]:
    return [cast("dict[str, Any]", item) for item in cast("list[object]", value)] if isinstance(value, list) else []


# -- the four vendors: how many results of tools a request holds, and the events of the answer -----------------------


def _anthropic(request: dict[str, Any], case: str) -> Iterator[tuple[str | None, Event]]:
    results = sum(part.get("type") == "tool_result" for message in _dicts(request.get("messages"))
                  for part in _dicts(message.get("content")))  # fmt: skip
    step = next_step(case, results, [str(tool.get("name")) for tool in _dicts(request.get("tools"))])
    usage = {"input_tokens": _INPUT_TOKENS, "cache_creation_input_tokens": 0, "cache_read_input_tokens": _CACHED_TOKENS}
    message: Event = {"id": _id("msg"), "type": "message", "role": "assistant", "model": request.get("model"),
               "content": [],
               "stop_reason": None, "stop_sequence": None, "usage": {**usage, "output_tokens": 1}}  # fmt: skip
    blocks: list[tuple[Event, list[Event]]] = []
    if step.text:
        deltas: list[Event] = [{"type": "text_delta", "text": part} for part in _parts(step.text, case)]
        blocks.append(({"type": "text", "text": ""}, deltas))
    if step.tool:
        tool: Event = {"type": "tool_use", "id": _id("toolu"), "name": step.tool, "input": {}}
        blocks.append((tool, [{"type": "input_json_delta", "partial_json": json.dumps(step.arguments)}]))
    events: list[Event] = [{"type": "message_start", "message": message}]
    for index, (block, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    stop = {"refusal": "refusal", "max_tokens": "max_tokens"}.get(case, "tool_use" if step.tool else "end_turn")
    delta = {"stop_reason": stop, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": _OUTPUT_TOKENS}})
    events.append({"type": "message_stop"})
    for event in events:
        yield event["type"], event


def _responses(request: dict[str, Any], case: str) -> Iterator[tuple[str | None, Event]]:
    results = sum(str(item.get("type")).endswith("_output") for item in _dicts(request.get("input")))
    offered = [part for tool in _dicts(request.get("tools")) for part in _dicts(tool.get("tools")) or [tool]]
    step = next_step(case, results, [str(tool.get("name") or tool.get("type")) for tool in offered])
    number, item = _id("resp"), dict[str, Any]()
    if case == "refusal":
        refusal = {"type": "refusal", "refusal": "I cannot help with that."}
        item = {"type": "message", "id": _id("msg"), "role": "assistant", "content": [refusal]}
    elif step.tool == "apply_patch":
        item = {"type": "custom_tool_call", "id": _id("ctc"), "call_id": _id("call"), "name": step.tool,
                "input": (step.arguments or {})["input"]}  # fmt: skip
    elif step.tool:
        item = {"type": "function_call", "id": _id("fc"), "call_id": _id("call"), "name": step.tool,
                "arguments": json.dumps(step.arguments)}  # fmt: skip
    elif step.text:
        content = [{"type": "output_text", "text": step.text}]
        item = {"type": "message", "id": _id("msg"), "role": "assistant", "content": content}
    yield "response.created", {"type": "response.created", "response": {"id": number}}
    if item and step.text and not step.tool:
        added = {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}}
        yield "response.output_item.added", added
        for part in _parts(step.text, case):
            delta = {"item_id": item["id"], "output_index": 0, "content_index": 0, "delta": part}
            yield "response.output_text.delta", {"type": "response.output_text.delta", **delta}
    if item:
        yield "response.output_item.done", {"type": "response.output_item.done", "output_index": 0, "item": item}
    usage = {"input_tokens": _INPUT_TOKENS, "input_tokens_details": {"cached_tokens": _CACHED_TOKENS},
             "output_tokens": _OUTPUT_TOKENS, "output_tokens_details": {"reasoning_tokens": 0},
             "total_tokens": _INPUT_TOKENS + _OUTPUT_TOKENS}  # fmt: skip
    kind, rest = "response.completed", dict[str, Any](usage=usage)
    if case == "max_tokens":
        kind, rest = "response.incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}
    yield kind, {"type": kind, "response": {"id": number, **rest}}


def _chat(request: dict[str, Any], case: str) -> Iterator[tuple[str | None, Event]]:
    results = sum(message.get("role") == "tool" for message in _dicts(request.get("messages")))
    step = next_step(
        case, results, [str(tool.get("function", {}).get("name")) for tool in _dicts(request.get("tools"))]
    )
    base = {"id": _id("chat"), "object": "chat.completion.chunk", "created": 1_780_000_000,
            "model": request.get("model")}  # fmt: skip
    finish = {"refusal": "content_filter", "max_tokens": "length"}.get(case, "tool_calls" if step.tool else "stop")
    deltas: list[Event] = [{"role": "assistant", "content": part} for part in _parts(step.text, case)]
    if case == "refusal":
        deltas = [{"role": "assistant", "refusal": "I cannot help with that."}]
    elif step.tool:
        call = {"name": step.tool, "arguments": json.dumps(step.arguments)}
        deltas = [{"role": "assistant", "content": None,
                   "tool_calls": [{"index": 0, "id": _id("call"), "type": "function", "function": call}]}]  # fmt: skip
    for delta in deltas:
        yield None, {**base, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield None, {**base, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    usage = {"prompt_tokens": _INPUT_TOKENS, "completion_tokens": _OUTPUT_TOKENS,
             "total_tokens": _INPUT_TOKENS + _OUTPUT_TOKENS}  # fmt: skip
    yield None, {**base, "choices": [], "usage": usage}


def _gemini(request: dict[str, Any], case: str) -> Iterator[tuple[str | None, Event]]:
    parts = [part for content in _dicts(request.get("contents")) for part in _dicts(content.get("parts"))]
    names = [str(declared.get("name")) for tool in _dicts(request.get("tools"))
             for declared in _dicts(tool.get("functionDeclarations"))]  # fmt: skip
    step = next_step(case, sum("functionResponse" in part for part in parts), names)
    wanted = request.get("generationConfig", {})
    if wanted.get("responseSchema") or wanted.get("responseJsonSchema"):  # the CLI asks which model to take
        choice = {"reasoning": "short", "model_choice": "flash", "complexity_reasoning": "short",
                  "complexity_score": 1, "next_speaker": "user"}  # fmt: skip
        step, case = Step(json.dumps(choice)), "ok"
    usage = {"promptTokenCount": _INPUT_TOKENS, "candidatesTokenCount": _OUTPUT_TOKENS,
             "totalTokenCount": _INPUT_TOKENS + _OUTPUT_TOKENS, "cachedContentTokenCount": _CACHED_TOKENS}  # fmt: skip

    def chunk(parts: list[Event], finish: str | None = None) -> Event:
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        reason = {"finishReason": finish} if finish else {}
        return {"candidates": [{**candidate, **reason}], "usageMetadata": usage, "modelVersion": "model-of-the-test"}

    finish = {"refusal": "SAFETY", "max_tokens": "MAX_TOKENS"}.get(case, "STOP")
    if case in STOPPING:
        yield None, chunk([{"text": "The beginning"}])
    said: list[Event] = [{"text": step.text}] if step.text and not step.tool else []
    if case == "slow":
        *first, last = _parts(step.text, case)
        for part in first:
            yield None, chunk([{"text": part}])
        said = [{"text": last}]
    if step.tool:
        said = [{"functionCall": {"name": step.tool, "args": step.arguments}}]
    yield None, chunk(said, finish)


_ANSWERS: Final = {"anthropic": _anthropic, "responses": _responses, "chat": _chat, "gemini": _gemini}
_STOPS_BEFORE: Final = {"anthropic": 3, "responses": 2, "chat": 1, "gemini": 1}
"""The number of the event before which a stream of `STOPPING` stops: something has been said by then."""


def refusal_body(refusal: Refusal, dialect: Dialect) -> tuple[int, Event]:
    """Return the status and the body of a refused request, as the vendor writes them."""
    if dialect == "anthropic":
        kind, message = refusal.anthropic
        error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_of_the_test"}
        return refusal.status, error
    if dialect == "gemini":
        name, message = refusal.gemini
        status = refusal.gemini_status or refusal.status
        return status, {"error": {"code": status, "message": message, "status": name}}
    code, message = refusal.openai
    return refusal.status, {"error": {"type": code or "server_error", "code": code, "message": message, "param": None}}


def _dialect(path: str) -> Dialect | None:
    ends: list[tuple[str, Dialect]] = [
        ("/messages", "anthropic"), ("/responses", "responses"), ("/chat/completions", "chat"),
        (":generateContent", "gemini"), (":streamGenerateContent", "gemini"),
    ]  # fmt: skip
    return next((dialect for end, dialect in ends if path.endswith(end)), None)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _closing(self) -> threading.Event:
        return cast("_Server", self.server).closing

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name of the base class
        """Say nothing: the output of the test is the agent's."""

    def do_HEAD(self) -> None:
        self._send(200, {})

    def do_GET(self) -> None:
        case, _, path = self.path.strip("/").partition("/")
        known = {REQUESTS: cast("_Server", self.server).asked[case]} if path == REQUESTS else {}
        self._send(200, {"data": [], "models": [], **known})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        case, _, path = self.path.partition("?")[0].strip("/").partition("/")
        dialect = _dialect("/" + path)
        if dialect is None:  # counting tokens, and telemetry
            self._send(200, {"input_tokens": 10, "totalTokens": 10})
            return
        cast("_Server", self.server).asked[case] += 1
        if case in ("follow_up", "folder_gone"):
            word = _WORD.search(body)
            case = f"{_SAYS}{SAID}{word[1].decode()}." if word else f"{_SAYS}I was told no word."
        if case == "edit":
            tree = _TREE.search(body)
            case = f"{_EDITS}{tree[0].decode() if tree else ''}"
        if case == "hang_before":
            self._closing.wait()
            return
        if case in REFUSED:
            status, answer = refusal_body(REFUSED[case], dialect)
            after = REFUSED[case].retry_after
            self._send(status, answer, {"retry-after": after} if after else {})
            return
        request: dict[str, Any] = json.loads(body or b"{}")
        events = list(_ANSWERS[dialect](request, case))
        if dialect == "gemini" and not path.endswith("streamGenerateContent"):
            self._send(200, events[-1][1])
        elif dialect == "anthropic" and not request.get("stream"):
            self._send(200, _whole_message([event for _, event in events]))
        else:
            self._stream(events, case, _STOPS_BEFORE[dialect], done=dialect == "chat")

    def _send(self, status: int, body: Event, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        fields = {"content-type": "application/json", "content-length": str(len(data))}
        for name, value in {**fields, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events: list[tuple[str | None, Event]], case: str, stops_before: int, *, done: bool) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            for number, (name, event) in enumerate(events):
                if case in STOPPING and number == stops_before:
                    self._stop(case, named=name is not None)
                    return
                if case == "slow":
                    self._closing.wait(_SLOW_S)
                self._chunk((f"event: {name}\n" if name else "") + f"data: {json.dumps(event)}\n\n")
            if done:
                self._chunk("data: [DONE]\n\n")
            self.wfile.write(b"0\r\n\r\n")
        except OSError:  # the agent is gone
            self.close_connection = True

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _stop(self, case: str, *, named: bool) -> None:
        self.close_connection = True
        if case == "cut":
            return
        while not self._closing.wait(2 if case == "keepalive" else None):
            self._chunk('event: ping\ndata: {"type": "ping"}\n\n' if named else ": keep-alive\n\n")


def _whole_message(events: list[Event]) -> Event:
    """Return the message that the events of a stream make, for a request that wants no stream."""
    message = dict(events[0]["message"])
    blocks: list[Event] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta" and event["delta"]["type"] == "text_delta":
            blocks[-1]["text"] += event["delta"]["text"]
        elif event["type"] == "content_block_delta":
            blocks[-1]["input"] = json.loads(event["delta"]["partial_json"])
        elif event["type"] == "message_delta":
            message |= {"stop_reason": event["delta"]["stop_reason"]}
    return {**message, "content": blocks}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.closing = threading.Event()
        self.asked: Counter[str] = Counter()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: an agent that is ended leaves its connections open."""


@contextlib.contextmanager
def model_server() -> Generator[str]:
    """Serve for the length of the block; yields the address without a path."""
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
