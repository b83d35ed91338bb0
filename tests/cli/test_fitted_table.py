"""Tables fit their terminal: what is copied from them stays whole, and nothing is folded."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len

from agentbus import Coordinator
from agentbus.cli.fitted_table import Column, ago, fitted, moment
from agentbus.provision.nats_server import NatsServer
from support.mcp_harness import settle
from support.pseudo_terminal import terminal

TASK = "task-20261201-0123456789abcdefghij"
COLUMNS = (
    Column("task", 0), Column("state", 1, 14), Column("agent", 2, 12), Column("ago", 3), Column("why", 4, 10),
    Column("type", 5, 10),
)  # fmt: skip


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("text", ["a" * 64, "审查提交并说明原因" * 20, "short", "\x1b[31m\u202e\n" * 9], ids=ascii)
def test_no_line_is_wider_than_the_terminal_but_for_the_id(width: int, text: str):
    row = {"task": TASK, "state": "failed (not_ended)", "agent": text, "ago": "2 min", "why": text, "type": text}
    lines = fitted(COLUMNS, [row, {**row, "task": "own"}], width).plain.split("\n")
    assert any(line.split()[0] == TASK for line in lines if line.split())
    assert all(cell_len(line.replace(TASK, "")) <= width for line in lines)
    assert all(cell_len(line) <= width for line in lines) or width < cell_len(TASK)
    assert all(char.isprintable() for line in lines for char in line)


def test_columns_without_a_cell_and_those_without_room_are_left_out():
    row = {"task": "t", "state": "queued", "agent": "code", "ago": "1 s"}
    assert fitted(COLUMNS, [row], 80).plain.split("\n") == ["task  state   agent  ago", "t     queued  code   1 s"]
    assert fitted(COLUMNS, [row], 24).plain.split("\n")[1] == "t     queued  code   1 s"
    assert fitted(COLUMNS, [row], 18).plain.split("\n") == ["task", "  state   agent", "t", "  queued  code"]
    assert fitted(COLUMNS, [], 80, "no tasks").plain == "no tasks"


def test_a_time_of_another_party_may_be_anything():
    now = datetime.now(UTC)
    assert [ago(now, now - timedelta(seconds=s)) for s in (-5, 59, 61, 7200, 90_000)] == [
        "0 s", "59 s", "1 min", "2 h", "1 d",
    ]  # fmt: skip
    assert [moment(text) for text in (None, "", "soon", "9999-12-31T23:59:59-23:00")] == [None] * 4
    assert ago(now, None) == ""


@pytest.mark.posix("needs a pseudo-terminal")
@pytest.mark.parametrize("columns", [40, 80, 200])
async def test_ids_in_a_list_of_tasks_can_be_copied_and_a_failure_has_its_reason(
    server: NatsServer, coordinator: Coordinator, columns: int
):
    published = await coordinator.publish("code", "审查" * 500, task_type="t" * 60)
    waiting = await coordinator.publish("d" * 64, "x")
    await settle(coordinator, published.id, "", status="failed", task=published.message)
    async with terminal(["-m", "agentbus", "task", "list", "--nats-url", server.url], columns=columns) as running:
        pass
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in running.shown.splitlines()]
    assert all(cell_len(line) <= columns for line in lines), lines
    assert {published.id, waiting.id} <= {line.split()[0] for line in lines if line.split()}
    async with terminal(["-m", "agentbus", "agent", "list", "--nats-url", server.url], columns=columns) as running:
        pass
    assert "d" * 64 in running.shown
    assert "none alive" in running.shown
