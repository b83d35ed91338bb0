"""What a hostile worker can make others wait for on a bus of `agentbus init`: nothing is lost, and it is undone."""

from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.bus.jetstream import Bus, connect
from agentbus.bus.setup import set_up
from agentbus.errors import BusError, StreamFullError
from support import installation
from support.harness import BOUND_S, eventually, worker
from support.installation import own_bus

pytestmark = pytest.mark.posix("not tried on Windows")

MEGABYTE = bytes(1_000_000)


@pytest.fixture(autouse=True)
def a_small_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "PLAN", replace(installation.PLAN, max_file="60MiB"))


async def fill(bus: Bus, subject: str) -> None:
    """Store until the server takes no more, not even a little."""
    for data in (MEGABYTE, MEGABYTE[:50_000], MEGABYTE[:500], b""):
        with pytest.raises(StreamFullError):
            await _fill_with(bus, subject, data)


async def _fill_with(bus: Bus, subject: str, data: bytes) -> None:
    for number in range(1000):
        await bus.store(subject.format(f"{len(data)}-{number}"), data)


async def test_a_hostile_worker_can_fill_an_inbox_and_nothing_is_lost(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, own.coordinator("main") as main, connect(own.settings("admin")) as admin:
        async with connect(own.settings("code")) as code:
            await fill(code, "agent.main.results")
        async with worker(own.worker_toml(tmp_path, "doc")) as process:
            task = await main.publish("doc", "say:done", task_type="test")
            waited = await main.wait([task.id], timeout_s=BOUND_S)
            assert waited.settled[task.id].state == "completed", "the ledger has it, and who waits for it is told"
            await process.until_said("is full")
            await admin.api("STREAM.PURGE.AGENT_RESULTS", {"filter": "agent.main.results.code"})
            [message] = await eventually(lambda: main.results(newest=9), "the result is in the inbox")
            assert message.result is not None
            assert message.result.task_id == task.id


async def test_without_a_limit_the_outputs_of_one_agent_can_fill_the_account(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, connect(own.settings("code")) as code, connect(own.settings("doc")) as doc:
        await fill(code, "$O.AGENT_FILES_code.C.{}")
        with pytest.raises(StreamFullError):
            await doc.store("agent.main.results", MEGABYTE)


async def test_a_files_limit_keeps_a_hostile_worker_from_filling_the_account(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, connect(own.settings("admin")) as admin:
        found = await set_up(admin, ["code", "doc"], files_limit=4 << 20)
        assert {item.outcome for item in found if item.name.startswith("OBJ_")} == {"updated"}
        async with connect(own.settings("code")) as code, connect(own.settings("doc")) as doc:
            await fill(code, "$O.AGENT_FILES_code.C.{}")
            for subject in ("agent.main.results", "$KV.AGENT_STATE.doc.task-1", "$O.AGENT_FILES_doc.C.x"):
                await doc.store(subject, MEGABYTE)
        # What was not asked for stays: a bound is the administrator's.
        found = await set_up(admin, ["code", "doc"], update=True)
        assert {item.outcome for item in found if item.name.startswith("OBJ_")} == {"found"}
        config = (await admin.api("STREAM.INFO.OBJ_AGENT_FILES_code"))["config"]
        assert config["max_bytes"] == 4 << 20


async def test_limits_that_the_account_cannot_hold_are_refused_with_what_to_do(tmp_path: Path) -> None:
    async with own_bus(tmp_path) as own, connect(own.settings("admin")) as admin:
        with pytest.raises(BusError, match="raise its max_file"):
            await set_up(admin, ["code", "doc"], files_limit=50 << 20)
