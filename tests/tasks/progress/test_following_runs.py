"""What runs do is told while they go on, over restarts of the server and takeovers, and it never holds them up."""

import asyncio
import json
import re
import sys
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

from agentbus import Coordinator
from agentbus.bus.setup import set_up
from agentbus.errors import BusError
from agentbus.protocol.progress import names
from agentbus.protocol.progress.events import MAX_STORED_BYTES, RunEvent
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.task_handle import TaskHandle
from support.harness import SUPPORT, eventually, run_cli, worker, worker_toml
from support.jobs import agent_keys, short_lease
from support.outage import outage_of
from support.pseudo_terminal import acting, on_terminal

pytestmark = pytest.mark.posix("runs workers")

EVENT_AGENT = [sys.executable, str(SUPPORT / "event_agent.py"), "{input}"]
TOLD_WITHIN_S = 20.0
"""Two seconds on a machine that does nothing else."""


class Followed:
    """The events of a task, collected as they come."""

    def __init__(self, task: TaskHandle) -> None:
        self.events: list[RunEvent] = []
        self._reading = asyncio.create_task(self._read(task))

    async def _read(self, task: TaskHandle) -> None:
        async with aclosing(task.events()) as events:
            async for event in events:
                self.events.append(event)

    def has(self, text: str) -> bool:
        return any(text in event.in_words for event in self.events)

    async def until(self, text: str) -> None:
        await eventually(lambda: self.has(text) or self._reading.done(), f"{text!r} is told")
        assert self.has(text), [event.in_words for event in self.events]

    async def ended(self) -> list[RunEvent]:
        await asyncio.wait_for(self._reading, 60)
        return self.events


def config(folder: Path, url: str, name: str = "w", **agent: Any) -> Path:
    """The configuration of a worker whose agent prints events."""
    (folder / name).mkdir()
    return agent_keys(worker_toml(folder / name, url, chat_cmd=EVENT_AGENT), **{"output": "claude", **agent})


@pytest.fixture
async def bus(coordinator: Coordinator) -> Coordinator:
    """A coordinator on a bus with the streams of the agent `code`, whose lease is short."""
    await short_lease(coordinator)
    await set_up(coordinator.bus, ["code"])
    return coordinator


async def test_a_tool_is_told_while_it_runs_and_all_of_it_in_order(
    tmp_path: Path, server: NatsServer, bus: Coordinator
):
    go = tmp_path / "go"
    async with worker(config(tmp_path, server.url)):
        words = f"text:I_look tool:Bash:npm_test sleep:1.2 wait:{go} end:Bash:3_passed done:all_is_well"
        task = await bus.publish("code", words)
        followed = Followed(task)
        await followed.until("uses Bash: npm test")
        early = await run_cli("task", "logs", "--raw", task.id, "--nats-url", server.url)
        assert (early.code, "it has no transcript yet" in early.err) == (1, True), early
        progress = await task.progress()
        assert progress is not None
        assert progress.in_words.startswith("uses Bash: npm test (after ")
        shown = await run_cli("task", "get", task.id, "--nats-url", server.url)
        assert '"last":"uses Bash: npm test","kind":"tool"' in shown.out
        status = await run_cli("status", "--nats-url", server.url)
        assert '"last":"uses Bash: npm test"' in status.out
        go.touch()
        events = await followed.ended()
        assert (await task.result()).result == "all is well"
    assert [event.in_words for event in events] == [
        "started sonnet in /work",
        "I look",
        "uses Bash: npm test",
        "Bash ended: 3 passed",
        "1,200 tokens in, 34 out, $0.25",
    ]
    assert [event.at for event in events] == sorted(event.at for event in events if event.at)
    kept = [event async for event in task.events(follow=False)]
    assert kept == events
    logs = await run_cli("task", "logs", task.id, "--nats-url", server.url)
    assert [json.loads(line)["kind"] for line in logs.out.splitlines()] == [
        "start",
        "text",
        "tool",
        "tool_end",
        "usage",
    ]
    raw = await run_cli("task", "logs", "--raw", task.id, "--nats-url", server.url)
    assert (raw.code, raw.out.encode()) == (0, b"".join([piece async for piece in task.transcript()]))
    assert [json.loads(line)["type"] for line in raw.out.splitlines()][-1] == "result"


