"""Events on a bus with permissions and a ledger for each agent: a member is told of its own tasks only."""

from pathlib import Path

import pytest

from agentbus import Coordinator
from agentbus.tasks.events import own_events
from agentbus.tasks.events.own_events import open_events
from agentbus.tasks.events.position import Position
from support.harness import worker
from support.installation import own_bus

pytestmark = pytest.mark.posix("runs a worker")


async def settled(events_of: Coordinator, position: Position | None, *ids: str) -> Position:
    async with open_events(events_of.bus, events_of.agent, position) as events:
        await events.opened()
        if position is None:
            for task_id in ids:
                await events_of.publish("code", "say:done", task_id=task_id)
        found = [await events.next() for _ in ids]
        assert [event.line for event in found] == [f"agentbus: task {one} of agent code completed" for one in ids]
        return events.position


async def test_a_member_is_told_of_its_tasks_of_an_absence_and_nothing_is_refused_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_events, "LOOK_S", 0.05)
    monkeypatch.setattr(own_events, "_EXPIRY_LOOKS", 1)
    monkeypatch.setattr(own_events, "_SILENT_S", 0.0)
    async with own_bus(tmp_path, coordinators={"alice": ("member", None)}) as own:
        async with worker(own.worker_toml(tmp_path, "code")), own.coordinator("alice", "member") as alice:
            position = await settled(alice, None, "now")
            async with own.coordinator("main", "operator") as main:
                await (await main.publish("code", "say:done", task_id="of-main")).result(timeout_s=60)
            await (await alice.publish("code", "say:done", task_id="away")).result(timeout_s=60)
            await settled(alice, position, "away")
        assert own.violations() == []
