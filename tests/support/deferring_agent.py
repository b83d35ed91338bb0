"""An agent that asks before it uses a tool, as Claude Code with a hook that defers; a command for workers of tests.

It keeps sessions in `$HOME/sessions` and notes each request to its model in `$HOME/requests`. What it does with
`--settings`, `--resume` and an empty prompt was recorded with Claude Code 2.1.332. A task has lines: `use COMMAND` uses
the tool Bash, `helper COMMAND` does so as an agent that it has started, `ask TEXT` answers with
`status=needs_approval`, `remember WORD` and `recall` are what they say.
"""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

_MISSING = "[Tool result missing due to internal error]"


class _Agent:
    def __init__(self) -> None:
        self._home = Path.home()
        (self._home / "sessions").mkdir(exist_ok=True)
        self._settings: dict[str, Any] = json.loads(Path(_option("--settings") or os.devnull).read_bytes() or b"{}")
        self._resumed = _option("--resume")
        self.name = self._resumed or str(uuid.uuid4())
        self._file = self._home / "sessions" / f"{self.name}.json"
        self.session: dict[str, Any] = {"words": [], "steps": [], "done": [], "open": None, "runs": 0}

    def run(self, prompt: str) -> int:
        """Do what a prompt says, or go on without any; returns the exit code."""
        if self._resumed:
            if not self._file.is_file():
                print(f"No conversation found with session ID: {self.name}", file=sys.stderr)
                return 1
            self.session = json.loads(self._file.read_bytes())
            if not prompt and self.session["open"] is None:
                print("Error: No deferred tool marker found in the resumed session.", file=sys.stderr)
                return 1
        self.session["runs"] += 1
        self._print(type="system", subtype="init", model="fake-1", cwd=str(Path.cwd()))
        if (call := self.session["open"]) is not None and not self._use(call):
            if not prompt:
                return 0
            self.session |= {"open": None, "done": [*self.session["done"], _MISSING]}
        if prompt:
            self._read(prompt)
        return self._go_on()

    def _read(self, prompt: str) -> None:
        lines = prompt.split("\n")
        content: Any = json.loads(lines[lines.index("The task, as JSON:") + 1])["payload"]["content"]
        if "decision" in content:
            self._file.with_suffix(".told").write_text(json.dumps(content), encoding="utf-8")
            self.session["steps"] = [f"told {content['decision']}"]
            if not self._resumed:  # it does the task anew
                self.session["steps"] = str(content["original"]["content"]).splitlines()
        else:
            self.session["steps"] = str(content).splitlines()

    def _go_on(self) -> int:
        """Ask the model until it has said all."""
        while self.session["steps"]:
            verb, _, rest = str(self.session["steps"].pop(0)).partition(" ")
            if verb in ("use", "helper"):
                self._request()
                call = {"id": f"toolu_{uuid.uuid4().hex}", "name": "Bash", "input": {"command": rest}}
                self._print(type="assistant", message={"id": "m", "content": [{"type": "text", "text": "I try it."}]})
                self._print(type="assistant", message={"id": "m", "content": [{"type": "tool_use", **call}]})
                if not self._use(call, helper=verb == "helper"):
                    return 0
            elif verb == "remember":
                self.session["words"].append(rest)
            elif verb == "recall":
                self.session["done"].append(" ".join(self.session["words"]))
            elif verb == "ask":
                self.session["done"].append(f"status=needs_approval\n{rest}")
            else:
                self.session["done"].append(f"{verb} {rest}".strip())
        self._request()
        answer = "\n".join(self.session["done"]) or "done"
        self.session["done"] = []
        self._end(result=answer)
        return 0

    def _use(self, call: dict[str, Any], *, helper: bool = False) -> bool:
        """Use the tool, as far as hooks and rules permit it; False if the run ends before it."""
        decided = self._decided(call, helper=helper)
        said = str(decided.get("permissionDecisionReason", ""))
        match decided.get("permissionDecision"):
            case "defer":
                if not helper:
                    self.session["open"] = call
                    self._end(deferred_tool_use=call)
                    return False
                done, denied = "it ended", True
            case "deny":
                done, denied = f"denied: {said}", True
            case "allow":
                done, denied = _ran(call), False
                if told := decided.get("additionalContext"):
                    done += f"\n{told}"
            case _:
                rules = self._settings.get("permissions", {}).get("ask", [])
                denied = any(rule.startswith("Bash(") and rule[5:].rstrip("*)") in call["input"]["command"]
                             for rule in rules)  # fmt: skip
                done = "denied by a rule" if denied else _ran(call)
        self.session |= {"open": None, "done": [*self.session["done"], done]}
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": done, "is_error": denied}
        self._print(type="user", message={"content": [result]})
        return True

    def _decided(self, call: dict[str, Any], *, helper: bool) -> dict[str, Any]:
        given = {"tool_name": call["name"], "tool_input": call["input"], "tool_use_id": call["id"],
                 "cwd": str(Path.cwd()), **({"agent_id": "a1"} if helper else {})}  # fmt: skip
        order: list[str] = ["deny", "defer", "allow"]
        found: dict[str, Any] = {}
        own = self._home / ".claude" / "settings.json"
        of_user: dict[str, Any] = json.loads(own.read_bytes()) if own.exists() else {}
        for settings in (of_user, self._settings):
            for hook in (one for entry in settings.get("hooks", {}).get("PreToolUse", []) for one in entry["hooks"]):
                ran = subprocess.run(hook["command"], shell=True, input=json.dumps(given).encode(), capture_output=True,
                                     check=False)  # fmt: skip
                if ran.returncode == 2:
                    return {"permissionDecision": "deny", "permissionDecisionReason": ran.stderr.decode()}
                said: dict[str, Any] = json.loads(ran.stdout or b"{}").get("hookSpecificOutput", {})
                word = said.get("permissionDecision")
                if word and (not found or order.index(word) < order.index(found["permissionDecision"])):
                    found = said
        return found

    def _request(self) -> None:
        with (self._home / "requests").open("a", encoding="utf-8") as file:
            file.write(f"{os.environ['AGENTBUS_TASK_ID']}\n")

    def _end(self, **fields: Any) -> None:
        self._file.write_text(json.dumps(self.session), encoding="utf-8")
        usage = {"input_tokens": 10, "output_tokens": 2}
        stop = "tool_deferred" if "deferred_tool_use" in fields else "end_turn"
        reason = {} if self._resumed and stop == "tool_deferred" else {"terminal_reason": stop}
        self._print(type="result", subtype="success", is_error=False, num_turns=1, usage=usage, stop_reason=stop,
                    total_cost_usd=0.25 * self.session["runs"], **{"result": "", **reason, **fields})  # fmt: skip

    def _print(self, **event: Any) -> None:
        print(json.dumps({**event, "session_id": self.name}), flush=True)


def _ran(call: dict[str, Any]) -> str:
    ran = subprocess.run(
        call["input"]["command"], shell=True, capture_output=True, text=True, encoding="utf-8", check=False
    )
    return f"ran: {ran.stdout.strip()}"


def _option(name: str) -> str | None:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


if __name__ == "__main__":
    sys.exit(_Agent().run(sys.stdin.read()))
