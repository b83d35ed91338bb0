#!/usr/bin/env python3
"""A fake agent with a key: `keyed_agent.py KEYFILE LOG`, the prompt on standard input; it prints as Claude Code does.

The content of KEYFILE says what its model's server answers: `good`; `bad`, a refused key; `late`, a refusal after the
agent has said something; any other text, an error with that text. A content of a task that begins with `itself` is
refused like a bad key, whatever the key. `wait:PATH` keeps it at work until there is such a file.
"""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

SESSION = "15b719d5-432f-4d1c-a582-9792b67a74ac"
REFUSAL = "Failed to authenticate. API Error: 401 invalid x-api-key sk-secret"


def put(**event: Any) -> None:
    print(json.dumps({**event, "session_id": SESSION}), flush=True)


def say(text: str, model: str = "claude-opus-5-5") -> None:
    put(type="assistant", message={"id": "m1", "model": model, "content": [{"type": "text", "text": text}]})


def fail(text: str, status: int | None) -> None:
    say(text, "<synthetic>")
    put(type="result", subtype="success", is_error=True, result=text, api_error_status=status, num_turns=1)
    sys.exit(1)


def main() -> None:
    key_file, log = Path(sys.argv[1]), Path(sys.argv[2])
    prompt = sys.stdin.read()
    found = re.search(r"^\{.*\}$", prompt, re.MULTILINE)
    task: dict[str, Any] = json.loads(found.group(0)) if found else {}
    payload: dict[str, Any] = task.get("payload") or {}
    content = str(payload.get("content", ""))
    key = key_file.read_text(encoding="utf-8").strip()
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{task.get('id')} {key.split()[0]}\n")
    put(type="system", subtype="init", model="claude-opus-5-5", claude_code_version="2.1.332")
    if key == "late":
        say("I begin.")
    if key in ("bad", "late") or content.startswith("itself"):
        fail(REFUSAL, 401)
    if key != "good":
        fail(key, 429)
    say("at work")
    while content.startswith("wait:") and not Path(content.removeprefix("wait:")).exists():
        time.sleep(0.02)
    say("done")
    put(type="result", subtype="success", is_error=False, result="done", num_turns=1)


if __name__ == "__main__":
    main()
