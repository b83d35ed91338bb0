"""The room that the division of a ledger takes is looked at before anything is changed."""

from dataclasses import replace
from pathlib import Path

import pytest

from agentbus.admin import ledger_division
from agentbus.bus.jetstream import connect
from agentbus.bus.setup import set_up
from agentbus.coordinator import Coordinator
from agentbus.errors import BusError
from agentbus.protocol.accounts import LAYOUT_WITH_LEDGERS_APART
from support import installation
from support.harness import run_cli
from support.installation import own_bus
from support.server_version import needs_2_12

pytestmark = pytest.mark.posix("not tried on Windows")

MEGABYTE = bytes(1_000_000)


async def test_the_ledger_must_have_room_twice_beside_all_else(coordinator: Coordinator) -> None:
    bus = coordinator.bus
    await set_up(bus, ["code"])
    await bus.store("$KV.AGENT_STATE.code.entry", MEGABYTE)
    await bus.store("agent.main.results", MEGABYTE)
    used = {name: (await bus.stream_info(name)).state.bytes for name in await bus.stream_names()}
    needed = sum(used.values()) + used["KV_AGENT_STATE"]
    assert needed > 3_000_000
    for granted in (-1, needed):
        await ledger_division.check_room(bus, granted)
    with pytest.raises(BusError, match="it takes its room twice: 3 MiB in all, and the bus may use 2 MiB: raise"):
        await ledger_division.check_room(bus, needed - 1)
    await bus.api("STREAM.DELETE.KV_AGENT_STATE")
    await ledger_division.check_room(bus, needed - 1)


async def test_a_server_that_cannot_divide_a_ledger_is_refused_before_anything_is_changed(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = coordinator.bus
    monkeypatch.setattr(ledger_division, "_FIRST_SERVER", (2, 99, 0))
    await set_up(bus, ["code"])
    with pytest.raises(BusError, match=r"cannot divide the ledger .* upgrade nats-server to 2\.99 or later first"):
        await ledger_division.check_server(bus)
    await bus.api("STREAM.DELETE.KV_AGENT_STATE")
    await ledger_division.check_server(bus)  # there is nothing to divide


@needs_2_12
async def test_an_upgrade_without_that_room_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "PLAN", replace(installation.PLAN, max_file="60MiB"))
    async with own_bus(tmp_path, layout=LAYOUT_WITH_LEDGERS_APART - 1) as own, connect(own.settings("admin")) as admin:
        async with connect(own.settings("code")) as code:
            for number in range(18):
                await code.store(f"$KV.AGENT_STATE.code.{number}", MEGABYTE)
                await code.store(f"$O.AGENT_FILES_code.C.{number}", MEGABYTE)
        before = {path: path.read_bytes() for path in own.folder.path.glob("*") if path.is_file()}
        streams = await admin.stream_names()
        ran = await run_cli("init", "--upgrade", str(own.folder.path))
        assert ran.code == 1
        assert "while the ledger is divided it takes its room twice" in ran.err
        assert "or keep tasks for a shorter time (agentbus setup --keep-results DAYS --keep-states DAYS)" in ran.err
        assert {path: path.read_bytes() for path in before} == before
        assert await admin.stream_names() == streams