async def test_a_tool_is_told_within_two_seconds(tmp_path: Path, server: NatsServer, bus: Coordinator):
    at, go = tmp_path / "at", tmp_path / "go"
    async with worker(config(tmp_path, server.url)):
        task = await bus.publish("code", f"sleep:1.5 touch:{at} tool:Bash:ls wait:{go} done:x")
        followed = Followed(task)
        await followed.until("uses Bash: ls")
        [event] = [event for event in followed.events if event.kind == "tool"]
        assert event.at is not None
        assert event.at.timestamp() - float(at.read_text(encoding="utf-8")) < TOLD_WITHIN_S
        go.touch()
        await followed.ended()


async def test_a_command_that_prints_text_is_told_line_by_line(tmp_path: Path, server: NatsServer, bus: Coordinator):
    go = tmp_path / "go"
    path = worker_toml(tmp_path, server.url)
    async with worker(path, env={"DEPLOY_TOKEN": "a-very-plain-value"}):
        words = f"say:first_line stderr:a_warning env:DEPLOY_TOKEN wait:{go} say:last_line"
        task = await bus.publish("code", words)
        followed = Followed(task)
        await followed.until("first line")
        go.touch()
        events = await followed.ended()
        quick = await bus.publish("code", "say:quick")
        await quick.result()
        assert await quick.progress() is None, "its result is there as soon"
        logs = await run_cli("task", "logs", quick.id, "--nats-url", server.url)
        raw = await run_cli("task", "logs", "--raw", quick.id, "--nats-url", server.url)
        both = await run_cli("task", "logs", "--raw", "-f", quick.id, "--nats-url", server.url)
    assert json.loads(logs.out) == {"kind": "text", "t": 0, "text": "quick"}
    assert raw.out == "quick\n"
    assert (both.code, "exclude each other" in both.err) == (2, True), both
    assert [(event.text, event.on_stderr) for event in events] == [
        ("first line\n[redacted]", False),
        ("a warning", True),
        ("last line", False),
    ]


@pytest.mark.parametrize(("kinds", "told"), [("tools", ["start", "tool", "usage"]), ("off", [])])
async def test_a_worker_tells_as_much_as_it_is_configured_to(
    kinds: str, told: list[str], tmp_path: Path, server: NatsServer, bus: Coordinator
):
    async with worker(config(tmp_path, server.url, progress=kinds)):
        task = await bus.publish("code", "text:secret_plans tool:Bash:ls sleep:1.1 done:x")
        await task.result()
        assert [event.kind async for event in task.events()] == told


async def test_following_goes_on_over_a_restart_of_the_server(tmp_path: Path):
    go, then = tmp_path / "go", tmp_path / "then"
    async with outage_of(tmp_path / "nats") as outage:
        await set_up(outage.bus.bus, ["code"])
        async with worker(config(tmp_path, outage.url)):
            task = await outage.bus.publish("code", f"tool:Bash:before wait:{go} tool:Bash:after wait:{then} done:x")
            followed = Followed(task)
            await followed.until("uses Bash: before")
            outage.begin()
            go.touch()
            await outage.end()
            await followed.until("uses Bash: after")
            then.touch()
            events = await followed.ended()
    assert [event.text for event in events if event.kind == "tool"] == ["before", "after"]


async def test_following_goes_on_when_another_worker_takes_the_task_over(
    tmp_path: Path, server: NatsServer, bus: Coordinator
):
    go = tmp_path / "go"
    async with worker(config(tmp_path, server.url, "one")) as first:
        task = await bus.publish("code", f"tool:Bash:make wait:{go} done:x")
        followed = Followed(task)
        await followed.until("uses Bash: make")
        first.kill()
        async with worker(config(tmp_path, server.url, "two")):
            await eventually(lambda: len([one for one in followed.events if one.kind == "tool"]) == 2, "told again")
            go.touch()
            events = await followed.ended()
    assert [event.attempt for event in events if event.kind == "tool"] == [1, 2]


