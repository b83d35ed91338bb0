# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false, reportCallIssue=false
"""Writes what the earlier version stores: the messages of a bus, and the files of a worker and of a bus folder.

It ran on the code of commit 494a9a9, and is kept to show how the files beside it came about:

    PYTHONSAFEPATH=1 PYTHONPATH=UNPACKED_WHEEL python tests/recorded/wire/make_recorded.py tests/recorded/wire

Times, ids and keys are fixed. `tests/system/test_compatibility_wire.py` does the same with today's code.
"""

import asyncio
import base64
import json
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from agentbus.bundle import bundle_text
from agentbus.ledger import Claim, Ledger, claimed, renewed, settled
from agentbus.server import run_server
from agentbus.streams import set_up

from agentbus import busfolder, connect, ledger, messages, nkeys, registry, results, tasks
from agentbus_mcp import task_records
from agentbus_worker import children, deadletter, outbox

TIME = datetime.fromisoformat("2026-11-28T22:26:36.123456+00:00")
CLAIM = Claim(worker="machine-1", nonce="n" * 20, lease_s=60.0, since=TIME.isoformat())
STATUSES = ("completed", "failed", "needs_approval", "cancelled")
STREAMS = ("AGENT_TASKS", "AGENT_RESULTS", "AGENT_DEAD", "KV_AGENT_STATE", "KV_AGENT_REGISTRY")


class FixedTime(datetime):
    @classmethod
    def now(cls, tz=None):
        return TIME.astimezone(tz)


def seeds():
    """Give seeds that are always the same."""
    prefix = bytes([nkeys._SEED | (nkeys._USER >> 5), (nkeys._USER & 31) << 3])
    for number in range(1, 9):
        yield nkeys._encode(prefix + bytes([number]) * 32)


def fix(module, name, value):
    setattr(module, name, value)


def fix_all():
    for module in (messages, task_records):
        fix(module, "datetime", FixedTime)
    for module in (children, task_records):
        fix(module, "random_token", lambda chars=20: "r" * chars)
    fix(children, "birth", lambda _pid: "b0071d 12345")
    given = seeds()
    fix(nkeys, "new_seed", lambda: next(given))


def result_of(task, status):
    return messages.new_result(
        task.to_json(),
        result_id=messages.make_result_id("code", task.id, CLAIM.nonce),
        status=status,
        result="grün ✓\n",
        error="the command exited with status 3" if status == "failed" else None,
        extra={"worker": "machine-1", "exit_code": 3 if status == "failed" else 0, "duration_seconds": 1.5},
    )


async def store_tasks(coordinator):
    bus = coordinator.bus
    stored = Ledger(bus)

    async def new(task_id):
        content = {"text": "Prüfe PR 123", "list": [1, 2.5, None, True]}
        task = messages.new_task(
            to="code", content=content, payload_format="json", task_type="review", reply_to="ops", task_id=task_id
        )
        await tasks.publish(bus, task)
        return task, await stored.read("code", task_id)

    await new("job-queued")
    _, record = await new("job-working")
    entry = claimed(record.entry, CLAIM, 1)
    revision = await stored.write("code", "job-working", entry, revision=record.revision)
    await stored.write("code", "job-working", renewed(entry), revision=revision)
    _, record = await new("job-retried")
    entry = claimed(record.entry, CLAIM, 1)
    revision = await stored.write("code", "job-retried", entry, revision=record.revision)
    changes = {"state": "queued", "retry_after_s": 10.5, "last_failure": "the command exited with status 3"}
    await stored.write("code", "job-retried", entry.model_copy(update=changes), revision=revision)
    await new("job-cancelling")
    await coordinator.cancel("job-cancelling", reason="not needed")
    for status in STATUSES:
        task, record = await new(f"job-{status}")
        entry = claimed(record.entry, CLAIM, 1)
        revision = await stored.write("code", task.id, entry, revision=record.revision)
        result = result_of(task, status)
        await stored.write("code", task.id, settled(entry, status, result), revision=revision)
        await results.publish_result(bus, "ops", result)


async def settled_quietly(*_):
    """Stand in for the end of a delivery that never was."""


