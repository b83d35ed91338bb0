"""The page of the bus and every list, on terminals of 40, 80 and 200 columns, with contents as long as they can be."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len

from agentbus import Coordinator
from agentbus.admin.overview import OverviewReader
from agentbus.cli.coordinator.showing.page import page_lines
from agentbus.cli.coordinator.watching.keys import names_of
from agentbus.protocol.ledger_entry import Claim, Record, claimed
from agentbus.protocol.messages import Failure
from agentbus.protocol.subjects import TaskKey
from agentbus.provision.nats_server import NatsServer
from agentbus.tasks.ledger import Ledger
from agentbus.tasks.presence import Presence, announce
from support.harness import run_cli
from support.mcp_harness import settle
from support.pseudo_terminal import OnTerminal, terminal

LONG = "审查这个提交并说明原因" * 40
AGENT = "d" * 64
TASK = "t" * 128


async def work(bus: Coordinator, task_id: str, worker: str, agent: str = "code") -> None:
    """Have a worker claim a task."""
    key = TaskKey(agent, task_id)
    record = await Ledger(bus.bus).read(key)
    assert isinstance(record, Record)
    claim = Claim(worker=worker, nonce="n", lease_s=30, since=datetime.now(UTC).isoformat())
    await Ledger(bus.bus).write(key, claimed(record.entry, claim, 1), revision=record.revision)


async def fill(bus: Coordinator) -> None:
    """Make one of each that a page shows: what fails, asks, is lost, runs, waits and was cancelled."""
    presence = Presence(
        agent="code", instance="w1", host="h", pid=1, version="0.1.0", slots=2, free=1,
        started_at=datetime.now(UTC).isoformat(), description=LONG[:500],
    )  # fmt: skip
    await announce(bus.bus, presence)
    for task_id in ("failed", "asks", "lost", "runs", "cancelled", "waits"):
        await bus.publish("code", LONG, task_id=task_id, task_type="t" * 128, group="g" * 64)
    await bus.publish(AGENT, LONG, task_id=TASK)
    await settle(bus, "failed", "", status="failed", error=LONG, failure=Failure("rate_limit", LONG[:100]))
    await settle(bus, "asks", "may I?", status="needs_approval")
    await work(bus, "lost", "w0")
    await work(bus, "runs", "w1")
    await bus.task("cancelled").cancel(LONG)


async def test_a_page_has_the_order_in_which_a_person_looks(coordinator: Coordinator) -> None:
    await fill(coordinator)
    found = await OverviewReader(coordinator, recent=10).read()
    assert [(need.kind, need.status.task_id if need.status else need.agent) for need in found.needs.named] == [
        ("approval", "asks"),
        ("lost", "lost"),
        ("no_worker", AGENT),
        ("failed", "failed"),
    ]
    assert [status.task_id for status in found.running] == ["runs"], "the lost one does not run"
    assert {status.task_id for status in found.queued} == {"waits", TASK}
    assert [status.task_id for status in found.queued] == sorted(
        (status.task_id for status in found.queued), key=["waits", TASK].index
    ), "the oldest first"
    counts = {one.agent: (one.queued, one.running) for one in found.tasks}
    assert counts[AGENT] == (1, 0)
    shown = found.to_json()
    assert shown["counts"] == {"approval": 1, "lost": 1, "no_worker": 1, "failed": 1, "running": 1, "queued": 5}
    for width in (40, 80, 200):
        lines = [line for part in page_lines(found, width) for line in part.text.plain.split("\n")]
        assert all(cell_len(line) <= width or line.strip() in (TASK, f"agent {AGENT}", AGENT) for line in lines), lines
        assert all(char.isprintable() for line in lines for char in line)
        heads = [line for line in lines if re.match(r"(Needs you|Running|Queued|Agents|Settled)", line)]
        assert [head.split()[0] for head in heads] == ["Needs", "Running", "Queued", "Agents", "Settled"]
        first_words = {line.split()[0] for line in lines if line.split()}
        assert {"failed", "asks", "lost", "runs", "waits", TASK, AGENT} <= first_words


async def test_counts_are_of_tasks_also_where_a_worker_was_given_a_cancelled_one(coordinator: Coordinator) -> None:
    await coordinator.publish("doc", "x", task_id="gone")
    await coordinator.task("gone").cancel()
    found = await OverviewReader(coordinator).read()
    assert [(one.agent, one.queued, one.running) for one in found.tasks] == [("doc", 0, 0)]
    assert (found.queued, found.needs.named) == ([], [])


LISTS = (
    ("status",), ("task", "list"), ("task", "list", "--group", "g" * 64), ("agent", "list"), ("question", "list"),
    ("cost", "--by", "group"), ("dead", "list"), ("audit",), ("task", "get", "code/failed"), ("consumers", "list"),
)  # fmt: skip


@pytest.mark.posix("needs a pseudo-terminal")
async def test_every_list_fits_terminals_of_40_80_and_200_columns(server: NatsServer, coordinator: Coordinator) -> None:
    await fill(coordinator)
    await coordinator.bus.publish("agent.code.dead", b"no task")
    whole = {TASK, AGENT, f"agent {AGENT}", f"{AGENT}/{TASK}", "g" * 64, f"code/{'g' * 64}"}

    async def one(columns: int, command: tuple[str, ...]) -> None:
        argv = ["-m", "agentbus", *command, "--nats-url", server.url]
        async with terminal(argv, columns=columns, streams="stdout") as running:
            pass
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in running.shown.splitlines()]
        assert running.child.returncode == 0, lines
        # What an agent or a sender says is folded by the terminal itself; ids are never folded.
        assert not [
            line
            for line in lines
            if cell_len(line) > columns and not whole & set(line.split()) and LONG[:5] not in line
        ], command

    for columns in (40, 80, 200):
        await asyncio.gather(*(one(columns, command) for command in LISTS))


@pytest.mark.posix("needs a pseudo-terminal")
async def test_of_80_columns_ids_are_whole_and_tasks_are_told_apart(
    server: NatsServer, coordinator: Coordinator
) -> None:
    tasks = [await coordinator.publish("code", f"{word} the login page of the shop") for word in ("Test", "Paint")]
    why = "the command exited with status 3: something that takes a line"
    await settle(coordinator, tasks[0].id, "", status="failed", error=why, failure=Failure("not_started", why))

    async def shown(*command: str) -> list[str]:
        argv = ["-m", "agentbus", *command, "--nats-url", server.url]
        async with terminal(argv, columns=80, streams="stdout") as running:
            pass
        return running.text.splitlines()

    audit = [line.split() for line in await shown("audit")]
    assert [[words[1] for words in audit if words[0] == f"code/{task.id}"] for task in tasks] == [["publish"]] * 2
    listed, status = await shown("task", "list"), await shown("status")
    for task, word in zip(tasks, ("Test", "Paint"), strict=True):
        assert [word in line for line in listed if task.id in line] == [True], listed
    assert "failed" in next(line for line in listed if tasks[0].id in line)
    assert status[1] == "", "the head is one line"


async def test_a_format_can_be_chosen_for_every_list(server: NatsServer, coordinator: Coordinator) -> None:
    await coordinator.publish("code", "x", task_id="one")
    table = await run_cli("task", "list", "--output", "table", "--nats-url", server.url)
    assert table.out.splitlines()[0].split()[:3] == ["task", "state", "agent"]
    assert "\x1b" not in table.out
    async with terminal(["-m", "agentbus", "status", "--output", "json", "--nats-url", server.url]) as running:
        pass
    assert json.loads(running.shown)["queued"][0]["id"] == "one"


@asynccontextmanager
async def top(url: str, columns: int = 80, lines: int = 24) -> AsyncGenerator[OnTerminal]:
    argv = ["-m", "agentbus", "top", "--interval", "0.3", "--nats-url", url]
    async with terminal(argv, columns=columns, lines=lines, keyboard=True) as running:
        yield running


def screen(shown: str, lines: int = 24) -> list[str]:
    """What stands on the screen now: rich draws all of it each time, from its home position on."""
    last = shown.rsplit("\x1b[H", 1)[-1]
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in last.split("\n")][:lines]


@pytest.mark.posix("needs a pseudo-terminal")
async def test_top_fits_the_screen_scrolls_opens_a_task_and_ends_with_q(
    server: NatsServer, coordinator: Coordinator
) -> None:
    await fill(coordinator)
    for number in range(30):
        await coordinator.publish("code", f"task {number}", task_id=f"n{number:02}")
    async with top(server.url) as running:
        await running.until_shown("Needs you")
        await running.until_shown("q: quit")
        assert all(cell_len(line) <= 80 for line in screen(running.shown))
        before = len(running.got)
        running.press("\x1b[F")  # End
        await running.until_shown("Settled")
        running.press("\x1b[H")
        running.press("\x1b[B")  # the second task
        running.press("\r")
        await running.until_shown("Esc: back")
        running.press("\x1b")
        await running.until(lambda: "up/down: choose" in "".join(screen(running.shown)), "the page is back")
        assert len(running.got) > before
        running.press("q")
    assert running.child.returncode == 0
    assert "\x1b[?1049l" in running.shown, "the screen of before is back"


def test_keys_are_read_however_they_come() -> None:
    assert names_of("\x1b[A\x1bOBq") == ["up", "down", "quit"]
    assert names_of("\x1b[15~\x1b[5~") == ["page up"], "F5 is passed over"
    assert names_of("\x1b") == ["back"]
    assert names_of("\r\x7fxG") == ["enter", "back", "end"]
    assert names_of("") == []


@pytest.mark.posix("needs a pseudo-terminal")
async def test_cancelling_many_asks_first(server: NatsServer, coordinator: Coordinator) -> None:
    for number in range(3):
        await coordinator.publish("code", f"part {number}", task_id=f"n{number}", group="job")
    argv = ["-m", "agentbus", "task", "cancel", "--group", "job", "--nats-url", server.url]
    for answer, states in (("n", {"queued"}), ("y", {"cancelled"})):
        async with terminal(argv, keyboard=True) as running:
            await running.until_shown("Cancel these 3 tasks? [y/N]")
            assert "part 2" in running.shown
            running.press(f"{answer}\n")
        assert running.child.returncode == (0 if answer == "y" else 130)
        assert {status.state for status in await coordinator.group_tasks("job")} == states
