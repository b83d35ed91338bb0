"""An agent that speaks the Agent Client Protocol, well or badly: `acp_agent.py BEHAVIOUR… [--log FILE]`.

It is run by its path and imports little, as it is started for each case of a test. With `--log`, it writes what it gets
to that file. What it does when it is prompted is what the words of its command say, one after the other.
"""

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

USD = {"amount": 0.25, "currency": "USD"}
OPTIONS = [
    {"optionId": "always", "name": "Always", "kind": "allow_always"},
    {"optionId": "once", "name": "Allow", "kind": "allow_once"},
    {"optionId": "no", "name": "Reject", "kind": "reject_once"},
]
CALL = {"toolCallId": "c1", "title": "touch made", "kind": "execute", "rawInput": {"command": "touch made"}}


class Agent:
    """The agent."""

    def __init__(self, behaviours: list[str], log: Path | None) -> None:
        self.behaviours = behaviours
        self.log = log
        self.mode = "auto"
        self.asked = 0

    def does(self, name: str) -> bool:
        return name in self.behaviours

    # -- messages

    def send(self, **message: Any) -> None:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()

    def update(self, what: str, **fields: Any) -> None:
        update = {"sessionUpdate": what, **fields}
        self.send(method="session/update", params={"sessionId": "s1", "update": update})

    def say(self, text: str, kind: str = "agent_message_chunk") -> None:
        self.update(kind, content={"type": "text", "text": text})

    def receive(self) -> dict[str, Any]:
        line = sys.stdin.readline()
        if not line:
            if self.does("stays"):
                signal.pause()
            sys.exit(0)
        message = json.loads(line)
        if self.log:
            with self.log.open("a", encoding="utf-8") as out:
                out.write(line)
        return message

    def ask(self, options: list[dict[str, Any]] = OPTIONS, call: dict[str, Any] = CALL) -> dict[str, Any]:
        """Ask for a permission, and return what was chosen. Only what differs from the call before is repeated."""
        self.asked += 1
        self.send(
            id=f"ask-{self.asked}",
            method="session/request_permission",
            params={"sessionId": "s1", "toolCall": call, "options": options},
        )
        return self.answer_to(f"ask-{self.asked}")

    def answer_to(self, request: Any) -> dict[str, Any]:
        while True:
            message = self.receive()
            if message.get("id") == request and "method" not in message:
                return message.get("result") or message["error"]
            if message.get("method") == "session/cancel":
                self.log_line("cancelled while asking")

    def log_line(self, text: str) -> None:
        if self.log:
            with self.log.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"note": text}) + "\n")

    # -- what it does

    def run(self) -> None:
        if self.does("ignores_sigterm"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.does("garbage"):
            sys.stdout.buffer.write(b"Loading...\n\x00\xff\xfe\x1b[31m\n[1]\n7\nnull\n{\n" + b'{"id":[1],"result":{}}\n')
            sys.stdout.buffer.write(b'{"id":1,"error":7,"method":[]}\n' + b"[" * 100_000 + b"\n" + b"x" * 5_000_000 + b"\n")
            sys.stdout.buffer.flush()
        if self.does("dies_at_once"):
            sys.stderr.write("cannot find my brain\n")
            sys.exit(3)
        if self.does("silent"):
            signal.pause()
        while True:
            message = self.receive()
            handle = getattr(self, "on_" + message.get("method", "").replace("/", "_"), None)
            if handle is not None:
                handle(message)

    def on_initialize(self, message: dict[str, Any]) -> None:
        version = 7 if self.does("other_version") else 1
        capabilities: dict[str, Any] = {"loadSession": True, "mcpCapabilities": {"http": True, "sse": False}}
        if self.does("no_load"):
            capabilities = {}
        if self.does("resumes"):
            capabilities["sessionCapabilities"] = {"resume": {}}
        info = {"name": "fake-agent", "version": "9.9.9"}
        self.send(id=message["id"], result={"protocolVersion": version, "agentCapabilities": capabilities, "agentInfo": info})

    def on_session_new(self, message: dict[str, Any]) -> None:
        if self.does("no_login"):
            self.send(id=message["id"], error={"code": -32000, "message": "Authentication required"})
            return
        modes = {"currentModeId": "auto", "availableModes": [{"id": "auto", "name": "Auto"}, {"id": "default", "name": "D"}]}
        models = {"currentModelId": "model-1", "availableModels": [{"modelId": "model-1", "name": "Model 1"}]}
        self.send(id=message["id"], result={"sessionId": "s1", "modes": modes, "models": models})

    def on_session_load(self, message: dict[str, Any]) -> None:
        if message["params"]["sessionId"] != "s1":
            self.send(id=message["id"], error={"code": -32602, "message": "Session not found"})
            return
        self.say("An answer of an earlier run.")
        self.send(id=message["id"], result=None)

    def on_session_resume(self, message: dict[str, Any]) -> None:
        self.send(id=message["id"], result={})

    def on_session_set_mode(self, message: dict[str, Any]) -> None:
        self.mode = message["params"]["modeId"]
        self.send(id=message["id"], result={})

    def on_session_prompt(self, message: dict[str, Any]) -> None:
        stop = "end_turn"
        error = None
        meta: dict[str, Any] = {}
        for word in self.behaviours:
            name, _, argument = word.partition("=")
            match name:
                case "say":
                    self.say(argument)
                case "stream":
                    part = json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": {
                        "sessionId": "s1", "update": {"sessionUpdate": "agent_message_chunk", "content": {
                            "type": "text", "text": "x" * 1000}}}})  # fmt: skip
                    for _ in range(int(argument)):
                        sys.stdout.write(part + "\n")
                    sys.stdout.flush()
                case "think":
                    self.say("Let me think.", "agent_thought_chunk")
                case "tool":
                    self.update("tool_call", **CALL, status="pending")
                    self.update("tool_call_update", toolCallId="c1", status="in_progress")
                    content = [{"type": "content", "content": {"type": "text", "text": "made it"}}]
                    self.update("tool_call_update", toolCallId="c1", status="completed", content=content)
                case "ask" | "ask_without_options" | "ask_always_only":
                    self.update("tool_call", **CALL, status="pending")
                    options = {"ask": OPTIONS, "ask_without_options": [], "ask_always_only": OPTIONS[:1]}[name]
                    chosen = self.ask(options, {"toolCallId": "c1"})["outcome"].get("optionId")
                    done = "completed" if chosen == "once" else "failed"
                    if chosen == "once":
                        Path("made").touch()
                    self.update("tool_call_update", toolCallId="c1", status=done)
                case "ask_twice":
                    for _ in range(2):
                        self.send(id="twice", method="session/request_permission",
                                  params={"sessionId": "s1", "toolCall": CALL, "options": OPTIONS})  # fmt: skip
                    chosen = [self.answer_to("twice")["outcome"].get("optionId") for _ in range(2)]
                    self.say(f"chosen: {', '.join(map(str, chosen))}")
                case "die_while_asking":
                    self.send(id="last", method="session/request_permission",
                              params={"sessionId": "s1", "toolCall": CALL, "options": OPTIONS})  # fmt: skip
                    time.sleep(float(argument or 0))
                    sys.exit(4)
                case "files_and_terminal":
                    self.send(id="f", method="fs/read_text_file", params={"sessionId": "s1", "path": "/etc/passwd"})
                    told = self.answer_to("f")
                    self.send(id="t", method="terminal/create", params={"sessionId": "s1", "command": "id"})
                    self.say(f"refused with {told['code']} and {self.answer_to('t')['code']}")
                case "unknown_notifications":
                    self.send(method="_vendor/thing", params={"a": 1})
                    self.send(method="session/update", params={"sessionId": "s1", "update": {"sessionUpdate": "new_kind"}})
                    self.send(method="session/update", params=[1])
                    self.update("plan", entries=[])
                case "long_line":
                    self.say("y" * 300_000)
                case "cost":
                    self.update("usage_update", used=1200, size=200_000, cost=USD)
                case "usage":
                    meta["usage"] = {"totalTokens": 157, "inputTokens": 70, "outputTokens": 57, "cachedReadTokens": 30}
                case "mode":
                    self.say(f"mode {self.mode}")
                case "stop":
                    stop = argument
                case "error":
                    error = json.loads(argument)
                case "hang":
                    self.until_cancelled()
                    if self.does("late"):
                        self.say("a late part")
                    stop = "end_turn" if self.does("ends_after_cancel") else "cancelled"
                case "hang_hard":
                    time.sleep(1000)
                case "prompt":
                    self.say(message["params"]["prompt"][0]["text"])
                case _:
                    pass
        if error is not None:
            self.send(id=message["id"], error=error)
        else:
            self.send(id=message["id"], result={"stopReason": stop, **meta})
            self.send(id=message["id"], result={"stopReason": "refusal"})  # a second answer counts for nothing

    def until_cancelled(self) -> None:
        while self.receive().get("method") != "session/cancel":
            pass


if __name__ == "__main__":
    words = sys.argv[1:]
    log = Path(words.pop(words.index("--log") + 1)) if "--log" in words else None
    Agent([word for word in words if word != "--log"], log).run()