async def store_others(coordinator):
    delivery = SimpleNamespace(
        stream="AGENT_TASKS",
        stream_seq=17,
        stored_at=TIME,
        data='{"id":"job-7","from":"agent-main","type":"task.request","task_type":7,"note":"grün"}'.encode(),
        headers={"Nats-Msg-Id": "task.code.job-7"},
        term=settled_quietly,
        nak=settled_quietly,
    )
    await deadletter.bury(
        coordinator.bus, delivery, agent="code", worker="machine-1", reason="not a valid task: to: is missing"
    )
    presence = registry.Presence(
        agent="code", instance="machine-1", host="machine", pid=4711, version="0.1.0", description="reviews",
        command="claude", slots=2, free=1, running=("job-working",), started_at=TIME.isoformat(),
    )  # fmt: skip
    await registry.announce(coordinator.bus, presence)
    state = {"watch": {"task_ids": ["job-queued"], "until": "any"}, "inbox": "main", "elicits": True}
    await task_records.create(coordinator, "watch_results", state, ttl_ms=2_592_000_000)
    kept = await task_records.create(coordinator, "publish_task", state, ttl_ms=2_592_000_000)
    body = {"content": [{"type": "text", "text": "grün"}], "isError": False}
    await task_records.change(coordinator, kept, end=task_records.End(status="completed", body=body))


async def dump(bus):
    found = []
    for stream in STREAMS:
        state = (await bus.api(f"STREAM.INFO.{stream}"))["state"]
        for seq in range(state["first_seq"], state["last_seq"] + 1):
            try:
                message = (await bus.api(f"STREAM.MSG.GET.{stream}", {"seq": seq}))["message"]
            except Exception:  # noqa: BLE001  # a later one of the same key has replaced it
                continue
            found.append(
                {
                    "stream": stream,
                    "subject": message["subject"],
                    "headers": base64.b64decode(message.get("hdrs", "")).decode(),
                    "data": base64.b64decode(message.get("data", "")).decode(),
                }
            )
    return found


async def write_bus(folder):
    with tempfile.TemporaryDirectory() as store:
        async with run_server(store=Path(store)) as server, connect(server.url) as coordinator:
            await set_up(coordinator.bus)
            await store_tasks(coordinator)
            await store_others(coordinator)
            text = json.dumps(await dump(coordinator.bus), ensure_ascii=False, indent=1)
    (folder / "messages.json").write_text(text + "\n", encoding="utf-8")


async def write_worker(folder):
    task = messages.new_task(to="code", content="x", task_type="test", task_id="job-outbox")
    unsent = outbox.Unsent(
        agent="code", task_id=task.id, nonce=CLAIM.nonce, status="completed", inbox="ops",
        result=result_of(task, "completed"), written_at=1795904796.5, revision=7, trace={"traceparent": "00-1-2-01"},
    )  # fmt: skip
    (folder / "outbox").mkdir(exist_ok=True)
    await outbox.Outbox(folder / "outbox").put(unsent)
    (folder / "children").mkdir(exist_ok=True)
    running = children.Children(folder / "children")
    running.__enter__()
    running.record(children.Run(4711, running.new_run_id()), "job-working")


def write_bus_folder(folder):
    with tempfile.TemporaryDirectory() as made:
        plan = busfolder.Plan(hosts=("bus.example.com",))
        bus = busfolder.create(Path(made), plan, ["code", "doc"])
        bus.add("lead", ["code"])
        for name in ("bus.toml", "accounts.conf", "admin.toml"):
            text = (Path(made) / name).read_text(encoding="utf-8").replace(made, "/srv/bus")
            (folder / name).write_text(text, encoding="utf-8")
        bundle = bus.bundle("lead").model_copy(update={"ca": "no certificate\n"})
        (folder / "lead.bundle").write_text(bundle_text(bundle), encoding="utf-8")


def main():
    folder = Path(sys.argv[1])
    assert not ledger.__file__.startswith(str(Path.cwd())), "this is not the earlier version"
    assert TIME + timedelta(0) == FixedTime.now(TIME.tzinfo)
    fix_all()
    asyncio.run(write_bus(folder))
    asyncio.run(write_worker(folder))
    write_bus_folder(folder)


if __name__ == "__main__":
    main()
