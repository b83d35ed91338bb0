"""An agent that speaks the Agent Client Protocol, well or badly: `acp_agent.py BEHAVIOUR… [--log FILE]`.

It is run by its path and imports little, as it is started for each case of a test. With `--log`, it writes what it gets
to that file. What it does when it is prompted is what the words of its command say, one after the other.
"""

import json
import os
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
        self.prompt = ""
        self.turns = 0
        self.stop = "end_turn"
        self.dies = False
        self.error: dict[str, Any] | None = None
        self.further: dict[str, Any] = {}
        self.early: list[dict[str, Any]] = []

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

    def request(self, name: str, call: dict[str, Any] = CALL, options: list[dict[str, Any]] = OPTIONS) -> None:
        """Ask for a permission."""
        params = {"sessionId": "s1", "toolCall": call, "options": options}
        self.send(id=name, method="session/request_permission", params=params)

    def answer_to(self, request: Any) -> dict[str, Any]:
        """Wait for the answer to a request; answers to other requests are kept for those who wait for them."""
        while True:
            message = next((one for one in self.early if one.get("id") == request), None)
            if message is not None:
                self.early.remove(message)
            else:
                message = self.receive()
            if message.get("id") == request and "method" not in message:
                return message.get("result") or message["error"]
            if "method" not in message:
                self.early.append(message)

    def note_sigterm(self, number: int, frame: Any) -> None:
        assert self.log is not None
        with self.log.open("a", encoding="utf-8") as out:
            out.write('{"note": "SIGTERM"}\n')
        sys.exit(0)

    # -- what it does

    def run(self) -> None:
        if self.does("ignores_sigterm"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.does("notes_sigterm"):
            signal.signal(signal.SIGTERM, self.note_sigterm)
        if self.does("garbage"):
            sys.stdout.buffer.write(
                b"Loading...\n\x00\xff\xfe\x1b[31m\n[1]\n7\nnull\n{\n" + b'{"id":[1],"result":{}}\n'
            )
            sys.stdout.buffer.write(
                b'{"id":1,"error":7,"method":[]}\n' + b"[" * 100_000 + b"\n" + b"x" * 5_000_000 + b"\n"
            )
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
        self.send(
            id=message["id"], result={"protocolVersion": version, "agentCapabilities": capabilities, "agentInfo": info}
        )

    def on_session_new(self, message: dict[str, Any]) -> None:
        if self.does("no_login"):
            self.send(id=message["id"], error={"code": -32000, "message": "Authentication required"})
            return
        modes = {
            "currentModeId": "auto",
            "availableModes": [{"id": "auto", "name": "Auto"}, {"id": "default", "name": "D"}],
        }
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
        self.prompt = message["params"]["prompt"][0]["text"]
        self.turns += 1
        if self.turns > 1:
            self.say(f"I was told: {self.prompt}" if self.does("listens") else "")
            self.send(id=message["id"], result={"stopReason": "end_turn", **self.further})
            return
        for word in self.behaviours:
            name, _, argument = word.partition("=")
            does = getattr(self, f"do_{name}", None)
            if does is not None:
                does(argument)
        if self.error is not None:
            self.send(id=message["id"], error=self.error)
        else:
            self.send(id=message["id"], result={"stopReason": self.stop, **self.further})
            self.send(id=message["id"], result={"stopReason": "refusal"})  # a second answer counts for nothing

    def do_say(self, argument: str) -> None:
        self.say(argument)

    def do_prompt(self, argument: str) -> None:
        self.say(self.prompt)

    def do_mode(self, argument: str) -> None:
        self.say(f"mode {self.mode}")

    def do_think(self, argument: str) -> None:
        self.say("Let me think.", "agent_thought_chunk")

    def do_long_line(self, argument: str) -> None:
        self.say("y" * 300_000)

    def do_stream(self, argument: str) -> None:
        content = {"type": "text", "text": "x" * 1000}
        update = {"sessionUpdate": "agent_message_chunk", "content": content}
        params = {"sessionId": "s1", "update": update}
        part = json.dumps({"jsonrpc": "2.0", "method": "session/update", "params": params}) + "\n"
        for _ in range(int(argument)):
            sys.stdout.write(part)

    def do_tool(self, argument: str) -> None:
        self.update("tool_call", **CALL, status="pending")
        self.update("tool_call_update", toolCallId="c1", status="in_progress")
        content = [{"type": "content", "content": {"type": "text", "text": "made it"}}]
        self.update("tool_call_update", toolCallId="c1", status="completed", content=content)

    def do_ask(self, argument: str) -> None:
        self.use_if_allowed(OPTIONS)

    def do_ask_without_options(self, argument: str) -> None:
        self.use_if_allowed([])

    def do_ask_always_only(self, argument: str) -> None:
        self.use_if_allowed(OPTIONS[:1])

    def use_if_allowed(self, options: list[dict[str, Any]]) -> None:
        self.update("tool_call", **CALL, status="pending")
        self.request("ask", {"toolCallId": "c1"}, options)
        allowed = self.answer_to("ask")["outcome"].get("optionId") == "once"
        if allowed:
            Path("made").touch()
        self.update("tool_call_update", toolCallId="c1", status="completed" if allowed else "failed")

    def do_ask_twice(self, argument: str) -> None:
        """Ask two questions at once: under one id, or under an id for each with `ask_twice=apart`."""
        names = ["one", "two"] if argument == "apart" else ["twice", "twice"]
        for name in names:
            self.request(name)
        chosen = [self.answer_to(name)["outcome"].get("optionId") for name in names]
        self.say(f"chosen: {', '.join(map(str, chosen))}")

    def do_ask_for(self, argument: str) -> None:
        """Ask for a command; `{attempt}` in it is the number of the attempt."""
        command = argument.replace("{attempt}", os.environ.get("AGENTBUS_ATTEMPT", ""))
        call = {"toolCallId": f"c-{command}", "title": command, "kind": "execute", "rawInput": {"command": command}}
        self.request(command, call)
        if self.dies:
            sys.exit(4)
        self.answer_to(command)

    def do_die_asking(self, argument: str) -> None:
        """Ask for a command, and end without waiting: in the first run in this folder."""
        before = Path("died")
        if not before.exists():
            before.touch()
            self.dies = True
        self.do_ask_for(argument)

    def do_die_while_asking(self, argument: str) -> None:
        self.request("last")
        sys.exit(4)

    def do_files_and_terminal(self, argument: str) -> None:
        self.send(id="f", method="fs/read_text_file", params={"sessionId": "s1", "path": "/etc/passwd"})
        told = self.answer_to("f")
        self.send(id="t", method="terminal/create", params={"sessionId": "s1", "command": "id"})
        self.say(f"refused with {told['code']} and {self.answer_to('t')['code']}")

    def do_unknown_notifications(self, argument: str) -> None:
        self.send(method="_vendor/thing", params={"a": 1})
        self.update("new_kind", anything=[1])
        self.send(method="session/update", params=[1])
        self.update("plan", entries=[])

    def do_cost(self, argument: str) -> None:
        self.update("usage_update", used=1200, size=200_000, cost=USD)

    def do_usage(self, argument: str) -> None:
        used = {"totalTokens": 157, "inputTokens": 70, "outputTokens": 57, "cachedReadTokens": 30}
        self.further["usage"] = used

    def do_stop(self, argument: str) -> None:
        self.stop = argument

    def do_error(self, argument: str) -> None:
        self.error = json.loads(argument)

    def do_hang(self, argument: str) -> None:
        while self.receive().get("method") != "session/cancel":
            pass
        if self.does("late"):
            self.say("a late part")
        self.stop = "end_turn" if self.does("ends_after_cancel") else "cancelled"

    def do_hang_hard(self, argument: str) -> None:
        time.sleep(1000)


if __name__ == "__main__":
    words = sys.argv[1:]
    log = Path(words.pop(words.index("--log") + 1)) if "--log" in words else None
    Agent([word for word in words if word != "--log"], log).run()
