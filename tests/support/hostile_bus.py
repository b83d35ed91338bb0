"""Fills a bus with text that acts on a terminal, in every field that another party can write."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.bus.topology import consumer_config
from agentbus.errors import ApiError
from agentbus.protocol import subjects
from agentbus.protocol.audit import names as audit
from agentbus.protocol.headers import DEAD_ORIGIN, DEAD_REASON, DEAD_SHA256, DEAD_SIZE, DEAD_WORKER
from agentbus.protocol.json_codec import Json, encode
from agentbus.protocol.messages import Task, decode_task
from agentbus.protocol.parties import agent_control
from agentbus.protocol.progress import names as progress
from agentbus.protocol.subjects import TaskKey
from agentbus.protocol.work.results import PATCH, Artifact
from agentbus.tasks.output_store import put_file
from support.hidden_characters import ALL, pieces
from support.in_pieces import in_pieces
from support.raw_publisher import publish_raw

AGENT, CLERK = "code", "clerk"
NAMES = pieces(120)
"""For fields that have a bound."""
SUBJECT_TOKENS = pieces(120, without=" .*>\t\r\n\0")
HEADERS = pieces(2_000, without="\r\n")
RAW = ALL.encode(errors="replace") + b"\x9b31m\xff\xfe\x9d52;c;eA==\x9c \r\x1b[2J no end"
"""Bytes that are no UTF-8."""

PATCH_TEXT = b"".join(b"diff --git a/%b b/%b\n+%b\n" % (one, one, one) for one in RAW.splitlines()) + RAW


@dataclass
class HostileBus:
    """What is on the bus, for the commands that are to show it."""

    by_state: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    dead: list[int] = field(default_factory=list[int])
    output: str = "output"


async def make_hostile(bus: Coordinator, url: str) -> HostileBus:
    """Write into every field, as a party that has the right to write there can."""
    await set_up(bus.bus, [AGENT, CLERK])
    made = HostileBus()
    for number, name in enumerate(NAMES):
        for state in ("queued", "working", "completed", "failed", "needs_approval", "cancelled"):
            task_id = f"{state}-{number}"
            made.by_state.setdefault(state, []).append(task_id)
            await _entry(bus, task_id, state, name)
        await _presence(bus, number, name)
        await bus.bus.store(subjects.tasks(CLERK), encode(_task(f"work-{number}", name, to=CLERK).to_json()))
    await _unreadable_entries(bus)
    names = (b"$KV.AGENT_STATE.code.\x9b31m\xff", b"$KV.AGENT_STATE.\x9b31m.job", b"agent.\x9b31m.dead")
    await publish_raw(url, *names)
    await _output(bus, made.output)
    await put_file(bus.bus, AGENT, "patch", in_pieces(PATCH_TEXT))
    await _inbox(bus)
    await _audit(bus)
    await _progress(bus)
    pause = {"by": ALL[:120], "reason": ALL[:400], "since": ALL[:120], ALL: ALL}
    await bus.bus.store(agent_control.key(AGENT), encode({"paused": pause}))
    made.dead = [await _dead_letter(bus, text) for text in (*HEADERS, ALL[:50]) for _ in range(4)]
    await _names_of_streams_and_consumers(bus)
    return made


def _task(task_id: str, name: str, to: str = AGENT) -> Task:
    """A task that is valid, and says what it likes in every field that is free."""
    fields: dict[str, Json] = {
        "id": task_id,
        "from": name,
        "to": to,
        "reply_to": None,
        "type": "task.request",
        "task_type": name,
        "payload": {"fmt": "text", "content": ALL},
        "created_at": name,
        ALL: {ALL: [ALL]},
    }
    return decode_task(encode(fields))


async def _entry(bus: Coordinator, task_id: str, state: str, name: str) -> None:
    task = _task(task_id, name)
    entry: dict[str, Any] = {
        "state": state,
        "digest": task.digest(),
        "sender": name,
        "inbox": "main",
        "task_type": name,
        "created_at": name,
        "attempt": 1,
        "last_failure": ALL,
        "settled_at": name,
        ALL: ALL,
    }
    if state == "working":
        entry["claim"] = {"worker": name, "nonce": "n", "lease_s": 30, "since": name}
        entry["questions"] = _questions(name)
    if state == "cancelled":
        entry["cancel"] = {"by": name, "reason": ALL, "at": name}
    if state not in ("queued", "working"):
        entry["result"] = _result(task, state, name)
        await bus.bus.store(subjects.results("main"), encode(entry["result"]))
    asks = {"Bus-Questions": "2"} if state == "working" else {}
    await bus.bus.store(subjects.state(TaskKey(AGENT, task_id)), encode(entry), headers={"Bus-State": state, **asks})


def _questions(name: str) -> list[Json]:
    """An open question and an interrupted one."""
    words: dict[str, Json] = {"operation": name, "arguments": {ALL[:400]: ALL[:400]}, "folder": ALL[:400]}
    words |= {"text": ALL[:1_000], "asked_at": name, "until": name, "arguments_digest": "0" * 64}
    return [{**words, "nonce": nonce, "number": 1, "answer": None} for nonce in ("n", "other")]


def _result(task: Task, status: str, name: str, **more: Json) -> dict[str, Json]:
    return {
        "id": f"result-{task.id}",
        "type": "task.result",
        "status": status,
        "task": task.to_json(),
        "result": ALL,
        "error": ALL,
        "completed_at": name,
        "worker": name,
        "exit_code": name,
        "stderr": ALL,
        **_work(),
        ALL: {ALL: ALL},
        **more,
    }


def _work() -> dict[str, Json]:
    """What a run has left, as far as its names are taken."""
    patch = Artifact(PATCH, len(PATCH_TEXT), hashlib.sha256(PATCH_TEXT).hexdigest(), ALL, "patch").to_json()
    left: Json = [{"name": ALL, "why": ALL}]
    changes = {"base": "a" * 40, "head": "b" * 40, "branch": "agentbus/x", "base_ref": ALL, "commits": 1, ALL: ALL}
    changes |= {"log": [{"id": "b" * 40, "title": ALL}], "left_out": left}
    return {"artifacts": [patch, {**patch, "name": ALL}], "changes": changes, "left_out": left}


async def _presence(bus: Coordinator, number: int, name: str) -> None:
    about = {"agent": AGENT, "instance": f"machine-{number}", "host": name, "pid": 1, "version": name, "slots": 1}
    about |= {"free": 1, "description": f"{ALL[:100]}{name}", "command": name, "started_at": name, ALL: ALL}
    await bus.bus.store(subjects.presence(AGENT, f"machine-{number}"), encode(about))


async def _unreadable_entries(bus: Coordinator) -> None:
    """Keys that are none, and entries that are none: an error is free to quote both."""
    for token in SUBJECT_TOKENS:
        await bus.bus.store(subjects.state(TaskKey(AGENT, token)), b"{}")
        await bus.bus.store(subjects.state(TaskKey(token, "job")), encode({ALL: ALL}))
        await bus.bus.store(subjects.presence(AGENT, token), encode({"agent": AGENT, "instance": token}))
        await bus.bus.store(f"agent.{token}.tasks", encode(ALL))
        await bus.bus.store(f"agent.{token}.results", encode(ALL))
    broken = {"state": ALL, "claim": {ALL: ALL}, "result": {ALL: ALL}, "cancel": ALL}
    for number, data in enumerate((encode(broken), encode(ALL), RAW)):
        await bus.bus.store(
            subjects.state(TaskKey(AGENT, f"broken-{number}")), data, headers={"Bus-State": ALL.translate(_ONE)}
        )


async def _output(bus: Coordinator, task_id: str) -> None:
    """A large output: the bytes of another party, in a file of its agent."""
    task, name = _task(task_id, "x"), f"result-{task_id}"
    stored = await put_file(bus.bus, AGENT, name, in_pieces(RAW[:100], RAW[100:]))
    note: dict[str, Json] = {"bytes": stored.size, "kept": 1, "sha256": stored.sha256, "truncated": True}
    note["file"] = {"bucket": stored.bucket, "name": name}
    result = _result(task, "completed", "x", result="s", output=note)
    entry: dict[str, Any] = {"state": "completed", "digest": task.digest(), "sender": "x", "inbox": "main"}
    entry |= {"task_type": "x", "result": result}
    await bus.bus.store(subjects.state(TaskKey(AGENT, task_id)), encode(entry))


async def _inbox(bus: Coordinator) -> None:
    for data in (RAW, encode(ALL), encode({ALL: ALL}), encode({"type": "task.result", "status": ALL, "agentbus": ALL})):
        await bus.bus.store(subjects.results("main"), data)


async def _audit(bus: Coordinator) -> None:
    for text in NAMES:
        told = {"by": "main", "agent": AGENT, "owner": text, "task": text, "detail": text}
        await bus.bus.store(audit.said("cancel"), encode(told))
        await bus.bus.store(audit.said("drop"), encode({**told, "by": text}))
    for token in SUBJECT_TOKENS:
        await bus.bus.store(f"audit.{token}.said.{token}", RAW)
    for data in (RAW, encode(ALL), encode({ALL: ALL}), encode({"by": "main", "task": {ALL: ALL}})):
        await bus.bus.store(audit.said("answer"), data)


async def _progress(bus: Coordinator) -> None:
    """What runs tell: one of them running, one with a result."""
    kinds = ("start", "text", "tool", "tool_end", "retry", "question", "notice")
    for number, text in enumerate(NAMES):
        for state in ("working", "failed"):
            subject = progress.of_task(TaskKey(AGENT, f"{state}-{number}"))
            await bus.bus.store(subject, RAW[:2_000])
            for kind in (text, *kinds):
                event: Json = {"kind": kind, "t": 1, "text": ALL, "name": text}
                await bus.bus.store(
                    subject, encode({"run": text, "attempt": 1, "elapsed_s": 1, "events": [event], ALL[:20]: ALL[:20]})
                )


async def _dead_letter(bus: Coordinator, text: str) -> int:
    names = (DEAD_REASON, DEAD_WORKER, DEAD_SHA256, DEAD_ORIGIN)
    headers = {**{name: text.translate(_ONE) for name in names}, DEAD_SIZE: str(len(RAW))}
    return (await bus.bus.store(subjects.dead(AGENT), RAW, headers=headers)).seq


async def _names_of_streams_and_consumers(bus: Coordinator) -> None:
    """Those that the server takes; which they are differs between its versions."""
    for number, token in enumerate(SUBJECT_TOKENS):
        with suppress(ApiError):
            config = consumer_config(f"other-{number}", token)
            await bus.bus.create_consumer(subjects.TASKS_STREAM, token, config)
        with suppress(ApiError):
            foreign = {"durable_name": token, "ack_policy": "none", "description": ALL}
            verb = f"CONSUMER.DURABLE.CREATE.{subjects.RESULTS_STREAM}.{token}"
            await bus.bus.api(verb, {"stream_name": subjects.RESULTS_STREAM, "config": foreign})
        with suppress(ApiError):
            name = f"OBJ_AGENT_FILES_{token}"
            await bus.bus.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [token], "description": ALL})


_ONE = {ord("\r"): None, ord("\n"): None}
"""For headers, which are one line."""
