#!/usr/bin/env python3
"""A fake agent command: does what the words of the task's content say, in order.

The content is found in the prompt, which is the last argument, or standard input if that is `-`, or the file that it
names after `@`: `say:TEXT`, `sleep:SECONDS`, `wait:PATH` (for a file), `exit:CODE`, `stderr:TEXT`, `bytes:N`, `raw`
(output that is not UTF-8),
`fork` (leave a grandchild that holds the pipes), `stubborn` (ignore SIGTERM), `env:NAME`, `approval`, `prompt` (print
the whole prompt), `touch:PATH`, `pid:PATH` (write one's pid), `stdin` (print what is there), `cwd`.

`group:PATH`, `session:PATH`, `daemon:PATH` and `bare:PATH` leave a process that ignores SIGTERM, holds the pipes and
writes its pid: in the group of the command, in a session of its own, twice forked, and that with no environment.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def content_of(prompt: str) -> str:
    found = re.search(r"^\{.*\}$", prompt, re.MULTILINE)
    task: dict[str, Any] = json.loads(found.group(0)) if found else {}
    payload: dict[str, Any] = task.get("payload") or {}
    content: Any = payload.get("content", "")
    return content if isinstance(content, str) else json.dumps(content)


def act(  # noqa: C901, PLR0912  # a word, a deed
    verb: str, value: str, prompt: str
) -> None:
    out = sys.stdout
    match verb:
        case "say":
            print(value.replace("_", " "), flush=True)
        case "sleep":
            time.sleep(float(value))
        case "wait":
            while not Path(value).exists():
                time.sleep(0.02)
        case "exit":
            sys.stdout.flush()
            os._exit(int(value))
        case "stderr":
            print(value.replace("_", " "), file=sys.stderr, flush=True)
        case "bytes":
            left = int(value)
            while left > 0:
                left -= out.write("x" * min(left, 65536))
        case "raw":
            out.buffer.write(b"caf\xe9 \xff\xfe ok\n")
        case "fork":
            subprocess.Popen(["sleep", value or "1000"])
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "env":
            print(os.environ.get(value, ""))
        case "approval":
            print("status=needs_approval\nmay I delete the branch?")
        case "prompt":
            out.write(prompt)
        case "pid":
            Path(value).write_text(f"{os.getpid()}\n", encoding="utf-8")
        case "group" | "session" | "daemon" | "bare":
            leave(verb, value)
        case "stdin":
            print(repr(sys.stdin.read()))
        case "cwd":
            print(Path.cwd())
        case "touch":
            with Path(value).open("a", encoding="utf-8") as file:
                file.write("ran\n")
        case _:
            print(verb)


def leave(kind: str, path: str) -> None:
    """Start a process that stays, and wait until it has written its pid."""
    stay = f"trap '' TERM; echo $$ > {path}; exec sleep 1000"
    if kind in ("group", "session"):
        subprocess.Popen(["/bin/sh", "-c", stay], start_new_session=kind == "session")
    else:
        subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "sh", "/usr/bin/env", "setsid", "/bin/sh", "-c", stay],
            check=True,
            env={"PATH": os.environ["PATH"]} if kind == "bare" else None,
        )
    while not Path(path).exists() or not Path(path).read_text(encoding="utf-8").endswith("\n"):
        time.sleep(0.01)


def given_prompt(word: str) -> str:
    if word == "-":
        return sys.stdin.read()
    return Path(word[1:]).read_text(encoding="utf-8") if word.startswith("@") else word


def main() -> None:
    prompt = given_prompt(sys.argv[-1])
    for word in content_of(prompt).split():
        verb, _, value = word.partition(":")
        act(verb, value, prompt)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
