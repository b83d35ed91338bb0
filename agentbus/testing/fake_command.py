"""The command of a fake agent: keeps the task that it was given, and answers as `answers.json` says.

A worker runs it as `python fake_command.py FOLDER` with the prompt on standard input. It imports the standard library
only, because it is started once for each task.
"""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

_DEFAULT: dict[str, Any] = {"output": "done"}


def main(folder: Path) -> int:
    """Answer the task in the prompt on standard input; returns the exit code."""
    task = _task_in(sys.stdin.buffer.read().decode())
    _keep(folder / "received", task)
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    answer = answers.get(task["task_type"], answers.get("", _DEFAULT))
    if answer.get("hang"):
        while True:
            time.sleep(3600)
    sys.stdout.buffer.write(str(answer.get("output", "")).encode())
    sys.stderr.buffer.write(str(answer.get("error", "")).encode())
    return int(answer.get("exit_code", 0))


def _task_in(prompt: str) -> dict[str, Any]:
    """The message of the task, which the prompt holds as one line of JSON."""
    found = re.search(r"^\{.*\}$", prompt, re.MULTILINE)
    if found is None:
        raise SystemExit("the prompt holds no task")
    return dict(json.loads(found.group(0)))


def _keep(received: Path, task: dict[str, Any]) -> None:
    """Write the task under a name that sorts by time; readers never see a part of it."""
    name = f"{time.time_ns():020}-{os.getpid()}"
    new = received / f"{name}.new"
    new.write_text(json.dumps(task), encoding="utf-8")
    new.rename(received / f"{name}.json")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