@pytest.mark.gate("4000000")
@pytest.mark.parametrize("count", [4_000_000, 100_000_000])
async def test_a_flood_costs_the_bus_little_and_pushes_out_nothing_of_others(
    count: int, tmp_path: Path, server: NatsServer, bus: Coordinator
):
    await set_up(bus.bus, ["code", "doc"])
    other = worker_toml(tmp_path, server.url, agent="doc", chat_cmd=EVENT_AGENT)
    go = tmp_path / "go"
    async with worker(config(tmp_path, server.url)) as flooding, worker(agent_keys(other, output="claude")):
        before = await bus.publish("doc", f"tool:Read:file wait:{go} done:x")
        await Followed(before).until("uses Read: file")
        idle_kb = _memory_kb(flooding.pid)
        task = await bus.publish("code", f"tool:Bash:talk sleep:1.1 flood:{count} tool:Bash:end sleep:1 done:over")
        result = await task.result(timeout_s=200)
        grown_kb = _memory_kb(flooding.pid) - idle_kb
        events = [event async for event in task.events()]
        kept = await bus.bus.stream_info(names.stream("code"))
        go.touch()
        assert [event.text async for event in before.events() if event.kind == "tool"] == ["file"]
    assert result.status == "completed"
    assert kept.state.bytes <= 8 << 20
    assert kept.state.messages <= 500
    assert [event.text for event in events if event.kind == "tool"] == ["talk", "end"]
    assert any(event.kind == "dropped" for event in events)
    assert grown_kb < 64 * 1024, "the events are not kept"


async def test_a_run_goes_on_unheld_while_the_bus_is_away_or_keeps_nothing(tmp_path: Path):
    go = tmp_path / "go"
    async with outage_of(tmp_path / "nats") as outage:
        await set_up(outage.bus.bus, ["code"])
        await outage.bus.bus.api(f"STREAM.DELETE.{names.stream('code')}")
        async with worker(config(tmp_path, outage.url)):
            task = await outage.bus.publish(
                "code", f"tool:Bash:ls wait:{go} flood:3000000 touch:{tmp_path / 'ran'} done:x"
            )
            await eventually(lambda: _working(task), "it runs")
            outage.begin()
            go.touch()
            await eventually((tmp_path / "ran").exists, "it does not wait for the bus")
            await outage.end()
            assert (await task.result(timeout_s=60)).status == "completed"
            logs = await run_cli("task", "logs", task.id, "--nats-url", outage.url)
            assert logs.code == 0, "its transcript is there"
            queued = await outage.bus.publish("code", f"wait:{tmp_path / 'never'}")
            none = await run_cli("task", "logs", queued.id, "--nats-url", outage.url)
            assert (none.code, "agentbus setup" in none.err) == (1, True)
            await queued.cancel()
            await queued.result(timeout_s=60)


async def _working(task: TaskHandle) -> bool:
    return (await task.status()).state == "working"


def _memory_kb(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1])


async def test_what_another_party_stores_there_harms_no_reader(server: NatsServer, bus: Coordinator):
    task = await bus.publish("code", "anything")
    key = TaskKey("code", task.id)
    hostile = [b"", b"\xff", b"[]", b"x" * MAX_STORED_BYTES, b'{"run":"r","attempt":1,"events":[{"kind":"text"}]}']
    for data in hostile[:-1]:
        with suppress(BusError):
            await bus.bus.store(names.of_task(key), data)
    await bus.bus.store(names.of_task(key), hostile[-1])
    assert [event.kind async for event in task.events(follow=False)] == ["text"]
    escape = {
        "run": "r2",
        "attempt": 1,
        "events": [{"kind": "tool", "name": "\x1b]0;owned\x07", "text": "a\n12:00 b\u202e"}],
    }
    await bus.bus.store(names.of_task(key), json.dumps(escape).encode())
    code, shown = await on_terminal("task", "logs", task.id, "--nats-url", server.url)
    assert (code, acting(shown)) == (0, [])
    assert "\n12:00 b" not in shown.replace("\r", ""), "no line of an agent looks like an event of its own"
