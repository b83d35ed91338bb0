#!/usr/bin/env python3
"""A fake Claude Code: prints the events that the words of the task's content name, in order.

`text:TEXT`, `tool:NAME:SUMMARY`, `end:NAME:TEXT`, `wait:PATH` (for a file), `sleep:SECONDS`, `flood:BYTES` (texts of
1 KB), `env:NAME` (says the value), `touch:PATH` (writes the time into it), `done:TEXT` (the result). In a text, `_`
stands for a space.
"""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

SESSION = {"session_id": "s-1"}


def tell(kind: str, **fields: Any) -> None:
    print(json.dumps({"type": kind, **SESSION, **fields}), flush=True)


def say(*parts: dict[str, Any]) -> None:
    tell("assistant", message={"id": f"m-{time.monotonic_ns()}", "model": "sonnet", "content": list(parts)})


def act(verb: str, value: str) -> None:
    match verb:
        case "text":
            say({"type": "text", "text": value})
        case "tool":
            name, _, summary = value.partition(":")
            say({"type": "tool_use", "id": f"t-{name}", "name": name, "input": {"command": summary}})
        case "end":
            name, _, text = value.partition(":")
            result = {"type": "tool_result", "tool_use_id": f"t-{name}", "content": text}
            tell("user", message={"content": [result]})
        case "wait":
            while not Path(value).exists():
                time.sleep(0.02)
        case "sleep":
            time.sleep(float(value))
        case "flood":
            for number in range(int(value) // 1_000):
                say({"type": "text", "text": f"{number} " + "x" * 850})
        case "touch":
            Path(value).write_text(str(time.time()), encoding="utf-8")
        case "env":
            say({"type": "text", "text": f"its value is {os.environ.get(value, '')} indeed"})
        case _:
            usage = {"input_tokens": 1200, "output_tokens": 34}
            tell("result", subtype="success", result=value, num_turns=1, usage=usage, total_cost_usd=0.25)


def main() -> None:
    found = re.search(r"^\{.*\}$", sys.argv[-1], re.MULTILINE)
    content = json.loads(found.group(0))["payload"]["content"] if found else ""
    tell("system", subtype="init", model="sonnet", cwd="/work", claude_code_version="2")
    for word in content.split():
        verb, _, value = word.partition(":")
        act(verb, value if verb in ("wait", "touch", "env") else value.replace("_", " "))


if __name__ == "__main__":
    main()
