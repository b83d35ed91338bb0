#!/usr/bin/env python3
"""The agent of the storm that asks: it speaks the Agent Client Protocol, and does one thing only if a person allows it.

    asking_agent.py RECORD USES

Run with `-I -S`: it needs the standard library alone. What it was allowed to do is a line in the file USES.
"""

import json
import os
import sys
import time

OPTIONS = [
    {"optionId": "yes", "name": "Allow", "kind": "allow_once"},
    {"optionId": "no", "name": "Reject", "kind": "reject_once"},
]


def send(**message: object) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def note(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def main() -> None:
    record, uses = sys.argv[1:]
    task_id, worker = os.environ["AGENTBUS_TASK_ID"], os.environ["CHAOS_WORKER"]
    attempt, prompt = os.environ["AGENTBUS_ATTEMPT"], None
    for line in sys.stdin:
        message = json.loads(line)
        match message.get("method"):
            case "initialize":
                about = {"name": "storm", "version": "1"}
                send(id=message["id"], result={"protocolVersion": 1, "agentCapabilities": {}, "agentInfo": about})
            case "session/new":
                send(id=message["id"], result={"sessionId": "s"})
            case "session/prompt" if prompt is None:
                note(record, f"{time.time():.6f} {worker} {os.getpid()} {attempt} {task_id}\n")
                prompt = message["id"]
                call = {"toolCallId": "c", "title": "use", "kind": "execute", "rawInput": {"command": f"use {task_id}"}}
                params = {"sessionId": "s", "toolCall": call, "options": OPTIONS}
                send(id="ask", method="session/request_permission", params=params)
            case "session/prompt":  # a further turn, with the reason of a denial
                send(id=message["id"], result={"stopReason": "end_turn"})
            case "session/cancel":
                send(id=prompt, result={"stopReason": "cancelled"})
            case None if message.get("id") == "ask":
                allowed = message["result"]["outcome"].get("optionId") == "yes"
                if allowed:
                    note(uses, f"{task_id} {worker} {attempt}\n")
                said = {"type": "text", "text": f"{'allowed' if allowed else 'denied'} {task_id}"}
                update = {"sessionUpdate": "agent_message_chunk", "content": said}
                send(method="session/update", params={"sessionId": "s", "update": update})
                send(id=prompt, result={"stopReason": "end_turn"})
            case _:
                pass


if __name__ == "__main__":
    main()
