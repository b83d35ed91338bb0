"""An agent that keeps sessions, as Claude Code prints and resumes them; a command for workers of tests.

A session is a file in `$HOME/sessions`, with the words that it was told. What a task says is done line by line.
"""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

_COST = 0.25


def main() -> int:
    """Do the task in the prompt, in a new session or in the one that is named; returns the exit code."""
    folder = Path.home() / "sessions"
    folder.mkdir(exist_ok=True)
    prompt, resumed = sys.stdin.read(), "--resume" in sys.argv
    name = sys.argv[sys.argv.index("--resume") + 1] if resumed else str(uuid.uuid4())
    file = folder / f"{name}.json"
    if resumed and not file.is_file():
        print(f"No conversation found with session ID: {name}", file=sys.stderr)
        return 1
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if resumed else {"words": [], "runs": 0}
    found.setdefault("folder", str(Path.cwd()))
    if found["folder"] != str(Path.cwd()):
        print("No previous sessions found for this project", file=sys.stderr)
        return 1
    _print({"type": "system", "subtype": "init", "session_id": name, "model": "fake-1", "cwd": str(Path.cwd())})
    with (folder / "runs").open("a", encoding="utf-8") as runs:
        runs.write(f"{os.environ['AGENTBUS_TASK_ID']} {name} begins\n")
    found["runs"] += 1
    file.write_text(json.dumps(found), encoding="utf-8")
    answer = _do(_content(prompt), prompt, found, file)
    file.write_text(json.dumps(found), encoding="utf-8")
    with (folder / "runs").open("a", encoding="utf-8") as runs:
        runs.write(f"{os.environ['AGENTBUS_TASK_ID']} {name} ends\n")
    text = [{"type": "text", "text": answer}]
    _print({"type": "assistant", "session_id": name, "message": {"id": "m", "content": text}})
    usage = {"input_tokens": 10, "output_tokens": 2}
    _print(
        {
            "type": "result", "subtype": "success", "is_error": False, "result": answer, "session_id": name,
            "num_turns": 1, "total_cost_usd": _COST * found["runs"], "usage": usage,
        }
    )  # fmt: skip
    return 0


def _content(prompt: str) -> str:
    """Return what the task of a prompt says."""
    lines = prompt.split("\n")
    return str(json.loads(lines[lines.index("The task, as JSON:") + 1])["payload"]["content"])


def _do(content: str, prompt: str, found: dict[str, Any], file: Path) -> str:
    answer = "done"
    for line in content.splitlines():
        verb, _, rest = line.partition(" ")
        match verb:
            case "remember":
                found["words"].append(rest)
                file.write_text(json.dumps(found), encoding="utf-8")  # an agent keeps each turn at once
            case "recall":
                answer = " ".join(found["words"]) or "nothing"
            case "brought":
                answer += " " + Path(os.environ["AGENTBUS_INPUTS"], rest).read_text(encoding="utf-8")
            case "prompt":
                answer = prompt
            case "sleep":
                time.sleep(float(rest))
            case "wait":
                while not Path(rest).exists():
                    time.sleep(0.02)
            case "exit":
                sys.exit(int(rest))
            case "leave":  # a process that outlives the run, where nothing ends it
                child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
                Path(rest).write_text(f"{child.pid}\n", encoding="utf-8")
            case _:
                pass
    return answer


def _print(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
