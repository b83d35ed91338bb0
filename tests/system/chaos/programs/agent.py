#!/usr/bin/env python3
"""The agent command of the storm: puts each execution on record, then does what the kind of its task says.

    agent.py RECORD [--resume SESSION] PROMPT

Run with `-I -S`: it needs the standard library alone, and is started hundreds of times.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time

BIG_BYTES = 5 * 1024 * 1024


def big_output(task_id: str) -> bytes:
    """Five MiB that only this task prints."""
    line = f"{task_id}\n".encode()
    return (line * (BIG_BYTES // len(line) + 1))[:BIG_BYTES]


def act(kind: str, task_id: str, number: int) -> None:
    match kind:
        case "slow":
            time.sleep(2)
        case "crash":
            os._exit(1 + number % 100)
        case "hang":
            if number % 2:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        case "big":
            sys.stdout.buffer.write(big_output(task_id))
        case "fork":
            subprocess.Popen(["sleep", "600"])
        case "setsid":
            if number % 2:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the grandchild inherits it
            subprocess.Popen(["sleep", "600"], start_new_session=True)
        case "edit":
            write(f"of-{task_id}", f"{task_id}\n")
            time.sleep(0.5 * (number % 2))
            os.mkdir(os.environ["AGENTBUS_ARTIFACTS"])  # noqa: PTH102  # pathlib takes long to import
            write(f"{os.environ['AGENTBUS_ARTIFACTS']}/report.txt", f"{task_id}\n")
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1)
        case _:
            pass
    if kind != "big":
        print(f"done {task_id}")


def write(path: str, text: str) -> None:
    """Write a file, also where an earlier run has left it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT, 0o600)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def converse(task_id: str, content: dict[str, object] | None, session: str | None) -> None:
    """Answer in a session, as Claude Code prints it: with the task that the session began with.

    A session is a file; two runs in one at the same time are told in the answer.
    """
    name = session or os.urandom(8).hex()
    path = f"{os.environ['HOME']}/session-{name}"
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | (0 if session else os.O_CREAT), 0o600)
    say({"type": "system", "subtype": "init", "session_id": name, "model": "storm"})
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, f"{task_id}\n".encode())
        time.sleep(0.5 if content and int(str(content["number"])) % 2 else 0)
        answer = f"done {task_id} after {os.pread(descriptor, 4096, 0).decode().split()[0]}"
    except BlockingIOError:
        answer = f"two runs are in the session {name}"
    say(
        {"type": "assistant", "session_id": name, "message": {"id": "m", "content": [{"type": "text", "text": answer}]}}
    )
    say({"type": "result", "subtype": "success", "is_error": False, "result": answer, "session_id": name})


def say(event: dict[str, object]) -> None:
    print(json.dumps(event), flush=True)


def main() -> None:
    record, *resume, prompt = sys.argv[1:]
    found = re.search(r"^\{.*\}$", prompt, re.MULTILINE)
    task_id, content = os.environ["AGENTBUS_TASK_ID"], None
    if found is not None:
        task = json.loads(found[0])
        task_id, content = task["id"], task["payload"]["content"]
    worker, attempt = os.environ["CHAOS_WORKER"], os.environ["AGENTBUS_ATTEMPT"]
    line = f"{time.time():.6f} {worker} {os.getpid()} {attempt} {task_id}\n"
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)
    if resume or (content and content["kind"] == "talk"):  # what goes on with a session after a kill has no task
        converse(task_id, content, resume[1] if resume else None)
        return
    assert content, "the prompt holds the task"
    act(content["kind"], task_id, content["number"])


if __name__ == "__main__":
    main()
