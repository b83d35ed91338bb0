#!/usr/bin/env python3
"""The agent command of the storm: puts each execution on record, then does what the kind of its task says.

    agent.py RECORD PROMPT

Run with `-I -S`: it needs the standard library alone, and is started hundreds of times.
"""

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
        case "stubborn":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(1)
        case _:
            pass
    if kind != "big":
        print(f"done {task_id}")


def main() -> None:
    record, prompt = sys.argv[1:]
    found = re.search(r"^\{.*\}$", prompt, re.MULTILINE)
    assert found, "the prompt holds the task"
    task = json.loads(found[0])
    content = task["payload"]["content"]
    worker, attempt = os.environ["CHAOS_WORKER"], os.environ["AGENTBUS_ATTEMPT"]
    line = f"{time.time():.6f} {worker} {os.getpid()} {attempt} {task['id']}\n"
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)
    act(content["kind"], task["id"], content["number"])


if __name__ == "__main__":
    main()
